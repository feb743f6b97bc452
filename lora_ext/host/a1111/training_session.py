"""A training run inside the web UI: Interrupt stops it, and later images are unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .trainable_model import A1111TrainableModel, current_trainable_model
from .webui_job import webui_job

TRAINING_JOB_TITLE = "training a LoRA"


@contextmanager
def open_training_session(remove_all: Callable[[], None]) -> Iterator[A1111TrainableModel]:
    """Opens the web UI's model for training. Enter it while holding `call_queue.queue_lock`, so that generation waits.

    No LoRA file is applied meanwhile. Afterwards, also after an exception, no conditioning is cached that was computed
    during training.

    Args:
        remove_all: removes all LoRA files from the model, and cached conditioning.

    Raises:
        TrainError: the web UI has no model.
    """
    with webui_job(TRAINING_JOB_TITLE):
        try:
            remove_all()
            yield current_trainable_model()
        finally:
            remove_all()
