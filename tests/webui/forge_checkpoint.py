"""Writes a random checkpoint that Forge recognises as SD1, SD2 or SDXL: run by Forge's Python in its folder.

usage: python forge_checkpoint.py FAMILY OUT.safetensors
Forge looks at the U-Net's width, its contexts and, for SDXL, its depths, and takes text encoders and VAE of their real
sizes only. So all levels of the U-Net have 320 channels, and everything else is as large as in the real model.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

FAMILY, OUT = sys.argv[1:3]
sys.argv = [sys.argv[0], "--always-cpu"]  # Forge reads its options when it is imported
sys.path[:0] = [str(Path.cwd() / name) for name in ("", "packages_3rdparty", "repositories/huggingface_guess")]

import torch  # noqa: E402
from backend.nn.unet import IntegratedUNet2DConditionModel  # noqa: E402
from backend.nn.vae import IntegratedAutoencoderKL  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel  # noqa: E402

CONFIGS = Path("backend/huggingface")
CLIP_L = CONFIGS / "runwayml/stable-diffusion-v1-5/text_encoder"
DEEP = {
    "channel_mult": [1, 1, 1, 1],
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1] * 6 + [0, 0],
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "transformer_depth_middle": 1,
    "adm_in_channels": None,
}
"""The U-Net of SD1 and SD2, all levels alike."""
WIDE_HEADS = {"num_heads": -1, "num_head_channels": 64, "use_linear_in_transformer": True}
FAMILIES = {
    "SD1": SimpleNamespace(
        vae="runwayml/stable-diffusion-v1-5",
        unet={**DEEP, "context_dim": 768, "num_heads": 8, "num_head_channels": -1, "use_linear_in_transformer": False},
        clip="cond_stage_model.transformer.",
        open_clip=None,
    ),
    "SD2": SimpleNamespace(
        vae="stabilityai/stable-diffusion-2-1",
        unet={**DEEP, **WIDE_HEADS, "context_dim": 1024},
        clip=None,
        open_clip=("cond_stage_model.model.", 1024, 24),
    ),
    "SDXL": SimpleNamespace(
        vae="stabilityai/stable-diffusion-xl-base-1.0",
        unet={
            **WIDE_HEADS,
            "channel_mult": [1, 1, 1],
            "num_res_blocks": [2, 2, 2],
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],  # from the last output block to the first
            "transformer_depth_middle": 10,
            "adm_in_channels": 2816,
            "num_classes": "sequential",
            "context_dim": 2048,
        },
        clip="conditioner.embedders.0.transformer.",
        open_clip=("conditioner.embedders.1.model.", 1280, 32),
    ),
}


def norm(name: str, width: int) -> dict[str, torch.Tensor]:
    """A norm that is not the identity: the web UI divides by the mean of what the last one gives."""
    return {f"{name}.weight": 1 + 0.3 * torch.rand(width), f"{name}.bias": 0.2 + 0.1 * torch.randn(width)}


def linear(name: str, out: int, width: int, dot: str = ".") -> dict[str, torch.Tensor]:
    return {f"{name}{dot}weight": torch.randn(out, width) / math.sqrt(width), f"{name}{dot}bias": torch.zeros(out)}


def open_clip(width: int, layers: int) -> dict[str, torch.Tensor]:
    """OpenCLIP's text encoder, by its own names."""
    made = {
        "token_embedding.weight": torch.randn(49408, width) * 0.02,
        "positional_embedding": torch.randn(77, width) * 0.02,
        "text_projection": torch.randn(width, width) / math.sqrt(width),
        "logit_scale": torch.tensor(4.6),
        **norm("ln_final", width),
    }
    for number in range(layers):
        block = f"transformer.resblocks.{number}"
        made |= {
            **norm(f"{block}.ln_1", width),
            **norm(f"{block}.ln_2", width),
            **linear(f"{block}.attn.in_proj", 3 * width, width, "_"),
            **linear(f"{block}.attn.out_proj", width, width),
            **linear(f"{block}.mlp.c_fc", 4 * width, width),
            **linear(f"{block}.mlp.c_proj", width, 4 * width),
        }
    return made


def random_module(module: torch.nn.Module, gain: float) -> Iterator[tuple[str, torch.Tensor]]:
    """A network's tensors, its weights drawn so that a signal passes; none is zero."""
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            drawn = value.dim() > 1
            yield name, torch.randn_like(value) * (gain / math.sqrt(value[0].numel())) if drawn else value


def main() -> None:
    """Writes the file."""
    torch.manual_seed(0)
    family, state = FAMILIES[FAMILY], {}
    unet = IntegratedUNet2DConditionModel(
        in_channels=4, model_channels=320, out_channels=4, use_spatial_transformer=True, **family.unet
    )
    vae = IntegratedAutoencoderKL.from_config(IntegratedAutoencoderKL.load_config(CONFIGS / family.vae / "vae"))
    state |= {f"model.diffusion_model.{name}": value for name, value in random_module(unet, 0.5)}
    state |= {f"first_stage_model.{name}": value for name, value in random_module(vae, 0.9)}
    if family.clip:
        clip = CLIPTextModel(CLIPTextConfig.from_pretrained(CLIP_L)).state_dict()
        clip |= norm("text_model.final_layer_norm", 768)
        state |= {family.clip + name: value for name, value in clip.items() if value.is_floating_point()}
    if family.open_clip:
        root, width, layers = family.open_clip
        state |= {root + name: value for name, value in open_clip(width, layers).items()}
    save_file({name: value.half().contiguous() for name, value in state.items()}, OUT)


main()
