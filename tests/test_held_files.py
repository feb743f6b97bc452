"""A file that another program holds open (Windows: PermissionError when it is replaced): one sentence, nothing lost."""

from __future__ import annotations

import csv
import errno
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_compare_sheet import FrameRenderer, sheet
from test_lora_library import put
from tiny_trainable_model import RecordingHost, pictures, recipe, tiny_model

from lora_ext.command_line import check_output_path
from lora_ext.compare.build_sheet import build_sheet
from lora_ext.compare.cell_store import CellStore as SheetStore
from lora_ext.compare.scores import Scorer
from lora_ext.errors import FileError, TrainError
from lora_ext.file import saving
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.file.saving import FileInUseError, replace_file, replacing_file, save_here_or_beside
from lora_ext.tools.merge_into_checkpoint import merge_into_checkpoint
from lora_ext.tools.merge_into_folder import replacing_folder
from lora_ext.train.data.content_cache import TensorCache
from lora_ext.train.run import training_state
from lora_ext.train.run.training_log import TrainingLog
from lora_ext.train.run.training_state import TrainingState
from lora_ext.training.standalone_run import train

Hold = Callable[..., None]


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hold]:
    """Files by name that cannot be replaced or moved from then on, as Windows does it."""
    held: set[str] = set()
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if (Path(target).name in held and Path(target).exists()) or self.name in held:
            raise PermissionError(errno.EACCES, "The process cannot access the file because it is being used")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(saving, "_PAUSES", (0.0,))
    yield lambda *names: held.update(names)


def test_one_sentence_and_the_old_file(tmp_path: Path, hold: Hold) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old", encoding="utf-8")
    hold("a.csv")
    said = r"a\.csv cannot be written: another program has it open.*close it there"
    with pytest.raises(FileInUseError, match=said), replacing_file(path, overwrite=True) as part:
        part.write_text("new", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "old" and [p.name for p in tmp_path.iterdir()] == ["a.csv"]
    messages: list[str] = []
    for number in (2, 3):
        made = save_here_or_beside(path, lambda part: part.write_text("new", encoding="utf-8"), messages.append)
        assert made.name == f"a-{number}.csv" and made.read_text(encoding="utf-8") == "new"
    assert "saved as a-2.csv" in messages[0] and len(messages) == 2 and path.read_text(encoding="utf-8") == "old"


def test_a_scanner_holds_a_file_for_a_moment_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise PermissionError(errno.EACCES, "used")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with replacing_file(tmp_path / "a", overwrite=True) as part:
        part.write_text("new", encoding="utf-8")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "new" and tries == 3


def test_a_file_that_this_system_protects(tmp_path: Path) -> None:
    """By real means, where they are there: a file that not even root may replace."""
    path = tmp_path / "a.csv"
    path.write_text("old", encoding="utf-8")
    chattr = shutil.which("chattr")
    if chattr is None or subprocess.run([chattr, "+i", str(path)], capture_output=True).returncode:
        pytest.skip("no chattr here, or it may not be used")
    try:
        with pytest.raises(FileInUseError, match="write-protected"), replacing_file(path, overwrite=True) as part:
            part.write_text("new", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old" and [p.name for p in tmp_path.iterdir()] == ["a.csv"]
    finally:
        subprocess.run([chattr, "-i", str(path)], check=True)


def test_a_protected_file_and_a_link_are_refused_before_the_work(tmp_path: Path) -> None:
    protected, link = tmp_path / "kept.safetensors", tmp_path / "link.safetensors"
    protected.write_text("old", encoding="utf-8")
    protected.chmod(0o444)
    link.symlink_to("elsewhere.safetensors")
    for path, says in ((protected, "write-protected"), (link, "is a link")):
        with pytest.raises(FileError, match=says), replacing_file(path, overwrite=True) as part:
            part.write_text("new", encoding="utf-8")
        with pytest.raises(FileError, match=says):
            check_output_path(path, overwrite=True)
        with pytest.raises(FileError, match=says):
            merge_into_checkpoint(tmp_path, [], path, overwrite=True)
    assert protected.read_text(encoding="utf-8") == "old" and not (tmp_path / "elsewhere.safetensors").exists()


def test_another_error_is_no_held_file(tmp_path: Path) -> None:
    (tmp_path / "full" / "in").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    with pytest.raises(OSError):
        replace_file(tmp_path / "other", tmp_path / "full")
    assert (tmp_path / "other").is_dir() and (tmp_path / "full" / "in").is_dir()


@pytest.mark.long
def test_a_finished_training_is_not_lost(tmp_path: Path, hold: Hold) -> None:
    out = tmp_path / "out"
    (tmp_path / "prompts.txt").write_text("a thing --w 64 --h 64 --s 1 --d 1", encoding="utf-8")
    settings = {
        "max_train_steps": 2, "save_every_n_epochs": 1, "save_state": True, "save_state_on_train_end": True,
        "sample_prompts": str(tmp_path / "prompts.txt"), "sample_every_n_epochs": 1,
    }  # fmt: skip
    made = recipe(pictures(tmp_path / "data"), out, **settings)
    first = train(made, model=tiny_model())
    names = {path.name for path in out.rglob("*") if path.is_file()}
    before = {path: path.read_bytes() for path in out.rglob("*.safetensors")}
    hold("last.safetensors", "last.csv", "last-samples.png", "last-state", *(p.name for p in out.glob("sample/*")))
    shell = RecordingHost()
    again = train(made, model=tiny_model(), host=shell)
    assert first.file is not None and again.file is not None and again.file.name == "last-2.safetensors"
    assert again.file in again.files and again.sheet is not None and again.sheet.name == "last-samples-2.png"
    assert load_file(again.file).keys() == load_file(first.file).keys()
    assert all(path.read_bytes() == content for path, content in before.items() if path.name == "last.safetensors")
    assert (
        again.state is not None
        and again.state.name == "last-2-state"
        and training_state.load_training_state(again.state).step == again.steps
    )
    assert (out / "last-state").is_dir() and (out / "last-2.csv").is_file()
    assert names <= {path.name for path in out.rglob("*")}
    assert not [path for path in out.rglob("*") if path.name.endswith((".part", ".old"))]
    for name in ("last.safetensors", "last.csv", "last-samples.png", "last-state"):
        assert any(name in line and "open in another program" in line for line in shell.said), (name, shell.said)


def test_a_state_that_is_read_meanwhile(tmp_path: Path, hold: Hold) -> None:
    folder = tmp_path / "a-state"
    training_state.save_training_state(TrainingState(step=1), folder)
    hold("a-state")
    assert training_state.save_training_state(TrainingState(step=2), folder).name == "a-2-state"
    assert (
        training_state.load_training_state(folder).step == 1
        and training_state.load_training_state(tmp_path, "a").step == 2
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-2-state", "a-state"]


def test_a_table_that_is_open_while_it_grows(tmp_path: Path) -> None:
    said: list[str] = []
    log = TrainingLog(tmp_path / "a.csv", notify=said.append)
    log.open()

    class Locked:
        """Excel holds a lock on the rows."""

        def __init__(self, file: object) -> None:
            self.file, self.locked = file, True

        def write(self, data: bytes) -> int:
            if self.locked:
                raise PermissionError(errno.EACCES, "Permission denied")
            return self.file.write(data)  # type: ignore[attr-defined,no-any-return]

        def close(self) -> None:
            self.file.close()  # type: ignore[attr-defined]

    log._file = locked = Locked(log._file)
    log._write([[1, 2.5]])
    log._write([[2, 3.5]])
    assert len(said) == 1 and "a.csv is open in another program" in said[0]
    locked.locked = False
    log._write([[3, 4.5]])
    locked.locked = True
    log._write([[4, 5.5]])
    log.close()
    rows = [list(csv.reader(path.open(encoding="utf-8"))) for path in (tmp_path / "a.csv", tmp_path / "a-2.csv")]
    assert [row[0] for row in rows[0]] == ["step", "1", "2", "3"] and [row[0] for row in rows[1]] == ["step", "4"]
    assert "a-2.csv" in said[-1]


def test_a_table_that_is_open_at_the_start(tmp_path: Path, hold: Hold) -> None:
    (tmp_path / "a.csv").write_text("mine", encoding="utf-8")
    hold("a.csv")
    said: list[str] = []
    log = TrainingLog(tmp_path / "a.csv", notify=said.append)
    log.open()
    log.close()
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "mine" and "a-2.csv" in said[0]
    with pytest.raises(TrainError, match="cannot be written"):
        TrainingLog(tmp_path / "nowhere" / "a.csv").open()


def test_a_model_folder_that_is_loaded(tmp_path: Path, hold: Hold) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("old", encoding="utf-8")
    hold("model")
    with pytest.raises(FileError, match="model cannot be written: another program"), replacing_folder(target) as part:
        (part / "new").write_text("new", encoding="utf-8")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "old"]


def test_a_cached_picture_that_another_run_reads(tmp_path: Path, hold: Hold) -> None:
    store = TensorCache(tmp_path)
    store.add("k", {"x": torch.ones(2)})
    hold("k.safetensors")
    store.add("k", {"x": torch.ones(2)})
    assert store.get("k") is not None and len(list(tmp_path.iterdir())) == 1


def test_a_rename_is_whole_or_not_at_all(tmp_path: Path, hold: Hold) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from test_web import Client

    api = Client(tmp_path)
    loras = tmp_path / "loras"
    put(loras, "cat.safetensors")
    for name in ("cat.png", "cat.json", "cat.txt"):
        (loras / name).write_bytes(b"x")
    api.app_state.refresh_library()
    before = {path.name for path in loras.iterdir()}
    for held in ("cat.json", "cat.safetensors"):
        hold(held)
        said = api("POST", "/rename", 400, json={"name": "cat", "to": "dog"})["error"]
        assert "cat cannot be renamed: another program has" in said and "nothing was changed" in said
        assert {path.name for path in loras.iterdir()} == before
    api.app_state.jobs.close()


@pytest.mark.long
@pytest.mark.parametrize("held", ["sheet", "scores.csv"])
def test_a_sheet_that_someone_looks_at(held: str, tmp_path: Path, hold: Hold) -> None:
    """The pictures and the manifest are kept; the same command then draws nothing anew."""
    for epoch in range(1, 7):
        put(tmp_path / "loras", f"run-{epoch:06}.safetensors")
    made, store = sheet(LoraLibrary([tmp_path / "loras"]), "1"), SheetStore(tmp_path / "sheet")
    page = build_sheet(made, FrameRenderer(), store, scorer=Scorer()).files[0].name
    held = page if held == "sheet" else held
    hold(held)
    (store.folder / "sheet.json").unlink()
    renderer = FrameRenderer()
    with pytest.raises(FileError, match=rf"{held} cannot be written.*all pictures are kept"):
        build_sheet(made, renderer, store, scorer=Scorer())
    assert not renderer.drawn and (store.folder / "sheet.json").is_file()
