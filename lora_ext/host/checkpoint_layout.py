"""What a checkpoint is, told from its tensors' names and shapes: an `CheckpointLayout` to build the networks by.

The shapes are the truth. The `.yaml` beside the file (an LDM or sgm configuration, as the web UI reads it) is asked
for what shapes cannot tell: heads, what the U-Net predicts, the latents' scale, the noise schedule. Names are LDM's:
`model.diffusion_model.`, `first_stage_model.`, `cond_stage_model.` / `conditioner.embedders.`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FileError
from .native_size import latent_size_of

TensorShapes = Mapping[str, Sequence[int]]
CHECKPOINT_SD1, CHECKPOINT_SD2, CHECKPOINT_SDXL = "SD1", "SD2", "SDXL"
EPSILON_PREDICTION, V_PREDICTION = "epsilon", "v"
CHECKPOINT_UNET_PREFIX, CHECKPOINT_VAE_PREFIX = "model.diffusion_model.", "first_stage_model."
SD1_CLIP_PREFIX, SD2_OPEN_CLIP_PREFIX = "cond_stage_model.transformer.", "cond_stage_model.model."
SDXL_CLIP_PREFIX, SDXL_OPEN_CLIP_PREFIX = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
HEAD_WIDTH = 64
"""Channels of an attention head in every CLIP text model and in the U-Nets of SD2 and SDXL."""
SD1_HEADS = 8


@dataclass(frozen=True)
class TextEncoderLayout:
    """One text encoder: where its tensors are, and a CLIPTextConfig's arguments.

    layer, pad, pooled: as in `text.Encoder`. open_clip: whether the tensors have OpenCLIP's names.
    """

    prefix: str
    config: dict[str, Any]
    open_clip: bool = False
    layer: str = "final"
    pad_id: int | None = None
    pooled: bool = False


@dataclass(frozen=True)
class CheckpointLayout:
    """What to build: the configurations of diffusers' U-Net and autoencoder, and of the text encoders.

    prediction: EPS, V, or None where only running the U-Net can tell (SD2 without a yaml).
    scaling_factor: what latents are multiplied by. betas: (first, last, count) of the scaled-linear schedule.
    """

    family: str
    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoders: tuple[TextEncoderLayout, ...]
    prediction: str | None = EPSILON_PREDICTION
    scaling_factor: float = 0.18215
    betas: tuple[float, float, int] = (0.00085, 0.012, 1000)
    zero_terminal_snr: bool = False

    @property
    def is_inpainting(self) -> bool:
        """Whether the U-Net also takes a mask and the masked picture (9 channels)."""
        return bool(self.unet["in_channels"] == 9)


@dataclass(frozen=True)
class CheckpointHints:
    """What somebody knows beside the tensors. yaml: the LDM configuration; texts: a text encoder's configuration each
    (a transformers `config.json`); prediction: "epsilon", "v" or None."""

    yaml: Mapping[str, Any] = field(default_factory=dict)
    text_configs: Sequence[Mapping[str, Any]] = ()
    prediction: str | None = None

    def params(self, *path: str) -> Mapping[str, Any]:
        """`model.params.<path>…params` of the yaml, or nothing."""
        node: Any = self.yaml.get("model", {}).get("params", {})
        for name in path:
            node = (node.get(name) or {}).get("params", {}) if isinstance(node, Mapping) else {}
        return node if isinstance(node, Mapping) else {}


def load_ldm_config(path: Path) -> Mapping[str, Any]:
    """The configuration beside a checkpoint. Raises FileError."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FileError(f"{path} is not a readable configuration: {str(error).splitlines()[0]}") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise FileError(f"{path} is not a configuration of a Stable Diffusion model (it has no `model:`)")
    return content


_RENAMED = {
    "cond_stage_model.transformer.embeddings.": f"{SD1_CLIP_PREFIX}text_model.embeddings.",
    "cond_stage_model.transformer.encoder.": f"{SD1_CLIP_PREFIX}text_model.encoder.",
    "cond_stage_model.transformer.final_layer_norm.": f"{SD1_CLIP_PREFIX}text_model.final_layer_norm.",
}
"""Key beginnings of older checkpoints → today's."""


def modern_key(key: str, keys: TensorShapes) -> str:
    """Today's name of a checkpoint's key (older CLIP names; SD2 saved by sgm)."""
    for old, new in _RENAMED.items():
        if key.startswith(old):
            return new + key[len(old) :]
    if key.startswith("conditioner.embedders.0.model.") and _is_sd2_by_sgm(keys):
        return SD2_OPEN_CLIP_PREFIX + key.removeprefix("conditioner.embedders.0.model.")
    return key


def _is_sd2_by_sgm(keys: TensorShapes) -> bool:
    return (
        "conditioner.embedders.0.model.ln_final.weight" in keys
        and f"{CHECKPOINT_UNET_PREFIX}label_emb.0.0.weight" not in keys
    )


def detect_checkpoint_layout(shapes: TensorShapes, hints: CheckpointHints | None = None) -> CheckpointLayout:
    """The architecture of a checkpoint with these tensors. Raises FileError that says what is missing or unknown."""
    hints = hints or CheckpointHints()
    _reject_unsupported(shapes)
    texts = _text_encoders(shapes, hints)
    context = _required_shape(
        shapes, f"{CHECKPOINT_UNET_PREFIX}middle_block.1.transformer_blocks.0.attn2.to_k.weight", "cross-attention"
    )[1]
    family = CHECKPOINT_SDXL if len(texts) == 2 else CHECKPOINT_SD2 if texts[0].open_clip else CHECKPOINT_SD1
    width = sum(text.config["hidden_size"] for text in texts)
    if width != context:
        raise FileError(f"its text encoder gives {width} values a token, its U-Net takes {context}")
    schedule = hints.params()
    return CheckpointLayout(
        family=family,
        unet=_unet(shapes, hints, family, context, texts[-1].config.get("projection_dim")),
        vae=_vae(shapes),
        text_encoders=texts,
        prediction=_prediction(shapes, hints, family),
        scaling_factor=float(schedule.get("scale_factor", 0.13025 if family == CHECKPOINT_SDXL else 0.18215)),
        betas=(
            float(schedule.get("linear_start", 0.00085)),
            float(schedule.get("linear_end", 0.012)),
            int(schedule.get("timesteps", 1000)),
        ),
        zero_terminal_snr="ztsnr" in shapes,
    )


def _reject_unsupported(shapes: TensorShapes) -> None:
    """Raises FileError for what is no checkpoint of SD1, SD2 or SDXL, naming what it is instead."""
    others = {
        "model.diffusion_model.x_embedder.proj.weight": "a Stable Diffusion 3 checkpoint",
        "model.diffusion_model.double_blocks.0.img_attn.proj.weight": "a FLUX checkpoint",
        "double_blocks.0.img_attn.proj.weight": "a FLUX model",
        "cond_stage_model.roberta.embeddings.word_embeddings.weight": "an AltDiffusion checkpoint",
        "embedder.model.ln_final.weight": "an unCLIP checkpoint",
        "depth_model.model.pretrained.act_postprocess3.0.project.0.bias": "a depth-to-image checkpoint",
        "down_blocks.0.resnets.0.conv1.weight": "a diffusers U-Net alone; give the folder that holds model_index.json",
    }
    found = next((what for key, what in others.items() if key in shapes), None)
    if found is None and any(".lora_down." in key or ".lora_A." in key for key in shapes):
        found = "a LoRA; it goes into the LoRA folder, and the prompt names it: <lora:name:0.8>"
    first = shapes.get(f"{CHECKPOINT_UNET_PREFIX}input_blocks.0.0.weight")
    if found is None and first is None:
        found = f"no Stable Diffusion checkpoint: it has no tensors named {CHECKPOINT_UNET_PREFIX}…"
    if found is None and first is not None and first[1] not in (4, 9):
        found = f"a checkpoint with {first[1]} input channels (such as instruct-pix2pix or depth); 4 and 9 are known"
    if found is None and "conditioner.embedders.0.model.ln_final.weight" in shapes:
        found = "an SDXL refiner; it cannot make pictures alone"
    if found:
        raise FileError(f"it is {found}")


def _required_shape(shapes: TensorShapes, key: str, what: str) -> Sequence[int]:
    if key not in shapes:
        raise FileError(f"it has no {what} ({key} is missing)")
    return shapes[key]


def _count(shapes: TensorShapes, name: Callable[[int], str]) -> int:
    """How many of name(0), name(1), … are there."""
    number = 0
    while name(number) in shapes:
        number += 1
    return number


# --- U-Net -----------------------------------------------------------------------------------------------------------


def _levels(shapes: TensorShapes) -> list[list[tuple[int, int]]]:
    """Per resolution, from the finest, the (channels, transformer depth or 0) of each resnet on the way down."""
    levels: list[list[tuple[int, int]]] = [[]]
    index = 1
    while any(
        f"{CHECKPOINT_UNET_PREFIX}input_blocks.{index}.0.{leaf}.weight" in shapes for leaf in ("op", "in_layers.2")
    ):
        block = f"{CHECKPOINT_UNET_PREFIX}input_blocks.{index}."
        if f"{block}0.op.weight" in shapes:
            levels.append([])
        else:
            depth = _count(shapes, lambda n, b=block: f"{b}1.transformer_blocks.{n}.norm1.weight")  # type: ignore[misc]
            levels[-1].append((shapes[f"{block}0.in_layers.2.weight"][0], depth))
        index += 1
    return levels


def _unet(
    shapes: TensorShapes, hints: CheckpointHints, family: str, context: int, pooled: int | None
) -> dict[str, Any]:
    """Arguments of diffusers' UNet2DConditionModel. Its `attention_head_dim` is the number of heads."""
    levels = _levels(shapes)
    if len({len(level) for level in levels}) != 1 or not levels[0]:
        raise FileError("its U-Net has levels of different length, which is unknown here")
    channels = [level[0][0] for level in levels]
    depths = [level[0][1] for level in levels]
    mid = _count(shapes, lambda n: f"{CHECKPOINT_UNET_PREFIX}middle_block.1.transformer_blocks.{n}.norm1.weight")
    linear = len(shapes[f"{CHECKPOINT_UNET_PREFIX}middle_block.1.proj_in.weight"]) == 2
    params = hints.params("unet_config") or hints.params("network_config")
    config: dict[str, Any] = {
        "sample_size": latent_size_of(hints.params().get("image_size")),
        "in_channels": shapes[f"{CHECKPOINT_UNET_PREFIX}input_blocks.0.0.weight"][1],
        "out_channels": _required_shape(shapes, f"{CHECKPOINT_UNET_PREFIX}out.2.weight", "U-Net output")[0],
        "block_out_channels": channels,
        "layers_per_block": len(levels[0]),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "transformer_layers_per_block": [*(max(depth, 1) for depth in depths[:-1]), depths[-1] or mid],
        "cross_attention_dim": context,
        "attention_head_dim": [_heads(c, params, family) for c in channels],
        "use_linear_projection": linear,
    }
    if family == CHECKPOINT_SDXL:
        inputs = _required_shape(shapes, f"{CHECKPOINT_UNET_PREFIX}label_emb.0.0.weight", "size conditioning")[1]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (inputs - int(pooled or 0)) // 6,
            "projection_class_embeddings_input_dim": inputs,
        }
    elif f"{CHECKPOINT_UNET_PREFIX}label_emb.0.0.weight" in shapes:
        raise FileError("its U-Net takes another condition (unCLIP), which is unknown here")
    return config


def _heads(channels: int, params: Mapping[str, Any], family: str) -> int:
    """Attention heads at a level: the configuration's, else SD1's 8, else one for each 64 channels."""
    heads, width = params.get("num_heads", -1), params.get("num_head_channels", -1)
    if isinstance(width, int) and width > 0:
        return max(channels // width, 1)
    if isinstance(heads, int) and heads > 0:
        return heads
    return SD1_HEADS if family == CHECKPOINT_SD1 else max(channels // HEAD_WIDTH, 1)


def _prediction(shapes: TensorShapes, hints: CheckpointHints, family: str) -> str | None:
    """What the U-Net predicts: what the user says, else the configuration, else a mark in the file."""
    if hints.prediction:
        return hints.prediction
    if hints.yaml:
        scaling = hints.params("denoiser_config").get("scaling_config", {})
        velocity = hints.params().get("parameterization") == V_PREDICTION or "VScaling" in str(
            scaling.get("target", "")
        )
        return V_PREDICTION if velocity else EPSILON_PREDICTION
    if "v_pred" in shapes:
        return V_PREDICTION
    inpainting = shapes[f"{CHECKPOINT_UNET_PREFIX}input_blocks.0.0.weight"][1] == 9
    return None if family == CHECKPOINT_SD2 and not inpainting else EPSILON_PREDICTION


# --- autoencoder -----------------------------------------------------------------------------------------------------


def _vae(shapes: TensorShapes) -> dict[str, Any]:
    """Arguments of diffusers' AutoencoderKL."""
    encoder, decoder = f"{CHECKPOINT_VAE_PREFIX}encoder.", f"{CHECKPOINT_VAE_PREFIX}decoder."
    levels = _count(shapes, lambda n: f"{encoder}down.{n}.block.0.conv1.weight")
    if not levels:
        raise FileError(f"it has no autoencoder ({CHECKPOINT_VAE_PREFIX}…); it is only a part of a checkpoint")
    return {
        "in_channels": _required_shape(shapes, f"{encoder}conv_in.weight", "autoencoder")[1],
        "out_channels": _required_shape(shapes, f"{decoder}conv_out.weight", "autoencoder")[0],
        "latent_channels": _required_shape(shapes, f"{decoder}conv_in.weight", "autoencoder")[1],
        "block_out_channels": [shapes[f"{encoder}down.{n}.block.0.conv1.weight"][0] for n in range(levels)],
        "layers_per_block": _count(shapes, lambda n: f"{encoder}down.0.block.{n}.conv1.weight"),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


# --- text encoders ---------------------------------------------------------------------------------------------------


def _text_encoders(shapes: TensorShapes, hints: CheckpointHints) -> tuple[TextEncoderLayout, ...]:
    """The text encoders that are there, in the order of the parts te, te2."""
    known = [*hints.text_configs, {}, {}]
    if f"{SDXL_OPEN_CLIP_PREFIX}ln_final.weight" in shapes:
        return (
            TextEncoderLayout(SDXL_CLIP_PREFIX, _clip(shapes, SDXL_CLIP_PREFIX, known[0]), layer="penultimate"),
            TextEncoderLayout(
                SDXL_OPEN_CLIP_PREFIX,
                _open_clip(shapes, SDXL_OPEN_CLIP_PREFIX, known[1]),
                True,
                "penultimate",
                0,
                pooled=True,
            ),
        )
    said = hints.params("cond_stage_config")
    if f"{SD2_OPEN_CLIP_PREFIX}ln_final.weight" in shapes:
        config = _open_clip(shapes, SD2_OPEN_CLIP_PREFIX, {**said, **known[0]})
        if said.get("layer", "penultimate") == "penultimate":
            config["num_hidden_layers"] -= 1
        return (TextEncoderLayout(SD2_OPEN_CLIP_PREFIX, config, True, "normed", 0),)
    return (TextEncoderLayout(SD1_CLIP_PREFIX, _clip(shapes, SD1_CLIP_PREFIX, {**said, **known[0]})),)


def _clip(shapes: TensorShapes, prefix: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """A CLIPTextConfig's arguments from CLIP's own tensors."""
    base = f"{prefix}text_model."
    vocabulary, width = _required_shape(shapes, f"{base}embeddings.token_embedding.weight", "text encoder")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[f"{base}encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _count(shapes, lambda n: f"{base}encoder.layers.{n}.mlp.fc1.weight"),
        "max_position_embeddings": shapes[f"{base}embeddings.position_embedding.weight"][0],
        "hidden_act": "quick_gelu",
        **_heads_and_activation(known, width),
    }


def _open_clip(shapes: TensorShapes, prefix: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """The same from OpenCLIP's tensors."""
    vocabulary, width = _required_shape(shapes, f"{prefix}token_embedding.weight", "text encoder")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"][0],
        "num_hidden_layers": _count(shapes, lambda n: f"{prefix}transformer.resblocks.{n}.mlp.c_fc.weight"),
        "max_position_embeddings": shapes[f"{prefix}positional_embedding"][0],
        "hidden_act": "gelu",
        "projection_dim": shapes.get(f"{prefix}text_projection", (width, width))[1],
        **_heads_and_activation(known, width),
    }


def _heads_and_activation(known: Mapping[str, Any], width: int) -> dict[str, Any]:
    """Heads and activation: told, if what is told is about an encoder of this width; heads of 64 channels else."""
    about = known if known.get("hidden_size", width) == width else {}
    told = {key: about[key] for key in ("num_attention_heads", "hidden_act", "layer_norm_eps") if key in about}
    return {"num_attention_heads": max(width // HEAD_WIDTH, 1), **told}
