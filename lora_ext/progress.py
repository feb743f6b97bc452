"""How far a tool is: a bar on stderr, a host's own bar, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Track(Protocol):
    """Goes through `items` while it shows `text` and how many are done."""

    def __call__(self, items: Sequence[T], text: str) -> Iterator[T]:
        """The items, in order."""
        ...


def silent(items: Sequence[T], text: str) -> Iterator[T]:
    """Shows nothing: what functions do when they are called from Python."""
    return iter(items)


def bar(items: Sequence[T], text: str) -> Iterator[T]:
    """A tqdm bar on stderr, gone when it is through; what the command line shows."""
    from tqdm import tqdm

    with tqdm(items, desc=text, unit="layer", file=sys.stderr, leave=False) as shown:
        yield from shown


def through(progress: Callable[[int, int, str], None]) -> Track:
    """A `Track` that calls `progress(done, total, text)`, as `ports.Shell` has it."""

    def track(items: Sequence[T], text: str) -> Iterator[T]:
        for done, item in enumerate(items):
            progress(done, len(items), text)
            yield item
        progress(len(items), len(items), text)

    return track
