"""`svd-merge`: `merge --method svd` under the name that people know."""

from __future__ import annotations

from collections.abc import Sequence

from . import merge


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `svd-merge`."""
    return merge.main(argv, verb="svd-merge")
