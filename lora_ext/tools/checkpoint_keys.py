"""Where a checkpoint's tensors hold the layers that adapters act on: `LayerId` → `WeightLocation`.

LDM checkpoints of SD1, SD2 and SDXL (also as sgm or older web UIs saved them), a U-Net or text encoder alone, and the
files of a diffusers folder. Names are looked up, as everywhere, in `address`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..layer_names import TE, TE2, UNET, LayerId, find_layer_id
from ..ldm_keys import (
    LDM_UNET_PREFIX,
    SD1_CLIP_PREFIX,
    SD2_OPEN_CLIP_PREFIX,
    SDXL_CLIP_PREFIX,
    SDXL_OPEN_CLIP_PREFIX,
    SGM_FIRST_OPEN_CLIP_PREFIX,
)

ShapesByKey = Mapping[str, Sequence[int]]
"""Name of a tensor → its shape."""

LDM_PART_PREFIXES = (
    (LDM_UNET_PREFIX, UNET),
    (SD1_CLIP_PREFIX, TE),  # SD1: CLIP
    (SD2_OPEN_CLIP_PREFIX, TE),  # SD2: OpenCLIP
    (SDXL_CLIP_PREFIX, TE),  # SDXL: CLIP
    (SDXL_OPEN_CLIP_PREFIX, TE2),  # SDXL: OpenCLIP
    (SGM_FIRST_OPEN_CLIP_PREFIX, TE),  # SD2 saved by sgm; the SDXL refiner's only encoder is its TE2
)
"""Beginning of an LDM checkpoint's name → the part that it holds."""

_LOOSE = (("diffusion_model.", UNET), ("", UNET), ("", TE))
"""The same for files that hold one network alone."""

_CROSS = {768: "SD1", 1024: "SD2", 2048: "SDXL", 1280: "SDXL refiner"}
"""Width of the text that a U-Net's cross-attention takes in → family."""

_THIRDS = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class WeightLocation:
    """The tensor `key` holds a layer's weight of `shape`.

    rows: the rows of it that do (OpenCLIP's q, k and v lie in one tensor), None for all. transposed: the tensor is
    the weight's transpose (OpenCLIP's text projection). bias: the tensor that holds the layer's bias, or None.
    """

    key: str
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None
    transposed: bool = False
    bias: str | None = None

    def weight_view(self, tensor: Tensor) -> Tensor:
        """The layer's weight inside the tensor, as a view."""
        part = tensor[slice(*self.rows)] if self.rows else tensor
        return part.mT if self.transposed else part


def find_weight_locations(shapes: ShapesByKey, part: str | None = None) -> dict[LayerId, WeightLocation]:
    """Every layer of a file with tensors of these shapes. part: what a file of a diffusers folder is known to hold."""
    found: dict[LayerId, WeightLocation] = {}
    rows = ((("", part),) if part else LDM_PART_PREFIXES) if part or _is_whole(shapes) else _LOOSE
    refiner = (
        f"{SGM_FIRST_OPEN_CLIP_PREFIX}ln_final.weight" in shapes and f"{LDM_UNET_PREFIX}label_emb.0.0.weight" in shapes
    )
    for key in shapes:
        for prefix, owner in rows:
            if key.startswith(prefix):
                held = TE2 if refiner and owner == TE else owner
                for site, place in _inside(key, key[len(prefix) :], held, shapes):
                    found.setdefault(site, place)
                if prefix:
                    break
    return found


def _is_whole(shapes: ShapesByKey) -> bool:
    return any(key.startswith(prefix) for key in shapes for prefix, _ in LDM_PART_PREFIXES)


def _inside(key: str, name: str, part: str, shapes: ShapesByKey) -> Iterator[tuple[LayerId, WeightLocation]]:
    """The layers that the tensor `key`, called `name` inside its part, holds."""
    shape = tuple(shapes[key])
    if name.endswith(".weight"):
        site = find_layer_id(part, name.removesuffix(".weight"))
        bias = key.removesuffix("weight") + "bias"
        if site is not None and shape:
            yield site, WeightLocation(key, shape, bias=bias if bias in shapes else None)
    elif name.endswith(".in_proj_weight") and len(shape) == 2:
        width = shape[0] // 3
        bias = key.removesuffix("weight") + "bias"
        for number, leaf in enumerate(_THIRDS):
            site = find_layer_id(part, name.removesuffix("in_proj_weight") + leaf)
            if site is not None:
                span = (number * width, (number + 1) * width)
                yield site, WeightLocation(key, (width, shape[1]), span, bias=bias if bias in shapes else None)
    elif name == "text_projection" and len(shape) == 2:
        yield LayerId(part, "BASE", "text_projection"), WeightLocation(key, (shape[1], shape[0]), transposed=True)


def checkpoint_family(found: Mapping[LayerId, WeightLocation]) -> str:
    """ "SD1", "SD2", "SDXL", "SDXL refiner", or "unknown" for a checkpoint with these layers."""
    widths = Counter(
        place.shape[1] for site, place in found.items() if site.part == UNET and site.layer.endswith("attn2.to_k")
    )
    return _CROSS.get(widths.most_common(1)[0][0], "unknown") if widths else "unknown"


def describe_checkpoint(found: Mapping[LayerId, WeightLocation]) -> str:
    """The family, or what tells unknown networks apart, in words."""
    family = checkpoint_family(found)
    if family != "unknown":
        return family
    counts = Counter(site.part for site in found)
    cross = next((p.shape[1] for s, p in found.items() if re.search(r"attn2\.to_k$", s.layer)), None)
    held = ", ".join(f"{count} layers of {part}" for part, count in counts.items()) or "no known layer"
    return f"a model with {held}" + (f" and text {cross} wide" if cross else "")
