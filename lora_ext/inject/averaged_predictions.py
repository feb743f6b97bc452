"""`AveragedPredictions`: a network predicts several times with other weights, and its outputs are averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .separate_predictions import batch_size, map_prediction, repeat_rows


class AveragedPredictions:
    """Repeats the calls of a network, or the rows of its batch, and averages the outputs.

    Hosts differ in how they call the U-Net, so that it is the network's own call that is changed. One call for each
    prediction: a forward hook makes the second and further calls with the arguments of the first one. One call for all:
    prediction p of row i is row i·predictions + p, and hooks of layers give each row its weights.

    Args:
        select: called with the number of a prediction, from 0, before a call for it; 0 is selected between calls.

    Attributes:
        is_repeating: whether a call in progress is one of the further calls.
    """

    def __init__(self, select: Callable[[int], None]) -> None:
        self._select = select
        self._count = 1
        self.is_repeating = False
        self._arguments: tuple[Any, Any] = ((), {})
        self._handles: list[RemovableHandle] = []

    def set_count(self, network: nn.Module | None, count: int, in_one_call: bool = False) -> None:
        """Sets how many predictions each call makes.

        Args:
            network: the network; None where there is none.
            count: the number; with 1 the network is left as it is.
            in_one_call: whether they are rows of one call.
        """
        self.close()
        if network is None or count == 1:
            return
        self._count = count
        if in_one_call:
            self._handles = [
                network.register_forward_pre_hook(self._repeat_rows, with_kwargs=True),
                network.register_forward_hook(self._average_rows),
            ]
        else:
            self._handles = [
                network.register_forward_pre_hook(self._keep_arguments, with_kwargs=True),
                network.register_forward_hook(self._repeat, with_kwargs=True),
            ]

    def close(self) -> None:
        """Removes the hooks."""
        while self._handles:
            self._handles.pop().remove()
        self._count, self._arguments = 1, ((), {})

    def _repeat_rows(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        counts = [self._count] * batch_size(args, kwargs)
        return repeat_rows(args, counts), repeat_rows(kwargs, counts)

    def _average_rows(self, module: nn.Module, args: Any, output: Any) -> Any:
        return map_prediction(output, lambda rows: rows.float().unflatten(0, (-1, self._count)).mean(1).to(rows.dtype))

    def _keep_arguments(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Keeps the arguments of the first call: Forge's forward takes ControlNet's outputs off their lists."""
        if not self.is_repeating:
            self._arguments = _copied(args), _copied(kwargs)

    def _repeat(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Makes the further calls after the first one. Returns the mean of all outputs."""
        if self.is_repeating:
            return None
        outputs = [output]
        self.is_repeating = True
        try:
            for prediction in range(1, self._count):
                self._select(prediction)
                args, kwargs = (_copied(kept) for kept in self._arguments)
                outputs.append(module(*args, **kwargs))
        finally:
            self.is_repeating, self._arguments = False, ((), {})
            self._select(0)
        return _mean(outputs)


def _copied(value: Any) -> Any:
    """The value with containers of its own; what is in them is not copied."""
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return {name: _copied(item) for name, item in value.items()} if type(value) is dict else value


def _mean(outputs: Sequence[Any]) -> Any:
    """The mean of tensors, of tuples of tensors, or of diffusers' outputs with a `sample`."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.stack(list(outputs)).float().mean(0).to(first.dtype)
    if hasattr(first, "sample"):
        return type(first)(sample=_mean([output.sample for output in outputs]))
    return type(first)(_mean(each) for each in zip(*outputs, strict=True))
