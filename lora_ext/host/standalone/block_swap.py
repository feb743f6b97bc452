"""`BlockSwap`: blocks of a frozen U-Net that wait in main memory, and are on the device only while they compute.

A block is loaded before its forward pass and freed after it. A node of the autograd graph, that of the block's output,
loads it again before its backward pass; it is freed when the next block's begins. The layers of a block keep their
Parameters for the backward pass, not the Parameters' memory, which is another one by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import TrainError
from ...train.network.stored_weights import compute_from_parameters, swappable_blocks


def _copy_to(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)  # ordered with the kernels of the same stream


class BlockSwap:
    """Swaps the weights of blocks while `attached` is open.

    Args:
        blocks: Frozen modules whose output is one tensor; none is a part of another.
        device: Where they compute.
        move: Copies a tensor to a device.

    Attributes:
        loads: How often a block was loaded.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        device: torch.device,
        move: Callable[[Tensor, torch.device], Tensor] = _copy_to,
    ) -> None:
        self.blocks, self.device, self.move, self.loads = list(blocks), device, move, 0
        self.waiting: dict[nn.Module, list[tuple[nn.Parameter, Tensor]]] = {}
        self._loaded: set[nn.Module] = set()
        self._in_backward: nn.Module | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Inside, the blocks wait in main memory. Afterwards all are on the device."""
        handles = []
        try:
            with compute_from_parameters(self.blocks):
                for block in self.blocks:
                    self.waiting[block] = [(p, self._in_main_memory(p.data)) for p in block.parameters()]
                    self._free(block)
                    handles.append(block.register_forward_pre_hook(self._before_forward))
                    handles.append(block.register_forward_hook(self._after_forward, always_call=True))
                yield
        finally:
            for handle in handles:
                handle.remove()
            for block in self.waiting:
                self._load(block)
            self._loaded.clear()
            self._in_backward = None

    def _in_main_memory(self, tensor: Tensor) -> Tensor:
        """A copy in main memory, pinned so that copying it to a GPU does not wait."""
        home = tensor.cpu()
        return home.pin_memory() if self.device.type == "cuda" else home

    def rest_value(self, waiting: Tensor) -> Tensor:
        """What a Parameter holds while its block waits."""
        return waiting

    def _load(self, block: nn.Module) -> None:
        if block not in self._loaded:
            self._loaded.add(block)
            self.loads += 1
            for parameter, home in self.waiting[block]:
                parameter.data = self.move(home, self.device)

    def _free(self, block: nn.Module) -> None:
        self._loaded.discard(block)
        for parameter, home in self.waiting[block]:
            parameter.data = self.rest_value(home)

    def _before_forward(self, block: nn.Module, args: Any) -> None:
        """Hook: loads the block."""
        if block is not self._in_backward:  # no recomputation: a backward pass that was going on has ended
            self._end_backward()
        self._load(block)

    def _after_forward(self, block: nn.Module, args: Any, output: Any) -> Any:
        """Hook: frees the block, unless gradient checkpointing has computed it anew for its backward pass."""
        if block is not self._in_backward:
            self._free(block)
        if isinstance(output, Tensor) and output.requires_grad:
            return _StartOfBackward.apply(self, block, output)
        return None

    def begin_backward(self, block: nn.Module) -> None:
        """Loads a block for its backward pass, and frees the one before it."""
        self._end_backward()
        self._load(block)
        self._in_backward = block

    def _end_backward(self) -> None:
        """Frees the block whose backward pass was the last.

        It has ended: of the nodes that could run, autograd runs the one first that was made last.
        """
        if self._in_backward is not None:
            self._free(self._in_backward)
            self._in_backward = None


class _StartOfBackward(torch.autograd.Function):
    """Identity of a block's output."""

    @staticmethod
    def forward(ctx: Any, swap: BlockSwap, block: nn.Module, output: Tensor) -> Tensor:
        ctx.swap, ctx.block = swap, block
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        ctx.swap.begin_backward(ctx.block)
        return None, None, *grads


def swap_of_unet(unet: nn.Module, count: int, device: torch.device) -> BlockSwap:
    """The swap of a U-Net's `count` largest blocks. Raises TrainError if it has fewer."""
    blocks = swappable_blocks(unet)
    if count > len(blocks):
        raise TrainError(f"blocks_to_swap {count} is more than this U-Net's {len(blocks)} blocks; give fewer")
    return BlockSwap(blocks[:count], device)
