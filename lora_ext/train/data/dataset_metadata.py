"""A data set as kohya's `ss_*` metadata, which the web UI and model sites show."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from .dataset import Dataset
from .dataset_scan import DatasetImage


def dataset_metadata(data: Dataset, world_size: int = 1) -> dict[str, str]:
    """The `ss_*` entries of a data set: folder names, tags, buckets and counts, but no paths.

    Args:
        data: The data set.
        world_size: Number of processes.

    Returns:
        Metadata key → text.
    """
    items = Counter(
        data.subsets[data.images[item.image].subset].regularisation for item in data.sample_order.epoch_items(0)
    )
    return {
        "ss_num_train_images": str(items[False]),
        "ss_num_reg_images": str(items[True]),
        "ss_num_batches_per_epoch": str(data.batch_count(0, world_size)),
        "ss_dataset_dirs": json.dumps(_folders(data, False), ensure_ascii=False),
        "ss_reg_dataset_dirs": json.dumps(_folders(data, True), ensure_ascii=False),
        "ss_tag_frequency": json.dumps(tag_frequency(data), ensure_ascii=False),
        "ss_bucket_info": json.dumps(_buckets(data)),
    }


def _named(data: Dataset) -> list[str]:
    """A name for each subset: its folder's, numbered if two are the same."""
    names: list[str] = []
    for subset in data.subsets:
        name, number = subset.name, 2
        while name in names:
            name, number = f"{subset.name} ({number})", number + 1
        names.append(name)
    return names


def _folders(data: Dataset, regularisation: bool) -> dict[str, dict[str, int]]:
    counts = Counter(image.subset for image in data.images)
    return {
        name: {"n_repeats": subset.repeats, "img_count": counts[index]}
        for index, (name, subset) in enumerate(zip(_named(data), data.subsets, strict=True))
        if subset.regularisation == regularisation
    }


def tag_frequency(data: Dataset) -> dict[str, dict[str, int]]:
    """Folder → tag → number of images with it in their captions, in lower case as kohya's scripts count."""
    found: dict[str, dict[str, int]] = {}
    for index, (name, subset) in enumerate(zip(_named(data), data.subsets, strict=True)):
        counts: Counter[str] = Counter()
        for image in data.images:
            if image.subset == index:
                text = image.caption.replace("\n", subset.caption_rules.caption_separator)
                counts.update(
                    {tag.strip().lower() for tag in text.split(subset.caption_rules.caption_separator)} - {""}
                )
        found[name] = dict(sorted(counts.items(), key=lambda row: (-row[1], row[0])))
    return found


def _buckets(data: Dataset) -> dict[str, Any]:
    """Bucket sizes with their samples in an epoch, and the mean difference of the images' aspect ratios from them."""
    counts = Counter(data.images[item.image].bucket_fit.bucket for item in data.sample_order.epoch_items(0))
    rows = {str(n): {"resolution": list(size), "count": counts[size]} for n, size in enumerate(sorted(counts))}
    errors = [_aspect_error(data.images[item.image]) for item in data.sample_order.epoch_items(0)]
    return {"buckets": rows, "mean_img_ar_error": sum(errors) / len(errors)}


def _aspect_error(image: DatasetImage) -> float:
    bucket = image.bucket_fit.bucket
    return abs(bucket[0] / bucket[1] - image.size[0] / image.size[1])
