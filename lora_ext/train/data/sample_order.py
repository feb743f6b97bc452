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

from .buckets import PixelSize
from .dataset_scan import DatasetImage
from .subset import Subset


class ImageRepeat(NamedTuple):
    """One turn of a picture: its number, and which of its repeats in the epoch it is."""

    image: int
    repeat: int


@dataclass(frozen=True)
class GlobalBatch:
    """The pictures of one batch over all processes; `capacity` is how many it has room for."""

    bucket: PixelSize
    items: tuple[ImageRepeat, ...]
    capacity: int

    def items_of_process(self, rank: int, world_size: int) -> tuple[tuple[ImageRepeat, ...], float]:
        """A process's items, and `Batch.scale`; no items where there are fewer of them than processes."""
        mine = self.items[rank::world_size]
        return mine, max(len(mine), 1) * world_size / len(self.items)


def keyed_random_number(*key: object) -> int:
    """A number of 63 bits that depends on the key alone, on every machine."""
    text = "\x1f".join(str(part) for part in key).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


class SampleOrder:
    """The batches of every epoch. Epochs count from 0.

    Regularisation pictures get as many turns in an epoch as the training pictures with their repeats. They take turns
    across epochs too: with more of them than that, the next epoch goes on where the last one ended.
    """

    def __init__(self, subsets: Sequence[Subset], images: Sequence[DatasetImage], seed: int) -> None:
        self.subsets, self.images, self.seed = subsets, images, seed
        self.training_items = [
            ImageRepeat(index, repeat)
            for index, picture in enumerate(images)
            if not subsets[picture.subset].regularisation
            for repeat in range(subsets[picture.subset].repeats)
        ]
        self.regularisation_images = [
            index
            for index, picture in enumerate(images)
            if subsets[picture.subset].regularisation
            for _ in range(subsets[picture.subset].repeats)
        ]
        self._chunks = lru_cache(maxsize=2)(self._make)
        self.batch_count = lru_cache(maxsize=None)(self._count)
        """Batches of (epoch, world)."""

    @property
    def varies(self) -> bool:
        """Whether epochs differ in the pictures that they use."""
        return bool(self.regularisation_images) and len(self.training_items) % len(self.regularisation_images) != 0

    def epoch_items(self, epoch: int) -> list[ImageRepeat]:
        """All turns of an epoch, in no particular order."""
        return self.training_items + self._regularisation_items(epoch)

    def _regularisation_items(self, epoch: int) -> list[ImageRepeat]:
        wanted, have = len(self.training_items), len(self.regularisation_images)
        if not have:
            return []
        items, turns = [], defaultdict[int, int](int)
        for place in range(epoch * wanted, (epoch + 1) * wanted):
            picture = self._regularisation_pass(place // have)[place % have]
            items.append(ImageRepeat(picture, turns[picture]))
            turns[picture] += 1
        return items

    def _regularisation_pass(self, number: int) -> list[int]:
        """The regularisation pictures in the order of the n-th time through all of them."""
        return _shuffled(self.regularisation_images, self.seed, "regularisation", number)

    def epoch_batches(self, epoch: int, world_size: int = 1) -> tuple[GlobalBatch, ...]:
        """The batches of an epoch, in order, for `world_size` processes together."""
        return self._chunks(epoch, world_size)

    def fingerprint(self, epoch: int, world_size: int = 1) -> str:
        """A short text that is the same where an epoch has the same pictures in the same batches."""
        found = hashlib.blake2b(digest_size=16)
        for chunk in self.epoch_batches(epoch, world_size):
            items = [(self.images[item.image].digest, item.repeat) for item in chunk.items]
            found.update(repr((chunk.bucket, items)).encode())
        return found.hexdigest()

    def _groups(self, epoch: int) -> dict[tuple[PixelSize, int], list[ImageRepeat]]:
        """(bucket, batch size) → what may share a batch."""
        groups: dict[tuple[PixelSize, int], list[ImageRepeat]] = defaultdict(list)
        for item in self.epoch_items(epoch):
            picture = self.images[item.image]
            groups[picture.bucket_fit.bucket, self.subsets[picture.subset].batch_size].append(item)
        return groups

    def _count(self, epoch: int, world_size: int) -> int:
        return sum(-(-len(items) // (size * world_size)) for (_, size), items in self._groups(epoch).items())

    def _make(self, epoch: int, world_size: int) -> tuple[GlobalBatch, ...]:
        chunks = []
        for group, ((bucket, size), items) in enumerate(sorted(self._groups(epoch).items())):
            # not keyed by the batch size: two processes with half of it each are to see the same batches
            mixed = _shuffled(items, self.seed, "pictures", epoch, group)
            full = size * world_size
            chunks += [GlobalBatch(bucket, tuple(mixed[at : at + full]), full) for at in range(0, len(mixed), full)]
        return tuple(_shuffled(chunks, self.seed, "batches", epoch))


def _shuffled(things: Sequence, *key: object) -> list:
    mixed = list(things)
    random.Random(keyed_random_number(*key)).shuffle(mixed)
    return mixed
