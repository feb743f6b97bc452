"""The command line: light to start, one line for what the user can mend."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import requires
from types import SimpleNamespace

import pytest

from lora_ext import cli


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from lora_ext import cli; cli.main(['--help']); "
        "assert not {'torch', 'numpy', 'PIL', 'diffusers'} & set(sys.modules), 'heavy import'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in cli.CLI_COMMANDS)


@pytest.mark.parametrize(
    ("argv", "says"),
    [(["inspct"], "did you mean 'inspect'"), (["inspect", "no-such-file.safetensors"], "no-such-file.safetensors")],
)
def test_errors_are_one_line_and_exit_2(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and error.startswith("lora-ext: ")


@pytest.mark.parametrize(("missing", "extra"), [("yaml", "standalone"), ("diffusers", "standalone"), ("uvicorn", "ui")])
def test_a_missing_extra_is_one_line(
    missing: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    command = SimpleNamespace(main=lambda argv: import_module(missing))
    monkeypatch.setattr(cli, "_load_command_module", lambda name: command)
    assert cli.main(["generate"]) == 2
    says = (
        f'generate needs {missing}, which is not installed; install what it needs with: pip install "lora-ext[{extra}]"'
    )
    assert capsys.readouterr().err == f"lora-ext: {says}\n"
    assert any(re.search(rf"extra == .{extra}\b", need) for need in requires("lora-ext") or ())


def test_another_missing_module_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    command = SimpleNamespace(main=lambda argv: import_module("lora_ext.nothing"))
    monkeypatch.setattr(cli, "_load_command_module", lambda name: command)
    with pytest.raises(ModuleNotFoundError, match=r"lora_ext\.nothing"):
        cli.main(["generate"])


@pytest.mark.parametrize("verb", cli.CLI_COMMANDS)
def test_every_verb_suggests_the_option_that_was_meant(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "--hepl"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error == "lora-ext: unknown option --hepl; did you mean '--help'?\n"


def test_every_verb_has_a_main() -> None:
    for module, _ in cli.CLI_COMMANDS.values():
        assert callable(import_module(f"lora_ext.{module}").main)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip()[0].isdigit()


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe without a reader is another error there")
@pytest.mark.parametrize("argv", [["--help"], ["generate", "--help"]])
def test_a_reader_that_ends_is_no_error(argv: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lora_ext", *argv]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.stderr == "" and done.returncode in (0, 1)  # argparse itself takes no notice
