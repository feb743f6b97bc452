"""6 epochs × 3 weights × 2 seeds on the embedded model: in batches as one by one, gone on with after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lora_ext
from lora_ext.embedded import CHECKPOINT
from lora_ext.generate import Settings
from lora_ext.generate.compare_command import compare
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.training import train

if not Path(CHECKPOINT).is_file():
    pytest.skip("no embedded model in this installation", allow_module_level=True)
AXES = {"x": "epoch:all", "y": "weight:0.2-1.4(+0.6)", "z": "seed:1,2", "lora": "run"}
CELLS = 6 * 3 * 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six files of a short training."""
    root = tmp_path_factory.mktemp("run")
    (root / "pictures").mkdir()
    for number, colour in enumerate(("red", "green", "blue", "yellow")):
        Image.new("RGB", (64, 64), colour).save(root / "pictures" / f"{number}.png")
    out = root / "out"
    made = train(
        recipe_from_settings({"train_data_dir": str(root / "pictures"), "output_dir": str(out), "output_name": "run",
                   "resolution": "64", "network_dim": 2, "learning_rate": 0.02, "train_batch_size": 4,
                   "max_train_epochs": 6, "save_every_n_epochs": 1, "seed": 1, "device": "cpu"})
    )  # fmt: skip
    assert [path.stem for path in made.files] == [*(f"run-{epoch:06}" for epoch in range(1, 6)), "run"]
    return out


def settings(run: Path) -> Settings:
    return Settings(prompt="a red circle", lora_dir=(run,), steps=2, cfg=2.0, sampler="Euler", device="cpu", seed=1)


def cells(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "sheet.json").read_text(encoding="utf-8"))["cells"]
    return found


def picture(folder: Path, cell: dict[str, Any]) -> tuple[np.ndarray, str]:
    with Image.open(folder / cell["file"]) as image:
        return np.asarray(image.convert("RGB"), int), str(image.info["parameters"])


def same(one: Path, other: Path) -> None:
    """All cells are alike, with the same infotext."""
    for a, b in zip(cells(one), cells(other), strict=True):
        (pixels, said), (others, other_infotext) = picture(one, a), picture(other, b)
        assert np.abs(pixels - others).max() <= 1 and said == other_infotext and said.startswith(a["prompt"])


@pytest.fixture(scope="module")
def batched(run: Path) -> Path:
    folder = run / "batched"
    made = compare(settings(run), **AXES, no_scores=True, out=folder, batch=8, json=True)
    assert (made["cells"], made["drawn"], made["kept"]) == (CELLS, CELLS, 0)
    return folder


@pytest.mark.long
def test_36_cells_in_batches_as_one_by_one(run: Path, batched: Path) -> None:
    compare(settings(run), **AXES, no_scores=True, out=run / "alone", batch=1, json=True)
    same(batched, run / "alone")
    found = cells(batched)
    names = [*(f"run-{epoch:06}" for epoch in range(1, 6)), "run"]
    assert [cell["tag"] for cell in found[:7]] == [f"<lora:{name}:0.2>" for name in names] + ["<lora:run-000001:0.8>"]
    assert [cell["seed"] for cell in found] == [1] * 18 + [2] * 18
    shown = [picture(batched, cell)[0] for cell in found[:18]]
    assert np.abs(shown[5] - shown[17]).max() > 8  # the files do something


@pytest.mark.long
def test_going_on_after_a_kill_leaves_no_cell_twice_and_none_missing(run: Path, batched: Path) -> None:
    out, asked = run / "killed", settings(run)
    argv = ["--prompt", asked.prompt, "--lora_dir", str(run), "--steps", "2", "--cfg", "2", "--sampler", "Euler",
            "--seed", "1", "--device", "cpu", "--no-scores", "--batch", "2", "--out", str(out)]  # fmt: skip
    argv += [part for name, value in AXES.items() for part in (f"--{name}", value)]
    root = str(Path(lora_ext.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "lora_ext", "compare", *argv],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 300
    while len(list(out.glob("cells/0*.png"))) < 6 and time.monotonic() < end and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = {path.name for path in out.glob("cells/0*.png")}
    assert 6 <= len(before) < CELLS
    made = compare(asked, **AXES, no_scores=True, out=out, batch=8, json=True)
    assert made["kept"] == len(before) and made["drawn"] == CELLS - len(before)
    files = {path.name for path in out.glob("cells/*")}
    assert len(files) == CELLS == len({name.partition("-")[0] for name in files}) and before <= files
    same(batched, out)
