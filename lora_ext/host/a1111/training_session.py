"""A training run inside the web UI: Interrupt stops it, and later images are unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...protocols import TrainableModel
from .models import has_patch_manager
from .standalone_training import load_chosen_model_for_training
from .trainable_model import current_trainable_model
from .webui_job import webui_job

TRAINING_JOB_TITLE = "training a LoRA"


@contextmanager
def open_training_session(remove_all: Callable[[], None]) -> Iterator[TrainableModel]:
    """Opens the web UI's model for training. Enter it while holding `call_queue.queue_lock`, so that generation waits.

    In Forge and its relatives it is a copy of the chosen checkpoint, see `standalone_training`.

    No LoRA file is applied meanwhile. Afterwards, also after an exception, no conditioning is cached that was computed
    during training.

    Args:
        remove_all: removes all LoRA files from the model, and cached conditioning.

    Raises:
        TrainError: the web UI has no model, or it cannot be trained.
    """
    with webui_job(TRAINING_JOB_TITLE):
        try:
            remove_all()
            yield load_chosen_model_for_training() if has_patch_manager() else current_trainable_model()
        finally:
            remove_all()
