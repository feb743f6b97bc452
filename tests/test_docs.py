"""The documentation: links lead somewhere, commands and Python examples are right, generated pages are complete.

`python tests/test_docs.py` lists the links to other sites, which no test follows. The changelog is
left out: it tells what was true on its day.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
import command_pages
from command_pages import command_parser, visible_options

from lora_ext.cli import CLI_COMMANDS
from lora_ext.train.config.network_modules import name_network
from lora_ext.train.config.recipe import recipe_options
from lora_ext.train.config.recipe_io import parse_recipe_option

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ARGUMENTS = r"""(?:"[^"]*"|'[^']*'|[^;&|"'])+"""
"""What a shell gives to one program: up to a `;`, `&` or `|` that is not quoted."""
PLACEHOLDERS = {"…", "...", "[options]"}
"""A command line with one of these leaves something out: it is parsed without it, and nothing is required. A word in
capitals (FILE, NAME) may stand for a value, except where an option has choices."""


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text_of(page), flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|srcset|href)="([^"]+)"', prose)


def anchors(page: Path) -> set[str]:
    """The addresses of a page's headings that mkdocs and code hosts make alike."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    words = [re.sub(r"[^\w\s-]", "", re.sub(r"\]\([^)]*\)", "]", heading)).strip().lower() for heading in headings]
    return {re.sub(r"\s", "-", one) for one in words} & {re.sub(r"[\s-]+", "-", one) for one in words}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in links(page):
        target, _, place = unquote(link).partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (place and path.suffix == ".md" and place not in anchors(path)):
            wrong.append(link)
    assert wrong == []


def commands(page: Path) -> Iterator[tuple[str, bool]]:
    """(what follows `python -m lora_ext` or `lora-ext`, whether it is a whole line of a code block)."""
    text = text_of(page)
    for block in re.findall(r"```(?:sh|bash|bat|powershell|text|console)?\n(.*?)```", text, re.DOTALL):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            for found in re.findall(
                rf"(?:-m lora_ext|(?:^|[\s/])lora-ext) +({ARGUMENTS})", re.sub(r"(^|\s)#.*", "", line)
            ):
                yield found, True
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for code in re.findall(r"`([^`]+)`", prose):
        yield from ((found, False) for found in re.findall(rf"(?:-m lora_ext|^lora-ext) +({ARGUMENTS})", code))
        if re.match(rf"(?:{'|'.join(CLI_COMMANDS)}) --\w", code):
            yield code, False


def parse(command: str, whole: bool) -> None:
    """Parses a command line as the program would. Raises SystemExit or LoraError where it is wrong."""
    verb, *rest = shlex.split(command)
    if verb.isupper() or verb in PLACEHOLDERS or verb.startswith("--") or rest[:1] == ["--help"]:
        return
    assert verb in CLI_COMMANDS, f"{verb} is no command"
    parser = command_parser(verb)
    given = [word for word in rest if word not in PLACEHOLDERS]
    if not whole or len(given) < len(rest):
        for action in parser._actions:
            action.required = False
        if given and given[-1] in parser._option_string_actions:  # an option that is named, without its value
            action = parser._option_string_actions[given[-1]]
            given += [] if action.nargs in (0, "?", "*") else list(action.choices or ["1"])[:1]
    values = vars(parser.parse_args(given))
    if verb in ("train", "teach"):
        name_network(values)
        for name in values.keys() & recipe_options().keys():
            parse_recipe_option(name, values[name])


OURS = [
    page for page in PAGES if page.name != "KOHYA_OPTIONS.md"
]  # command lines of other programs, as ours reads them


@pytest.mark.parametrize("page", OURS, ids=name_of)
def test_commands_are_accepted(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, whole in commands(page):
        try:
            parse(command, whole)
        except SystemExit:
            pytest.fail(f"{command}: {capsys.readouterr().err}")


def test_the_pages_show_commands() -> None:
    found = {shlex.split(command)[0] for page in OURS for command, _ in commands(page)}
    assert found >= set(CLI_COMMANDS) - {"svd-merge"}  # which is `merge --method svd`


def outline(page: Path) -> dict[str, object]:
    """What a page and its translation have in common."""
    blocks = re.findall(r"```(?:sh|bat)\n(.*?)```", text_of(page), re.DOTALL)
    prose = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    return {
        "headings": [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)],
        "rows of tables": len(re.findall(r"^\|", prose, re.MULTILINE)),
        "commands": [re.sub(r"\s*#.*", "", block) for block in blocks],
        "options": set(re.findall(r"`(--\w+)", prose)),
        "pictures": sorted(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", prose)),
    }


@pytest.mark.parametrize("page", [page for page in PAGES if page.name.endswith(".zh.md")], ids=name_of)
def test_a_translation_has_what_its_page_has(page: Path) -> None:
    english = page.with_name(page.name.replace(".zh.md", ".md"))
    assert outline(page) == outline(english)
    assert f"[English]({english.name})" in text_of(page) and f"[中文]({page.name})" in text_of(english)
    prose = re.sub(r"```.*?```|`[^`]*`", "", text_of(page), flags=re.DOTALL)
    assert re.findall(r"[\u3400-\u9fff][,;:?!]", prose) == []  # full-width marks


def test_tables_of_other_programs_are_the_same_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    pages = importlib.import_module("interop_pages")
    for name in pages.PAGES:
        head, _, *rows = pages.find_table(f"{name}.zh.md")[1].splitlines()
        assert [head, *rows] == ["| " + " | ".join(row) + " |" for row in pages.chinese_rows(name)]
    with pytest.raises(ValueError, match="'half read' has no Chinese"):
        pages.chinese("half read")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_examples_compile_and_what_they_import_exists(page: Path) -> None:
    for code in re.findall(r"```(?:python|py)\n(.*?)```", text_of(page), re.DOTALL):
        for node in ast.walk(compile(code, name_of(page), "exec", ast.PyCF_ONLY_AST)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lora_ext"):
                module = importlib.import_module(node.module or "")
                assert [one.name for one in node.names if not hasattr(module, one.name)] == []


@pytest.mark.long
def test_the_search_splits_chinese_words() -> None:
    pytest.importorskip("jieba")
    index = pytest.importorskip("material.plugins.search.plugin").SearchIndex()
    separator = re.search(r"separator: '(.*)'", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert separator
    words = re.split(separator[1], index._segment_chinese("训练用的图片（LoRA）；对比图"))
    assert {"训练", "图片", "LoRA"} <= set(words)


@pytest.mark.parametrize("verb", CLI_COMMANDS)
def test_every_option_has_a_sentence(verb: str) -> None:
    parser = command_parser(verb)
    assert isinstance(parser, argparse.ArgumentParser) and parser.description and "`" not in parser.description
    options = [action for group in parser._action_groups for action in visible_options(group)]
    assert [action.dest for action in options if not action.help] == [] and options


@pytest.mark.parametrize("verb", CLI_COMMANDS)
def test_every_default_is_told_by_help_and_by_the_page(verb: str) -> None:
    parser, page = command_parser(verb), command_pages.pages()[f"commands/{verb}.md"][1]
    formatter = parser._get_formatter()
    for action in (action for group in parser._action_groups for action in visible_options(group)):
        name = (action.option_strings or [action.metavar])[0]
        row = next((row for row in page.splitlines() if row.startswith(f"| `{name}`")), "")  # some are on train's page
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[2:4]]
        unset = action.default in (None, "", [], argparse.SUPPRESS) or action.default is False or action.nargs == 0
        if not unset:
            assert "(default" in formatter._expand_help(action), name
            assert cells == [] or cells[0], row
        elif cells and not action.required:
            assert not cells[0] or "(default" in str(action.help), row
        assert cells == [] or not re.search("default", cells[1]), row
        assert not re.search(r"`(_\w+)?`", row), row  # the name of a function, or nothing, for a value


SILENT_CONTROLS = {"How the rank is chosen", "Show more", "Tool", "Train", "What do you want to teach?"}
"""Controls whose label says all; the first, and rows of buttons, have a sentence for each of their choices."""


def test_every_setting_of_the_web_ui_is_in_a_table() -> None:
    source = text_of(ROOT / "lora_ext" / "host" / "a1111" / "settings.py")
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    labels = [ast.literal_eval(call.args[1]) for call in calls if ast.unparse(call.func) == "shared.OptionInfo"]
    chinese = json.loads(text_of(ROOT / "localizations" / "zh_CN.json"))
    for page, words in (("webui.md", {}), ("webui.zh.md", chinese)):
        rows = re.findall(r"^\| ([^|]+) \|", text_of(ROOT / "docs" / page).replace("\\", ""), re.MULTILINE)
        assert [label for label in labels if words.get(label, label) not in rows] == []
    assert len(labels) > 5


def test_every_panel_has_a_page_with_its_controls() -> None:
    import panel_pages

    pages = panel_pages.pages()
    assert len(pages) == 1 + len(list((ROOT / "javascript" / "lora_ext" / "panels").glob("*.mjs")))
    few = [address for address, (_, text) in pages.items() if len(re.findall(r"^\| \*\*", text, re.MULTILINE)) < 5]
    assert few == ["panels/index.md"]
    told = r"^\| \*\*([^*|]+)\*\*(?: \(button\))? \| [^|]* \| *\|$"
    silent = {label for _, text in pages.values() for label in re.findall(told, text, re.MULTILINE)}
    assert silent <= SILENT_CONTROLS, "give each a tooltip, which the page shows"
    assert "| **replace a file of this name** | `off` | Otherwise" in pages["panels/tools.md"][1]
    assert "| **rank** `network_dim` | `4` | rank of Linear" in pages["panels/train.md"][1]


if __name__ == "__main__":
    for page in PAGES:
        print("".join(f"{name_of(page)}: {link}\n" for link in links(page) if re.match(r"[a-z]+:", link)), end="")
