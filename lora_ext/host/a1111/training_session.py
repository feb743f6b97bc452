"""The web UI's model lent to a training run: its Interrupt stops the run, the next picture is unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from modules import devices, shared

from .trainable_model import A1111TrainableModel, current_trainable_model

TRAINING_JOB_TITLE = "training a LoRA"


@contextmanager
def open_training_session(remove_all: Callable[[], None]) -> Iterator[A1111TrainableModel]:
    """The model that the web UI holds, as a trainee. Enter it while `call_queue.queue_lock` is held: generation waits.

    remove_all: takes everything of ours off the model, and out of the kept conditioning.

    Nothing of ours is on the model meanwhile; afterwards, also after an exception, no conditioning that was computed
    with what was trained is left. Raises TrainError.
    """
    shared.state.begin(job=TRAINING_JOB_TITLE)
    shared.state.textinfo = TRAINING_JOB_TITLE
    try:
        remove_all()
        yield current_trainable_model()
    finally:
        remove_all()
        state = shared.state
        state.end()
        state.skipped = state.interrupted = state.stopping_generation = False
        devices.torch_gc()
