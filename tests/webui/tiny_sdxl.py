"""Writes a small random checkpoint of SDXL's build, with its configuration: run by the web UI's Python in its folder.

usage: python tiny_sdxl.py FOLDER NAME
CLIP-L is `local/tiny-clip` (64 wide), OpenCLIP's place takes its smallest text encoder (256 wide, 10 layers).
"""

import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

WEBUI = Path.cwd()


def config() -> dict:
    """SDXL's configuration, made small."""
    base = OmegaConf.load(WEBUI / "repositories/generative-models/configs/inference/sd_xl_base.yaml")
    params = base.model.params
    params.network_config.params.update(
        adm_in_channels=256 + 6 * 256, model_channels=32, num_head_channels=8, transformer_depth=[1, 2, 2],
        context_dim=64 + 256, use_checkpoint=False,
    )  # fmt: skip
    clip, open_clip = params.conditioner_config.params.emb_models[:2]
    clip.params.version = "local/tiny-clip"
    open_clip.params.update(arch="ViT-S-32-alt", version=None)
    params.first_stage_config.params.ddconfig.ch = 32
    return base


def main(folder: Path, name: str) -> None:
    """Random weights that let a signal through: no zero-initialised layer, a bias in the last norms."""
    for path in (WEBUI / "repositories/generative-models", WEBUI):
        sys.path.insert(0, str(path))
    import sgm.modules.encoders.modules as encoders
    from sgm.util import instantiate_from_config
    from transformers import CLIPTextConfig, CLIPTextModel

    encoders.CLIPTextModel.from_pretrained = lambda name: CLIPTextModel(CLIPTextConfig.from_pretrained(name))
    made = config()
    OmegaConf.save(made, folder / f"{name}.yaml")
    torch.manual_seed(0)
    model = instantiate_from_config(made.model)
    state = {}
    for key, value in model.state_dict().items():
        if key.startswith(("model.", "conditioner.", "first_stage_model.")) and value.is_floating_point():
            if value.dim() > 1 and not value.any():
                value = torch.randn_like(value) / value[0].numel() ** 0.5
            if key.endswith(("ln_final.bias", "final_layer_norm.bias")):
                value = torch.randn_like(value) * 0.1
            state[key] = value.contiguous().half()
        elif key.startswith("conditioner."):
            state[key] = value.contiguous()
    save_file(state, folder / f"{name}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
