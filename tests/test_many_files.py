"""Commands on many files: which files are found, where results stand, what fails, what a second run does."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lora_ext.cli import main
from lora_ext.tools import file_processes, many_files
from lora_ext.tools.file_processes import WorkOutcome, work_in_processes
from lora_ext.tools.input_files import colliding_files, find_input_files, names_many_files

DATA = Path(__file__).parent / "data" / "kohya"
HALF = DATA / "lierla_r8a4_fp16.safetensors"
DYLORA = DATA / "in" / "dylora_r16_u4_lierla.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`loras` with two sound files, one of them in a folder with brackets in its name, and a bad one."""
    loras = tmp_path / "loras"
    (loras / "set [v1]").mkdir(parents=True)
    shutil.copy(HALF, loras / "a.safetensors")
    shutil.copy(HALF, loras / "set [v1]" / "b.safetensors")
    (loras / "bad.safetensors").write_bytes(b"none")
    (loras / "notes.txt").write_text("no LoRA")
    return loras


def lines_of(out: Path, command: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / f"lora-ext-{command}.jsonl").read_text(encoding="utf-8").splitlines()]


def run(*argv: object) -> int:
    return main([str(arg) for arg in argv])


def names(*given: Path, results: Path | None = None) -> list[str]:
    return [file.name for file in find_input_files(given, results)]


def test_files_folders_and_patterns(folder: Path) -> None:
    every = ["a", "bad", "set [v1]/b"]
    assert names(folder) == names(folder / "**" / "*.safetensors") == names(folder, folder / "a.safetensors") == every
    assert names(folder / "*") == ["a", "bad"]
    assert names(folder / "set [v1]" / "*.safetensors") == ["b"]  # its brackets are the folder's own
    assert names(folder / "set [v1]" / "b.safetensors") == ["b"]
    assert names(folder / "a.safetensors", folder / "set [v1]" / "b.safetensors") == ["a", "set [v1]/b"]
    assert names(folder, results=folder / "set [v1]") == ["a", "bad"]
    assert not names_many_files([folder / "a.safetensors"]) and not names_many_files([folder / "missing.safetensors"])
    assert names_many_files([folder]) and names_many_files([folder / "*.pt"])


def test_a_peft_folder_is_one_file(folder: Path) -> None:
    peft = folder / "cat"
    peft.mkdir()
    (peft / "adapter_config.json").write_text("{}")
    shutil.copy(HALF, peft / "adapter_model.safetensors")
    assert names(peft) == ["cat"] and not names_many_files([peft])
    assert names(folder) == ["a", "bad", "cat", "set [v1]/b"]


def test_results_of_one_name(folder: Path) -> None:
    shutil.copy(HALF, folder / "A.pt")
    clashes = colliding_files(find_input_files([folder]))
    assert {file.path.name: other.path.name for file, other in clashes.items()} == {
        "A.pt": "a.safetensors", "a.safetensors": "A.pt"
    }  # fmt: skip


def test_no_result_is_written_over_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, second, inner, outer = (
        tmp_path / f"{name}.safetensors" for name in ("a", "a-0004", "in/sub/x", "sub/x")
    )  # fmt: skip
    for file, source in ((a, DYLORA), (second, DYLORA), (inner, HALF), (outer, HALF)):
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, file)
    to = ("--overwrite", "--save_to", tmp_path)
    assert run("split-dylora", "--alpha", "keep", "--model", a, second, *to) == 2
    assert f"FAILED {a}: its result could be written over {second}" in capsys.readouterr().out
    assert second.read_bytes() == DYLORA.read_bytes() and (tmp_path / "a-0004-0004.safetensors").exists()
    assert run("resize", "--new_rank", 2, "--model", tmp_path / "in", tmp_path / "sub", *to) == 2
    assert f"FAILED {inner}: its result could be written over {outer}" in capsys.readouterr().out
    assert outer.read_bytes() == HALF.read_bytes() and (tmp_path / "x.safetensors").exists()


def test_one_bad_file_does_not_stop_the_others_and_a_second_run_does_what_is_left(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shrink = ("resize", "--model", folder, "--new_rank", 2, "--save_to", out)
    assert run(*shrink) == 2
    text = capsys.readouterr().out
    assert f"  FAILED {folder / 'bad.safetensors'} is not a valid safetensors file" in text
    assert "3 files: 2 done, 1 failed" in text and "8 -> 2" in text
    assert re.search(r"\n  \d+\.\d MB became \d+\.\d MB\n", text)
    one = tmp_path / "one.safetensors"
    assert run("resize", "--model", HALF, "--new_rank", 2, "--save_to", one) == 0
    alone, both = load_file(one), load_file(out / "set [v1]" / "b.safetensors")
    assert alone.keys() == both.keys() and all(both[key].equal(alone[key]) for key in both)
    rows = {row["name"]: row for row in lines_of(out, "resize")}
    assert rows["a"]["status"] == "done" and rows["bad"]["status"] == "failed"
    assert rows["a"]["report"]["totals"]["rank_after"] == 2 * 60  # type: ignore[index]

    written = (out / "a.safetensors").stat().st_mtime_ns
    (out / "set [v1]" / "b.safetensors").unlink()
    (folder / "bad.safetensors").unlink()
    capsys.readouterr()
    assert run(*shrink) == 0
    assert "2 files: 1 done, 1 done before" in capsys.readouterr().out
    assert (out / "a.safetensors").stat().st_mtime_ns == written

    assert run("resize", "--model", folder, "--new_rank", 3, "--save_to", out) == 2  # others stood there before
    assert "exists; choose another name or give --overwrite" in capsys.readouterr().out


def test_json_and_half_a_line_of_a_killed_program(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        assert run("reweight", "--model", folder / "a*", "--unet", 0.5, "--save_to", out, "--json") == 0
        with (out / "lora-ext-reweight.jsonl").open("a", encoding="utf-8") as record:
            record.write('{"name": "a", "stat')
    first, second = (json.loads(text + "}") for text in capsys.readouterr().out.split("\n}\n")[:2])
    assert (first["done"], second["present"], first["files"][0]["result"]["verb"]) == (1, 1, "reweight")


@pytest.mark.parametrize("command", ["reweight", "split-dylora"])
def test_a_result_without_a_line_is_made_again_where_a_run_was_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """It was said to exist, so that the same command did not do what was left."""
    out, words = folder.parent / "out", [command, "--model", folder, "--save_to", folder.parent / "out"]
    words += ["--unit", "1"] if command == "split-dylora" else ["--te", "0.5"]
    monkeypatch.setattr(many_files._Record, "add", lambda *_: None)
    monkeypatch.setattr(many_files._Record, "end", lambda *_: None)
    run(*words)
    monkeypatch.undo()
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert made and not lines_of(out, command)
    run(*words)
    assert all(path.stat().st_mtime_ns > before for path, before in made.items())
    assert not [line for line in lines_of(out, command) if "exists" in str(line["error"])]
    assert not list(out.glob(".lora-ext*"))


def test_a_file_of_the_user_s_is_no_result_of_a_killed_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "out"
    words = ["reweight", "--model", folder, "--save_to", out, "--te", "0.5"]
    own = out / "a.safetensors"
    own.parent.mkdir()
    own.write_bytes(b"own")
    assert run(*words) == run(*words) == 2
    (out / ".lora-ext-reweight.begun").write_text("{}")
    assert run(*words) == 2 and own.read_bytes() == b"own" and "a.safetensors exists" in capsys.readouterr().out


def test_notes_are_told_once_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The letters of a file's name were left out of every word: "the met…d…t… does not s…y" for a.safetensors."""
    assert run("split-dylora", "--model", folder, "--save_to", folder.parent / "out", "--unit", "1") == 2
    text = capsys.readouterr().out
    assert (
        "the metadata does not say" in text and text.count("does not say") == 1 and "a.safetensors and 1 more" in text
    )


def test_other_commands_take_folders(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.safetensors").unlink()
    assert run("convert", "--model", folder, "--to", "diffusers", "--save_to", tmp_path / "c") == 0
    assert run("metadata", folder, "--set", "note=x", "--save_to", tmp_path / "m") == 0
    assert run("inspect", folder) == 0
    out = capsys.readouterr().out
    assert out.count("note: x") == 2 and out.count("2 files: 2 done") == 3
    assert (tmp_path / "c" / "set [v1]" / "b.safetensors").is_file()
    split = tmp_path / "split"
    assert run("split-dylora", "--model", DYLORA, DYLORA, "--save_to", split, "--alpha", "keep") == 0
    assert (
        sorted(path.name for path in split.glob("*.safetensors"))[0] == "dylora_r16_u4_lierla-0001.safetensors"
    )  # its unit is 1


def test_what_is_wrong_with_the_command_line_is_said_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("resize", "--model", folder, "--save_to", tmp_path / "x.safetensors") == 2
    assert "the results of many files need a folder" in capsys.readouterr().err
    assert run("resize", "--model", folder / "*.pt", "--save_to", tmp_path / "out") == 2
    assert "has no LoRA file" in capsys.readouterr().err
    assert run("reweight", "--model", folder, "--lbw", "1,2", "--save_to", tmp_path / "out") == 2
    assert "FAILED" not in capsys.readouterr().out


def square(number: int) -> int:
    """The work of the test below; a 3 fails, a 4 ends its process."""
    if number == 3:
        raise ValueError("three")
    if number == 4:
        os._exit(1)
    return number * number


def test_a_process_that_dies_costs_its_file_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_processes, "PROCESS_START_SECONDS", -1.0)
    made = dict(work_in_processes(square, [1, 3, 4, 5], [1, 1, 1, 1], 2))
    assert (made[0].result, made[3].result) == (1, 25)
    assert made[1].error == "ValueError: three" and "its process ended" in made[2].error
    assert isinstance(made[0], WorkOutcome)


def test_what_processes_finish_after_ctrl_c_is_recorded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(futures: Iterable[object]) -> Iterator[object]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(file_processes, "PROCESS_START_SECONDS", -1.0)
    monkeypatch.setattr(
        file_processes, "ProcessPoolExecutor", lambda processes, *_, **__: ThreadPoolExecutor(processes)
    )
    monkeypatch.setattr(file_processes, "as_completed", interrupted)
    shutil.copy(HALF, folder / "set [v1]" / "c.safetensors")
    out = tmp_path / "out"
    shrink = ("resize", "--model", folder / "a.safetensors", folder / "set [v1]", "--new_rank", 2, "--save_to", out)
    assert run(*shrink, "--processes", 2) == 130
    assert "3 of 3 files done; the same command does the rest" in capsys.readouterr().err
    assert run(*shrink) == 0
    assert "3 files: 3 done before" in capsys.readouterr().out


def test_processes_share_numpys_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """They get theirs from the environment, where the user's own number counts; this process keeps its own."""
    for own, seen in ((None, "3"), ("5", None)):
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if own is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", own)
        with file_processes._numpy_threads(3):
            assert os.environ.get("OPENBLAS_NUM_THREADS") == seen
        assert "OPENBLAS_NUM_THREADS" not in os.environ
