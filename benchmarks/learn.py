"""Does training teach? The lesson of the small model by every kind of network, judged by the pictures' own checker.

    python benchmarks/learn.py [--only lierla c3lier dylora pivotal] [--threads 2] [--out DIR]

A scheme of colours that the model has never seen is learned from 20 drawn pictures, beside plain ones for
regularisation. The table has the share of new prompts that are obeyed before and after, what is kept of the score on
unrelated prompts, and seconds. DyLoRA is trained once and split; each rank is judged.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lora_ext.file.library import Library
from lora_ext.file.reading import read
from lora_ext.file.writing import write
from lora_ext.generate import open_model
from lora_ext.tools.split import split
from lora_ext.training import lesson

WHOLE = {"conv_dim": None, "conv_alpha": None, "max_train_epochs": 6, "save_every_n_epochs": None}
KINDS: dict[str, dict[str, Any]] = {
    "lierla": {"network_module": "lierla", "learning_rate": 8e-4, **WHOLE},
    "c3lier": {},
    "dylora": {
        **WHOLE, "network_module": "dylora", "unit": 4, "network_dim": 16, "network_alpha": 16, "learning_rate": 1e-3,
        "max_train_epochs": 8,
    },
    "pivotal": {"token_string": lesson.CONCEPT, "init_word": "black", "inversion_steps": 60, "inversion_lr": 5e-3},
}  # fmt: skip


def files(kind: str, trained: Path) -> Iterator[Path]:
    """What is judged: the file, or for DyLoRA each rank of it."""
    if kind != "dylora":
        yield trained
        return
    parts, _ = split(read(trained))
    for rank, file in parts.items():
        yield write(file, trained.with_name(f"{kind}-rank{rank:02}.safetensors"))


def main() -> None:
    """Trains and judges the kinds asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="keeps the files and the sheets of pictures there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = lesson.DRAWN
    model = open_model(base)
    print(f"{'network':>12} {'before':>7} {'after':>7} {'unrelated kept':>15} {'seconds':>8} {'steps':>6}")
    with tempfile.TemporaryDirectory() as temporary:
        for kind in options.only:
            out = (options.out or Path(temporary)) / kind
            outcome = lesson.teach(model, out, output_name=kind, **KINDS[kind])
            paths = list(files(kind, outcome.files[-1]))
            tags = [f"<lora:{path.stem}:1>" for path in paths]
            for path, judged in zip(paths, lesson.judge(model, Library([out]), base, tags), strict=True):
                print(
                    f"{path.stem:>12} {judged.concept_before:7.0%} {judged.concept_after:7.0%} "
                    f"{judged.unrelated_kept:15.0%} {outcome.seconds:8.0f} {outcome.steps:6}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
