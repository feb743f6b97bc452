"""Ten steps of kohya's networks on the tiny model: python tests/record_kohya_steps.py SD_SCRIPTS_FOLDER

Needs a checkout of sd-scripts with its requirements. Writes tests/data/training/kohya_steps.safetensors, which
`test_train_kohya_steps.py` compares our network with: the learning rates of all parameters, and some layers' ΔW.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module, reload
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tiny import Tiny
from torch import Tensor

PATH = Path(__file__).parent / "data" / "training" / "kohya_steps.safetensors"
STEPS = 10
BLOCKS = {"down_lr_weight": "0,0.5,,1,2", "mid_lr_weight": "0.5", "up_lr_weight": "linear+0.25"}
PLUS = {"loraplus_lr_ratio": "4", "loraplus_text_encoder_lr_ratio": "2"}
CASES: dict[str, tuple[str, int, float, dict[str, str]]] = {
    "lora wide plus blocks": ("lora", 4, 2.0, {"conv_dim": "2", "conv_alpha": "1", **BLOCKS, **PLUS}),
    "lora block dims": ("lora", 4, 2.0, {"block_dims": ",".join(["2", "4", "0", "1", "3"] * 5), **PLUS}),
    "lora_fa": ("lora_fa", 4, 2.0, {}),
    "dylora": ("dylora", 4, 4.0, {"unit": "2", "loraplus_unet_lr_ratio": "4"}),
    "oft": ("oft", 4, 0.0005, {}),
}
"""Name → kohya's module in `networks`, rank, alpha, network_args."""
RATES = {"text_encoder_lr": 5e-4, "unet_lr": 1e-3, "learning_rate": 2e-3}
LAYERS = (
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
    "lora_unet_down_blocks_0_attentions_1_proj_in",
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k",
    "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_2",
    "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0",
    "lora_unet_up_blocks_2_resnets_0_conv_shortcut",
    "lora_unet_down_blocks_0_downsamplers_0_conv",
    "lora_te_text_model_encoder_layers_1_self_attn_q_proj",
    "lora_te_text_model_encoder_layers_0_mlp_fc2",
)
"""Layers whose ΔW is compared, where a case has them."""
ROWS = 8
"""First rows of ΔW that are compared."""


def first_factors(name: str, rank: int, wide: int, out: int, kernel: int = 1) -> tuple[Tensor, Tensor]:
    """D (rank, wide, kernel, kernel) and Uᵀ (rank, out) of a layer before the first step, the same in every run."""
    rng = np.random.default_rng(list(name.encode()))
    down = rng.standard_normal((rank, wide, kernel, kernel)) / (wide * kernel**2) ** 0.5
    return torch.tensor(down).float(), torch.tensor(rng.standard_normal((rank, out)) * 0.05).float()


def loss_of_step(model: Tiny, step: int) -> Tensor:
    """The loss of a step: the U-Net's distance from noise."""
    rng = np.random.default_rng(step)
    image, target = (torch.tensor(rng.standard_normal((1, 4, 8, 8))).float() for _ in range(2))
    text = model.text_encoder(torch.tensor(rng.integers(0, 60, (1, 7)))).last_hidden_state
    return (model.unet(image, 100 + 50 * step, text).sample - target).square().mean()


def drawn_unit(step: int, units: int) -> int:
    """DyLoRA's unit of a step, drawn as `TrainableNetwork.begin_step` draws it."""
    return int(torch.randint(units, (1,), generator=torch.Generator().manual_seed(step)))


def _kohya_network(case: str, model: Tiny) -> Any:
    name, rank, alpha, args = CASES[case]
    module = reload(import_module(f"networks.{name}"))  # a network with 3x3 layers changes the class for later ones
    if name == "oft":
        module.OFTNetwork.UNET_TARGET_REPLACE_MODULE_ATTN_ONLY = ["Attention"]  # diffusers' name of kohya's class
    made = module.create_network(1.0, rank, alpha, None, model.text_encoder, model.unet, **args)
    made.apply_to(model.text_encoder, model.unet, True, True)
    if hasattr(made, "unet_ofts"):
        return made
    for lora in (*made.text_encoder_loras, *made.unet_loras):
        if hasattr(lora, "lora_A"):
            a, b = lora.lora_A[0], lora.lora_B[0]
            down, up = first_factors(lora.lora_name, lora.lora_dim, a.shape[1], b.shape[0], (*a.shape, 1)[2])
            for row, (first, second) in enumerate(zip(lora.lora_A, lora.lora_B, strict=True)):
                first.data = down[row : row + 1].reshape(a.shape)
                second.data = up[row][:, None].reshape(b.shape)
            continue
        a, b = lora.lora_down.weight, lora.lora_up.weight
        down, up = first_factors(lora.lora_name, len(a), a.shape[1], len(b), (*a.shape, 1)[2])
        a.data, b.data = down.reshape(a.shape), up.t().reshape(b.shape).contiguous()
    return made


def _delta(module: Any) -> Tensor:
    """ΔW of a module of kohya's."""
    if hasattr(module, "oft_blocks"):
        weight = module.org_module[0].weight
        blocks = weight.reshape(module.num_blocks, module.block_size, -1)
        turned: Tensor = torch.einsum("knm,knp->kmp", module.get_weight(), blocks)
        return turned.reshape(weight.shape) - weight
    state = {key[-14:-7]: tensor for key, tensor in module.state_dict().items()}  # DyLoRA's keys have the layer's name
    down, up = state["ra_down"], state["lora_up"]
    return module.scale * (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def count_by_rate(groups: list[dict[str, Any]]) -> dict[str, int]:
    """Learning rate → how many numbers are trained with it."""
    found: dict[str, int] = {}
    for group in groups:
        rate = f"{group['lr']:.9g}"
        found[rate] = found.get(rate, 0) + sum(p.numel() for p in group["params"])
    return found


def record(case: str) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Trains a case. Returns (layer → the first rows of ΔW, its learning rates)."""
    model = Tiny()
    for part in model.parts().values():
        part.requires_grad_(False)
    network = _kohya_network(case, model)
    groups = network.prepare_optimizer_params(*RATES.values())
    groups = groups[0] if isinstance(groups, tuple) else groups
    groups = [{**group, "params": list(group["params"])} for group in groups]
    network.train()
    optimizer = torch.optim.AdamW(groups)
    trained = [p for group in groups for p in group["params"]]
    for step in range(STEPS):
        if case == "dylora":
            unit = int(CASES[case][3]["unit"])
            drawn = unit * drawn_unit(step, CASES[case][1] // unit)
            sys.modules["networks.dylora"].random.randint = lambda low, high, drawn=drawn: drawn
        loss_of_step(model, step).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)  # kohya's script takes LoRA-FA's fixed factor too
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    modules = {getattr(m, "lora_name", getattr(m, "oft_name", "")).replace("oft_", "lora_", 1): m
               for m in network.modules()}  # fmt: skip
    with torch.no_grad():
        found = {name: _delta(modules[name])[:ROWS].contiguous() for name in LAYERS if name in modules}
    return found, count_by_rate(groups)


def main(folder: str) -> None:
    """Writes all cases."""
    sys.path.insert(0, folder)
    tensors: dict[str, Tensor] = {}
    rates = {}
    for case in CASES:
        found, rates[case] = record(case)
        tensors |= {f"{case}.{name}": delta for name, delta in found.items()}
    save_file(tensors, PATH, metadata={"rates": json.dumps(rates)})


if __name__ == "__main__":
    main(sys.argv[1])
