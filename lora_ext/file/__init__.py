"""Reading and writing files: containers, `LoraFile`, metadata and hashes, the folder index."""

from .loading import read
from .lora_file import LoraFile
from .lora_library import Entry, Library
from .saving import write

__all__ = ["Entry", "Library", "LoraFile", "read", "write"]
