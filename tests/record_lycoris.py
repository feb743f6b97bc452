"""Records outputs and gradients of the LyCORIS library's modules: python tests/record_lycoris.py

Needs lycoris-lora 4.1.3. Writes tests/data/training/lycoris_kinds.safetensors, which `test_train_kinds.py` reads.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

TARGET = Path(__file__).parent / "data" / "training" / "lycoris_kinds.safetensors"
DORA = {"weight_decompose": True}
CASES = {
    "lora dora": ("locon", DORA),
    "lora dora inputs": ("locon", {**DORA, "wd_on_out": False}),
    "lora tucker": ("locon", {"use_tucker": True}),
    "lora rs": ("locon", {"rs_lora": True, **DORA}),
    "loha": ("loha", {}),
    "loha tucker": ("loha", {"use_tucker": True}),
    "loha dora": ("loha", DORA),
    "loha dora inputs": ("loha", {**DORA, "wd_on_out": False}),
    "lokr": ("lokr", {"factor": 2}),
    "lokr both": ("lokr", {"factor": -1, "decompose_both": True, "lora_dim": 1}),
    "lokr full": ("lokr", {"factor": 4, "full_matrix": True}),
    "lokr swapped": ("lokr", {"factor": 2, "unbalanced_factorization": True, "lora_dim": 1}),
    "lokr tucker": ("lokr", {"factor": 2, "use_tucker": True, "lora_dim": 1}),
    "lokr dora": ("lokr", {"factor": 2, **DORA}),
    "glora": ("glora", {}),
    "ia3": ("ia3", {}),
    "ia3 input": ("ia3", {"train_on_input": True}),
    "full": ("full", {}),
    "diag-oft": ("diag-oft", {"rescaled": True}),
    "diag-oft constraint": ("diag-oft", {"constraint": 0.02}),
    "boft": ("boft", {"rescaled": True, "lora_dim": 4}),
    "norm": ("norm", {}),
}
"""Name → (LyCORIS' algorithm, its arguments); lora_dim is 2 unless given, alpha 3."""


def layers(case: str) -> dict[str, nn.Module]:
    """Layer's name → a small layer."""
    if case == "norm":
        return {"layer": nn.LayerNorm(8), "group": nn.GroupNorm(2, 8)}
    return {"linear": nn.Linear(12, 16), "wide": nn.Conv2d(6, 16, 3, padding=1), "narrow": nn.Conv2d(12, 16, 1)}


def recorded(case: str, name: str, layer: nn.Module) -> dict[str, Tensor]:
    """What goes in and what comes out of one layer."""
    from lycoris.modules import boft, diag_oft, full, glora, ia3, locon, loha, lokr, norms

    kinds = {
        "locon": locon.LoConModule, "loha": loha.LohaModule, "lokr": lokr.LokrModule, "glora": glora.GLoRAModule,
        "ia3": ia3.IA3Module, "full": full.FullModule, "diag-oft": diag_oft.DiagOFTModule,
        "boft": boft.ButterflyOFTModule, "norm": norms.NormModule,
    }  # fmt: skip
    algo, options = CASES[case]
    sizes = {} if algo == "norm" else {"lora_dim": options.get("lora_dim", 2), "alpha": 3.0}
    layer.requires_grad_(False)
    weight, bias = layer.weight.clone(), layer.bias.clone()  # type: ignore[operator]
    module = kinds[algo]("a", layer, 1.0, **{**options, **sizes})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    module.apply_to()
    shape = {"linear": (3, 12), "wide": (2, 6, 4, 4), "narrow": (2, 12, 4, 4), "layer": (3, 8), "group": (2, 8, 3, 3)}
    x = torch.randn(shape[name], requires_grad=True)
    y = layer(x)
    y.square().sum().backward()
    names = {"weight": "diff", "bias": "diff_b"} if algo == "full" else {}
    base = {"weight": weight, "bias": bias} if algo == "full" else {}  # its modules hold the sum, its files the change
    found = {"x": x, "y": y, "gx": x.grad, "W": weight, "b": bias}
    for key, parameter in module.named_parameters():
        found[f"tensor.{names.get(key, key)}"] = parameter - base.get(key, 0)
        found[f"grad.{names.get(key, key)}"] = parameter.grad
    for key in ("alpha", "on_input"):
        if hasattr(module, key):
            found[f"constant.{key}"] = getattr(module, key).float()
    return {f"{case}.{name}.{key}": value.detach().contiguous().clone() for key, value in found.items()}


def main() -> None:
    """Writes all cases."""
    torch.manual_seed(0)
    found: dict[str, Tensor] = {}
    for case in CASES:
        for name, layer in layers(case).items():
            found |= recorded(case, name, layer)
    save_file(found, TARGET, metadata={"cases": json.dumps(CASES)})


if __name__ == "__main__":
    main()
