"""Images without a web UI: `generate(Settings(…))`, and `python -m lora_ext generate`."""

from .generate_command import main
from .image_files import save_images
from .pipeline import (
    GenerationReport,
    embedded_model,
    generate,
    image_infotext,
    load_settings_model,
    lora_dirs,
)
from .settings import Settings

__all__ = [
    "GenerationReport",
    "Settings",
    "embedded_model",
    "generate",
    "image_infotext",
    "load_settings_model",
    "lora_dirs",
    "main",
    "save_images",
]
