"""The command `merge`: `tools.merge` with what writes a checkpoint as a diffusers folder, which needs diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...tools import merge


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `lora_ext merge`.

    Args:
        argv: the command line without the command's name; None reads that of the program.

    Returns:
        The exit status.
    """
    return merge.main(argv, folder_writer=_write_folder)


def _write_folder(*arguments: Any, **options: Any) -> None:
    """Imports diffusers only when a folder is written: it takes seconds."""
    from .folder_of_checkpoint import write_checkpoint_as_folder

    write_checkpoint_as_folder(*arguments, **options)
