"""Whether one layer's tensors make an adapter: their shapes, and the indices of a sparse residual."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .. import adapters as kinds
from ..adapters import Adapter
from ..errors import FileError
from ..layer_names import LayerId

_FACTOR = re.compile(
    r"lora_(up|down|mid)\.weight|hada_[wt]\w+|lokr_[wt]\w+|oft_(diag|blocks|R\.weight)|[ab][12]\.weight"
)
"""Suffixes whose tensor is a matrix or more."""


@dataclass(frozen=True)
class DamagedLayer:
    """A layer that cannot be applied.

    Attributes:
        keys: the keys of its tensors.
        reason: what is wrong, with the layer's name.
    """

    keys: tuple[str, ...]
    reason: str


def checked_adapter(layer_id: LayerId, tensors: Mapping[str, Tensor]) -> Adapter | None:
    """Makes the adapter of one layer, and checks that the shapes of its tensors agree.

    Args:
        layer_id: the layer, for messages.
        tensors: suffix → tensor.

    Returns:
        The adapter; None when no kind of adapter has these suffixes.

    Raises:
        FileError: the tensors contradict each other; the message names the layer.
    """
    for suffix, tensor in tensors.items():
        if tensor.dim() < 2 and _FACTOR.fullmatch(suffix):
            raise FileError(f"{suffix} of {layer_id} has shape {tuple(tensor.shape)}; it must be a matrix")
        if suffix in ("alpha", "scale") and tensor.numel() != 1:
            raise FileError(f"{suffix} of {layer_id} has shape {tuple(tensor.shape)}; it must be one number")
    if "lora_up.weight" in tensors and "lora_down.weight" in tensors:
        up, down = tensors["lora_up.weight"].shape, tensors["lora_down.weight"].shape
        mid = tensors["lora_mid.weight"].shape if "lora_mid.weight" in tensors else None
        ranks = {up[1], down[0], *(mid[:2] if mid is not None else ())}
        flat = math.prod(up[2:]) if 0 not in up[:2] else 1
        if len(ranks) != 1 or 0 in ranks or flat != 1:
            shapes = " and ".join(str(tuple(shape)) for shape in (up, mid, down) if shape is not None)
            above = " above 0" if ranks == {0} else ""
            raise FileError(f"the factors of {layer_id} do not share one rank{above}: {shapes}")
    empty = [suffix for suffix, tensor in tensors.items() if _FACTOR.fullmatch(suffix) and not tensor.numel()]
    if empty:
        raise FileError(f"{empty[0]} of {layer_id} has shape {tuple(tensors[empty[0]].shape)}; it must not be empty")
    adapter = kinds.adapter_from_tensors(tensors)
    if adapter is None and any(map(_FACTOR.fullmatch, tensors)):
        raise FileError(f"{layer_id} has only {' and '.join(sorted(tensors))}; its other factors are missing")
    if adapter is not None and not _agrees(adapter):
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items() if tensor.dim())
        raise FileError(f"the factors of {layer_id} do not match: {shapes}")
    return adapter


def _agrees(adapter: Adapter) -> bool:
    try:
        if not adapter.has_consistent_factors():
            return False
        # a DoRA magnitude can only be compared with the layer's weight, whose kernel the factors may flatten
        shape = adapter.delta_shape() if adapter.magnitude() is None else None
        return shape is None or adapter.fits(shape)
    except IndexError:  # a tensor with fewer axes than its format has
        return False


def adapter_if_sound(
    layer_id: LayerId, tensors: Mapping[str, Tensor], keys: Iterable[str], damaged: dict[LayerId, DamagedLayer]
) -> Adapter | None:
    """Makes the adapter of one layer as `checked_adapter` does, and records what is wrong instead of raising it.

    Args:
        layer_id: the layer.
        tensors: suffix → tensor.
        keys: the keys of these tensors in the file.
        damaged: gets the layer where it is damaged.

    Returns:
        The adapter; None where the layer is damaged or of no known kind.
    """
    try:
        return checked_adapter(layer_id, tensors)
    except FileError as error:
        damaged[layer_id] = DamagedLayer(tuple(keys), str(error))
        return None
