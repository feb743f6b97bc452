"""Which base model a file was made for, read off its shapes and names before its metadata is believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice

from torch import Tensor

from ..adapters import Adapter
from ..layer_names import TE, TE2, UNET, LayerId

SD1, SD2, SDXL, UNKNOWN = "SD1", "SD2", "SDXL", "unknown"

CROSS_ATTENTION_DIMS = {SD1: 768, SD2: 1024, SDXL: 2048}
"""Family → width of the text encoder's output: what a cross-attention's `to_k` and `to_v` take in."""

MODELSPEC_ARCHITECTURES = {
    SD1: "stable-diffusion-v1",
    SD2: "stable-diffusion-v2-512",
    SDXL: "stable-diffusion-xl-v1-base",
}
"""Family → what Stability AI's model specification calls it."""


def block_layout_sizes(family: str) -> tuple[int, int]:
    """Returns the lengths of block weights for a family.

    Args:
        family: "SD1", "SD2" or "SDXL"; any other text counts as SD1.

    Returns:
        (number of weights where only attention blocks have one, number where all blocks have one).

    Example:
        >>> block_layout_sizes("SDXL"), block_layout_sizes("SD1")
        ((12, 20), (17, 26))
    """
    return (12, 20) if family == SDXL else (17, 26)


def detect_lora_family(
    adapters: Mapping[LayerId, Adapter], keys: Mapping[tuple[LayerId, str], str], metadata: Mapping[str, str]
) -> str:
    """Detects which base model a file is for.

    Shapes decide first, then layers that only one family has, then the metadata, and last the key prefixes, which
    files of several families share.

    Args:
        adapters: layer id → adapter.
        keys: (layer id, suffix) → key in the file.
        metadata: the file's metadata.

    Returns:
        "SD1", "SD2", "SDXL" or "unknown".
    """
    stated = family_from_metadata(metadata)
    return _by_shape(adapters) or _by_layers(adapters) or (stated if stated != UNKNOWN else _by_prefix(keys))


def _by_shape(adapters: Mapping[LayerId, Adapter]) -> str | None:
    if any(layer_id.part == TE2 for layer_id in adapters):
        return SDXL
    width = cross_attention_dim(adapters)
    for family, dim in CROSS_ATTENTION_DIMS.items():
        if width == dim:
            return family
    text = (s for s in adapters if s.part == TE and s.layer.endswith(("q_proj", "k_proj", "mlp.fc1")))
    width = _commonest(_width(adapters[layer_id].tensors) for layer_id in islice(text, 4))
    return SD2 if width == 1024 else None


def cross_attention_dim(adapters: Mapping[LayerId, Adapter]) -> int:
    """Returns what the cross-attention layers of a file's model take in.

    Args:
        adapters: layer id → adapter.

    Returns:
        The width of the model's text encoder's output; 0 where no adapter of such a layer tells it.
    """
    cross = (s for s in adapters if s.part == UNET and s.layer.endswith(("attn2.to_k", "attn2.to_v")))
    return _commonest(_width(adapters[layer_id].tensors) for layer_id in islice(cross, 4))


def _commonest(numbers: Iterable[int | None]) -> int:
    found = Counter(number for number in numbers if number)
    return found.most_common(1)[0][0] if found else 0


def _width(tensors: Mapping[str, Tensor]) -> int | None:
    """Number of inputs of the layer that these tensors are for; None where their shapes do not tell."""
    for suffix in ("lora_down.weight", "diff", "hada_w1_b"):
        if suffix in tensors and tensors[suffix].dim() > 1:
            return tensors[suffix].shape[1]
    factors = [tensors.get(f"lokr_w{n}", tensors.get(f"lokr_w{n}_b")) for n in (1, 2)]
    if all(factor is not None and factor.dim() > 1 for factor in factors):
        return factors[0].shape[1] * factors[1].shape[1]  # type: ignore[union-attr]
    return None


def _by_layers(adapters: Mapping[LayerId, Adapter]) -> str | None:
    """SDXL has more than one transformer block in a row, and an embedding of the image's size."""
    for layer_id in adapters:
        if layer_id.layer.startswith("add_embedding") or (
            layer_id.part == UNET
            and "transformer_blocks." in layer_id.layer
            and "transformer_blocks.0." not in layer_id.layer
        ):
            return SDXL
    return None


def _by_prefix(keys: Mapping[tuple[LayerId, str], str]) -> str:
    """SDXL where text encoders have numbers, as kohya's scripts name SDXL's."""
    return SDXL if any(key.startswith(("lora_te1_", "lycoris_te1_")) for key in keys.values()) else UNKNOWN


def family_from_metadata(metadata: Mapping[str, str]) -> str:
    """Reads the family from kohya's or the "modelspec" metadata.

    Args:
        metadata: the file's metadata.

    Returns:
        "SD1", "SD2", "SDXL" or "unknown".

    Example:
        >>> family_from_metadata({"ss_base_model_version": "sdxl_base_v1-0"})
        'SDXL'
    """
    base = metadata.get("ss_base_model_version", "") + " " + metadata.get("modelspec.architecture", "")
    base = base.lower()
    if "sdxl" in base or "stable-diffusion-xl" in base:
        return SDXL
    if metadata.get("ss_v2") == "True" or "sd_v2" in base or "stable-diffusion-v2" in base:
        return SD2
    if "sd_v1" in base or "stable-diffusion-v1" in base or metadata.get("ss_v2") == "False":
        return SD1
    return UNKNOWN
