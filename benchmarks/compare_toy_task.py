"""Is the suggested cell a good one? A run saved six times learns the toy task's concept; its sheet (6 files × 7 weights
× 2 seeds) suggests a file and weight; `training.toy_task` scores how well the concept, and what was known before, are
drawn with it.

    python benchmarks/compare_toy_task.py [--out DIR] [--steps 12] [--every]

Prints the scores of the suggestion, of the gentlest and of the strongest choice (--every: of all 42), and ends with
1 where the suggested one is untrained or overtrained.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from lora_ext.compare.scores import find_training_images
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.generate import Settings, load_settings_model
from lora_ext.generate.compare_command import compare
from lora_ext.training import toy_task

EPOCHS = 6
WEIGHTS = "weight:0.2-1.4(+0.2)"
LEARNED, KEPT = 0.7, 0.7
"""A choice is untrained below this share of the best scored one's gain on new prompts of the concept, overtrained where
less than this share of the score on known shapes is left."""


def files(out: Path) -> Path:
    """The folder with the toy task's files, saved 6 times; those that are there are not trained again."""
    if len(list(out.glob(f"{toy_task.TOY_CONCEPT}*.safetensors"))) < EPOCHS:
        folders = (out / "dataset" / "pictures", out / "dataset" / "regularisation")
        epochs = toy_task.toy_recipe(folders, out).max_train_epochs or EPOCHS
        every = -(-epochs // EPOCHS)
        toy_task.train_toy_lora(
            load_settings_model(Settings()), out, max_train_epochs=EPOCHS * every, save_every_n_epochs=every
        )
    return out


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(tempfile.mkdtemp()))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--every", action="store_true", help="score all 42 choices")
    given = parser.parse_args()
    out = files(given.out)
    base = Settings(prompt=toy_task.TOY_PROMPTS[0], lora_dir=(out,), steps=given.steps, cfg=3, seed=7)
    pictures = find_training_images(out / "dataset" / "pictures")
    summary = compare(
        base, x="epoch:all", y=WEIGHTS, z="seed:1,2", lora=toy_task.TOY_CONCEPT, images=pictures, out=out / "sheet"
    )
    print(summary["sheets"], summary["suggestion"], sep="\n")
    rows = json.loads((out / "sheet" / "sheet.json").read_text(encoding="utf-8"))["cells"]
    every = list(dict.fromkeys(row["tag"] for row in rows))
    if not summary["tag"]:
        return 1
    tags = every if given.every else list(dict.fromkeys((every[0], summary["tag"], every[5 + 6 * 4], every[-1])))
    model, library = load_settings_model(base), LoraLibrary([out])
    scored = dict(zip(tags, toy_task.score_toy_loras(model, library, replace(base, prompt=""), tags), strict=True))
    before = next(iter(scored.values())).concept_before
    for tag, found in scored.items():
        mark = "  <- suggested" if tag == summary["tag"] else ""
        print(f"{tag:<28} new prompts {found.concept_before:.0%} -> {found.concept_after:.0%}, known shapes kept "
              f"{found.unrelated_kept:.0%}{mark}")  # fmt: skip
    best = max(found.concept_after for found in scored.values()) - before
    chosen = scored[summary["tag"]]
    learned, kept = (chosen.concept_after - before) / max(best, 1e-6), chosen.unrelated_kept
    good = best > 0 and learned >= LEARNED and kept >= KEPT
    print(f"the suggestion has {learned:.0%} of the best gain and keeps {kept:.0%}: {'good' if good else 'NOT GOOD'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
