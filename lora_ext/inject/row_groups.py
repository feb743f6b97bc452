"""`JoinedFactors`: the low-rank forms of a layer's files, for the rows of a batch in which each of them acts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..lowrank import LowRank, concat

DeviceAndDtype: TypeAlias = "tuple[torch.device, torch.dtype]"


class RowGroup(NamedTuple):
    """Rows of a call in which the same files act.

    Attributes:
        rows: the rows.
        forms: which of the low-rank forms act there.
        down: their D (r, in, *kernel).
        up: their U (out, r); U·diag(g) where `gain` is None and `scale` is 1.
        gain: g (rows, r) where it differs between the rows.
        scale: what the product with `up` is multiplied by: g where it is one number for all ranks and rows.
    """

    rows: slice
    forms: tuple[int, ...]
    down: Tensor
    up: Tensor
    gain: Tensor | None
    scale: float = 1.0


class _Factors(NamedTuple):
    """The factors of a group before a call says what its rows are: `gains` is (sets, r)."""

    sets: list[int]
    forms: tuple[int, ...]
    down: Tensor
    up: Tensor
    gains: Tensor | None
    scale: float = 1.0


class JoinedFactors:
    """The low-rank forms of several files at one layer. Rows without a file, and files without weight, cost nothing.

    Args:
        forms: ΔW of each file at weight 1.

    Attributes:
        set_count: how many sets of weights there are; 1 where all rows have the same.
        keeps_units: whether U and g at weight 1 are kept on the device, for weights that change from step to step.
    """

    def __init__(self, forms: Sequence[LowRank]) -> None:
        self.keeps_units = False
        self._joined = concat(forms)
        self._gains = [form.gain for form in forms]
        self._numbers = [_number_of(form.gain) for form in forms]
        self._ends = list(accumulate(form.rank for form in forms))
        self._weights: list[tuple[float, ...]] = []
        self._downs: dict[DeviceAndDtype, Tensor] = {}
        self._ups: dict[DeviceAndDtype, Tensor] = {}
        self._units: dict[torch.device, tuple[Tensor, list[Tensor]]] = {}
        self._factors: dict[DeviceAndDtype, list[_Factors]] = {}
        self._groups: dict[tuple[DeviceAndDtype, tuple[int, ...] | None], list[RowGroup]] = {}

    @property
    def set_count(self) -> int:
        """See the class."""
        return len(self._weights)

    def set_weights(self, weights: Sequence[float | Tensor]) -> None:
        """Replaces the weights.

        Args:
            weights: for each form a number, or (sets,).
        """
        count = max((len(w) for w in weights if isinstance(w, Tensor)), default=1)
        columns = [w.expand(count).tolist() if isinstance(w, Tensor) else [w] * count for w in weights]
        self._weights = list(zip(*columns, strict=True))
        self._factors.clear()
        self._groups.clear()

    def groups(self, target: DeviceAndDtype, sets: tuple[int, ...] | None) -> list[RowGroup]:
        """Returns the groups of a call's rows, with factors on a device in a dtype.

        Args:
            target: the device and dtype.
            sets: which set of weights each row has; None where there is one set.

        Returns:
            The groups in which a file acts; no row is in two of them.
        """
        key = target, sets
        if key not in self._groups:
            if target not in self._factors:
                self._factors[target] = list(self._make_factors(target))
            self._groups[key] = [group for factors in self._factors[target] for group in _row_groups(factors, sets)]
        return self._groups[key]

    def _make_factors(self, target: DeviceAndDtype) -> Iterator[_Factors]:
        """The factors for each selection of files that some set has."""
        device, dtype = target
        selections = [tuple(i for i, weight in enumerate(weights) if weight) for weights in self._weights]
        if target not in self._downs:
            self._downs[target] = self._joined.down.to(*target)
        number = self._one_number(selections)
        if number is not None:  # another weight is another number: no tensor is made anew
            if target not in self._ups:
                self._ups[target] = self._joined.up.to(*target)
            yield _Factors([0], selections[0], self._downs[target], self._ups[target], None, number)
            return
        self._ups.pop(target, None)
        unit_up, unit_gains = self._unit(device)
        for forms in filter(None, dict.fromkeys(selections)):
            sets = [i for i, selection in enumerate(selections) if selection == forms]
            ranks = self._ranks(forms)
            down, up = self._downs[target][ranks], unit_up[:, ranks]
            weights = [self._weights[i] for i in sets]
            gains = [torch.cat([unit_gains[form] * row[form] for form in forms]) for row in weights]
            if len(set(weights)) == 1:  # saves a multiplication in each call
                yield _Factors(sets, forms, down, (up.float() * gains[0]).to(dtype), None)
            else:
                yield _Factors(sets, forms, down, up.to(dtype), torch.stack(gains).to(dtype))

    def _one_number(self, selections: list[tuple[int, ...]]) -> float | None:
        """G of all ranks, where all files act in all rows with one and the same number; else None."""
        if len(selections) > 1 or len(selections[0]) < len(self._numbers):
            return None
        numbers = {None if g is None else g * w for g, w in zip(self._numbers, self._weights[0], strict=True)}
        return numbers.pop() if len(numbers) == 1 else None

    def _unit(self, device: torch.device) -> tuple[Tensor, list[Tensor]]:
        """U of all forms and the g of each at weight 1, on a device."""
        unit = self._units.get(device)
        if unit is None:
            unit = self._joined.up.to(device), [gain.to(device) for gain in self._gains]
            if self.keeps_units:
                self._units[device] = unit
        return unit

    def _ranks(self, forms: tuple[int, ...]) -> slice | list[int]:
        """The ranks of some forms among all; a slice, which copies nothing, where they are neighbours."""
        parts = [range(self._ends[form - 1] if form else 0, self._ends[form]) for form in forms]
        if forms[-1] - forms[0] == len(forms) - 1:
            return slice(parts[0].start, parts[-1].stop)
        return [rank for part in parts for rank in part]


def _number_of(gain: Tensor) -> float | None:
    """The number of which a gain (r,) consists, None where its numbers differ."""
    if gain.dim() != 1 or not len(gain):
        return None
    first = float(gain[0])
    return first if bool((gain == first).all()) else None


def _row_groups(factors: _Factors, sets: tuple[int, ...] | None) -> Iterator[RowGroup]:
    """The rows of a call that have the sets of these factors, as slices: views of tensors, not copies."""
    if sets is None:
        yield RowGroup(slice(None), factors.forms, factors.down, factors.up, None, factors.scale)
        return
    for rows in slices_of([row for row, own in enumerate(sets) if own in factors.sets]):
        gains = factors.gains
        if gains is not None:
            gains = gains[[factors.sets.index(own) for own in sets[rows]]]
        yield RowGroup(rows, factors.forms, factors.down, factors.up, gains)


def slices_of(rows: Sequence[int]) -> list[slice]:
    """Splits ascending row numbers into slices.

    Example:
        >>> slices_of([0, 2, 4, 5, 6])
        [slice(0, 5, 2), slice(5, 7, 1)]
    """
    found: list[slice] = []
    first = 0
    while first < len(rows):
        step = rows[first + 1] - rows[first] if first + 1 < len(rows) else 1
        last = first
        while last + 1 < len(rows) and rows[last + 1] - rows[last] == step:
            last += 1
        found.append(slice(rows[first], rows[last] + 1, step))
        first = last + 1
    return found
