"""Reading and writing files: containers, `LoraFile`, metadata and hashes, the folder index."""

from .library import Entry, Library
from .lorafile import LoraFile
from .reading import read
from .writing import write

__all__ = ["Entry", "Library", "LoraFile", "read", "write"]
