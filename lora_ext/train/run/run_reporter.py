"""`RunReporter`: what the main process of a training run reports to the host and to an observer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...protocols import HostInterface
from .training_log import TrainingProgress

OnTrainingProgress = Callable[[TrainingProgress], None]
"""An observer of a run, called after each step whose numbers have arrived, and after files and samples."""


class RunReporter:
    """Passes progress and notes on to the host and the observer; all processes but the main one are silent.

    Attributes:
        progress: The latest progress.
    """

    def __init__(self, host: HostInterface, on_progress: OnTrainingProgress | None, is_main: bool) -> None:
        self.host, self.on_progress, self.is_main = host, on_progress, is_main
        self.progress = TrainingProgress()

    def notify(self, text: str) -> None:
        """Shows the user a sentence."""
        if self.is_main:
            self.host.notify(text)

    def show(self, done: int, total: int, text: str) -> None:
        """Shows the progress of work before the first step."""
        if self.is_main:
            self.host.progress(done, total, text)

    def report(self, steps: int, /, **changes: Any) -> None:
        """Updates fields of `progress` and reports it; `steps` are those of the whole run."""
        self.progress = replace(self.progress, **changes)
        if not self.is_main:
            return
        if not self.host.cancelled():  # a host may raise from `progress` then; the file and the state are saved first
            self.host.progress(self.progress.step, steps, str(self.progress))
        if self.on_progress is not None:
            self.on_progress(self.progress)
