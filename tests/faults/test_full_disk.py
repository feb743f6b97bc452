"""A disk that fills up, or is write-protected, at each write of each tool. On Linux, for a user who may mount one."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from forked_process import run_forked
from safetensors.torch import load_file
from test_killed_tools import LORAS, TOOLS, inputs, same_tensors  # noqa: F401  a fixture
from tiny_trainable_model import pictures, recipe, resuming, train_as_a_command

from lora_ext.adapter_spec import Presets
from lora_ext.cli import main
from lora_ext.embedded import CHECKPOINT
from lora_ext.errors import LoraError
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.file.preset_file import load_preset_file
from lora_ext.training.standalone_run import SilentHost
from lora_ext.web.file_catalogue import FileCatalogue
from lora_ext.web.preset_store import PRESETS_FILE, PresetStore

SIZES = 12
"""Sizes of the disk that are tried for each tool."""


def mount(folder: Path, options: str) -> bool:
    """Mounts a small disk in memory, or mounts it anew. Whether that was possible."""
    return (
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True).returncode
        == 0
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount(folder, "size=64m"):
        pytest.skip("no small disk can be mounted here (it takes Linux and root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def resize_disk(folder: Path, size: int) -> None:
    """Less than what is on it is refused by the system."""
    assert mount(folder, f"remount,size={size}")


def one_sentence(log: Path, words: str) -> None:
    """What a user sees: one line that names the reason, no traceback."""
    said = log.read_text(encoding="utf-8")
    assert "Traceback" not in said, said
    sentence = said.rpartition("lora-ext: ")[2]  # a bar of progress may stand before it
    assert "\n" not in sentence.strip() and words in sentence, said


@pytest.mark.parametrize("tool", TOOLS)
def test_a_full_disk_leaves_the_old_file_and_one_sentence(
    tool: str,
    inputs: Path,  # noqa: F811
    disk: Path,
    tmp_path: Path,
    moments: random.Random,
    record_property: Callable[[str, object], None],
) -> None:
    old, out, log = inputs / "b.safetensors", disk / "x.safetensors", tmp_path / "log"
    argv = [str(inputs / part) if (inputs / part).exists() else part for part in TOOLS[tool]]
    work = lambda: main([*argv, "--save_to", str(out), "--overwrite"])  # noqa: E731
    assert run_forked(work, log)[0] == 0
    wanted = shutil.copy(out, tmp_path / "wanted.safetensors")
    needed, kept = out.stat().st_size, old.stat().st_size
    shutil.copy(old, out)
    for _ in range(SIZES):
        resize_disk(disk, kept + moments.randrange(4096, needed))
        log.write_text("")
        assert run_forked(work, log)[0] == 2, log.read_text(encoding="utf-8")
        one_sentence(log, "MB free")
        assert [path.name for path in disk.iterdir()] == ["x.safetensors"] and same_tensors(out, old)
    resize_disk(disk, 64 * 2**20)
    assert run_forked(work, log)[0] == 0 and same_tensors(out, wanted)
    record_property("full", SIZES)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_disk_that_becomes_write_protected(tool: str, inputs: Path, disk: Path, tmp_path: Path) -> None:  # noqa: F811
    old, out, log = inputs / "b.safetensors", disk / "x.safetensors", tmp_path / "log"
    argv = [str(inputs / part) if (inputs / part).exists() else part for part in TOOLS[tool]]
    shutil.copy(old, out)
    assert mount(disk, "remount,ro")
    assert run_forked(lambda: main([*argv, "--save_to", str(out), "--overwrite"]), log)[0] == 2
    one_sentence(log, "Read-only file system")
    assert same_tensors(out, old)


def test_training_on_a_disk_that_fills_up(
    disk: Path, tmp_path: Path, moments: random.Random, record_property: Callable[[str, object], None]
) -> None:
    """It ends in one sentence; what was saved is whole; with more room it goes on to the same file."""
    data, log = pictures(tmp_path / "data"), tmp_path / "log"
    options = {"save_state": True, "save_every_n_steps": 2}

    def run(folder: Path) -> int:
        return train_as_a_command(recipe(data, folder, **options, **resuming(folder)))

    assert run_forked(lambda: run(tmp_path / "whole"), log)[0] == 0, log.read_text(encoding="utf-8")
    whole = tmp_path / "whole" / "last.safetensors"
    needed = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    for number in range(SIZES):
        out = disk / str(number)
        resize_disk(disk, 64 * 2**20)
        taken = shutil.disk_usage(disk).used
        resize_disk(disk, taken + moments.randrange(4096, int(0.9 * needed)))
        log.write_text("")
        assert run_forked(partial(run, out), log)[0] == 2, log.read_text(encoding="utf-8")
        one_sentence(log, "No space left on device")
        for path in out.glob("*.safetensors"):
            assert load_file(path).keys() == load_file(whole).keys()
        resize_disk(disk, 64 * 2**20)
        assert run_forked(partial(run, out), log)[0] == 0, log.read_text(encoding="utf-8")
        assert same_tensors(out / "last.safetensors", whole)
    record_property("full", SIZES)


def test_training_into_a_folder_that_becomes_write_protected(disk: Path, tmp_path: Path) -> None:
    """It ends in one sentence, what was saved is whole, and once the disk may be written to it goes on."""
    data, log, out = pictures(tmp_path / "data"), tmp_path / "log", disk / "run"
    options = {"save_state": True, "save_every_n_steps": 2}

    class Protecting(SilentHost):
        def progress(self, done: int, total: int, text: str) -> None:
            if done == 5:  # the table that the run has open would keep the disk itself from it
                for options in (["--bind", str(out), str(out)], ["-o", "remount,bind,ro", str(out)]):
                    subprocess.run(["mount", *options], check=True)

    def run(folder: Path, host: SilentHost | None = None, **more: str) -> int:
        return train_as_a_command(recipe(data, folder, **options, **more), host=host)

    assert run_forked(lambda: run(tmp_path / "whole"), log)[0] == 0, log.read_text(encoding="utf-8")
    log.write_text("")
    assert run_forked(lambda: run(out, Protecting()), log)[0] == 2, log.read_text(encoding="utf-8")
    one_sentence(log, "Read-only file system")
    for path in out.glob("*.safetensors"):
        load_file(path)
    subprocess.run(["umount", str(out)], check=True)
    assert run_forked(lambda: run(out, resume=str(out)), log)[0] == 0, log.read_text(encoding="utf-8")
    assert same_tensors(out / "last.safetensors", tmp_path / "whole" / "last.safetensors")


def test_a_sheet_on_a_disk_that_becomes_write_protected(disk: Path, tmp_path: Path) -> None:
    argv = ["compare", "--prompt", "a red circle", "--x", "seed:1,2", "--steps", "2", "--device", "cpu",
            "--no-scores", "--batch", "1", "--ckpt", str(CHECKPOINT), "--out", str(disk / "sheet")]  # fmt: skip
    log = tmp_path / "log"
    assert run_forked(partial(main, argv), log)[0] == 0, log.read_text(encoding="utf-8")
    before = {path.name: path.read_bytes() for path in (disk / "sheet").rglob("*.*") if path.is_file()}
    assert mount(disk, "remount,ro")
    argv[4] = "seed:1,2,3"
    log.write_text("")
    assert run_forked(partial(main, argv), log)[0] == 2, log.read_text(encoding="utf-8")
    one_sentence(log, "Read-only file system")
    assert before == {path.name: path.read_bytes() for path in (disk / "sheet").rglob("*.*") if path.is_file()}


def test_presets_and_the_library_s_summaries_on_a_disk_that_becomes_write_protected(disk: Path, tmp_path: Path) -> None:
    """A preset is refused in a sentence; the library is listed without its summaries being kept."""
    store = PresetStore(disk, lambda: Presets({}, {}))
    store.save({"KEPT": ",".join(["1"] * 17)})
    shutil.copy(LORAS / "framed.safetensors", tmp_path)
    assert mount(disk, "remount,ro")
    with pytest.raises(LoraError, match="Read-only file system"):
        store.save({"NEW": ",".join(["1"] * 17)})
    assert list(load_preset_file(disk / PRESETS_FILE)[0]) == ["KEPT"]
    library = LoraLibrary([tmp_path], cache_path=disk / "cache.json")
    catalogue = FileCatalogue(library, disk / "catalogue.json")
    catalogue._work()
    library.save_cache()
    (entry,) = library.entries
    assert catalogue.cached_summary(entry)
    assert [path.name for path in disk.iterdir() if not path.name.startswith(".")] == [PRESETS_FILE]


def test_a_sheet_on_a_disk_that_fills_up(disk: Path, tmp_path: Path, moments: random.Random) -> None:
    argv = ["compare", "--prompt", "a red circle", "--x", "seed:1,2,3,4", "--steps", "2", "--device", "cpu",
            "--no-scores", "--batch", "1", "--ckpt", str(CHECKPOINT)]  # fmt: skip
    log = tmp_path / "log"
    for number in range(4):
        out = disk / str(number)
        resize_disk(disk, 64 * 2**20)
        taken = shutil.disk_usage(disk).used
        resize_disk(disk, taken + moments.randrange(4096, 30_000))
        log.write_text("")
        assert run_forked(partial(main, [*argv, "--out", str(out)]), log)[0] == 2, log.read_text(encoding="utf-8")
        one_sentence(log, "No space left on device")
        resize_disk(disk, 64 * 2**20)
        assert run_forked(partial(main, [*argv, "--out", str(out)]), log)[0] == 0, log.read_text(encoding="utf-8")
        assert len(list(out.glob("cells/*.png"))) == 4


def test_presets_on_a_full_disk_stay(disk: Path) -> None:
    store = PresetStore(disk, lambda: Presets({}, {}))
    store.save({"KEPT": ",".join(["1"] * 17)})
    resize_disk(disk, 8192)
    (disk / "filler").write_bytes(b"x" * 4096)
    with pytest.raises(Exception, match="No space left"):
        store.save({f"NEW{number}": ",".join(["1"] * 17) for number in range(200)})
    assert list(load_preset_file(disk / PRESETS_FILE)[0]) == ["KEPT"]
