"""`ConditionRows`: which weight each row of a network's batch has, where weights differ from condition to condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..conditions import Condition
from ..counted_words import counted
from ..errors import FitError
from .averaged_predictions import AveragedPredictions
from .separate_predictions import batch_size, map_prediction, repeat_rows, sum_weighted

_C = TypeVar("_C")
_D = TypeVar("_D")

ROWS_ARGUMENT = "lora_ext_rows"
"""A keyword argument of the network with the condition of each row, (rows, 1), for hosts that order rows themselves."""


@dataclass(frozen=True)
class SplitRow(Generic[_C]):
    """A row that is computed once for each of several conditions, such as the negative prompt for each region.

    Attributes:
        conditions: the conditions.
        weights: (height, width) of the prediction → weights (conditions, height, width), which sum to 1.
        texts: for names of the network's arguments: the row's value as it was encoded, (tokens, width) or (width,), and
            the values that stand in its place for each condition.
    """

    conditions: tuple[_C, ...]
    weights: Callable[[int, int], Tensor]
    texts: Mapping[str, tuple[Tensor, Sequence[Tensor]]]

    def numbered(self, number_of: Callable[[_C], _D]) -> SplitRow[_D]:
        """Returns the row with its conditions' numbers."""
        return SplitRow(tuple(map(number_of, self.conditions)), self.weights, self.texts)


BatchRow: TypeAlias = "Condition | SplitRow[Condition]"
"""A row of the U-Net's batch: its condition, or several."""


class ConditionRows:
    """For each row of the batch in progress, which of an adapter's weights (conditions,) it has.

    A host says with `begin_step` what the rows of a step are. It may compute them in one call of the network or in
    several, in order; each call takes its own rows off them. Calls in which all rows appear several times (tiles of a
    picture) are understood too.
    """

    def __init__(self) -> None:
        self._step: list[int | SplitRow[int]] = []
        self._next = 0
        self._numbers: tuple[int, ...] = ()
        self._by_device: dict[torch.device, Tensor] = {}
        self._rows: list[int | SplitRow[int]] = []
        self._handles: list[RemovableHandle] = []
        self._predictions: AveragedPredictions | None = None

    def attach(self, network: nn.Module, predictions: AveragedPredictions) -> None:
        """Registers what sees each call of the network. May be called again.

        Args:
            network: the network.
            predictions: repeats calls of the network, which have the rows of the first call then.
        """
        self._predictions = predictions
        if not self._handles:
            self._handles = [
                network.register_forward_pre_hook(self._before_call, with_kwargs=True),
                network.register_forward_hook(self._after_call, prepend=True),
            ]

    def detach(self) -> None:
        """Removes what `attach` has registered."""
        while self._handles:
            self._handles.pop().remove()
        self._step, self._numbers, self._rows = [], (), []

    def begin_step(self, rows: Sequence[int | SplitRow[int]]) -> None:
        """Says what the rows of a step are.

        Args:
            rows: for each row, in the order in which the network gets them, the number of its condition, or numbers.
        """
        self._step, self._next = list(rows), 0

    def take(self, count: int) -> list[int | SplitRow[int]]:
        """Returns the conditions of the next call's rows.

        Args:
            count: the number of rows.

        Raises:
            FitError: the rows cannot be told from each other.
        """
        rows = self._step or [0]  # a call outside of sampling
        first, self._next = self._next, self._next + count
        if first == 0 and count % len(rows) == 0:
            self._next = 0
            return rows * (count // len(rows))
        if self._next > len(rows):
            raise FitError(
                f"the U-Net gets {counted(count, 'row')} where a step has {len(rows) - first} left: another extension "
                "changes the batch, so that LoRAs of single AND parts cannot be applied; write part=all into the tags"
            )
        found = rows[first : self._next]
        self._next %= len(rows)
        return found

    def of_call(self, batch: int) -> tuple[int, ...]:
        """Returns the number of the condition of each row of the call in progress.

        Args:
            batch: the number of rows that a layer gets.

        Raises:
            FitError: the network was called with another number of rows.
        """
        if len(self._numbers) != batch:
            raise FitError(
                f"a layer gets {counted(batch, 'row')} where the U-Net was called with {len(self._numbers)}: another "
                "extension changes the batch"
            )
        return self._numbers

    def select(self, values: Tensor, batch: int) -> Tensor:
        """Returns the values of each row.

        Args:
            values (Tensor): (conditions, n).
            batch: the number of rows.

        Returns:
            Tensor (batch, n).
        """
        numbers = self.of_call(batch)
        index = self._by_device.get(values.device)
        if index is None:
            index = self._by_device[values.device] = torch.tensor(numbers, device=values.device)
        return values.index_select(0, index)

    def _before_call(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Notes the rows of a call, and removes our own argument from it. Rows of several conditions are repeated."""
        given = kwargs.pop(ROWS_ARGUMENT, None)
        if self._predictions is None or not self._predictions.is_repeating:
            size = batch_size(args, kwargs)
            self._rows = self.take(size) if given is None else self._take_given(given.flatten().long().tolist(), size)
            numbers = tuple(number for row in self._rows for number in _numbers(row))
            if numbers != self._numbers:
                self._numbers, self._by_device = numbers, {}
        counts = [len(_numbers(row)) for row in self._rows]
        if len(self._rows) == sum(counts):
            return args, kwargs
        return repeat_rows(args, counts), self._with_texts(repeat_rows(kwargs, counts))

    def _take_given(self, numbers: list[int], count: int) -> list[int | SplitRow[int]]:
        """The conditions of a call's rows, where those of several calls were given with each.

        Regional Prompter computes the rows of a call of Forge's one after the other.
        """
        if len(numbers) == count:
            return list(numbers)
        if numbers != self._step:
            self.begin_step(numbers)
        return self.take(count)

    def _with_texts(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call with the text of each condition."""
        changed: dict[str, Tensor] = {}
        number = 0
        for row in self._rows:
            for name, (before, values) in row.texts.items() if isinstance(row, SplitRow) else ():
                if isinstance(kwargs.get(name), Tensor):
                    whole = changed.setdefault(name, kwargs[name].clone())
                    for place, value in enumerate(values, number):
                        whole[place] = _exchanged(whole[place], before, value)
            number += len(_numbers(row))
        return {**kwargs, **changed}

    def _after_call(self, _: Any, args: Any, output: Any) -> Any:
        """Adds the predictions of rows of several conditions."""
        counts = [len(_numbers(row)) for row in self._rows]
        return output if len(counts) == sum(counts) else map_prediction(output, self._sum)

    def _sum(self, predictions: Tensor) -> Tensor:
        """(all conditions of all rows, channels, h, w) → (rows, channels, h, w)."""
        found, number = [], 0
        for row in self._rows:
            own = predictions[number : number + len(_numbers(row))]
            if isinstance(row, SplitRow):
                own = sum_weighted(own, len(own), row.weights)
            found.append(own)
            number += len(_numbers(row))
        return torch.cat(found)


def _numbers(row: int | SplitRow[int]) -> tuple[int, ...]:
    """The numbers of a row's conditions."""
    return row.conditions if isinstance(row, SplitRow) else (row,)


def _exchanged(given: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """A row's argument with `after` in the place of `before`.

    Hosts and other extensions put padding after the text (its last vector repeated, or another text), marks before it,
    or cut it. Where `before` is not found, the argument is returned as it is.
    """
    length = min(len(given), len(before))
    before, after = before[:length].to(given), after[:length].to(given)
    for first in range(len(given) - length + 1):
        if torch.equal(given[first : first + length], before):
            rest = given[first + length :]
            if torch.equal(rest, before[-1:].expand_as(rest)):
                rest = after[-1:].expand_as(rest)
            return torch.cat([given[:first], after, rest])
    return given
