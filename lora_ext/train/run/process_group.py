"""One process or several: who we are among them, and sums over all of them. The engine is `accelerate`.

`accelerate launch -m lora_ext train …` (or torchrun) sets the environment that is read here; alone, nothing of it is
imported.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import TrainError


class ProcessGroup:
    """A single process: every sum is its own."""

    rank = 0
    world_size = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    @property
    def device(self) -> str | None:
        """The device that this process is to take, None for any."""
        return None

    def average_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Every tensor becomes its mean over the processes, in place."""

    def any_process(self, flag: bool) -> bool:
        """Whether one of the processes says so. All must ask."""
        return flag

    def barrier(self) -> None:
        """Until all are here."""

    def close(self) -> None:
        """The processes part."""


class AccelerateProcessGroup(ProcessGroup):
    """This process among those that `accelerate` started."""

    def __init__(self, cpu: bool = False) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise TrainError("several processes need accelerate: pip install accelerate") from error
        # Gradients are summed here, and precision is the host's: the engine brings the processes together.
        self.accelerator: Any = Accelerator(mixed_precision="no", cpu=cpu)
        self.rank, self.world_size = self.accelerator.process_index, self.accelerator.num_processes

    @property
    def device(self) -> str | None:
        return str(self.accelerator.device)

    def average_in_place(self, tensors: Sequence[Tensor]) -> None:
        """One message for all tensors of a dtype, so that the number of layers does not matter."""
        for dtype in {tensor.dtype for tensor in tensors}:
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.flatten() for tensor in same])
            torch.distributed.all_reduce(flat)
            flat /= self.world_size
            torch._foreach_copy_(same, [p.view_as(t) for p, t in zip(_split(flat, same), same, strict=True)])

    def any_process(self, flag: bool) -> bool:
        told = torch.tensor([float(flag)], device=self.accelerator.device)
        torch.distributed.all_reduce(told)
        return bool(told.item())

    def barrier(self) -> None:
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        self.accelerator.end_training()


def _split(flat: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return flat.split([tensor.numel() for tensor in like])


def open_process_group(device: str | None = None) -> ProcessGroup:
    """What the environment says: several processes where a launcher set WORLD_SIZE above 1, else one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return ProcessGroup()
    return AccelerateProcessGroup(cpu=device == "cpu" or not torch.cuda.is_available())
