"""Which picture comes when: an order that depends on (seed, epoch) alone, shared out to the processes.

Every draw is keyed by what it is for, never by what was drawn before, so that a run goes on from any place, and any
number of processes, with the very same pictures, crops and captions.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from .buckets import Size
from .dataset_scan import Picture
from .subset import Subset


class Item(NamedTuple):
    """One turn of a picture: its number, and which of its repeats in the epoch it is."""

    picture: int
    repeat: int


@dataclass(frozen=True)
class Chunk:
    """The pictures of one batch over all processes; `full` is how many it has room for."""

    bucket: Size
    items: tuple[Item, ...]
    full: int

    def share(self, rank: int, world: int) -> tuple[tuple[Item, ...], float]:
        """A process's items, and `Batch.scale`; no items where there are fewer of them than processes."""
        mine = self.items[rank::world]
        return mine, max(len(mine), 1) * world / len(self.items)


def draw(*key: object) -> int:
    """A number of 63 bits that depends on the key alone, on every machine."""
    text = "\x1f".join(str(part) for part in key).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


class Order:
    """The batches of every epoch. Epochs count from 0.

    Regularisation pictures get as many turns in an epoch as the training pictures with their repeats. They take turns
    across epochs too: with more of them than that, the next epoch goes on where the last one ended.
    """

    def __init__(self, subsets: Sequence[Subset], pictures: Sequence[Picture], seed: int) -> None:
        self.subsets, self.pictures, self.seed = subsets, pictures, seed
        self.train = [
            Item(index, repeat)
            for index, picture in enumerate(pictures)
            if not subsets[picture.subset].regularisation
            for repeat in range(subsets[picture.subset].repeats)
        ]
        self.regular = [
            index
            for index, picture in enumerate(pictures)
            if subsets[picture.subset].regularisation
            for _ in range(subsets[picture.subset].repeats)
        ]
        self._chunks = lru_cache(maxsize=2)(self._make)
        self.count = lru_cache(maxsize=None)(self._count)
        """Batches of (epoch, world)."""

    @property
    def varies(self) -> bool:
        """Whether epochs differ in the pictures that they use."""
        return bool(self.regular) and len(self.train) % len(self.regular) != 0

    def items(self, epoch: int) -> list[Item]:
        """All turns of an epoch, in no particular order."""
        return self.train + self._regularisation(epoch)

    def _regularisation(self, epoch: int) -> list[Item]:
        wanted, have = len(self.train), len(self.regular)
        if not have:
            return []
        items, turns = [], defaultdict[int, int](int)
        for place in range(epoch * wanted, (epoch + 1) * wanted):
            picture = self._pass(place // have)[place % have]
            items.append(Item(picture, turns[picture]))
            turns[picture] += 1
        return items

    def _pass(self, number: int) -> list[int]:
        """The regularisation pictures in the order of the n-th time through all of them."""
        return _shuffled(self.regular, self.seed, "regularisation", number)

    def chunks(self, epoch: int, world: int = 1) -> tuple[Chunk, ...]:
        """The batches of an epoch, in order, for `world` processes together."""
        return self._chunks(epoch, world)

    def fingerprint(self, epoch: int, world: int = 1) -> str:
        """A short text that is the same where an epoch has the same pictures in the same batches."""
        found = hashlib.blake2b(digest_size=16)
        for chunk in self.chunks(epoch, world):
            items = [(self.pictures[item.picture].digest, item.repeat) for item in chunk.items]
            found.update(repr((chunk.bucket, items)).encode())
        return found.hexdigest()

    def _groups(self, epoch: int) -> dict[tuple[Size, int], list[Item]]:
        """(bucket, batch size) → what may share a batch."""
        groups: dict[tuple[Size, int], list[Item]] = defaultdict(list)
        for item in self.items(epoch):
            picture = self.pictures[item.picture]
            groups[picture.fitted.bucket, self.subsets[picture.subset].batch_size].append(item)
        return groups

    def _count(self, epoch: int, world: int) -> int:
        return sum(-(-len(items) // (size * world)) for (_, size), items in self._groups(epoch).items())

    def _make(self, epoch: int, world: int) -> tuple[Chunk, ...]:
        chunks = []
        for group, ((bucket, size), items) in enumerate(sorted(self._groups(epoch).items())):
            # not keyed by the batch size: two processes with half of it each are to see the same batches
            mixed = _shuffled(items, self.seed, "pictures", epoch, group)
            full = size * world
            chunks += [Chunk(bucket, tuple(mixed[at : at + full]), full) for at in range(0, len(mixed), full)]
        return tuple(_shuffled(chunks, self.seed, "batches", epoch))


def _shuffled(things: Sequence, *key: object) -> list:
    mixed = list(things)
    random.Random(draw(*key)).shuffle(mixed)
    return mixed
