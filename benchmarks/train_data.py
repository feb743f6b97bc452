"""Whether data ever keeps training waiting: pictures a second, and the share of the clock that steps wait for a batch.

    python benchmarks/train_data.py [--pictures 48] [--threads 2] [--steps 0.05,0.2,1]

Pictures are JPEG files of 1536x1024, trained at 512x512 in buckets. A step is a pause of the length named (a GPU at
work leaves the processor alone); waiting is what goes by between the end of one and the batch of the next. An encoder
of `--encode` seconds a picture stands for the VAE while latents are cached.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from figures import print_table
from PIL import Image

from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.data.dataset import Dataset


def drawn(folder: Path, count: int) -> Path:
    """Pictures with some detail, as photographs have it."""
    where = folder / "1_thing"
    where.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 255, (128, 192, 3), dtype=np.uint8))
        coarse.resize((1536, 1024), Image.Resampling.BICUBIC).save(where / f"{number}.jpg", quality=92)
    return folder


def waited(data: Dataset, epochs: Iterator[int], pause: float) -> tuple[float, float, float]:
    """(share of the clock spent waiting, pictures a second, milliseconds of the processor a picture)."""
    waiting, pictures, begun, worked = 0.0, 0, time.perf_counter(), time.process_time()
    for epoch in epochs:
        batches = data.epoch_batches(epoch)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waiting += time.perf_counter() - asked
            if batch is None:
                break
            pictures += len(batch)
            time.sleep(pause * len(batch))
    seconds = time.perf_counter() - begun
    return waiting / seconds, pictures / seconds, (time.process_time() - worked) / pictures * 1e3


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", default="0.05,0.2,1")
    parser.add_argument("--encode", type=float, default=0.05)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"train_data_dir": str(drawn(Path(folder), args.pictures)), "resolution": "512"}
        settings |= {"enable_bucket": True, "max_data_loader_n_workers": args.threads, "seed": 1}
        rows = []

        def add(what: str, share: float, speed: float, work: float) -> None:
            rows.append((what, f"{share:.1%}", f"{speed:.1f}", f"{work:.1f} ms"))

        for pause in map(float, args.steps.split(",")):
            data = Dataset.from_recipe(recipe_from_settings(settings))
            for what, epochs in (("new pictures", range(1)), ("again", range(1, 2))):
                add(f"{pause:g} s a picture, {what}", *waited(data, iter(epochs), pause))
        data = Dataset.from_recipe(recipe_from_settings({**settings, "vae_batch_size": 1}))

        def encode(pixels: torch.Tensor) -> torch.Tensor:
            time.sleep(args.encode * len(pixels))
            return torch.zeros(len(pixels), 4, pixels.shape[2] // 8, pixels.shape[3] // 8)

        begun, worked = time.perf_counter(), time.process_time()
        count = data.cache_latents(encode, "")
        seconds, work = time.perf_counter() - begun, (time.process_time() - worked) / count * 1e3
        share, speed = 1 - count * args.encode / seconds, count / seconds
        add(f"caching latents, {args.encode:g} s a picture to encode", share, speed, work)
        add("0.02 s a picture, cached latents", *waited(data, iter(range(3)), 0.02))
        head = ("what", "of the clock spent waiting", "pictures/s", "processor, a picture")
        print_table(head, rows, f"{args.pictures} pictures, {args.threads} threads that read")


if __name__ == "__main__":
    main()
