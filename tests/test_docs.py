"""The documentation: its generated pages say everything."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
from command_pages import command_parser, visible_options

from lora_ext.cli import CLI_COMMANDS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("verb", CLI_COMMANDS)
def test_every_option_has_a_sentence(verb: str) -> None:
    parser = command_parser(verb)
    assert isinstance(parser, argparse.ArgumentParser) and parser.description and "`" not in parser.description
    options = [action for group in parser._action_groups for action in visible_options(group)]
    assert [action.dest for action in options if not action.help] == [] and options


def test_every_panel_has_a_page_with_its_controls() -> None:
    import panel_pages

    pages = panel_pages.pages()
    assert len(pages) == 1 + len(list((ROOT / "javascript" / "lora_ext" / "panels").glob("*.mjs")))
    few = [address for address, (_, text) in pages.items() if len(re.findall(r"^\| \*\*", text, re.MULTILINE)) < 5]
    assert few == ["panels/index.md"]
    assert "| **replace a file of this name** | `off` | Otherwise" in pages["panels/tools.md"][1]
    assert "| **rank** `network_dim` | `4` | rank of Linear" in pages["panels/train.md"][1]
