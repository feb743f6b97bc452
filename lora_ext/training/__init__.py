"""Training without a web UI: `train(Recipe(…))` and `python -m lora_ext train`."""

from .standalone_run import open_trainable_model, train
from .train_command import main

__all__ = ["main", "open_trainable_model", "train"]
