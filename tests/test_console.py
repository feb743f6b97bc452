"""A console that cannot show what a command says: it ends as it would anywhere else."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

import lora_ext
from lora_ext.console import (
    ESCAPE_ERROR_HANDLER,
    escape_control_characters,
    make_output_safe,
    print_text,
    printable_text,
    replace_lone_surrogates,
    single_line,
)

NAME = "炎 ∀ 😀"
CONSOLES = {
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
IN_ONE_PROCESS = """
import io, json, os, sys, traceback
from lora_ext.cli import main
ended = []
for words in json.loads(sys.argv[1]):
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.BytesIO(), encoding=console.encoding, errors=console.errors)
        for console in (sys.__stdout__, sys.__stderr__)
    )
    try:
        status = main([os.fsdecode(word.encode()) for word in words])  # as the interpreter decodes its arguments
    except SystemExit as error:
        status = error.code
    except BaseException:
        status = 1
        print(ascii(traceback.format_exc()), file=sys.stderr)
    texts = []
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("latin-1"))
    ended.append((status, *texts))
sys.__stdout__.write(json.dumps(ended))
"""
KEY = "lora_unet_mid_block_attentions_0_proj_in"


def run(
    console: Mapping[str, str], *words: object, program: tuple[str, ...] = ("-m", "lora_ext")
) -> subprocess.CompletedProcess[bytes]:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONIOENCODING", "PYTHONUTF8", "LC_ALL", "LANG")}
    command = [sys.executable, *program, *map(str, words)]
    return subprocess.run(command, capture_output=True, env={**kept, "OMP_NUM_THREADS": "1", **console}, timeout=300)


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    path = tmp_path / f"{NAME}.safetensors"
    tensors = {f"{KEY}.lora_up.weight": torch.ones(8, 2), f"{KEY}.lora_down.weight": torch.ones(2, 8)}
    save_file(tensors, path, metadata={"ss_output_name": NAME, "ss_tag_frequency": json.dumps({"x": {NAME: 1}})})
    return path


@pytest.mark.long
@pytest.mark.parametrize("console", CONSOLES)
def test_a_finished_training_ends_well(console: str, tmp_path: Path) -> None:
    data = tmp_path / "data" / f"1_{NAME}"
    data.mkdir(parents=True)
    Image.new("RGB", (64, 64), "teal").save(data / "a.png")
    out = tmp_path / NAME
    done = run(
        CONSOLES[console], "train", "--train_data_dir", data.parent, "--output_dir", out, "--output_name", NAME,
        "--resolution", 64, "--max_train_steps", 1, "--device", "cpu", "--network_train_unet_only",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert (out / f"{NAME}.safetensors").is_file() and b"UnicodeEncodeError" not in done.stderr
    assert b"\\u708e \\u2200 \\ud83d\\ude00.safetensors" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("console", CONSOLES)
def test_every_command_ends_well(console: str, lora: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    commands = (
        (("inspect", lora), 0),
        (("inspect", "--json", lora), 0),
        (("metadata", lora), 0),
        (("metadata", "--json", lora), 0),
        (("metadata", lora, "--set", f"note={NAME}", "--save_to", tmp_path / f"{NAME} 2.safetensors"), 0),
        (("resize", "--model", lora, "--new_rank", 1, "--save_to", other), 0),
        (("inspect", tmp_path / f"no {NAME}.safetensors"), 2),
        (("train", "--recipe_from", lora, "--output_config"), 2),
        (("generate", "--prompt", f"a <lora:no {NAME}:1>", "--strict", "--lora_dir", tmp_path), 2),
        ((NAME,), 2),
    )
    given = json.dumps([[str(word) for word in words] for words, _ in commands])
    done = run(CONSOLES[console], given, program=("-c", IN_ONE_PROCESS))
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    for (words, status), (ended, out, errors) in zip(commands, json.loads(done.stdout), strict=True):
        assert ended == status, (words, errors)
        assert "Traceback" not in errors, (words, errors)
        if "--json" in words:
            assert NAME in json.dumps(json.loads(out.encode("latin-1").decode("ascii")), ensure_ascii=False)


@given(st.text())
def test_text_of_any_kind_can_be_shown(text: str) -> None:
    raw = io.BytesIO()
    narrow = io.TextIOWrapper(raw, encoding="cp1252", errors=ESCAPE_ERROR_HANDLER, newline="")
    narrow.write(text + json.dumps(text, ensure_ascii=False))
    narrow.flush()
    assert printable_text(text, narrow) == escape_control_characters(text).encode(
        "cp1252", ESCAPE_ERROR_HANDLER
    ).decode("cp1252")
    assert json.loads(
        json.dumps(text, ensure_ascii=False).encode("cp1252", ESCAPE_ERROR_HANDLER).decode("cp1252")
    ) == replace_lone_surrogates(text)


def test_streams_that_cannot_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.TextIOWrapper(io.BytesIO())
    closed.close()
    for stream in (None, io.StringIO(), closed):
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        make_output_safe()
    assert printable_text("炎", io.StringIO()) == "炎"


@given(st.text(st.characters(max_codepoint=0x2100)))
def test_json_stays_json_and_no_control_character_reaches_a_terminal(text: str) -> None:
    shown = escape_control_characters(json.dumps(text, ensure_ascii=False))
    assert json.loads(shown) == text and escape_control_characters(shown) == shown
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e]", single_line(text))


def test_everything_is_printed_by_one_function(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of files, metadata and prompts can hold what commands a terminal."""
    root = Path(lora_ext.__file__).parent
    constant = {"cli.py": 4}  # the program's own words
    for path in root.rglob("*.py"):
        name = path.relative_to(root).as_posix()
        calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                 if isinstance(node, ast.Call)]  # fmt: skip
        bare = [call for call in calls if call in ("print", "sys.stdout.write", "sys.stderr.write")]
        if name != "console.py" and not name.startswith(("embedded/", "training/sample_loras")):
            assert len(bare) == constant.get(name, 0), name
    print_text("a\x1b[2J\x9b\u202e")
    assert capsys.readouterr().out == "a\\u001b[2J\\u009b\\u202e\n"
