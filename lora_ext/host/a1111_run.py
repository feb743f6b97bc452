"""A training run inside the web UI: Interrupt stops it, the progress bar shows it, the next picture is unchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modules import devices, shared

from ..ports import Shell
from ..train.loop import Outcome, Run, Watch
from ..train.recipe import Recipe
from .a1111 import Host
from .a1111_training import current_trainee

JOB = "training a LoRA"


class Inside:
    """A shell that also hears the web UI's Interrupt and Skip, and shows on its progress bar."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell

    def lora_dirs(self) -> tuple[Path, ...]:
        """The shell's."""
        return self.shell.lora_dirs()

    def option(self, name: str) -> object:
        """The shell's."""
        return self.shell.option(name)

    def progress(self, done: int, total: int, text: str) -> None:
        """On both."""
        shared.state.textinfo = f"{JOB}: {text}"
        shared.state.job_count, shared.state.job_no = 1, 0
        shared.state.sampling_step, shared.state.sampling_steps = done, max(total, 1)
        self.shell.progress(done, total, text)

    def cancelled(self) -> bool:
        """Whether either was asked to stop."""
        return bool(shared.state.interrupted or shared.state.skipped or self.shell.cancelled())

    def say(self, text: str) -> None:
        """The shell's."""
        self.shell.say(text)


def train_here(host: Host, recipe: Recipe, shell: Shell, watch: Watch | None = None) -> Outcome:
    """Trains on the model that the web UI holds. Call it while `call_queue.queue_lock` is held: generation waits.

    Nothing of ours is on the model while it trains; afterwards, also after an exception, it is as it was, and no
    conditioning that was computed meanwhile is left. Raises LoraError.
    """
    shared.state.begin(job=JOB)
    try:
        host.release()
        trainee = current_trainee()
        recipe = replace(recipe, pretrained_model_name_or_path=None)
        return Run(trainee, recipe, Inside(shell), watch=watch).run()
    finally:
        host.release()
        state = shared.state
        state.end()
        state.skipped = state.interrupted = state.stopping_generation = False
        devices.torch_gc()
