"""The command `svd-merge`: `merge --method svd` under the name of kohya's script."""

from __future__ import annotations

from collections.abc import Sequence

from . import merge


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `lora_ext svd-merge`.

    Args:
        argv: the command line without the command's name; None reads that of the program.

    Returns:
        The exit status.
    """
    return merge.main(argv, verb="svd-merge")
