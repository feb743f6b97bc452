"""Pages of the commands, made from their parsers: each option with its sentence and its default."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any
from unittest.mock import patch

from lora_ext.cli import CLI_COMMANDS
from lora_ext.command_line import CommandParser

TITLE = "Commands"
_HEADINGS = {
    "dylora": "DyLoRA", "positional arguments": "Arguments", "mode": "Mode: what is learned from",
    "pivotal": "Pivotal tuning: a new token",
}  # fmt: skip
_HEAD = "| option | default | what it does |\n| --- | --- | --- |\n"


class _ParserMade(BaseException):  # no `except Exception` of a command may take it
    def __init__(self, parser: CommandParser) -> None:
        self.parser = parser


def command_parser(verb: str) -> CommandParser:
    """The parser that a command makes for itself: the command is started and left where it begins to parse."""

    def leave(parser: CommandParser, *_: Any) -> None:
        raise _ParserMade(parser)

    main = import_module(f"lora_ext.{CLI_COMMANDS[verb][0]}").main
    with patch.object(CommandParser, "parse_known_args", leave):
        try:
            main([])
        except _ParserMade as made:
            return made.parser
    raise RuntimeError(f"the command {verb!r} has no CommandParser")


def cell(text: object) -> str:
    """A text as Markdown shows it in a table's cell."""
    one_line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([|*_`\[\]])", r"\\\1", one_line)


def code(text: object) -> str:
    """A text in a table's cell that is typed as it stands."""
    return f"`{text}`".replace("|", "\\|")


def visible_options(group: argparse._ArgumentGroup) -> list[argparse.Action]:
    """The options of a group that `--help` shows, but --help."""
    return [
        action
        for action in group._group_actions
        if action.help is not argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
    ]


def _values(action: argparse.Action) -> str:
    """What follows the option's name: its choices, or what kind of value it takes."""
    if action.nargs == 0:
        return ""
    if action.choices:
        names = ", ".join(code(choice) for choice in action.choices if choice != "")
        return f" {names}"
    if action.nargs == "?" and action.metavar is None:  # an option that is accepted with a value or without
        return ""
    metavar = action.metavar or ("TEXT" if action.type is None else getattr(action.type, "__name__", "VALUE"))
    name = metavar[0] if isinstance(metavar, tuple) else metavar
    if name.startswith("{"):  # choices of a training option, which are checked later
        return " " + ", ".join(code(choice) for choice in name.strip("{}").split(","))
    name = {"int": "N", "float": "X", "Path": "PATH", "str": "TEXT"}.get(name, name)
    return f" {code(name)}" + (" …" if action.nargs in ("+", "*") else "")


def _default(action: argparse.Action, text: str) -> tuple[str, str]:
    """The default as a cell, and the help without it. What is typed is shown as code, a sentence as text."""
    told = re.search(r"\s*\(default:? (.*)\)$", text)
    if not told:
        return "", text
    value = told[1].strip()
    typed = value == str(action.default) or " " not in value
    return (code(value) if typed else cell(value)), text[: told.start()]


def _row(parser: CommandParser, action: argparse.Action) -> str:
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    default, text = _default(action, text)
    name = ", ".join(code(option) for option in action.option_strings)
    needed = "**needed**" if _is_needed(action) else ""
    return f"| {(name + _values(action)).strip()} | {default or needed} | {cell(text)} |\n"


def _is_needed(action: argparse.Action) -> bool:
    """Whether the command does nothing without it; argparse calls an argument required that may be given no time."""
    return action.required and action.nargs != "*"


def _heading(title: str) -> str:
    return _HEADINGS.get(title) or title.capitalize()


def _option_names(group: argparse._ArgumentGroup) -> list[list[str]]:
    return [list(action.option_strings) for action in visible_options(group)]


def _sections(verb: str, parser: CommandParser) -> Iterator[str]:
    """A table for each group; groups that are those of `train` are named there only."""
    groups = [group for group in parser._action_groups if visible_options(group)]
    known = {} if verb == "train" else {group.title: group for group in command_parser("train")._action_groups}
    same = []
    for group in groups:
        title = str(group.title)
        if title != "options" and title in known and _option_names(known[title]) == _option_names(group):
            same.append(title)
            continue
        heading = "" if len(groups) == 1 else f"## {_heading(title)}\n\n"
        yield heading + _HEAD + "".join(_row(parser, action) for action in visible_options(group))
    if same:
        places = {title: re.sub(r"[^\w\s-]", "", _heading(title)).lower().replace(" ", "-") for title in same}
        names = ", ".join(f"[{title}](train.md#{place})" for title, place in places.items())
        yield f"## Options of train\n\nAll options of [train](train.md) are accepted too: {names}.\n"


def _page(verb: str) -> str:
    parser = command_parser(verb)
    usage = f"python -m lora_ext {verb}"
    for action in parser._actions:
        if action.required or not action.option_strings:
            name = action.option_strings[0] + " " if action.option_strings else ""
            value = f"{name}{action.metavar or action.dest.upper()}" + (" …" if action.nargs in ("+", "*") else "")
            usage += f" {value}" if _is_needed(action) else f" [{value}]"
    text = " ".join((parser.description or "").split())
    more = f"\n```text\n{parser.epilog}\n```\n" if parser.epilog else ""
    return (
        f"# {verb}\n\n{cell(text)}\n\n```sh\n{usage} [options]\n```\n\n"
        "Options may be written with `_` or `-`, in any order. Those without a default are off, or not set.\n\n"
        + "\n".join(_sections(verb, parser))
        + more
    )


def pages() -> dict[str, tuple[str, str]]:
    """Address → (title in the navigation, Markdown)."""
    rows = "".join(f"| [{verb}]({verb}.md) | {cell(text)} |\n" for verb, (_, text) in CLI_COMMANDS.items())
    index = (
        "# Commands\n\n`python -m lora_ext COMMAND`, or `lora-ext COMMAND` where the package is installed. These pages "
        "are made from the program itself; `COMMAND --help` prints the same.\n\n"
        f"| command | what it does |\n| --- | --- |\n{rows}\n"
        "A command that worked exits with 0, one that was given something wrong with 2 and one line that says "
        "what, and one that was interrupted with 130.\n"
    )
    return {
        "commands/index.md": ("Overview", index),
        **{f"commands/{verb}.md": (verb, _page(verb)) for verb in CLI_COMMANDS},
    }
