"""Progress of a tool: a bar on stderr, a host's own bar, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

_Item = TypeVar("_Item")


class Track(Protocol):
    """Iterates over `items` while it shows `text` and how many are done."""

    def __call__(self, items: Sequence[_Item], text: str) -> Iterator[_Item]:
        """The items, in order."""
        ...


def no_progress(items: Sequence[_Item], text: str) -> Iterator[_Item]:
    """Shows nothing: the default of functions that are called from Python."""
    return iter(items)


def progress_bar(items: Sequence[_Item], text: str) -> Iterator[_Item]:
    """Shows a tqdm bar on stderr, which disappears at the end: for the command line."""
    from tqdm import tqdm

    with tqdm(items, desc=text, unit="layer", file=sys.stderr, leave=False) as shown:
        yield from shown


def track_with_callback(on_progress: Callable[[int, int, str], None]) -> Track:
    """A `Track` that calls `on_progress(done, total, text)`, as `protocols.HostInterface.progress` does."""

    def track(items: Sequence[_Item], text: str) -> Iterator[_Item]:
        for done, item in enumerate(items):
            on_progress(done, len(items), text)
            yield item
        on_progress(len(items), len(items), text)

    return track
