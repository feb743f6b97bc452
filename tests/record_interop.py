"""Makes files by the real writers and records what these writers do with them: python tests/record_interop.py

Needs the versions in `VERSIONS`. Writes tests/data/interop: each file as its program saved it, and expected.safetensors
with the outputs of the program's own forward pass at `MULTIPLIERS`, which `test_interop.py` reads.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny import text_encoder, unet
from torch import Tensor, nn

VERSIONS = {"lycoris-lora": "4.1.3", "peft": "0.21.2", "diffusers": "0.39.0"}
FOLDER = Path(__file__).parent / "data" / "interop"
MULTIPLIERS = (0.5, 1.0, -0.7, 1.3)
_BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
LINEAR = (f"{_BLOCK}.attn1.to_q", f"{_BLOCK}.attn2.to_k", "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj")
CONVOLUTIONS = ("down_blocks.0.resnets.0.conv1", "down_blocks.0.attentions.0.proj_in")
NORMS = ("down_blocks.0.attentions.0.norm", f"{_BLOCK}.norm1")
TEXT = ("text_model.encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.1.mlp.fc1")
LYCORIS: dict[str, dict[str, Any]] = {
    "locon": {},
    "locon-tucker": {"use_tucker": True},
    "locon-rs": {"rs_lora": True},
    "locon-scalar": {"use_scalar": True},
    "locon-bypass": {"bypass_mode": True},
    "locon-ranks": {"conv_dim": 1, "conv_alpha": 2},
    "dora": {"dora_wd": True},
    "dora-inputs": {"dora_wd": True, "wd_on_output": False},
    "loha": {"algo": "loha"},
    "loha-tucker": {"algo": "loha", "use_tucker": True},
    "loha-rs": {"algo": "loha", "rs_lora": True},
    "loha-dora": {"algo": "loha", "dora_wd": True},
    "lokr": {"algo": "lokr", "factor": 2},
    "lokr-both": {"algo": "lokr", "decompose_both": True, "network_dim": 1},
    "lokr-full": {"algo": "lokr", "factor": 4, "full_matrix": True},
    "lokr-unbalanced": {"algo": "lokr", "factor": 2, "unbalanced_factorization": True, "network_dim": 1},
    "lokr-tucker": {"algo": "lokr", "factor": 2, "use_tucker": True, "network_dim": 1},
    "lokr-scalar": {"algo": "lokr", "factor": 2, "use_scalar": True},
    "lokr-dora": {"algo": "lokr", "factor": 2, "dora_wd": True},
    "glora": {"algo": "glora"},
    "ia3": {"algo": "ia3"},
    "full": {"algo": "full"},
    "diag-oft": {"algo": "diag-oft"},
    "diag-oft-constraint": {"algo": "diag-oft", "constraint": 0.02},
    "diag-oft-rescaled": {"algo": "diag-oft", "rescaled": True},
    "boft": {"algo": "boft", "network_dim": 4},
    "boft-rescaled": {"algo": "boft", "network_dim": 4, "rescaled": True},
    "norm": {"train_norm": True},
}
"""Case → the arguments of LyCORIS' network; rank 2 and alpha 3 unless given."""
WRAPPED = ("locon", "lokr", "diag-oft", "full")
"""Cases that are written by `create_lycoris` too, whose keys begin with `lycoris_`, as SimpleTuner uses it."""
PEFT: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", {"lora_alpha": 3}),
    "lora-rs-patterns": (
        "LoraConfig",
        {"lora_alpha": 8, "use_rslora": True, "rank_pattern": {"to_k": 1}, "alpha_pattern": {r".*attn2\.to_k": 5}},
    ),
    "dora": ("LoraConfig", {"lora_alpha": 3, "use_dora": True}),
    "lora-bias": ("LoraConfig", {"lora_alpha": 3, "lora_bias": True}),
    "loha": ("LoHaConfig", {"alpha": 3}),
    "lokr": ("LoKrConfig", {"alpha": 3}),
    "oft": ("OFTConfig", {"r": 0, "oft_block_size": 4, "use_cayley_neumann": False}),
}
"""Case → a configuration of PEFT."""
DIFFUSERS: dict[str, dict[str, Any]] = {
    "lora": {"lora_alpha": 2},
    "lora-alpha": {"lora_alpha": 3},
    "lora-patterns": {"lora_alpha": 3, "rank_pattern": {"to_k": 1}, "alpha_pattern": {"to_k": 4}},
    "dora": {"lora_alpha": 3, "use_dora": True},
}
"""Case → arguments of the `LoraConfig` of an adapter that diffusers saves."""
Outputs = Callable[[float], Tensor]


def layer_input(layer: nn.Module) -> Tensor:
    """Numbers that no random generator has to repeat, in the shape that a layer takes."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    is_map = isinstance(layer, nn.Conv2d | nn.GroupNorm)
    shape = (1, weight.shape[weight.dim() > 1], 2, 2) if is_map else (2, weight.shape[-1])
    return torch.sin(torch.arange(torch.Size(shape).numel(), dtype=torch.float32) * 1.7).reshape(shape)


def layer_inputs(parts: Mapping[str, nn.Module], layers: Sequence[str]) -> dict[str, Tensor]:
    """The input of each layer ("unet.NAME" or "te.NAME")."""
    return {layer: layer_input(parts[layer.partition(".")[0]].get_submodule(layer.partition(".")[2]))
            for layer in layers}  # fmt: skip


def layer_outputs(parts: Mapping[str, nn.Module], layers: Sequence[str], inputs: Mapping[str, Tensor]) -> Tensor:
    """What layers ("unet.NAME" or "te.NAME") give for their inputs, one after another."""
    with torch.no_grad():
        found = [parts[part].get_submodule(name)(inputs[layer]) for layer in layers
                 for part, _, name in [layer.partition(".")]]  # fmt: skip
    return torch.cat([output.flatten() for output in found])


def small_model() -> dict[str, nn.Module]:
    """A U-Net 8 wide and a text encoder."""
    return {"unet": unet(block_out_channels=(8,) * 4), "te": text_encoder()}


def layer_names(unet_layers: Sequence[str], text_layers: Sequence[str]) -> list[str]:
    return [f"unet.{name}" for name in unet_layers] + [f"te.{name}" for name in text_layers]


def draw(module: nn.Module) -> None:
    """Random numbers for what an adapter trains."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.2)


@contextmanager
def lycoris_file(path: Path, options: Mapping[str, Any], wrapped: bool) -> Iterator[tuple[list[str], Outputs]]:
    """A file of LyCORIS: by its network for kohya's scripts, or `wrapped` around the U-Net by `create_lycoris`."""
    from lycoris import create_lycoris
    from lycoris.kohya import create_network

    model = small_model()
    names = (*LINEAR, *CONVOLUTIONS, *(NORMS if options.get("train_norm") else ()))
    texts = () if wrapped else TEXT
    layers = layer_names(names, texts)
    inputs = layer_inputs(model, layers)
    quoted = [json.dumps(list(part)) for part in (names, texts)]
    given = {"network_dim": 2, "network_alpha": 3, "train_norm": False, **options}
    dim, alpha = given.pop("network_dim"), given.pop("network_alpha")
    with tempfile.TemporaryDirectory() as folder:
        preset = Path(folder, "preset.toml")
        target = "target" if wrapped else "unet_target"
        preset.write_text(
            f"enable_conv = true\n{target}_module = []\n{target}_name = {quoted[0]}\n"
            + ("" if wrapped else f"text_encoder_target_module = []\ntext_encoder_target_name = {quoted[1]}\n"),
            encoding="utf-8",
        )
        given |= {"preset": str(preset), "warn_on_unmatched": False}
        if wrapped:
            network = create_lycoris(model["unet"], 1.0, dim, alpha, **given)
            network.apply_to()
        else:
            network = create_network(1.0, dim, alpha, None, model["te"], model["unet"], **given)
            network.apply_to(model["te"], model["unet"], True, True)
    draw(network)
    network.eval()
    network.save_weights(str(path), torch.float32, {"ss_v2": "False", "ss_network_module": "lycoris.kohya"})

    def outputs(multiplier: float) -> Tensor:
        for lora in network.loras:
            lora.multiplier = multiplier
        return layer_outputs(model, layers, inputs)

    yield layers, outputs


@contextmanager
def peft_file(path: Path, kind: str, options: Mapping[str, Any]) -> Iterator[tuple[list[str], Outputs]]:
    """A folder of PEFT."""
    import peft

    model = small_model()
    # of the Linear layers only the last one has a bias, without which PEFT's `lora_bias` cannot be
    names = (*(LINEAR[2:] if "lora_bias" in options else LINEAR), *(() if "OFT" in kind else CONVOLUTIONS))
    layers = layer_names(names, ())
    inputs = layer_inputs(model, layers)
    config = getattr(peft, kind)(**{"r": 2, "target_modules": list(names), **options})
    wrapped = peft.get_peft_model(model["unet"], config)
    draw(wrapped)
    wrapped.eval().save_pretrained(path)
    (path / "README.md").unlink()
    yield layers, scaled_outputs(model, layers, inputs)


def scaled_outputs(model: Mapping[str, nn.Module], layers: Sequence[str], inputs: Mapping[str, Tensor]) -> Outputs:
    """Outputs of a model with PEFT's layers, which have one adapter."""

    def outputs(multiplier: float) -> Tensor:
        found = [module for part in model.values() for module in part.modules() if hasattr(module, "scale_layer")]
        for module in found:
            module.scale_layer(multiplier)
        result = layer_outputs(model, layers, inputs)
        for module in found:
            module.scale_layer(1 / multiplier)
        return result

    return outputs


@contextmanager
def diffusers_file(path: Path, options: Mapping[str, Any]) -> Iterator[tuple[list[str], Outputs]]:
    """`save_lora_weights` of a pipeline's adapters."""
    from diffusers import StableDiffusionPipeline
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig, get_peft_model_state_dict

    model, states = small_model(), {}
    layers = layer_names((*LINEAR, *CONVOLUTIONS), TEXT)
    inputs = layer_inputs(model, layers)
    for part, root in model.items():
        names = [layer.partition(".")[2] for layer in layers if layer.startswith(f"{part}.")]
        root.add_adapter(LoraConfig(r=2, target_modules=names, **options))  # type: ignore[operator]
        draw(root)
        states[part] = get_peft_model_state_dict(root)
    metadata = _collate_lora_metadata({"unet": model["unet"], "text_encoder": model["te"]})
    StableDiffusionPipeline.save_lora_weights(
        path.parent, states["unet"], states["te"], weight_name=path.name, **metadata
    )
    yield layers, scaled_outputs({part: root.eval() for part, root in model.items()}, layers, inputs)


def cases() -> Iterator[tuple[str, str, AbstractContextManager[tuple[list[str], Outputs]]]]:
    """(case, the file's name, what writes it)."""
    for name, options in LYCORIS.items():
        yield f"LyCORIS {name}", f"lycoris-{name}.safetensors", lycoris_file(
            FOLDER / f"lycoris-{name}.safetensors", options, wrapped=False
        )  # fmt: skip
    for name in WRAPPED:
        file = f"lycoris-wrapped-{name}.safetensors"
        yield f"LyCORIS {name}, wrapped", file, lycoris_file(FOLDER / file, LYCORIS[name], wrapped=True)
    for name, (kind, options) in PEFT.items():
        yield f"PEFT {name}", f"peft-{name}", peft_file(FOLDER / f"peft-{name}", kind, options)
    for name, options in DIFFUSERS.items():
        file = f"diffusers-{name}.safetensors"
        yield f"diffusers {name}", file, diffusers_file(FOLDER / file, options)


def main() -> None:
    """Writes all files."""
    for name, wanted in VERSIONS.items():
        if version(name) != wanted:
            raise SystemExit(f"{name} is {version(name)}; the files are made by {wanted}")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    found: dict[str, Tensor] = {}
    about: dict[str, dict[str, Any]] = {}
    for case, file, writer in cases():
        torch.manual_seed(len(about))
        with writer as (layers, outputs):
            found[case] = torch.stack([outputs(multiplier) for multiplier in MULTIPLIERS])
            about[case] = {"file": file, "layers": layers}
        print(case, tuple(found[case].shape), flush=True)
    for part, root in small_model().items():
        for name in (*LINEAR, *CONVOLUTIONS, *NORMS) if part == "unet" else TEXT:
            layer = root.get_submodule(name)
            found |= {f"{part}.{name}.{key}": tensor for key, tensor in layer.state_dict().items()}
    save_file(found, FOLDER / "expected.safetensors", {"cases": json.dumps(about), "versions": json.dumps(VERSIONS)})


if __name__ == "__main__":
    main()
