"""Training without a web UI: `train(Recipe(…))`, and `python -m lora_ext train`."""

from .command import main
from .start import open_trainee, train

__all__ = ["main", "open_trainee", "train"]
