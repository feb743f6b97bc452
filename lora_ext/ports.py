"""What the lower floors ask of a host, as Protocols: a model to hook, and a shell to talk through."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import nn


class Model(Protocol):
    """A network to hook and train."""

    def parts(self) -> Mapping[str, nn.Module]:
        """Part ("unet", "te", "te2") → the module whose dotted names `address.site_of` understands."""
        ...


class Shell(Protocol):
    """Paths, options, progress and cancelling, as the face in charge offers them."""

    def lora_dirs(self) -> tuple[Path, ...]:
        """Folders that hold LoRA files, searched recursively, first match wins."""
        ...

    def option(self, name: str) -> object:
        """The user's value of a setting of ours."""
        ...

    def progress(self, done: int, total: int, text: str) -> None:
        """Show how far the work is."""
        ...

    def cancelled(self) -> bool:
        """Whether the user asked to stop."""
        ...

    def say(self, text: str) -> None:
        """Tell the user something (a warning, a Fit report)."""
        ...
