"""`SampleOrder`: the batches of every epoch, which depend only on (seed, epoch), shared out to the processes.

Every random number is keyed by its purpose and never by what was drawn before. So a run can be resumed anywhere, with
any number of processes, and gets the same images, crops and captions.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from .buckets import PixelSize
from .dataset_scan import DatasetImage
from .subset import Subset


class ImageRepeat(NamedTuple):
    """One use of an image in an epoch.

    Attributes:
        image: The image's number.
        repeat: Which of its repeats it is, from 0.
    """

    image: int
    repeat: int


@dataclass(frozen=True)
class GlobalBatch:
    """The images of one batch over all processes.

    Attributes:
        bucket: (width, height) in pixels.
        items: The images.
    """

    bucket: PixelSize
    items: tuple[ImageRepeat, ...]

    def items_of_process(self, rank: int, world_size: int) -> tuple[tuple[ImageRepeat, ...], float]:
        """A process's items and its `Batch.scale`; no items where there are fewer items than processes."""
        mine = self.items[rank::world_size]
        return mine, max(len(mine), 1) * world_size / len(self.items)


def keyed_random_number(*key: object) -> int:
    """A 63-bit number that depends only on the key, the same on every machine.

    Args:
        *key: The parts of the key; their texts count.

    Returns:
        A number in 0..2⁶³ − 1.

    Example:
        >>> keyed_random_number("noise", 1) == keyed_random_number("noise", 1)
        True
    """
    text = "\x1f".join(str(part) for part in key).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


class SampleOrder:
    """The batches of every epoch. Epochs count from 0.

    An epoch has as many regularisation images as training images with their repeats, in each data set as in kohya's
    scripts. If there are more regularisation images than that, the next epoch continues where the last one ended.

    Args:
        subsets: The folders, with their repeats and batch sizes.
        images: The images, which refer to subsets by number.
        seed: The run's seed.

    Attributes:
        batch_count: (epoch, world_size) → number of batches.
    """

    def __init__(self, subsets: Sequence[Subset], images: Sequence[DatasetImage], seed: int) -> None:
        self.subsets, self.images, self.seed = subsets, images, seed
        self.training_items = self._items(range(len(images)), regularisation=False)
        self._by_dataset = [
            (number, self._items(own, regularisation=False), [item.image for item in self._items(own, True)])
            for number in sorted({subset.dataset for subset in subsets})
            for own in [[i for i, image in enumerate(images) if subsets[image.subset].dataset == number]]
        ]
        self._batches = lru_cache(maxsize=2)(self._epoch)
        self.batch_count = lru_cache(maxsize=None)(self._count)

    def _items(self, indices: Iterable[int], regularisation: bool) -> list[ImageRepeat]:
        """The repeats of some images, training or regularisation images."""
        return [
            ImageRepeat(index, repeat)
            for index in indices
            for subset in [self.subsets[self.images[index].subset]]
            if subset.regularisation == regularisation
            for repeat in range(subset.repeats)
        ]

    @property
    def varies(self) -> bool:
        """Whether epochs use different images."""
        return any(kept and len(trained) % len(kept) for _, trained, kept in self._by_dataset)

    def epoch_items(self, epoch: int) -> list[ImageRepeat]:
        """All items of an epoch, in no particular order."""
        kept = (self._regularisation_items(epoch, *row) for row in self._by_dataset)
        return self.training_items + [item for items in kept for item in items]

    def _regularisation_items(
        self, epoch: int, dataset: int, trained: Sequence[ImageRepeat], images: Sequence[int]
    ) -> list[ImageRepeat]:
        needed, have = len(trained), len(images)
        if not have:
            return []
        items, repeats_by_image = [], defaultdict[int, int](int)
        # the first data set's key is that of runs that were saved before data sets were told apart
        key = (self.seed, "regularisation", *([dataset] if dataset > self._by_dataset[0][0] else []))
        shuffled = lru_cache(maxsize=1)(lambda number: _shuffled(images, *key, number))  # the n-th pass over all
        for place in range(epoch * needed, (epoch + 1) * needed):
            image = shuffled(place // have)[place % have]
            items.append(ImageRepeat(image, repeats_by_image[image]))
            repeats_by_image[image] += 1
        return items

    def epoch_batches(self, epoch: int, world_size: int = 1) -> tuple[GlobalBatch, ...]:
        """The batches of an epoch, in order, for `world_size` processes together."""
        return self._batches(epoch, world_size)

    def fingerprint(self, epoch: int, world_size: int = 1) -> str:
        """A short text that is the same if an epoch has the same images in the same batches."""
        found = hashlib.blake2b(digest_size=16)
        for batch in self.epoch_batches(epoch, world_size):
            items = [(self.images[item.image].digest, item.repeat) for item in batch.items]
            found.update(repr((batch.bucket, items)).encode())
        return found.hexdigest()

    def _groups(self, epoch: int) -> dict[tuple[PixelSize, int], list[ImageRepeat]]:
        """(bucket, batch size) → items that may share a batch."""
        groups: dict[tuple[PixelSize, int], list[ImageRepeat]] = defaultdict(list)
        for item in self.epoch_items(epoch):
            image = self.images[item.image]
            groups[image.bucket_fit.bucket, self.subsets[image.subset].batch_size].append(item)
        return groups

    def _count(self, epoch: int, world_size: int) -> int:
        return sum(-(-len(items) // (size * world_size)) for (_, size), items in self._groups(epoch).items())

    def _epoch(self, epoch: int, world_size: int) -> tuple[GlobalBatch, ...]:
        batches = []
        for group, ((bucket, size), items) in enumerate(sorted(self._groups(epoch).items())):
            # not keyed by the batch size: two processes with half of it each must see the same batches
            shuffled = _shuffled(items, self.seed, "pictures", epoch, group)
            full = size * world_size
            batches += [GlobalBatch(bucket, tuple(shuffled[at : at + full])) for at in range(0, len(shuffled), full)]
        return tuple(_shuffled(batches, self.seed, "batches", epoch))


def _shuffled(items: Sequence, *key: object) -> list:
    shuffled = list(items)
    random.Random(keyed_random_number(*key)).shuffle(shuffled)
    return shuffled
