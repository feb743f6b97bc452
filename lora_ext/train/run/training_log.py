"""Training log: a CSV file and progress. Numbers are read late, so that the device never waits."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...csv_rows import load_csv_rows
from ...errors import FileError, TrainError
from ...file.saving import save_here_or_beside, unused_path_beside

LOSS_SMOOTHING = 0.98
"""Share of the smoothed loss that stays from step to step; bias-corrected like Adam's moments."""
LOG_COLUMNS = (
    "step",
    "epoch",
    "loss",
    "smoothed",
    "lr_unet",
    "lr_text",
    "grad_norm",
    "delta_norm",
    "images_per_s",
    "mib",
)
MAX_PENDING_STEPS = 8
"""Steps after which a number is waited for."""


@dataclass(frozen=True)
class LogRow:
    """The numbers of one step.

    Attributes:
        step: The step, from 1.
        epoch: The epoch, from 1.
        loss: The loss.
        smoothed: The smoothed loss.
        lr_unet: Learning rate of the U-Net; NaN if it is not trained.
        lr_text: Learning rate of the text encoders; NaN if they are not trained.
        grad_norm: Total gradient norm before clipping.
        delta_norm: Mean ‖ΔW‖ of the layers; NaN where it was not computed.
        images_per_s: Images a second over the last steps.
        mib: Peak memory in MiB.
    """

    step: int
    epoch: int
    loss: float
    smoothed: float
    lr_unet: float
    lr_text: float
    grad_norm: float
    delta_norm: float
    images_per_s: float
    mib: float


@dataclass(frozen=True)
class TrainingProgress:
    """How far a run is.

    Attributes:
        step: Optimizer steps done.
        steps: Optimizer steps of the run.
        epoch: The current epoch, from 1.
        epochs: Epochs of the run.
        loss: The last loss.
        smoothed: The smoothed loss.
        rates: Part → learning rate.
        images_per_s: Images a second.
        seconds_left: Estimated time to the end.
        sample: The last sample image.
        file: The last saved file.
    """

    step: int = 0
    steps: int = 0
    epoch: int = 0
    epochs: int = 0
    loss: float = math.nan
    smoothed: float = math.nan
    rates: Mapping[str, float] = field(default_factory=dict)
    images_per_s: float = math.nan
    seconds_left: float = math.nan
    sample: Path | None = None
    file: Path | None = None

    def __str__(self) -> str:
        left = "" if math.isnan(self.seconds_left) else f", {format_clock(self.seconds_left)} left"
        return f"epoch {self.epoch}/{self.epochs}, loss {self.smoothed:.4f}{left}"


def format_clock(seconds: float) -> str:
    """A duration as 1:02:03, or 2:03 below an hour.

    Args:
        seconds: The duration.

    Returns:
        Hours, minutes and whole seconds.

    Example:
        >>> format_clock(123), format_clock(3723)
        ('2:03', '1:02:03')
    """
    hours, rest = divmod(int(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass(frozen=True)
class PendingNumbers:
    """A step whose numbers may still be on their way from the device.

    Attributes:
        step: The step, from 1.
        epoch: The epoch, from 1.
        numbers: (3,) float32 on the CPU: loss, gradient norm, ΔW norm.
        event: The CUDA event of the copy; None if the numbers are there.
        rates: Learning rates of the U-Net and the text encoder.
        images: Images of the step over all processes.
        time: When the step was queued, `time.monotonic()`.
    """

    step: int
    epoch: int
    numbers: Tensor
    event: Any
    rates: tuple[float, float]
    images: int
    time: float

    @classmethod
    def start_copy(
        cls, step: int, epoch: int, numbers: Sequence[Tensor], rates: tuple[float, float], images: int
    ) -> PendingNumbers:
        """Starts the copy to the CPU without waiting for it."""
        stacked = torch.stack([number.detach().float() for number in numbers])
        event = None
        if stacked.device.type == "cuda":
            home = torch.empty(stacked.shape, dtype=torch.float32, pin_memory=True)
            stacked = home.copy_(stacked, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        return cls(step, epoch, stacked, event, rates, images, time.monotonic())

    @property
    def has_arrived(self) -> bool:
        """Whether the copy has arrived."""
        return self.event is None or bool(self.event.query())

    def wait(self) -> tuple[float, float, float]:
        """Waits for (loss, gradient norm, ΔW norm)."""
        if self.event is not None:
            self.event.synchronize()
        loss, grad, delta = self.numbers.tolist()
        return loss, grad, delta


class TrainingLog:
    """Writes the run's numbers to a CSV file in order, and smooths the loss.

    Args:
        path: The CSV file; None writes none.
        smoothed: (running mean, weight of its start) of a resumed run.
        notify: Called with a sentence if the file is open in another program.

    Attributes:
        loss_mean: The running mean of the loss, not bias-corrected.
        initial_weight: The weight of the mean's start, for the bias correction.
        rows: The last 4,096 rows.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        smoothed: Sequence[float] = (0.0, 1.0),
        notify: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.path, self._notify = path, notify
        self._unwritten = b""  # rows that another program kept from being written; retried with the next ones
        self.loss_mean, self.initial_weight = smoothed
        self.rows: deque[LogRow] = deque(maxlen=4096)
        self._pending: deque[PendingNumbers] = deque()
        self._times: deque[tuple[float, int]] = deque([(time.monotonic(), 0)], maxlen=32)
        self._file: Any = None
        self._has_warned = False

    def open(self, from_step: int = 0) -> None:
        """Creates the file, or continues the existing one after `from_step`.

        While another program has it open, a file of another name beside it is used. Raises TrainError.
        """
        if self.path is None:
            return
        try:
            before = self._earlier_rows(from_step)
            table = _lines([LOG_COLUMNS, *before])
            self.path = save_here_or_beside(self.path, lambda part: part.write_bytes(table), self._notify)
            self._file = self.path.open("ab", buffering=0)  # unbuffered: a failed write is noticed and retried
        except OSError as error:
            raise TrainError(f"{self.path} cannot be written: {error.strerror or error}") from error
        except FileError as error:
            raise TrainError(str(error)) from error

    def _earlier_rows(self, from_step: int) -> list[list[str]]:
        """The rows of the existing file up to a step."""
        assert self.path is not None
        if not from_step or not self.path.is_file():
            return []
        try:
            return [row for row in load_csv_rows(self.path) if row and _step_of(row[0]) <= from_step]
        except PermissionError:
            self._notify(f"{self.path.name} is open in another program; the new file lacks its earlier rows")
            return []

    def add(self, pending: PendingNumbers) -> None:
        """Adds a step that was just queued."""
        self._pending.append(pending)

    def collect_rows(self, *, everything: bool = False) -> list[LogRow]:
        """Collects the rows that have arrived and writes them to the file.

        Args:
            everything: Whether to wait for all rows.

        Raises:
            TrainError: The file cannot be written.
        """
        new: list[LogRow] = []
        while self._pending and (everything or len(self._pending) > MAX_PENDING_STEPS or self._pending[0].has_arrived):
            new.append(self._row(self._pending.popleft()))
        self.rows.extend(new)
        if new and self._file is not None:
            self._write([[_number(getattr(row, name)) for name in LOG_COLUMNS] for row in new])
        return new

    def _row(self, pending: PendingNumbers) -> LogRow:
        loss, grad, delta = pending.wait()
        if math.isfinite(loss):
            self.loss_mean = LOSS_SMOOTHING * self.loss_mean + (1 - LOSS_SMOOTHING) * loss
            self.initial_weight *= LOSS_SMOOTHING
        self._times.append((pending.time, pending.images))
        (first, _), *later = self._times
        seconds = pending.time - first
        speed = sum(images for _, images in later) / seconds if seconds > 0 else math.nan
        smoothed = self.loss_mean / (1 - self.initial_weight) if self.initial_weight < 1 else math.nan
        return LogRow(
            pending.step, pending.epoch, loss, smoothed, *pending.rates, grad, delta, speed, peak_memory_mib()
        )

    @property
    def seconds_per_step(self) -> float:
        """Mean seconds of the last steps; NaN before the first one."""
        (first, _), *later = self._times
        return (later[-1][0] - first) / len(later) if later else math.nan

    def restart_timing(self) -> None:
        """Restarts the timing, after work that is not a step (samples, saving)."""
        self._times.clear()
        self._times.append((time.monotonic(), 0))

    def _write(self, rows: Sequence[Sequence[object]]) -> None:
        waiting, self._unwritten = self._unwritten + _lines(rows), b""
        try:
            while waiting:
                waiting = waiting[self._file.write(waiting) :]
        except PermissionError:
            if not self._has_warned:
                self._notify(f"{self.path} is open in another program; its rows are kept until it is closed")
            self._unwritten, self._has_warned = waiting, True
        except OSError as error:
            raise TrainError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Closes the file. Rows that could not be written are saved in a file beside it."""
        if self._file is not None:
            with contextlib.suppress(TrainError, FileError, OSError):
                self._write([])
                if self._unwritten and self.path is not None:
                    rest = unused_path_beside(self.path)
                    rest.write_bytes(_lines([LOG_COLUMNS]) + self._unwritten)
                    self._notify(f"the last rows of {self.path.name} are in {rest.name} beside it")
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


def _step_of(text: str) -> float:
    """The step of a row; infinite where it has none."""
    return int(text) if text.isdecimal() and len(text) < 16 else math.inf


def _lines(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else "" if math.isnan(value) else repr(round(value, 9))


def peak_memory_mib() -> float:
    """Peak memory in MiB: the device's, or this process's on the CPU; NaN if the system does not report it."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    import sys

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
