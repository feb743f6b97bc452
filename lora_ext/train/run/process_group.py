"""The processes that train together, by `accelerate`: which one this is, and means over all of them.

`accelerate launch -m lora_ext train …` and torchrun set the environment variables that are read here. A single process
imports nothing of accelerate.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import TrainError


class ProcessGroup:
    """A single process; every mean is its own value.

    Attributes:
        rank: The number of this process.
        world_size: Number of processes.
    """

    rank = 0
    world_size = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    @property
    def device(self) -> str | None:
        """The device of this process; None for any."""
        return None

    def average_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Replaces every tensor by its mean over the processes."""

    def any_process(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all processes must call it."""
        return flag

    def barrier(self) -> None:
        """Waits until all processes are here."""

    def close(self) -> None:
        """Ends the group."""


class AccelerateProcessGroup(ProcessGroup):
    """One of several processes that `accelerate` started. Raises TrainError if it is not installed."""

    def __init__(self, cpu: bool = False) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise TrainError("several processes need accelerate: pip install accelerate") from error
        # gradients are averaged here and the host sets the precision: accelerate only connects the processes
        self.accelerator: Any = Accelerator(mixed_precision="no", cpu=cpu)
        self.rank, self.world_size = self.accelerator.process_index, self.accelerator.num_processes

    @property
    def device(self) -> str | None:
        """The device that accelerate chose for this process."""
        return str(self.accelerator.device)

    def average_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Averages all tensors of a dtype in one message, so that the number of layers does not matter."""
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):  # in the same order in every process
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.flatten() for tensor in same])
            torch.distributed.all_reduce(flat)
            flat /= self.world_size
            torch._foreach_copy_(same, [p.view_as(t) for p, t in zip(_split(flat, same), same, strict=True)])

    def any_process(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all processes must call it."""
        flags = torch.tensor([float(flag)], device=self.accelerator.device)
        torch.distributed.all_reduce(flags)
        return bool(flags.item())

    def barrier(self) -> None:
        """Waits until all processes are here."""
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Ends the group."""
        self.accelerator.end_training()


def _split(flat: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return flat.split([tensor.numel() for tensor in like])


def open_process_group(device: str | None = None) -> ProcessGroup:
    """Opens the process group of the environment: several processes if a launcher set WORLD_SIZE above 1.

    Args:
        device: "cpu" keeps the processes off the GPU; None or another device uses it if there is one.

    Returns:
        The group; one of a single process where no launcher is at work.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return ProcessGroup()
    return AccelerateProcessGroup(cpu=device == "cpu" or not torch.cuda.is_available())
