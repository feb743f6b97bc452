"""`SeparatePredictions`: each call of a network computes several rows for each of its inputs, put together by masks.

It serves programs whose sampler is not ours: the batch is repeated in the network's own call, and its caller sees the
outputs of the batch that it gave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class SeparatePredictions:
    """Repeats the batch of a U-Net for the regions of the picture.

    Row r of each input is row i·rows + r of the call. LoRAs whose weights differ between the rows are applied by
    `compare.per_image_weights`.

    Args:
        unet: the U-Net.
        rows: the number of rows for each input.
        weights: (height, width) of the latent → weights (rows, height, width) of the rows' outputs, which sum to 1.
    """

    def __init__(self, unet: nn.Module, rows: int, weights: Callable[[int, int], Tensor]) -> None:
        self._rows, self._weights = rows, weights
        self._handles: list[RemovableHandle] = [
            unet.register_forward_pre_hook(self._repeat, with_kwargs=True),
            unet.register_forward_hook(self._put_together),
        ]

    def close(self) -> None:
        """Removes the hooks."""
        while self._handles:
            self._handles.pop().remove()

    def _repeat(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        counts = [self._rows] * batch_size(args, kwargs)
        return repeat_rows(args, counts), repeat_rows(kwargs, counts)

    def _put_together(self, module: nn.Module, args: Any, output: Any) -> Any:
        return map_prediction(output, lambda rows: sum_weighted(rows, self._rows, self._weights))


def batch_size(args: Any, kwargs: Any) -> int:
    """Returns the number of rows that a U-Net gets: those of its first argument, or of diffusers' `sample`."""
    return len(args[0] if args else kwargs.get("sample", next(iter(kwargs.values()))))


def sum_weighted(predictions: Tensor, rows: int, weights: Callable[[int, int], Tensor]) -> Tensor:
    """Adds the predictions of each input's rows, weighted at each place.

    Args:
        predictions: (batch·rows, channels, h, w).
        rows: the number of rows of an input.
        weights: (height, width) → weights (rows, height, width), which sum to 1.

    Returns:
        (batch, channels, h, w).
    """
    own = weights(*predictions.shape[-2:]).to(predictions.device, torch.float32)
    return (predictions.float().unflatten(0, (-1, rows)) * own[:, None]).sum(1).to(predictions.dtype)


def repeat_rows(value: Any, counts: Sequence[int]) -> Any:
    """Repeats each row of the tensors in a network's arguments.

    Args:
        value: a tensor, or a container of arguments; what is no tensor with that many rows stays as it is.
        counts: how often each row of the batch is repeated.
    """
    if isinstance(value, Tensor):
        if not value.dim() or len(value) != len(counts):
            return value
        return value.repeat_interleave(torch.tensor(counts, device=value.device), 0)
    if isinstance(value, (list, tuple)):
        return type(value)(repeat_rows(item, counts) for item in value)
    return {name: repeat_rows(item, counts) for name, item in value.items()} if isinstance(value, dict) else value


def map_prediction(output: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Returns a U-Net's output, a tensor, a tuple or diffusers' output, with its prediction changed by a function."""
    if hasattr(output, "sample"):
        return type(output)(sample=function(output.sample))
    return (function(output[0]), *output[1:]) if isinstance(output, tuple) else function(output)
