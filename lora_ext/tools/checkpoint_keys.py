"""Where a checkpoint's tensors hold the layers that adapters change: `LayerId` → `WeightLocation`.

Understood are LDM checkpoints of SD1, SD2 and SDXL (also as sgm or older web UIs saved them), a U-Net or a text
encoder alone, and the files of a diffusers folder. Layer names are looked up in `layer_names`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..counted_words import counted
from ..layer_names import TE, TE2, UNET, LayerId, find_layer_id
from ..ldm_keys import (
    LDM_UNET_PREFIX,
    SD1_CLIP_PREFIX,
    SD2_OPEN_CLIP_PREFIX,
    SDXL_CLIP_PREFIX,
    SDXL_OPEN_CLIP_PREFIX,
    SGM_FIRST_OPEN_CLIP_PREFIX,
    is_sdxl_refiner,
)

ShapesByKey = Mapping[str, Sequence[int]]
"""Tensor name → its shape."""

LDM_PART_PREFIXES = (
    (LDM_UNET_PREFIX, UNET),
    (SD1_CLIP_PREFIX, TE),  # SD1: CLIP
    (SD2_OPEN_CLIP_PREFIX, TE),  # SD2: OpenCLIP
    (SDXL_CLIP_PREFIX, TE),  # SDXL: CLIP
    (SDXL_OPEN_CLIP_PREFIX, TE2),  # SDXL: OpenCLIP
    (SGM_FIRST_OPEN_CLIP_PREFIX, TE),  # SD2 saved by sgm; the SDXL refiner's only encoder is its TE2
)
"""(prefix of a tensor name in an LDM checkpoint, the part of the model that such tensors belong to)."""

_SINGLE_NETWORK_PREFIXES = (("diffusion_model.", UNET), ("", UNET), ("", TE))
"""The same for files that hold a single network."""

_FAMILY_BY_TEXT_WIDTH = {768: "SD1", 1024: "SD2", 2048: "SDXL", 1280: "SDXL refiner"}
"""Width of the text embeddings that a U-Net's cross-attention takes in → model family."""

_STACKED_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
"""The three layers that OpenCLIP stores as the rows of one `in_proj_weight`, in this order."""


@dataclass(frozen=True)
class WeightLocation:
    """The tensor of a checkpoint that holds a layer's weight.

    Attributes:
        key: the tensor's name in the file.
        shape: the weight's shape, (out, in[, kh, kw]).
        rows: (first, end) of the tensor's rows that are the weight; None for all. OpenCLIP stacks q, k and v.
        transposed: whether the tensor is the weight's transpose, as OpenCLIP's text projection is.
        bias: name of the tensor that holds the layer's bias, or None.
    """

    key: str
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None
    transposed: bool = False
    bias: str | None = None

    def weight_view(self, tensor: Tensor) -> Tensor:
        """The layer's weight, as a view of the tensor."""
        part = tensor[slice(*self.rows)] if self.rows else tensor
        return part.mT if self.transposed else part


def find_weight_locations(shapes: ShapesByKey, part: str | None = None) -> dict[LayerId, WeightLocation]:
    """Finds every layer that a file with tensors of these shapes holds.

    Args:
        shapes: tensor name → shape.
        part: the part of the model that the file is known to hold (a file of a diffusers folder), such as `UNET`.

    Returns:
        Layer → where its weight is. Tensors that no adapter changes are left out.

    Example:
        >>> key = "model.diffusion_model.input_blocks.1.1.proj_in.weight"
        >>> [(str(layer_id), location.shape) for layer_id, location in find_weight_locations({key: (320, 320)}).items()]
        [('unet.IN01.attention.proj_in', (320, 320))]
    """
    found: dict[LayerId, WeightLocation] = {}
    rows = ((("", part),) if part else LDM_PART_PREFIXES) if part or _is_whole(shapes) else _SINGLE_NETWORK_PREFIXES
    # sgm's name for the first embedder is TE in SD2 and TE2 in the SDXL refiner, whose U-Net has a label embedding
    refiner = is_sdxl_refiner(shapes)
    for key in shapes:
        for prefix, owner in rows:
            if key.startswith(prefix):
                network = TE2 if refiner and owner == TE else owner
                for layer_id, location in _locations_in_tensor(key, key[len(prefix) :], network, shapes):
                    found.setdefault(layer_id, location)
                if prefix:
                    break
    return found


def _is_whole(shapes: ShapesByKey) -> bool:
    return any(key.startswith(prefix) for key in shapes for prefix, _ in LDM_PART_PREFIXES)


def _locations_in_tensor(
    key: str, name: str, part: str, shapes: ShapesByKey
) -> Iterator[tuple[LayerId, WeightLocation]]:
    """The layers in the tensor `key`, which is called `name` within its part of the model."""
    shape = tuple(shapes[key])
    if name.endswith(".weight"):
        layer_id = find_layer_id(part, name.removesuffix(".weight"))
        bias = key.removesuffix("weight") + "bias"
        if layer_id is not None and shape:
            yield layer_id, WeightLocation(key, shape, bias=bias if bias in shapes else None)
    elif name.endswith(".in_proj_weight") and len(shape) == 2:
        width = shape[0] // 3
        bias = key.removesuffix("weight") + "bias"
        for number, projection in enumerate(_STACKED_PROJECTIONS):
            layer_id = find_layer_id(part, name.removesuffix("in_proj_weight") + projection)
            if layer_id is not None:
                span = (number * width, (number + 1) * width)
                yield layer_id, WeightLocation(key, (width, shape[1]), span, bias=bias if bias in shapes else None)
    elif name == "text_projection" and len(shape) == 2:
        yield LayerId(part, "BASE", "text_projection"), WeightLocation(key, (shape[1], shape[0]), transposed=True)


def checkpoint_family(found: Mapping[LayerId, WeightLocation]) -> str:
    """The model family of a checkpoint with these layers: SD1, SD2, SDXL, "SDXL refiner" or "unknown"."""
    widths = Counter(
        location.shape[1]
        for layer_id, location in found.items()
        if layer_id.part == UNET and layer_id.layer.endswith("attn2.to_k")
    )
    return _FAMILY_BY_TEXT_WIDTH.get(widths.most_common(1)[0][0], "unknown") if widths else "unknown"


def describe_checkpoint(found: Mapping[LayerId, WeightLocation]) -> str:
    """The family in words; of an unknown one the number of its layers and the width of its text embeddings."""
    family = checkpoint_family(found)
    if family != "unknown":
        return family
    counts = Counter(layer_id.part for layer_id in found)
    cross = next((p.shape[1] for s, p in found.items() if re.search(r"attn2\.to_k$", s.layer)), None)
    network = ", ".join(f"{counted(count, 'layer')} of {part}" for part, count in counts.items()) or "no known layer"
    return f"a model with {network} and text {cross} wide" if cross else f"a model with {network}"
