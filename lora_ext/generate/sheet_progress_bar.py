"""A bar on standard error for the images of a sheet."""

from __future__ import annotations

import sys

from ..compare.generate_cells import SheetProgress

_SECONDS_BETWEEN_LINES = 10
"""Of a bar that goes to a file or another program, where each state of it is a line that stays."""


class SheetProgressBar:
    """Shows how many images of a sheet there are.

    Args:
        quiet: Shows nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        from tqdm import tqdm

        pause = 0.1 if sys.stderr.isatty() else _SECONDS_BETWEEN_LINES
        self._bar = tqdm(unit="image", file=sys.stderr, leave=False, disable=quiet, mininterval=pause)

    def __call__(self, progress: SheetProgress) -> None:
        """Shows a state."""
        self._bar.total = progress.total
        self._bar.update(progress.done - self._bar.n)

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()


__all__ = ["SheetProgressBar"]
