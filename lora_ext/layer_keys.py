"""Keys of LoRA files: parsing them into layer ids, and formatting layer ids as keys."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from .layer_names import TE, TE2, UNET, LayerId, layer_name_table
from .ldm_keys import LDM_UNET_PREFIX


@dataclass(frozen=True)
class KeyPrefix:
    """One way in which files begin a key.

    Attributes:
        text: the prefix itself, which the layer's name follows.
        part: the part that the layer belongs to.
    """

    text: str
    part: str


KOHYA_PREFIXES = (
    KeyPrefix("lora_unet_", UNET),
    KeyPrefix("lora_te_", TE),
    KeyPrefix("lora_te1_", TE),
    KeyPrefix("lora_te2_", TE2),
    KeyPrefix("oft_unet_", UNET),
    KeyPrefix("diffusion_model_", UNET),
    KeyPrefix("lycoris_unet_", UNET),
    KeyPrefix("lycoris_te_", TE),
    KeyPrefix("lycoris_te1_", TE),
    KeyPrefix("lycoris_te2_", TE2),
    KeyPrefix("lycoris_", UNET),
    KeyPrefix("lycoris_", TE),
)
"""Keys `<prefix><flattened name>.<suffix>`: kohya's scripts, LyCORIS, kohya's OFT, the built-in extension's own."""


DOTTED_PREFIXES = (
    KeyPrefix("unet.", UNET),
    KeyPrefix("text_encoder.", TE),
    KeyPrefix("text_encoder_2.", TE2),
    KeyPrefix("base_model.model.unet.", UNET),
    KeyPrefix("base_model.model.text_encoder.", TE),
    KeyPrefix("base_model.model.", UNET),
    KeyPrefix("base_model.model.", TE),
    KeyPrefix("diffusion_model.", UNET),
    KeyPrefix(LDM_UNET_PREFIX, UNET),
    KeyPrefix("text_encoders.clip_l.transformer.", TE),
    KeyPrefix("text_encoders.clip_h.transformer.", TE),
    KeyPrefix("text_encoders.clip_g.transformer.", TE2),
    KeyPrefix("clip_l.", TE),
    KeyPrefix("clip_h.", TE),
    KeyPrefix("clip_g.", TE2),
    KeyPrefix("lora_unet.", UNET),
    KeyPrefix("lora_te.", TE),
    KeyPrefix("lora_te1.", TE),
    KeyPrefix("lora_te2.", TE2),
    KeyPrefix("", UNET),
    KeyPrefix("", TE),
)
"""Keys `<prefix><dotted name>.<suffix>`: diffusers pipelines, attention-processor files, PEFT, ComfyUI, OneTrainer (its
OMI format has `clip_l.`, its backups have `lora_unet.`)."""


SUFFIX_ALIASES = {
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora_B.bias": "lora_up.bias",
    "lora.down.weight": "lora_down.weight",
    "lora.up.weight": "lora_up.weight",
    "lora_linear_layer.down.weight": "lora_down.weight",
    "lora_linear_layer.up.weight": "lora_up.weight",
    "lora_conv2d_layer.down.weight": "lora_down.weight",
    "lora_conv2d_layer.up.weight": "lora_up.weight",
    "lora_magnitude_vector.weight": "lora_magnitude_vector",
    "network_alpha": "alpha",
}
"""Suffix in PEFT or diffusers files → the suffix in kohya's and LyCORIS' files, which adapters use."""


_PROCESSOR = re.compile(r"(?:\.processor)?\.to_(q|k|v|out)_lora\.(down|up)\.weight$")
"""Attention-processor files (diffusers before 0.22) name the projection inside the suffix. The text encoders of
diffusers 0.15 and 0.16 do the same, with the U-Net's projection names and without `processor`."""


_NAMED = re.compile(
    r"\.(lora_[AB]|lora_magnitude_vector|oft_R)\.(?!(?:weight|bias|scaled_oft)$)[^.]+(?:\.(weight|bias))?$"
)
"""PEFT suffixes that contain the adapter's name: `lora_A.default.weight`, `lora_B.default.bias`."""
_NAMED_TENSOR = re.compile(r"\.(hada_[wt]\d(?:_[ab])?|lokr_[wt]\d(?:_[ab])?)\.[^.]+$")
"""The same where the tensor itself has the adapter's name: `hada_w1_a.default`."""


@cache
def _lookup(flat: bool) -> dict[str, LayerId]:
    table: dict[str, LayerId] = {}
    for prefix in KOHYA_PREFIXES if flat else DOTTED_PREFIXES:
        for name, layer_id in layer_name_table(prefix.part).layer_ids.items():
            table.setdefault(prefix.text + (name.replace(".", "_") if flat else name), layer_id)
    return table


def parse_layer_key(key: str, suffixes: Iterable[str]) -> tuple[LayerId, str] | None:
    """Splits a key of a LoRA file into a layer id and a suffix.

    Args:
        key: the key as the file has it, in any supported key format.
        suffixes: the suffixes that adapters use (`adapters.ADAPTER_SUFFIXES`); needed for dotted keys.

    Returns:
        (layer id, suffix as in kohya's and LyCORIS' files), or None when the key names no known layer.

    Example:
        >>> layer_id, suffix = parse_layer_key("lora_te_text_model_encoder_layers_3_mlp_fc1.alpha", ["alpha"])
        >>> str(layer_id), suffix
        ('te.BASE.layers.3.mlp.fc1', 'alpha')
    """
    head, _, suffix = key.partition(".")
    layer_id = _lookup(flat=True).get(head)
    if layer_id is not None:
        return layer_id, SUFFIX_ALIASES.get(suffix, suffix)
    match = _PROCESSOR.search(key)
    if match:
        text = key[: match.start()].endswith(".self_attn")
        layer = f"{match[1]}_proj" if text else "to_out.0" if match[1] == "out" else f"to_{match[1]}"
        key = f"{key[: match.start()]}.{layer}.lora_{match[2]}.weight"
    else:
        key = _NAMED.sub(lambda found: f".{found[1]}.{found[2] or 'weight'}", _NAMED_TENSOR.sub(r".\1", key))
    for known in (*SUFFIX_ALIASES, *suffixes):
        if key.endswith("." + known):
            layer_id = _lookup(flat=False).get(key[: -len(known) - 1])
            if layer_id is not None:
                return layer_id, SUFFIX_ALIASES.get(known, known)
    return None


def format_kohya_key(layer_id: LayerId, *, sdxl: bool = False) -> str:
    """Formats the key that kohya's scripts write for a layer, without its suffix.

    Args:
        layer_id: the layer.
        sdxl: whether the file is for SDXL: then U-Net layers have LDM names and text encoders are numbered.

    Returns:
        The key before the first dot.

    Example:
        >>> format_kohya_key(LayerId("unet", "IN01", "attention.proj_in"))
        'lora_unet_down_blocks_0_attentions_0_proj_in'
        >>> format_kohya_key(LayerId("unet", "IN04", "attention.proj_in"), sdxl=True)
        'lora_unet_input_blocks_4_1_proj_in'
    """
    table = layer_name_table(layer_id.part)
    unet_name = table.ldm[layer_id][0] if sdxl and layer_id.part == UNET else table.diffusers[layer_id]
    prefix = {UNET: "lora_unet_", TE: "lora_te1_" if sdxl else "lora_te_", TE2: "lora_te2_"}[layer_id.part]
    return prefix + unet_name.replace(".", "_")


def format_peft_key(layer_id: LayerId) -> str:
    """Formats the key that diffusers pipelines write and read for a layer (PEFT), without its suffix.

    Args:
        layer_id: the layer.

    Returns:
        The dotted key, such as `unet.down_blocks.0.attentions.0.proj_in`.
    """
    prefix = {UNET: "unet.", TE: "text_encoder.", TE2: "text_encoder_2."}[layer_id.part]
    return prefix + layer_name_table(layer_id.part).diffusers[layer_id]


def format_comfyui_key(layer_id: LayerId, family: str) -> str:
    """Formats the name that ComfyUI's own models have for a layer, without its suffix.

    Args:
        layer_id: the layer.
        family: the model family, "SD1", "SD2", "SDXL" or "unknown": SD2's text encoder has a name of its own.

    Returns:
        The dotted key.

    Example:
        >>> format_comfyui_key(LayerId("te", "BASE", "layers.0.mlp.fc1"), "SDXL")
        'text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1'
        >>> format_comfyui_key(LayerId("unet", "OUT02", "sampler.conv"), "SD1")
        'diffusion_model.output_blocks.2.1.conv'
    """
    table = layer_name_table(layer_id.part)
    if layer_id.part == UNET:
        return "diffusion_model." + table.ldm_name(layer_id, family)
    clip = "clip_g" if layer_id.part == TE2 else "clip_h" if family == "SD2" else "clip_l"
    return f"text_encoders.{clip}.transformer.{table.diffusers[layer_id]}"
