"""A small sketch of a file's ΔW, by which files of one network are found whatever their names, precision and rank.

A layer's sketch is LᵀΔWR with fixed random signs L (out, s) and R (in·kh·kw, s), s ≥ 4, computed from the thin factors.
It is linear in ΔW, so that equal ΔW have equal sketches, and the cosine of two sketches estimates that of two ΔW
(Johnson & Lindenstrauss 1984; signs: Achlioptas 2003). Sixteen layers are enough, and only those are read.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapters import ADAPTER_SUFFIXES
from ..errors import LoraError
from ..file import cloneofsimo, safetensors_file
from ..file.containers import container_format
from ..file.loading import assemble_lora_file, load_lora_file
from ..file.lora_file import LoraFile
from ..file.peft_config import find_adapter_config
from ..layer_keys import parse_layer_key
from ..layer_names import LayerId
from .layer_changes import LayerChange, change_of

SKETCHED_LAYERS = 16
_NUMBERS = 256
"""How many numbers a sketch has at least, whatever the number of layers: the error of a cosine is about 1/√256."""


@dataclass(frozen=True, eq=False)
class WeightSketch:
    """What is kept of a file's ΔW.

    Attributes:
        layers: Which layers were sketched; sketches of other layers cannot be compared.
        rank: The sum of their ranks; infinity where one has no rank.
        bits: Bits of a stored number.
        norm: Their ‖ΔW‖.
        values (Tensor): (n,) float32 of length 1.
    """

    layers: str
    rank: float
    bits: int
    norm: float
    values: Tensor

    def to_json(self) -> list[Any]:
        """Returns what `sketch_from_json` reads; the values are rounded to float16, about 700 characters."""
        packed = base64.b64encode(self.values.half().numpy().tobytes()).decode("ascii")
        return [self.layers, None if math.isinf(self.rank) else self.rank, self.bits, self.norm, packed]


def sketch_from_json(row: Any) -> WeightSketch:
    """Makes a sketch from what `to_json` returned.

    Args:
        row: the JSON value.

    Returns:
        The sketch.

    Raises:
        ValueError: it is no such value.
    """
    try:
        layers, rank, bits, norm, packed = row
        raw = bytearray(base64.b64decode(packed, validate=True))
        values = torch.frombuffer(raw, dtype=torch.float16).float()
        return WeightSketch(str(layers), math.inf if rank is None else float(rank), int(bits), float(norm), values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("not a sketch") from error


def chosen_layers(layer_ids: Iterable[LayerId]) -> list[LayerId]:
    """Chooses the layers that are sketched: the same ones of every file with these layers.

    Args:
        layer_ids: the layers of a file.

    Returns:
        At most `SKETCHED_LAYERS` of them, in order.
    """
    ordered = sorted(set(layer_ids), key=lambda layer_id: hashlib.blake2b(str(layer_id).encode()).digest())
    return sorted(ordered[:SKETCHED_LAYERS])


def sketch_file(path: Path) -> WeightSketch | None:
    """Sketches a file; of a safetensors file only the layers that are needed are read.

    Args:
        path: the file.

    Returns:
        The sketch; None where a layer's ΔW depends on the base model's weights (DoRA, OFT …) or all are zero.

    Raises:
        LoraError: the file cannot be read, is damaged or for another architecture.
    """
    file = _load_chosen_layers(path)
    file.check_architecture()
    return sketch_lora(file)


def sketch_lora(file: LoraFile) -> WeightSketch | None:
    """Sketches a file that was loaded: see `sketch_file`."""
    chosen = chosen_layers(file.adapters)
    changes = [change_of(file, layer_id) for layer_id in chosen]
    side = math.ceil(math.sqrt(_NUMBERS / max(1, len(chosen))))
    parts = [_sketch(change, side) for change in changes if change is not None]
    if not parts or len(parts) < len(changes):
        return None
    norm = math.sqrt(sum(change.norm() ** 2 for change in changes if change is not None))
    values = torch.cat(parts)
    length = float(values.norm())
    if not (math.isfinite(norm) and norm and math.isfinite(length) and length):
        return None
    adapters = [file.adapters[layer_id] for layer_id in chosen]
    return WeightSketch(
        layers=hashlib.blake2b("\n".join(map(str, chosen)).encode(), digest_size=8).hexdigest(),
        rank=sum(adapter.rank or math.inf for adapter in adapters),
        bits=min(adapter.dtype.itemsize * 8 for adapter in adapters),
        norm=norm,
        values=(values / length).float(),
    )


def _sketch(change: LayerChange, side: int) -> Tensor:
    """LᵀΔWR as a vector in float64."""
    if change.low is not None:
        up, down = change.low.up.double() * change.low.gain.double(), change.low.down.flatten(1).double()
        return ((_signs(len(up), side).T @ up) @ (down @ _signs(down.shape[1], side))).flatten()
    assert change.dense is not None
    matrix = change.dense.reshape(len(change.dense), -1).double()
    return (_signs(len(matrix), side).T @ matrix @ _signs(matrix.shape[1], side)).flatten()


@lru_cache(maxsize=64)
def _signs(size: int, side: int) -> Tensor:
    """(size, side) of ±1, always the same ones."""
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 2, (size, side), generator=generator).double() * 2 - 1


def _load_chosen_layers(path: Path) -> LoraFile:
    """The file with the chosen layers alone, where its keys tell which those are; else the whole file."""
    if container_format(path) != "safetensors":
        return load_lora_file(path)
    header = safetensors_file.load_safetensors_header(path)
    if cloneofsimo.has_numbered_keys(header.entries):
        return load_lora_file(path)
    found = {key: parse_layer_key(key, ADAPTER_SUFFIXES) for key in header.entries}
    chosen = set(chosen_layers(layer[0] for layer in found.values() if layer is not None))
    names = [key for key, layer in found.items() if layer is not None and layer[0] in chosen]
    if not names:
        raise LoraError(f"{path.name} has no LoRA layer")
    tensors = dict(safetensors_file.iterate_safetensors(path, header, names))
    return assemble_lora_file(tensors, header.metadata, path, find_adapter_config(path))
