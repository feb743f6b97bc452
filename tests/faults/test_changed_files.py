"""Files that another program changes meanwhile: cut, replaced, deleted, written at once; a clock that is set back."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked_process import fork, run_forked
from test_killed_tools import TOOLS, inputs, same_tensors  # noqa: F401  a fixture
from tiny import Tiny, lora_file

from lora_ext.api import apply
from lora_ext.cli import main
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.file.saving import save_lora_file


def cut(path: Path) -> None:
    os.truncate(path, 0)


def overwrite(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


def replace(path: Path) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(b"not a file of tensors")
    other.replace(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "cut": cut,
    "overwritten": overwrite,
    "replaced": replace,
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("mode", ["live", "baked"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_applied(change: str, mode: str, tmp_path: Path) -> None:
    """The picture stays, and so does the process: numbers that were read from a mapped file would end it (SIGBUS)."""
    path = tmp_path / "a.safetensors"

    def work() -> int:
        model = Tiny()
        before = model.draw()
        save_lora_file(lora_file(model, wide=True, std=0.1), path)
        with apply(model, {path: 0.8}, mode=mode):
            wanted = model.draw()
            CHANGES[change](path)
            assert all(map(torch.equal, model.draw(), wanted))
        assert all(map(torch.equal, model.draw(), before)) and not torch.equal(before[1], wanted[1])
        return 0

    log = tmp_path / "log"
    assert run_forked(work, log)[0] == 0, log.read_text(encoding="utf-8")


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_of_the_library_that_changes(change: str, tmp_path: Path) -> None:
    """The library reads what is there now, or says that it is gone."""
    path = tmp_path / "a.safetensors"

    def work() -> int:
        save_lora_file(lora_file(Tiny(), std=0.1), path)
        library = LoraLibrary([tmp_path])
        held = library.load("a")
        CHANGES[change](path)
        with pytest.raises(Exception, match="a") as refused:
            library.find_current("a").load()
        assert type(refused.value).__module__ == "lora_ext.errors", repr(refused.value)
        assert all(
            torch.isfinite(tensor).all() for adapter in held.adapters.values() for tensor in adapter.tensors.values()
        )
        return 0

    log = tmp_path / "log"
    assert run_forked(work, log)[0] == 0, log.read_text(encoding="utf-8")


def test_a_clock_that_is_set_back(tmp_path: Path) -> None:
    """A new file that is older than the one it replaces, and has its size, is read."""
    model, path = Tiny(), tmp_path / "a.safetensors"
    save_lora_file(lora_file(model, seed=1), path)
    library = LoraLibrary([tmp_path], cache_path=tmp_path / "cache.json")
    library.save_cache()
    size, first = path.stat().st_size, library.load("a")
    save_lora_file(lora_file(model, seed=2), path, overwrite=True)
    assert path.stat().st_size == size
    long_ago = time.time() - 10 * 365 * 86400
    os.utime(path, (long_ago, long_ago))
    for read in (library, LoraLibrary([tmp_path], cache_path=tmp_path / "cache.json")):
        second = read.find_current("a").load()
        layer_id = next(iter(second.adapters))
        assert not torch.equal(
            first.adapters[layer_id].tensors["lora_up.weight"], second.adapters[layer_id].tensors["lora_up.weight"]
        )


@pytest.mark.parametrize("tool", TOOLS)
def test_two_programs_write_one_name(tool: str, inputs: Path, tmp_path: Path) -> None:  # noqa: F811
    """With --overwrite the last one's file is whole; without it one of them is refused."""
    argv = [str(inputs / part) if (inputs / part).exists() else part for part in TOOLS[tool]]
    wanted, out = tmp_path / "wanted.safetensors", tmp_path / "out" / "x.safetensors"
    out.parent.mkdir()
    assert run_forked(lambda: main([*argv, "--save_to", str(wanted)]), tmp_path / "log")[0] == 0
    for more, statuses in ((["--overwrite"], [0, 0]), ([], [0, 2])):
        for _ in range(5):
            out.unlink(missing_ok=True)
            work = lambda: main([*argv, "--save_to", str(out), *more])  # noqa: B023, E731
            processes = [fork(work, tmp_path / f"log{number}") for number in range(2)]
            found = sorted(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes)
            assert found == statuses or (found == [0, 0] and not more)
            assert same_tensors(out, wanted) and [path.name for path in out.parent.iterdir()] == [out.name]
    shutil.rmtree(out.parent)
