"""Loads and saves files: containers, `LoraFile`, metadata and hashes, the folder index."""

from .loading import load_lora_file
from .lora_file import LoraFile
from .lora_library import LibraryEntry, LoraLibrary
from .saving import save_lora_file

__all__ = ["LibraryEntry", "LoraFile", "LoraLibrary", "load_lora_file", "save_lora_file"]
