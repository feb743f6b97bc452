"""CONTRIBUTING.md names files and what is in them; both exist. The README names every command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lora_ext.cli import CLI_COMMANDS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("\n", " ")
FILE = r"[\w/]+\.(?:py|mjs|sh|ts|json|md)"
FOLDERS = (ROOT, ROOT / "lora_ext", ROOT / "javascript" / "lora_ext")


def found(name: str) -> Path | None:
    return next((folder / name for folder in FOLDERS if (folder / name).is_file()), None)


def test_files_that_are_named_exist() -> None:
    named = set(re.findall(rf"`({FILE})`", PAGE))
    assert sorted(name for name in named if "NAME" not in name and not found(name)) == [] and len(named) > 40


@pytest.mark.parametrize(("file", "name"), sorted(set(re.findall(rf"`({FILE})`\s+`(\w+)`", PAGE))))
def test_what_a_file_is_said_to_have_is_in_it(file: str, name: str) -> None:
    path = found(file)
    assert path is not None and re.search(rf"\b{name}\b", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("module", "name"), sorted(set(re.findall(r"`([a-z_]+)\.([A-Z_]{4,})`", PAGE))))
def test_tables_of_modules_exist(module: str, name: str) -> None:
    path = found(f"{module}.py")
    assert path is not None and re.search(rf"^{name}\b", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_command_is_in_the_readme() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [verb for verb in CLI_COMMANDS if not re.search(rf"lora_ext {verb}\b|`{verb}`", page)] == []
