"""`ConditionRows`: which weight each row of a network's batch has, where weights differ from condition to condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import FitError
from .averaged_predictions import AveragedPredictions

ROWS_ARGUMENT = "lora_ext_rows"
"""A keyword argument of the network with the condition of each row, (rows, 1), for hosts that order rows themselves."""


class ConditionRows:
    """For each row of the batch in progress, which of an adapter's weights (conditions,) it has.

    A host says with `begin_step` what the rows of a step are. It may compute them in one call of the network or in
    several, in order; each call takes its own rows off them. Calls in which all rows appear several times (tiles of a
    picture) are understood too.
    """

    def __init__(self) -> None:
        self._step: list[int] = []
        self._next = 0
        self._index: Tensor | None = None
        self._by_device: dict[torch.device, Tensor] = {}
        self._handle: RemovableHandle | None = None
        self._predictions: AveragedPredictions | None = None

    def attach(self, network: nn.Module, predictions: AveragedPredictions) -> None:
        """Registers what sees each call of the network. May be called again.

        Args:
            network: the network.
            predictions: repeats calls of the network, which have the rows of the first call then.
        """
        self._predictions = predictions
        if self._handle is None:
            self._handle = network.register_forward_pre_hook(self._before_call, with_kwargs=True)

    def detach(self) -> None:
        """Removes what `attach` has registered."""
        if self._handle is not None:
            self._handle.remove()
        self._handle, self._step, self._index = None, [], None

    def begin_step(self, rows: Sequence[int]) -> None:
        """Says what the rows of a step are.

        Args:
            rows: for each row, in the order in which the network gets them, the number of its condition.
        """
        self._step, self._next = list(rows), 0

    def take(self, count: int) -> list[int]:
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
                f"the U-Net gets {count} rows where {len(rows) - first} of a step are left: another extension changes "
                "the batch, so that LoRAs of single AND parts cannot be applied; write part=all into the tags"
            )
        found = rows[first : self._next]
        self._next %= len(rows)
        return found

    def select(self, values: Tensor, batch: int) -> Tensor:
        """Returns the values of each row.

        Args:
            values (Tensor): (conditions, n).
            batch: the number of rows.

        Returns:
            Tensor (batch, n).
        """
        if self._index is None or len(self._index) != batch:
            raise FitError(f"a layer gets {batch} rows, which is not the batch that the U-Net was called with")
        index = self._by_device.get(values.device)
        if index is None:
            index = self._by_device[values.device] = self._index.to(values.device)
        return values.index_select(0, index)

    def _before_call(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Notes the rows of a call, and removes our own argument from it."""
        given = kwargs.pop(ROWS_ARGUMENT, None)
        if self._predictions is not None and self._predictions.is_repeating:
            return args, kwargs
        if given is None:
            x = args[0] if args else next(iter(kwargs.values()))
            rows = torch.tensor(self.take(len(x)))
        else:
            rows = given.flatten().long()
        if self._index is None or self._index.shape != rows.shape or not torch.equal(self._index, rows):
            self._index, self._by_device = rows, {}
        return args, kwargs
