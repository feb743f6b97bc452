"""Pictures without a web UI: `generate(Settings(…))`, and `python -m lora_ext generate`."""

from .generate_command import main
from .pipeline import Report, describe, embedded, generate, lora_dirs, open_model, save
from .settings import Settings

__all__ = ["Report", "Settings", "describe", "embedded", "generate", "lora_dirs", "main", "open_model", "save"]
