"""The command line: light to start, one line for what the user can mend."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from importlib import import_module
from importlib.metadata import requires
from pathlib import Path
from types import SimpleNamespace

import pytest

from lora_ext import cli, demo
from lora_ext.command_line import CommandParser, check_output_folder, check_output_path
from lora_ext.compare.axis_values import weight_label
from lora_ext.errors import ToolError


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
    says = f"generate needs {missing}, which is not installed; install what it needs into an environment of its own"
    root = Path(cli.__file__).resolve().parents[1]
    said = capsys.readouterr().err
    assert said == f'lora-ext: {says}, not into a web UI\'s: pip install -e "{root}[{extra}]"\n'
    assert any(re.search(rf"extra == .{extra}\b", need) for need in requires("lora-ext") or ())


def test_a_place_that_may_not_be_used_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    denied = SimpleNamespace(main=lambda argv: next(Path("loras").iterdir()))
    monkeypatch.setattr(cli, "_load_command_module", lambda name: denied)
    monkeypatch.setattr(Path, "iterdir", lambda path: (_ for _ in ()).throw(PermissionError(13, "Denied", str(path))))
    assert cli.main(["inspect"]) == 2
    assert capsys.readouterr().err == "lora-ext: loras: Denied\n"
    monkeypatch.setattr(os, "access", lambda *_: False)
    for place in (tmp_path, tmp_path / "new" / "folder"):
        with pytest.raises(ToolError, match="nothing may be written into"):
            check_output_folder(place, "--out")
    with pytest.raises(ToolError, match="nothing may be written into"):
        check_output_path(tmp_path / "a.safetensors")


@pytest.mark.skipif(os.name != "posix", reason="links need rights there")
def test_a_broken_link_is_no_output_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(ToolError, match=r"--out .*link cannot be a folder: .*link is a broken link"):
        check_output_folder(tmp_path / "link", "--out")


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


def parser_of(verb: str, monkeypatch: pytest.MonkeyPatch) -> CommandParser:
    """The parser that a command makes."""
    made: list[CommandParser] = []

    def stop(self: CommandParser, *args: object) -> None:
        made.append(self)
        raise SystemExit

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(CommandParser, "parse_known_args", stop)
        cli.main([verb])
    return made[0]


@pytest.mark.parametrize("verb", cli.CLI_COMMANDS)
def test_every_option_says_what_fits(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """argparse's own words for a value that does not fit say neither what fits nor which option takes it."""
    parser = parser_of(verb, monkeypatch)
    too_many = [] if parser._get_positional_actions() else ["1", "x y"]
    for option, action in parser._option_string_actions.items():
        wrong = {0: [[f"{option}=x"]], None: [[option], [option, *too_many]], "+": [[option]]}.get(action.nargs, [])
        wrong += [[option, "abc"]] if action.choices or action.type in (int, float) else []
        for argv in wrong if action.option_strings[0].startswith("--") else []:
            with pytest.raises(SystemExit) as stopped:
                parser.parse_args(argv)
            says = capsys.readouterr().err
            assert stopped.value.code == 2 and says.count("\n") == 1
            assert option in says or "are required" in says or argv[-1] == "x y", says
            assert not re.search("argument |expected|invalid|unrecognized", says.replace("arguments are required", ""))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("merge --ratios 0.5 abc", "--ratios: 'abc' is not a number, such as 0.5"),
        ("merge --ratios", "--ratios takes one value or more: weight of each LoRA (default 1)"),
        ("merge --method swd", "--method: unknown value 'swd'; did you mean 'svd'?"),
        ("resize -model x", "unknown option -model; did you mean '--model'?"),
        (
            "generate --lora_dir a b",
            "--lora_dir takes one value, and 'b' is one too many; a value with blanks needs quotes, and several values "
            "--lora_dir before each",
        ),
        (
            "train --network_dim 4 b",
            "--network_dim takes one value, and 'b' is one too many; a value with blanks needs quotes",
        ),
        ("ui --no_auth x", "--no_auth takes no value, and 'x' is one too many"),
        ("demo x", "'x' is one argument too many; a value with blanks needs quotes, and --help lists the options"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_what_fits(
    line: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(line.split())
    assert capsys.readouterr().err == f"lora-ext: {says}\n"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("teach pictures.zip --name x", "the folder of pictures pictures.zip is a file, not a folder"),
        ("demo --out pictures.zip", "--out pictures.zip cannot be a folder: pictures.zip is a file"),
        ("generate --out pictures.zip/a", "--out pictures.zip/a cannot be a folder: pictures.zip is a file"),
        ("compare --out pictures.zip", "--out pictures.zip cannot be a folder: pictures.zip is a file"),
        ("blocks --lora x --out pictures.zip", "--out pictures.zip cannot be a folder: pictures.zip is a file"),
        ("train --output_dir pictures.zip", "output_dir pictures.zip cannot be a folder: pictures.zip is a file"),
        ("train --output_dir o --train_data_dir x", "train_data_dir x does not exist\n"),
        ("teach . --name x --output_dir pictures.zip", "output_dir pictures.zip cannot be a folder: pictures.zip is"),
        ("teach . --name x", "lora-ext: . has no pictures; put them in it; pictures end in .png"),
        ("resize --model x --save_to no/a.safetensors", "no/a.safetensors cannot be written: there is no folder no"),
        ("metadata x --rehash --save_to pictures.zip", "pictures.zip cannot be written: results are .safetensors"),
        ("conflicts a b --picture no/a.png", "--picture no/a.png cannot be written: give a new file in a folder that"),
        ("ui --port 99999", "--port: 99999 is not a port: they are from 1 to 65535"),
    ],
)
def test_a_path_or_port_that_cannot_be_used_is_named_before_the_work_begins(
    line: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pictures.zip").touch()
    with pytest.raises(SystemExit) as stopped:
        sys.exit(cli.main(line.split()))
    assert stopped.value.code == 2 and says in capsys.readouterr().err.replace("\\", "/")


def test_a_port_that_another_program_has_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert cli.main(["ui", "--port", str(port), "--data_dir", str(tmp_path)]) == 2
    assert f"cannot be served at 127.0.0.1:{port}: " in (told := capsys.readouterr().err) and "--port" in told
    assert import_module("lora_ext.ui.standalone_server").usable_port("127.0.0.1", 0) > 0


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


def test_the_sheets_of_the_demo_call_weight_0_no_lora() -> None:
    labels = [*map(weight_label, demo.DEMO_TRAINED_WEIGHTS)]
    assert labels == ["no LoRA", "weight 0.5", "weight 1", "weight 1.5", "weight 2.5"]
