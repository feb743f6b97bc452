"""Every tool is killed with signal 9 at 50 random moments: a file is the old one or the whole new one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_process import KillReport, kill_at_random_moments, run_forked
from PIL import Image
from safetensors.torch import load_file
from tiny_trainable_model import pictures, recipe, tiny_model

from lora_ext.adapter_spec import Presets
from lora_ext.cli import main
from lora_ext.embedded import CHECKPOINT
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.file.preset_file import load_preset_file
from lora_ext.training.standalone_run import train
from lora_ext.web.file_catalogue import FileCatalogue
from lora_ext.web.preset_store import PRESETS_FILE, PresetStore

KILLS = 50
LORAS = Path(CHECKPOINT).parent / "loras"
TOOLS: dict[str, list[str]] = {
    "merge": ["merge", "--models", "a.safetensors", "b.safetensors", "--ratios", "0.5", "0.5", "--new_rank", "4"],
    "merge into a checkpoint": ["merge", "--sd_model", "model.safetensors", "--models", "a.safetensors"],
    "resize": ["resize", "--model", "a.safetensors", "--new_rank", "2"],
    "extract": ["extract", "--model_org", "model.safetensors", "--model_tuned", "tuned.safetensors", "--dim", "4"],
}


def same_tensors(first: Path, second: Path) -> bool:
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copy(LORAS / "framed.safetensors", folder / "a.safetensors")
    shutil.copy(LORAS / "striped.safetensors", folder / "b.safetensors")
    shutil.copy(CHECKPOINT, folder / "model.safetensors")
    argv = ["--models", str(folder / "a.safetensors"), "--save_to", str(folder / "tuned.safetensors")]
    assert main(["merge", "--sd_model", str(folder / "model.safetensors"), *argv]) == 0
    return folder


def report(record: Callable[[str, object], None], found: KillReport) -> None:
    record("killed", found.killed)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_leaves_the_old_file_or_the_whole_new_one(
    tool: str, inputs: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    before = {path.name: path.read_bytes() for path in inputs.iterdir()}
    old, out, wanted = inputs / "b.safetensors", tmp_path / "out" / "x.safetensors", tmp_path / "wanted.safetensors"
    out.parent.mkdir()
    argv = [str(inputs / part) if part in before else part for part in TOOLS[tool]]
    status, seconds = run_forked(lambda: main([*argv, "--save_to", str(wanted)]), tmp_path / "log")
    assert status == 0
    shutil.copy(old, out)

    def check() -> None:
        if out.read_bytes() != old.read_bytes():
            assert same_tensors(out, wanted)
            shutil.copy(old, out)
        shown = {path.name for path in out.parent.iterdir()}
        assert {name for name in shown if not name.startswith(".")} == {"x.safetensors"}

    work = lambda: main([*argv, "--save_to", str(out), "--overwrite"])  # noqa: E731
    found = kill_at_random_moments(work, check, times=KILLS, seconds=seconds, log=tmp_path / "log")
    for path in out.parent.glob(".*.part"):
        os.utime(path, (0, 0))  # a day later
    assert run_forked(work, tmp_path / "log")[0] == 0
    assert same_tensors(out, wanted) and [path.name for path in out.parent.iterdir()] == ["x.safetensors"]
    assert {path.name: path.read_bytes() for path in inputs.iterdir()} == before
    report(record_property, found)


def test_training_goes_on_after_each_kill_to_the_same_file(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """In a step, in the saving of a file, in the saving of the state."""
    data, options = pictures(tmp_path / "data"), {"save_state": True, "save_every_n_steps": 1, "shuffle_caption": True}
    log, out = tmp_path / "log", tmp_path / "killed"

    def run(folder: Path) -> int:
        states = folder.is_dir() and any(path.name.endswith("-state") for path in folder.iterdir())
        train(recipe(data, folder, **options, **({"resume": str(folder)} if states else {})), model=tiny_model())
        return 0

    status, seconds = run_forked(lambda: run(tmp_path / "whole"), log)
    assert status == 0, log.read_text(encoding="utf-8")
    whole = tmp_path / "whole" / "last.safetensors"

    def check() -> None:
        for path in out.glob("*.safetensors"):
            assert load_file(path).keys() == load_file(whole).keys()
        if (out / "last.safetensors").exists():
            assert same_tensors(out / "last.safetensors", whole)
            shutil.rmtree(out)

    found = kill_at_random_moments(lambda: run(out), check, times=KILLS, seconds=seconds, log=log)
    assert run_forked(lambda: run(out), log)[0] == 0, log.read_text(encoding="utf-8")
    assert same_tensors(out / "last.safetensors", whole)
    report(record_property, found)


def test_a_sheet_goes_on_after_each_kill(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    log, out = tmp_path / "log", tmp_path / "killed"
    argv = ["compare", "--prompt", "a red circle <lora:framed:0.8>", "--x", "weight:0.2,1", "--y", "seed:1,2",
            "--steps", "2", "--device", "cpu", "--no-scores", "--batch", "1", "--lora", "framed"]  # fmt: skip
    status, seconds = run_forked(lambda: main([*argv, "--out", str(tmp_path / "whole")]), log)
    assert status == 0, log.read_text(encoding="utf-8")

    def cells(folder: Path) -> dict[str, np.ndarray]:
        rows = json.loads((folder / "sheet.json").read_text(encoding="utf-8"))["cells"]
        return {str(row["file"]): np.asarray(Image.open(folder / row["file"])) for row in rows}

    def check() -> None:
        for path in out.glob("cells/*.png"):
            np.asarray(Image.open(path))  # whole
        if (out / "sheet.json").exists():
            json.loads((out / "sheet.json").read_text(encoding="utf-8"))
        if len(list(out.glob("cells/0*.png"))) == 4:
            shutil.rmtree(out)

    found = kill_at_random_moments(
        lambda: main([*argv, "--out", str(out)]), check, times=KILLS, seconds=seconds, log=log
    )
    assert run_forked(lambda: main([*argv, "--out", str(out)]), log)[0] == 0
    first, second = cells(tmp_path / "whole"), cells(out)
    assert len(first) == 4 and first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    report(record_property, found)


def test_presets_that_were_saved_stay(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """A preset counts as saved once the call has returned."""
    said = tmp_path / "said"

    def work() -> int:
        store, count = PresetStore(tmp_path, lambda: Presets({}, {})), 0
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        while count < 400:
            name, count = f"P{os.getpid()}N{count}", count + 1
            store.save({name: ",".join(["1"] * 17)})
            os.write(handle, f"{name}\n".encode())
        return 0

    def check() -> None:
        names = said.read_text(encoding="utf-8").split() if said.exists() else []
        assert set(names) <= set(load_preset_file(tmp_path / PRESETS_FILE)[0])

    found = kill_at_random_moments(work, check, times=KILLS, seconds=0.3, log=tmp_path / "log")
    assert len(said.read_text(encoding="utf-8").split()) > KILLS
    report(record_property, found)


def test_the_library_s_summaries_are_made_again(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    (tmp_path / "loras").mkdir()
    for number in range(12):
        shutil.copy(LORAS / "framed.safetensors", tmp_path / "loras" / f"{number}.safetensors")

    def summaries() -> dict[str, Any]:
        catalogue = FileCatalogue(LoraLibrary([tmp_path / "loras"]), tmp_path / "catalogue.json")
        catalogue._work()
        return {entry.path.name: catalogue.cached_summary(entry) for entry in catalogue.library.entries}

    wanted = summaries()
    assert len(wanted) == 12 and all(wanted.values())

    def work() -> int:
        for _ in range(20):
            (tmp_path / "catalogue.json").unlink(missing_ok=True)
            summaries()
        return 0

    found = kill_at_random_moments(
        work, lambda: summaries() == wanted or pytest.fail("other summaries"), times=KILLS, seconds=0.4,
        log=tmp_path / "log",
    )  # fmt: skip
    report(record_property, found)
