"""Does training teach? The toy task of the small model by every kind of network, scored by `training.toy_task`.

    python benchmarks/learn.py [--only lierla c3lier …] [--weights 0.9 1] [--threads 1] [--out DIR] [--set NAME=VALUE …]

A scheme of colours that the model has never seen is learned from 20 drawn pictures, beside plain ones for
regularisation. The table has the share of new prompts that are obeyed before and after, what is kept of the score on
unrelated prompts, each drawn from two seeds, and the processor's seconds of training. DyLoRA is trained once and split;
each rank is judged.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import torch
from figures import print_table

from lora_ext.file.loading import load_lora_file
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.file.saving import save_lora_file
from lora_ext.generate import load_settings_model
from lora_ext.host.standalone.model import StandaloneModel
from lora_ext.tools.split_dylora import split_dylora
from lora_ext.training import toy_task

LIERLA = {"conv_dim": None, "conv_alpha": None, "network_dim": 16, "network_alpha": 16}
KINDS: dict[str, dict[str, Any]] = {
    "lierla": {**LIERLA, "network_module": "lierla", "learning_rate": 1e-3},
    "c3lier": {},
    "dylora": {
        **LIERLA, "network_module": "dylora", "unit": 4, "dylora_variant": "prefix", "learning_rate": 6e-4,
        "max_train_epochs": 12,
    },
    "pivotal": {
        "token_string": toy_task.TOY_CONCEPT, "init_word": toy_task.TOY_CONCEPT,
        "inversion_steps": 20, "inversion_lr": 3e-3,
    },
    "loha": {"algo": "loha", "learning_rate": 3e-4},
    "lokr": {"algo": "lokr", "factor": 4, "learning_rate": 2e-3},
    "glora": {"algo": "glora", "learning_rate": 1.5e-4},
    "ia3": {"algo": "ia3", "learning_rate": 1e-2},
    "full": {"algo": "full", "learning_rate": 7e-5},
    "diag-oft": {"algo": "diag-oft", "learning_rate": 4e-4},
    "boft": {"algo": "boft", "conv_dim": 8, "learning_rate": 1e-4},
    "dora": {"dora_wd": True},
    "norm": {"train_norm": True},
    "pissa": {"init_lora_weights": "pissa", "learning_rate": 3e-4},
}  # fmt: skip
SEEDS = (7, 107)
"""Every prompt is drawn once from each (and what is added to it)."""


def files(kind: str, trained: Path) -> Iterator[Path]:
    """What is judged: the file, or for DyLoRA each rank of it."""
    if kind != "dylora":
        yield trained
        return
    parts, _ = split_dylora(load_lora_file(trained))
    for rank, file in parts.items():
        yield save_lora_file(file, trained.with_name(f"{kind}-rank{rank:02}.safetensors"))


def train_kind(model: StandaloneModel, kind: str, out: Path, more: dict[str, str]) -> tuple[Path, tuple[str, ...]]:
    """Trains a kind, unless its file is there.

    Returns:
        (file, (seconds of the processor, steps)), both empty for a file that was there.
    """
    if (trained := out / f"{kind}.safetensors").exists():
        return trained, ("", "")
    start = time.process_time()
    outcome = toy_task.train_toy_lora(model, out, **{"output_name": kind, **KINDS[kind], **more})
    return outcome.files[-1], (f"{time.process_time() - start:.0f}", str(outcome.steps))


def mean(judged: Sequence[toy_task.ToyScores]) -> toy_task.ToyScores:
    """The average of what the seeds said."""
    return toy_task.ToyScores(*(statistics.mean(values) for values in zip(*map(astuple, judged), strict=True)))


def main() -> None:
    """Trains and judges the kinds asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--weights", nargs="*", type=float, default=[1.0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="keeps the files there; a file that is there is judged")
    parser.add_argument("--train_only", action="store_true", help="judges nothing; a second run with --out does")
    parser.add_argument("--set", nargs="*", default=[], help="other settings, such as learning_rate=5e-4")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_settings_model(toy_task.TOY_SETTINGS)
    more = dict(setting.split("=", 1) for setting in options.set)
    with tempfile.TemporaryDirectory() as temporary:
        judged: dict[tuple[str, float], tuple[str, ...]] = {}
        folders = [(options.out or Path(temporary)) / kind for kind in options.only]
        for kind, out in zip(options.only, folders, strict=True):
            trained, cost = train_kind(model, kind, out, more)
            judged |= {(path.stem, weight): cost for path in files(kind, trained) for weight in options.weights}
        if options.train_only:
            print(judged, flush=True)
            return
        tags = [f"<lora:{name}:{weight:g}>" for name, weight in judged]
        seeds = [replace(toy_task.TOY_SETTINGS, seed=seed) for seed in SEEDS]
        every = [toy_task.score_toy_loras(model, LoraLibrary(folders), base, tags) for base in seeds]
        rows = []
        for ((name, weight), spent), score in zip(judged.items(), map(mean, zip(*every, strict=True)), strict=True):
            shares = (f"{score.concept_before:.0%}", f"{score.concept_after:.0%}", f"{score.unrelated_kept:.1%}")
            rows.append((name, f"{weight:g}", *shares, *spent))
    head = ("network", "weight", "taught: before", "taught: after", "others kept", "processor seconds", "steps")
    print_table(head, rows, "The built-in model and its toy task")


if __name__ == "__main__":
    main()
