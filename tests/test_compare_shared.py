"""Several processes draw one sheet: cells are claimed, lost claims are taken over, the pictures are those of one."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from test_compare_command import checkpoint, command_output, runs

from lora_ext.compare import generate_cells
from lora_ext.compare.cell_store import CellStore
from lora_ext.compare.image_spec import ImageSpec
from lora_ext.file import name_claims
from lora_ext.file.name_claims import NameClaims

__all__ = ["checkpoint", "runs"]  # fixtures


def test_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with NameClaims(tmp_path) as first, NameClaims(tmp_path) as second:
        assert first.take("aa") and not second.take("aa") and not first.take("aa")
        owner = json.loads((tmp_path / ".aa.claim").read_text())
        assert owner["pid"] == os.getpid() and abs(owner["time"] - time.time()) < 60
        second.release("aa")  # another's claim stays
        assert not second.take("aa")
        first.release("aa")
        assert second.take("aa")
        monkeypatch.setattr(name_claims, "LOST_SECONDS", 0.0)
        assert not first.take("aa")  # the first look
        os.utime(tmp_path / ".aa.claim", (1, 1))  # a sign of life, with whatever clock
        assert not first.take("aa")
        assert first.take("aa")  # untouched since
        second.release("aa")
        assert (tmp_path / ".aa.claim").exists()

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(name_claims.json, "dump", full)
        assert first.take("bb") and not (tmp_path / ".bb.claim").exists()  # else the next run would not have the name
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="elsewhere only the signs of life decide")
def test_a_claim_of_a_process_that_ended_is_lost_at_once(tmp_path: Path) -> None:
    with NameClaims(tmp_path) as claims:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        gone = {**claims._owner, "id": "x", "pid": ended.pid}
        (tmp_path / ".aa.claim").write_text(json.dumps(gone))
        (tmp_path / ".bb.claim").write_text(json.dumps({**gone, "host": "another"}))
        (tmp_path / ".cc.claim").write_text("[")
        assert claims.take("aa") and not claims.take("bb") and not claims.take("cc")


class SlowRenderer:
    title = "slow"

    def __init__(self) -> None:
        self.drawn: list[str] = []

    def identity(self, image_spec: ImageSpec) -> str:
        return ""

    def batch_key(self, image_spec: ImageSpec) -> str:
        return ""

    def generate(
        self, image_specs: Sequence[ImageSpec], on_step: generate_cells.DenoisingCallback
    ) -> list[Image.Image]:
        time.sleep(0.02)
        self.drawn += [image_spec.prompt for image_spec in image_specs]
        return [Image.new("RGB", (8, 8)) for _ in image_specs]


def test_each_cell_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate_cells, "WAIT_SECONDS", 0.01)
    image_specs = [ImageSpec(str(number)) for number in range(20)]
    renderers = [SlowRenderer() for _ in range(3)]
    progress: list[generate_cells.SheetProgress] = []

    def draw(renderer: SlowRenderer) -> None:
        progress.append(generate_cells.generate_cells(image_specs, renderer, CellStore(tmp_path), batch=2))

    threads = [threading.Thread(target=draw, args=[renderer]) for renderer in renderers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(prompt for renderer in renderers for prompt in renderer.drawn) == sorted(
        spec.prompt for spec in image_specs
    )
    assert all(renderer.drawn for renderer in renderers)
    assert [now.done for now in progress] == [20] * 3 and sum(now.done - now.kept for now in progress) == 20
    assert not list((tmp_path / "cells").glob(".*"))


def test_cells_that_others_finish_before_they_are_claimed_are_counted(tmp_path: Path) -> None:
    class Overtaken(SlowRenderer):
        def batch_key(self, image_spec: ImageSpec) -> str:
            """Asked after the first look at the store."""
            CellStore(tmp_path).save_image(image_spec.key(""), Image.new("RGB", (8, 8)), 0)
            return ""

    image_specs = [ImageSpec(str(number)) for number in range(3)]
    progress = generate_cells.generate_cells(image_specs, Overtaken(), CellStore(tmp_path))
    assert (progress.done, progress.kept, len(progress.newest)) == (3, 3, 3)


def test_processes_agree_on_a_random_seed(tmp_path: Path) -> None:
    one, two, axes = CellStore(tmp_path), CellStore(tmp_path), ("weight:0-1", "", "")
    base = {"prompt": "a", "seed": -1, "lora": ""}
    assert one.agreed_seed(base, axes, 5) == 5 == two.agreed_seed({**base, "seed": -1}, axes, 6)
    assert two.agreed_seed(base, ("weight:0-2", "", ""), 7) == 7


@pytest.mark.long
def test_one_of_two_processes_is_killed(
    checkpoint: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = ("--prompt", "a b", "--x", "epoch:all", "--y", "seed:1,2,3", "--batch", "1", "--no_scores")
    alone = command_output(capsys, checkpoint, runs, tmp_path / "alone", *axes)
    shared, cells = tmp_path / "shared", tmp_path / "shared" / "cells"
    command = [
        sys.executable, "-m", "lora_ext", "compare", "--ckpt", str(checkpoint / "SD1.safetensors"),
        "--lora_dir", str(runs), "--device", "cpu", "--out", str(shared), "--width", "64", "--height", "64",
        "--steps", "2", "--sampler", "Euler", "--json", *axes,
    ]  # fmt: skip
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    deadline = time.monotonic() + 200

    def claimed_by(process: subprocess.Popen[str]) -> bool:
        owners = []
        for path in cells.glob(".*.claim"):
            try:
                owners.append(json.loads(path.read_text())["pid"])
            except (OSError, ValueError):  # released, or not written yet
                continue
        return process.pid in owners

    while not (len(list(cells.glob("*.png"))) >= 2 and claimed_by(both[0])):
        assert time.monotonic() < deadline and both[0].poll() is None
        time.sleep(0.01)
    both[0].kill()
    both[0].wait()
    made = json.loads(both[1].communicate(timeout=200)[0])
    assert both[1].returncode == 0 and made["cells"] == alone["cells"] == 9
    assert 0 < made["drawn"] <= 9 and made["drawn"] + made["kept"] == 9
    assert sorted(p.name for p in cells.glob("*.png")) == sorted(
        p.name for p in (tmp_path / "alone" / "cells").glob("*.png")
    )
    for path in (tmp_path / "alone").rglob("*.png"):  # cells and the sheet
        assert Image.open(path).tobytes() == Image.open(shared / path.relative_to(tmp_path / "alone")).tobytes()
    assert not list(cells.glob(".*.claim"))
