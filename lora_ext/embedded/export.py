"""Writing the trained networks as one LDM-named checkpoint, as Stable Diffusion 1.x tools read it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..layer_names import UNET, layer_name_table
from ..ldm_keys import LDM_UNET_PREFIX, LDM_VAE_PREFIX, SD1_CLIP_PREFIX
from . import TEXT_TARGET
from .models import SCALE_FACTOR, TEXT_WIDTH, UNET_WIDTHS, VAE_WIDTHS, new_scheduler, text_config
from .sampling import EmbeddedNetworks
from .shapes import SCENE_PIXELS

RenameRule = tuple[str, str]

# LDM counts a level's two blocks and its sampling block in one row of three; diffusers by level.
VAE_RENAME_RULES: list[RenameRule] = [
    (r"(?P<side>encoder|decoder)\.conv_norm_out", "{side}.norm_out"),
    (r"encoder\.down_blocks\.(?P<i>\d)\.resnets\.(?P<j>\d)", "encoder.down.{i}.block.{j}"),
    (r"encoder\.down_blocks\.(?P<i>\d)\.downsamplers\.0", "encoder.down.{i}.downsample"),
    # LDM counts the decoder's levels from the finest.
    (r"decoder\.up_blocks\.(?P<i>\d)\.resnets\.(?P<j>\d)", "decoder.up.{left}.block.{j}"),
    (r"decoder\.up_blocks\.(?P<i>\d)\.upsamplers\.0", "decoder.up.{left}.upsample"),
    (r"(?P<side>encoder|decoder)\.mid_block\.resnets\.(?P<i>\d)", "{side}.mid.block_{next}"),
    (r"(?P<side>encoder|decoder)\.mid_block\.attentions\.0", "{side}.mid.attn_1"),
]
VAE_PART_NAMES = {
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def ldm_unet_key(key: str) -> str:
    """A diffusers U-Net's key in SD1's LDM naming."""
    layer, _, kind = key.rpartition(".")
    layer_id = layer_name_table(UNET).layer_ids[layer]
    names = layer_name_table(UNET).ldm[layer_id]
    # The first level up has no attention between its block and its upsampling.
    return f"{names[-1] if layer_id.block == 'OUT02' else names[0]}.{kind}"


def ldm_key(key: str, rules: list[RenameRule], parts: dict[str, str]) -> str:
    """A diffusers key in LDM's naming: its place by the first rule that fits, then its part inside a block."""
    for pattern, template in rules:
        found = re.match(pattern + r"(?=\.)", key)
        if found is None:
            continue
        fields = {name: int(text) if text.isdigit() else text for name, text in found.groupdict().items()}
        start = _fill(template, fields)
        rest = key[found.end() + 1 :]
        part, _, kind = rest.rpartition(".")
        return ".".join(filter(None, [start, parts.get(part, part), kind]))
    return key


def _fill(template: str, fields: dict[str, int | str]) -> str:
    """The place with its fields filled in. left: levels counted from the other end; next: one more than `i`."""
    number = int(fields.get("i", 0))
    return template.format(**fields, left=3 - number, next=number + 1)


def ldm_state(nets: EmbeddedNetworks) -> dict[str, Tensor]:
    """All tensors of the checkpoint: weights in half precision, the noise schedule in full."""
    state: dict[str, Tensor] = {}
    for key, value in nets.unet.state_dict().items():
        state[LDM_UNET_PREFIX + ldm_unet_key(key)] = value.half()
    for key, value in nets.vae.state_dict().items():
        # LDM's autoencoder has 1x1 convolutions where diffusers has linear layers.
        linear = ".attentions." in key and value.ndim == 2
        state[LDM_VAE_PREFIX + ldm_key(key, VAE_RENAME_RULES, VAE_PART_NAMES)] = (
            value[:, :, None, None] if linear else value
        ).half()
    for key, value in nets.text_encoder.state_dict().items():
        state[SD1_CLIP_PREFIX + key] = value.half()
    positions = f"{SD1_CLIP_PREFIX}text_model.embeddings.position_ids"
    state[positions] = torch.arange(77)[None]
    scheduler = new_scheduler()
    alphas = scheduler.alphas_cumprod
    state["betas"], state["alphas_cumprod"] = scheduler.betas, alphas
    state["alphas_cumprod_prev"] = torch.cat([torch.ones(1), alphas[:-1]])
    return {key: value.detach().contiguous().clone() for key, value in state.items()}


LDM_CONFIG_TEMPLATE = """\
model:
  base_learning_rate: 1.0e-04
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    num_timesteps_cond: 1
    log_every_t: 200
    timesteps: 1000
    first_stage_key: "jpg"
    cond_stage_key: "txt"
    image_size: {latent}
    channels: 4
    cond_stage_trainable: false
    conditioning_key: crossattn
    monitor: val/loss_simple_ema
    scale_factor: {scale}
    use_ema: false

    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: {latent}
        in_channels: 4
        out_channels: 4
        model_channels: {unet}
        attention_resolutions: [4, 2, 1]
        num_res_blocks: 2
        channel_mult: {unet_mult}
        num_heads: 8
        use_spatial_transformer: true
        transformer_depth: 1
        context_dim: {text}
        use_checkpoint: false
        legacy: false

    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        monitor: val/rec_loss
        ddconfig:
          double_z: true
          z_channels: 4
          resolution: {size}
          in_channels: 3
          out_ch: 3
          ch: {vae}
          ch_mult: {vae_mult}
          num_res_blocks: 2
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity

    cond_stage_config:
      # FrozenCLIPEmbedder with this project's own tokenizer, found wherever this file lies. In the web UI it needs
      # the extension sd-webui-lora-ext.
      target: {target}
"""


def save_ldm_config(path: Path) -> None:
    """The checkpoint's LDM configuration."""
    values = {
        "latent": SCENE_PIXELS // 8,
        "size": SCENE_PIXELS,
        "scale": SCALE_FACTOR,
        "text": TEXT_WIDTH,
        "unet": UNET_WIDTHS[0],
        "unet_mult": [width // UNET_WIDTHS[0] for width in UNET_WIDTHS],
        "vae": VAE_WIDTHS[0],
        "target": TEXT_TARGET,
        "vae_mult": [width // VAE_WIDTHS[0] for width in VAE_WIDTHS],
    }
    path.write_text(LDM_CONFIG_TEMPLATE.format(**values), encoding="utf-8")


def export_checkpoint(nets: EmbeddedNetworks, folder: Path) -> Path:
    """Write checkpoint, configuration and the text encoder's configuration; return the checkpoint's path."""
    save_ldm_config(folder / "embedded-sd1.yaml")
    config = text_config(len(nets.tokenizer)).to_dict() | {"architectures": ["CLIPTextModel"]}
    config.pop("transformers_version", None)
    text = json.dumps(config, indent=2, default=str) + "\n"
    (folder / "tokenizer" / "config.json").write_text(text, encoding="utf-8")
    path = folder / "embedded-sd1.safetensors"
    save_file(ldm_state(nets), path, metadata={"format": "pt", "modelspec.title": "lora-ext embedded SD1"})
    return path
