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
    """Shows nothing: the default of functions that are called from Python.

    Args:
        items: what to iterate over.
        text: not used.

    Returns:
        An iterator over `items`.
    """
    return iter(items)


def progress_bar(items: Sequence[_Item], text: str) -> Iterator[_Item]:
    """Shows a tqdm bar on stderr, which disappears at the end: for the command line.

    Args:
        items: what to iterate over.
        text: what is done.

    Yields:
        The items, in order.
    """
    from tqdm import tqdm

    with tqdm(items, desc=text, unit="", file=sys.stderr, leave=False) as shown:
        yield from shown


def track_with_callback(on_progress: Callable[[int, int, str], None]) -> Track:
    """Makes a `Track` that reports to a host.

    Args:
        on_progress: is called with (done, total, text), as `protocols.HostInterface.progress`.

    Returns:
        The `Track`.

    Example:
        >>> calls = []
        >>> list(track_with_callback(lambda *call: calls.append(call))(["a", "b"], "merge"))
        ['a', 'b']
        >>> calls
        [(0, 2, 'merge'), (1, 2, 'merge'), (2, 2, 'merge')]
    """

    def track(items: Sequence[_Item], text: str) -> Iterator[_Item]:
        for done, item in enumerate(items):
            on_progress(done, len(items), text)
            yield item
        on_progress(len(items), len(items), text)

    return track
