"""Reading and writing files: containers, `LoraFile`, metadata and hashes, the folder index."""

from .lorafile import LoraFile
from .reading import read
from .writing import write

__all__ = ["LoraFile", "read", "write"]
