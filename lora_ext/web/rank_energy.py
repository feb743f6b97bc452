"""What a rank keeps of a file, before anything is written: the singular values of every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..command_line import widest_dtype
from ..errors import ToolError
from ..file.lora_file import LoraFile
from ..layer_names import LayerId
from ..progress import Track, no_progress
from ..rank_reduction import RankRule
from ..tools.layer_changes import change_of, check_usable

_CURVE = 256
"""Points of a curve, at most."""


@dataclass(frozen=True)
class RankCurve:
    """How much of a file each rank keeps, and how large the file would be.

    Attributes:
        ranks: Ranks, rising.
        kept: For each rank the share kept of the Frobenius norm of all layers together.
        bytes: For each rank the size of the file.
    """

    ranks: list[int]
    kept: list[float]
    bytes: list[int]


@dataclass(frozen=True)
class ResizePreview:
    """What a resize would make.

    Attributes:
        kept: The share kept of the Frobenius norm of all layers together.
        bytes: The size of the file.
        least: The lowest rank chosen.
        most: The highest rank chosen.
        mean: The mean of the ranks chosen.
    """

    kept: float
    bytes: int
    least: int
    most: int
    mean: float


@dataclass(frozen=True)
class LayerSingularValues:
    """One layer's singular values (float64, falling), and what a rank costs. conv: whether it is a Conv2d.

    bytes_per_rank: bytes of one column of U with its row of D. size: min(out, in·kh·kw), as dynamic rules count.
    """

    values: Tensor
    rank: int
    is_conv: bool
    bytes_per_rank: int
    size: int


@dataclass(frozen=True)
class RankEnergy:
    """Every layer that `resize` would change; other: bytes of everything else."""

    layers: Mapping[LayerId, LayerSingularValues]
    other_bytes: int

    def curve(self) -> RankCurve:
        """What each rank keeps of all layers together, at no more than 256 ranks."""
        top = max(layer.rank for layer in self.layers.values())
        ranks = sorted({max(1, round(1 + (top - 1) * i / (_CURVE - 1))) for i in range(_CURVE)})
        kept, sizes = torch.zeros(len(ranks), dtype=torch.float64), []
        for layer in self.layers.values():
            powers = torch.cat([torch.zeros(1, dtype=torch.float64), (layer.values**2).cumsum(0)])
            kept += powers[torch.tensor(ranks).clamp(max=len(layer.values))]
        total = sum(float((layer.values**2).sum()) for layer in self.layers.values())
        for rank in ranks:
            sizes.append(
                self.other_bytes + sum(min(rank, layer.rank) * layer.bytes_per_rank for layer in self.layers.values())
            )
        shares = [1.0] * len(ranks) if not total else (kept / total).clamp(0, 1).sqrt().tolist()
        return RankCurve(ranks, shares, sizes)

    def preview(self, rules: tuple[RankRule, RankRule], width: float = 1.0) -> ResizePreview:
        """What a resize would make.

        Args:
            rules: How ranks are chosen: of Linear layers, of Conv2d layers.
            width: Bytes of a number in the result, as a multiple of those now.
        """
        kept = total = 0.0
        size, ranks = float(self.other_bytes), []
        for layer in self.layers.values():
            rule = rules[layer.is_conv]
            rank = rule.choose_rank(layer.values, layer.size) if len(layer.values) else layer.rank
            if layer.values.any():  # a layer whose change is 0 has rank 1 in the result
                ranks.append(rank)
            powers = layer.values**2
            kept += float(powers[:rank].sum())
            total += float(powers.sum())
            size += rank * layer.bytes_per_rank * width
        ranks = ranks or [1]
        return ResizePreview(
            kept=(kept / total) ** 0.5 if total else 1.0,
            bytes=round(size),
            least=min(ranks),
            most=max(ranks),
            mean=sum(ranks) / len(ranks),
        )


def measure_rank_energy(file: LoraFile, track: Track = no_progress) -> RankEnergy:
    """The singular values of every layer that has some. Raises ToolError for NaN, and where no layer has a rank."""
    check_usable(file)
    layers: dict[LayerId, LayerSingularValues] = {}
    other = 0
    for layer_id in track(list(file.adapters), "measure"):
        adapter = file.adapters[layer_id]
        change = change_of(file, layer_id)
        if change is None:
            other += sum(tensor.nbytes for tensor in adapter.tensors.values())
            continue
        shape = change.shape
        inner = torch.Size(shape[1:]).numel()
        scale = adapter.scaling() if adapter.kind == "LoRA" and adapter.scaling() > 0 else 1.0
        values = change.times(1 / scale).best_approximation(1 << 30).values.double() * scale
        rank = min(adapter.rank or len(values), len(values)) or 1
        item = torch.empty(0, dtype=widest_dtype([adapter.dtype])).element_size()
        layers[layer_id] = LayerSingularValues(
            values[:rank], rank, len(shape) > 2, (shape[0] + inner) * item, min(shape[0], inner)
        )
    if not layers:
        raise ToolError(
            f"no layer of {file.path or file.name} has a rank to change ({', '.join(file.kinds) or 'empty'})"
        )
    other += sum(tensor.nbytes for tensor in file.unrecognized.values())
    return RankEnergy(layers, other)
