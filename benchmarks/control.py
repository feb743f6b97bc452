"""Speed of what acts during an image: weights over the steps, as ratios within one run, on an SD1.5-sized U-Net.

    python benchmarks/control.py [--threads 1] [--latent 16] [--repeat 9] [--device cpu] [--dtype float32] [--quick]

The peer in the same run merges W + ΔW anew at each step, as sd-webui-loractl and the built-in extension do. A further
comparison is a function `(Bench) → rows` and its entry in `COMPARISONS`.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from apply import Model, rank32, sd15
from figures import print_table
from torch import Tensor

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.compare.per_image_weights import PerImageNetworks
from lora_ext.file.lora_file import LoraFile
from lora_ext.inject import find_layer_targets
from lora_ext.inject.forward_hook import ForwardHook
from lora_ext.regions import Region, parse_region
from lora_ext.weight_curve import parse_curve

Row = tuple[str, str, str, str]
"""What is compared, the ratio, the aim, and what was seen."""
KINDS = {"LierLa": False, "C3Lier": True}
STEPS = 20


@dataclass(frozen=True)
class Bench:
    """The model and its inputs.

    Attributes:
        model: SD1.5's U-Net with random weights.
        latent: width and height of the latent.
        repeat: how often each step is timed.
        kinds: the kinds of files to measure.
    """

    model: Model
    latent: int
    repeat: int
    kinds: tuple[str, ...]

    def inputs(self, batch: int = 2) -> tuple[Tensor, Tensor]:
        """A latent and text states of some rows; 2 are a guided pair."""
        parameter = next(self.model.unet.parameters())
        torch.manual_seed(0)
        like = {"device": parameter.device, "dtype": parameter.dtype}
        return torch.randn(batch, 4, self.latent, self.latent, **like), torch.randn(batch, 77, 768, **like)

    def file(self, kind: str, seed: int = 0) -> LoraFile:
        """A rank-32 file with random weights."""
        return rank32(self.model.unet, KINDS[kind], seed)

    def call(self, batch: int = 2) -> Callable[[], Tensor]:
        """A call of the U-Net."""
        x, text = self.inputs(batch)
        unet = self.model.unet

        def work() -> Tensor:
            with torch.no_grad():
                return unet(x, 500, text).sample

        return work


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds of the second of two calls. On the CPU processor seconds, which other programs change least."""
    on_gpu = torch.cuda.is_available()
    clock = time.perf_counter if on_gpu else time.process_time
    work()
    if on_gpu:
        torch.cuda.synchronize()
    start = clock()
    work()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start


def keep_freed_memory() -> None:
    """Lets glibc keep freed memory for the next call.

    Otherwise its history decides whether a call of SD1.5's U-Net touches 0 or 460,000 new pages, 1.0 of 3.4 seconds.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**30)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            mallopt(option, value)


def medians(works: dict[str, Callable[[], float]], repeat: int) -> tuple[dict[str, float], dict[str, float]]:
    """Runs works in turn, so that a drifting machine is fair to all.

    Returns:
        (median seconds of each, median of its ratio to the first one in the same turn).
    """
    turns = [{name: work() for name, work in works.items()} for _ in range(repeat)]
    first = next(iter(works))
    seconds = {name: median(turn[name] for turn in turns) for name in works}
    return seconds, {name: median(turn[name] / turn[first] for turn in turns) for name in works}


def curve(bench: Bench) -> list[Row]:
    """A step with a curve against the same file live and constant, and against merging at each step."""
    rows: list[Row] = []
    call = bench.call()
    step = iter(range(1_000_000))
    for kind in bench.kinds:
        file = bench.file(kind)
        with AppliedNetworks(bench.model, "live") as applied:

            def constant(applied: AppliedNetworks = applied, file: LoraFile = file) -> float:
                applied.apply([AdapterSpec(file, unet=0.5)])
                return seconds_of(call)

            def curved(applied: AppliedNetworks = applied, file: LoraFile = file) -> float:
                applied.apply([AdapterSpec(file, unet=0.5, curve=parse_curve("0.2@0,1@1"))])
                return seconds_of(lambda: (applied.at_step(next(step) % STEPS, STEPS), call()))

            seconds, ratios = medians({"constant": constant, "curve": curved}, bench.repeat)
        merged = merged_step(bench, file, call)
        rows.append((f"{kind}: step with a curve, of live and constant", f"{ratios['curve']:.3f}x", "1.05x",
                     f"{seconds['constant'] * 1000:.0f} ms constant"))  # fmt: skip
        rows.append((f"{kind}: merging at each step, of ours with a curve", f"{merged / seconds['curve']:.2f}x", "",
                     f"{merged * 1000:.0f} ms"))  # fmt: skip
    return rows


def merged_step(bench: Bench, file: LoraFile, call: Callable[[], object]) -> float:
    """Seconds of a step before which each layer's weight is restored and gets W + weight · (U·D), as peers do.

    They compute in the dtype of the model and keep a copy of the original weights.
    """
    found = find_layer_targets("unet", bench.model.unet)
    layers = []
    for layer_id, adapter in file.adapters.items():
        weight, low = found[layer_id].module.weight, adapter.low_rank()
        assert low is not None
        factors = (low.up * low.gain).to(weight), low.down.flatten(1).to(weight)
        layers.append((weight, weight.detach().clone(), *factors))
    strength = iter(range(1_000_000))

    def step() -> None:
        share = 0.2 + next(strength) % STEPS / STEPS
        with torch.no_grad():
            for weight, original, up, down in layers:
                weight.copy_(original)
                weight += (up @ down).view_as(weight) * share
        call()

    seconds = median(seconds_of(step) for _ in range(max(1, bench.repeat // 3)))
    for weight, original, *_ in layers:
        weight.copy_(original)
    return seconds


def regions(bench: Bench) -> list[Row]:
    """Two regions with a LoRA each as rows of one batch, against as many rows without a LoRA, and merging for each."""
    rows: list[Row] = []
    one = bench.call(batch=2)
    for kind in bench.kinds:
        files = [bench.file(kind, seed) for seed in (0, 1)]
        own = [[AdapterSpec(file, unet=0.5)] for file in files]
        for what, specs in (("two regions", own), ("two regions and the rest", [*own, []])):
            seconds, turns, within = rows_of_specs(bench, specs)
            rows.append((f"{kind}: {what} as rows, of as many rows without a LoRA", f"{within:.3f}x", "1.05x",
                         f"{seconds['without'] * 1000:.0f} ms without, {turns:.3f}x in turns"))  # fmt: skip
            if what == "two regions":
                merged = sum(merged_step(bench, file, one) for file in files)
                rows.append((f"{kind}: merging for each region and step, of ours", f"{merged / seconds['rows']:.2f}x",
                             "5x" if kind == "C3Lier" else "", f"{merged * 1000:.0f} ms"))  # fmt: skip
    return rows


def rows_of_specs(bench: Bench, specs: list[list[AdapterSpec]]) -> tuple[dict[str, float], float, float]:
    """A call in which each of some rows, twice for guidance, has its own files, against none.

    Returns:
        (seconds of both, their ratio in turns, the ratio of a call to itself without what the LoRAs' hooks took, which
        a loaded machine changes least).
    """
    call = bench.call(batch=2 * len(specs))
    shares: list[float] = []
    with PerImageNetworks(bench.model, "live") as applied, hook_seconds() as hooks:

        def timed(some: list[list[AdapterSpec]]) -> float:
            applied.apply_each(some)
            seconds = seconds_of(lambda: (hooks.clear(), call()))
            shares.append(seconds / (seconds - sum(hooks)))
            return seconds

        works = {"without": lambda: timed([[] for _ in specs]), "rows": lambda: timed(specs)}
        seconds, ratios = medians(works, bench.repeat)
    return seconds, ratios["rows"], median(shares[1::2])


@contextmanager
def hook_seconds() -> Iterator[list[float]]:
    """Inside, hooks of files that are applied note in a list the processor seconds that each of their calls takes."""
    original, seconds = ForwardHook.hook, []

    def hook(*args: Any) -> Tensor | None:
        start = time.process_time()
        output = original(*args)
        seconds.append(time.process_time() - start)
        return output

    ForwardHook.hook = hook  # type: ignore[method-assign, assignment]
    try:
        yield seconds
    finally:
        ForwardHook.hook = original  # type: ignore[method-assign]


def composite(bench: Bench) -> list[Row]:
    """The predictions with each of two files alone as rows of one batch, against a call for each."""
    rows: list[Row] = []
    call = bench.call()
    for kind in bench.kinds:
        specs = [AdapterSpec(bench.file(kind, seed), unet=0.5, compose="composite") for seed in (0, 1)]
        with AppliedNetworks(bench.model, "live") as applied:

            def timed(together: bool, applied: AppliedNetworks = applied, specs: list[AdapterSpec] = specs) -> float:
                applied.batches_predictions = together
                applied.apply(specs)
                return seconds_of(call)

            works = {"one by one": lambda: timed(False), "together": lambda: timed(True)}
            seconds, ratios = medians(works, bench.repeat)
        rows.append((f"{kind}: composite of two files as one batch, of a call for each", f"{ratios['together']:.3f}x",
                     "", f"{seconds['one by one'] * 1000:.0f} ms one by one"))  # fmt: skip
    return rows


def output_masks(bench: Bench) -> list[Row]:
    """A LoRA for the left half by output masks, against the same LoRA live on the whole picture."""
    rows: list[Row] = []
    call = bench.call()
    for kind in bench.kinds:
        file = bench.file(kind)
        with AppliedNetworks(bench.model, "live") as applied:

            def timed(region: Region | None, applied: AppliedNetworks = applied, file: LoraFile = file) -> float:
                applied.apply([AdapterSpec(file, unet=0.5, region=region)])
                return seconds_of(call)

            works = {"whole": lambda: timed(None), "left": lambda: timed(parse_region("left"))}
            seconds, ratios = medians(works, bench.repeat)
        rows.append((f"{kind}: output masks, of one LoRA live", f"{ratios['left']:.3f}x", "1.3x",
                     f"{seconds['whole'] * 1000:.0f} ms on the whole picture"))  # fmt: skip
    return rows


COMPARISONS: dict[str, Callable[[Bench], list[Row]]] = {
    "curve": curve,
    "regions": regions,
    "composite": composite,
    "output_masks": output_masks,
}
"""Name → comparison, in the order of the table."""


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--latent", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", choices=COMPARISONS, help="one comparison instead of all")
    parser.add_argument("--quick", action="store_true", help="a latent of 8, LierLa alone, three times")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if sys.platform == "linux":
        keep_freed_memory()
    model = Model(sd15(getattr(torch, args.dtype), args.device))
    size = (8, 3, ("LierLa",)) if args.quick else (args.latent, args.repeat, tuple(KINDS))
    bench = Bench(model, *size)
    chosen = (compare for name, compare in COMPARISONS.items() if args.only in (None, name))
    title = f"SD1.5's U-Net, {args.device}, {args.dtype}, {args.threads} threads, latent {bench.latent}"
    rows = (row for compare in chosen for row in compare(bench))
    print_table(("what", "ratio", "aim", "seen"), rows, title, peer="the same step with constant weights")


if __name__ == "__main__":
    main()
