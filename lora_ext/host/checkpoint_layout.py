"""Detects a checkpoint's architecture from its tensors' names and shapes: `detect_checkpoint_layout`.

Shapes decide. The `.yaml` beside the file (an LDM or sgm configuration, as the web UI reads it) tells what shapes
cannot: attention heads, what the U-Net predicts, the latents' scale, the noise schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import FileError
from ..file.base_model import SD1, SD2, SDXL
from ..ldm_keys import (
    LDM_UNET_PREFIX,
    SD1_CLIP_PREFIX,
    SD2_OPEN_CLIP_PREFIX,
    SDXL_CLIP_PREFIX,
    SDXL_OPEN_CLIP_PREFIX,
    SGM_FIRST_OPEN_CLIP_PREFIX,
    is_sd2_saved_by_sgm,
)
from .ldm_config import CheckpointHints
from .network_arguments import (
    TensorShapes,
    clip_arguments,
    open_clip_arguments,
    required_shape,
    unet_arguments,
    vae_arguments,
)

EPSILON_PREDICTION, V_PREDICTION = "epsilon", "v"
"""What a U-Net predicts: the noise, or the velocity (Salimans & Ho 2022, arXiv:2202.00512)."""


@dataclass(frozen=True)
class TextEncoderLayout:
    """One text encoder of a checkpoint.

    Attributes:
        prefix: beginning of its tensors' names.
        config: arguments of transformers' CLIPTextConfig.
        open_clip: whether its tensors have OpenCLIP's names, not transformers'.
        layer: as in `prompt_encoding.TextEncoder`, like `pad_id` and `pooled`.
        pad_id: the id that fills a chunk after the end token.
        pooled: whether the end token's projected state is needed.
    """

    prefix: str
    config: dict[str, Any]
    open_clip: bool = False
    layer: str = "final"
    pad_id: int | None = None
    pooled: bool = False


@dataclass(frozen=True)
class CheckpointLayout:
    """A checkpoint's architecture, from which its networks are built.

    Attributes:
        family: "SD1", "SD2" or "SDXL".
        unet: arguments of diffusers' UNet2DConditionModel.
        vae: arguments of diffusers' AutoencoderKL.
        text_encoders: one, or two for SDXL.
        prediction: "epsilon", "v", or None where only running the U-Net can tell (SD2 without a configuration).
        scaling_factor: what encoded images are multiplied by to give latents.
        betas: (first, last, count) of the scaled-linear noise schedule.
        zero_terminal_snr: whether the last timestep is pure noise (Lin et al. 2023, arXiv:2305.08891).
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


_RENAMED = {
    f"{SD1_CLIP_PREFIX}embeddings.": f"{SD1_CLIP_PREFIX}text_model.embeddings.",
    f"{SD1_CLIP_PREFIX}encoder.": f"{SD1_CLIP_PREFIX}text_model.encoder.",
    f"{SD1_CLIP_PREFIX}final_layer_norm.": f"{SD1_CLIP_PREFIX}text_model.final_layer_norm.",
}
"""Beginnings of names in older checkpoints → those in newer ones."""


def modern_key(key: str, keys: TensorShapes) -> str:
    """Returns the newer name of a checkpoint's tensor, for CLIP's older names and for SD2 saved by sgm.

    Args:
        key: the tensor's name.
        keys: all tensors of the checkpoint.
    """
    for old, new in _RENAMED.items():
        if key.startswith(old):
            return new + key[len(old) :]
    if key.startswith(SGM_FIRST_OPEN_CLIP_PREFIX) and is_sd2_saved_by_sgm(keys):
        return SD2_OPEN_CLIP_PREFIX + key.removeprefix(SGM_FIRST_OPEN_CLIP_PREFIX)
    return key


def detect_checkpoint_layout(shapes: TensorShapes, hints: CheckpointHints | None = None) -> CheckpointLayout:
    """Detects the architecture of a checkpoint.

    Args:
        shapes: names and shapes of its tensors, with `modern_key` names.
        hints: what is known beside the tensors.

    Raises:
        FileError: it is no checkpoint of SD1, SD2 or SDXL, or a part is missing; the message says what it is.
    """
    hints = hints or CheckpointHints()
    check_is_supported(shapes)
    texts = _text_encoders(shapes, hints)
    context = required_shape(
        shapes, f"{LDM_UNET_PREFIX}middle_block.1.transformer_blocks.0.attn2.to_k.weight", "cross-attention"
    )[1]
    family = SDXL if len(texts) == 2 else SD2 if texts[0].open_clip else SD1
    width = sum(text.config["hidden_size"] for text in texts)
    if width != context:
        raise FileError(f"its text encoder gives {width} values a token, its U-Net takes {context}")
    schedule = hints.params()
    return CheckpointLayout(
        family=family,
        unet=unet_arguments(shapes, hints, family, context, texts[-1].config.get("projection_dim")),
        vae=vae_arguments(shapes),
        text_encoders=texts,
        prediction=_prediction(shapes, hints, family),
        scaling_factor=float(schedule.get("scale_factor", 0.13025 if family == SDXL else 0.18215)),
        betas=(
            float(schedule.get("linear_start", 0.00085)),
            float(schedule.get("linear_end", 0.012)),
            int(schedule.get("timesteps", 1000)),
        ),
        zero_terminal_snr="ztsnr" in shapes,
    )


def check_is_supported(shapes: TensorShapes) -> None:
    """Checks that a file is a checkpoint of SD1, SD2 or SDXL, by names and shapes that others have.

    Args:
        shapes: names and shapes of its tensors.

    Raises:
        FileError: it is not; the message says what it is.
    """
    others = {
        f"{LDM_UNET_PREFIX}x_embedder.proj.weight": "a Stable Diffusion 3 checkpoint",
        f"{LDM_UNET_PREFIX}double_blocks.0.img_attn.proj.weight": "a FLUX checkpoint",
        "double_blocks.0.img_attn.proj.weight": "a FLUX model",
        "cond_stage_model.roberta.embeddings.word_embeddings.weight": "an AltDiffusion checkpoint",
        "embedder.model.ln_final.weight": "an unCLIP checkpoint",
        "depth_model.model.pretrained.act_postprocess3.0.project.0.bias": "a depth-to-image checkpoint",
        "down_blocks.0.resnets.0.conv1.weight": "a diffusers U-Net alone; give the folder that holds model_index.json",
    }
    found = next((what for key, what in others.items() if key in shapes), None)
    if found is None and any(".lora_down." in key or ".lora_A." in key for key in shapes):
        found = "a LoRA; it goes into the LoRA folder, and the prompt names it: <lora:name:0.8>"
    first = shapes.get(f"{LDM_UNET_PREFIX}input_blocks.0.0.weight")
    if found is None and first is None:
        found = f"no Stable Diffusion checkpoint: it has no tensors named {LDM_UNET_PREFIX}…"
    channels = first[1] if first and len(first) > 1 else 0
    if found is None and channels not in (4, 9):
        found = f"a checkpoint with {channels} input channels (such as instruct-pix2pix or depth); 4 and 9 are known"
    if found is None and f"{SGM_FIRST_OPEN_CLIP_PREFIX}ln_final.weight" in shapes:
        found = "an SDXL refiner; it cannot make pictures alone"
    if found:
        raise FileError(f"it is {found}")


def _prediction(shapes: TensorShapes, hints: CheckpointHints, family: str) -> str | None:
    """Returns what the U-Net predicts: what the user says, else the configuration, else a marker in the file."""
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
    inpainting = shapes[f"{LDM_UNET_PREFIX}input_blocks.0.0.weight"][1] == 9
    return None if family == SD2 and not inpainting else EPSILON_PREDICTION


def _text_encoders(shapes: TensorShapes, hints: CheckpointHints) -> tuple[TextEncoderLayout, ...]:
    """Finds the text encoders, in the order of the parts "te" and "te2"."""
    known = [*hints.text_configs, {}, {}]
    if f"{SDXL_OPEN_CLIP_PREFIX}ln_final.weight" in shapes:
        return (
            TextEncoderLayout(
                SDXL_CLIP_PREFIX, clip_arguments(shapes, SDXL_CLIP_PREFIX, known[0]), layer="penultimate"
            ),
            TextEncoderLayout(
                SDXL_OPEN_CLIP_PREFIX,
                open_clip_arguments(shapes, SDXL_OPEN_CLIP_PREFIX, known[1]),
                True,
                "penultimate",
                0,
                pooled=True,
            ),
        )
    entries = hints.params("cond_stage_config")
    if f"{SD2_OPEN_CLIP_PREFIX}ln_final.weight" in shapes:
        config = open_clip_arguments(shapes, SD2_OPEN_CLIP_PREFIX, {**entries, **known[0]})
        if entries.get("layer", "penultimate") == "penultimate":
            config["num_hidden_layers"] -= 1
        return (TextEncoderLayout(SD2_OPEN_CLIP_PREFIX, config, True, "normed", 0),)
    return (TextEncoderLayout(SD1_CLIP_PREFIX, clip_arguments(shapes, SD1_CLIP_PREFIX, {**entries, **known[0]})),)
