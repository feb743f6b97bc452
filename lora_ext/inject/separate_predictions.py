"""`SeparatePredictions`: each call of a network computes several rows for each of its inputs, put together by masks.

It serves programs whose sampler is not ours: the batch is repeated in the network's own call, and its caller sees the
outputs of the batch that it gave.
"""

from __future__ import annotations

from collections.abc import Callable
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
        batch = len(args[0] if args else kwargs["sample"])

        def repeated(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.repeat_interleave(self._rows, 0) if value.dim() and len(value) == batch else value
            if isinstance(value, (list, tuple)):
                return type(value)(map(repeated, value))
            return {name: repeated(item) for name, item in value.items()} if isinstance(value, dict) else value

        return repeated(args), repeated(kwargs)

    def _put_together(self, module: nn.Module, args: Any, output: Any) -> Any:
        if hasattr(output, "sample"):
            return type(output)(sample=self._sum(output.sample))
        return (self._sum(output[0]), *output[1:]) if isinstance(output, tuple) else self._sum(output)

    def _sum(self, output: Tensor) -> Tensor:
        """(batch·rows, channels, h, w) → (batch, channels, h, w)."""
        weights = self._weights(output.shape[-2], output.shape[-1]).to(output.device, torch.float32)
        rows = output.float().unflatten(0, (-1, self._rows))
        return (rows * weights[:, None]).sum(1).to(output.dtype)
