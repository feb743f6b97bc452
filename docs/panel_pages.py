"""Pages of the tab's panels, made from the modules that build them: each control with its label, tooltip and default.

The Train panel's options come from the same table as its form (`training_runs.form_fields`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from command_pages import cell, code
from script_calls import Call, calls, definition, texts, texts_of_constant

from lora_ext.web.training_runs import form_fields

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "javascript" / "lora_ext"
TITLE = "Panels"
_SHARED = ("core", "jobs", "controls", "blocks")
"""Folders whose modules are part of every panel; of `controls` the fields that a panel imports are shown."""
_HEAD = "| control | default | what it does |\n| --- | --- | --- |\n"
_FIELDS = "field numberField rangeField range checkbox optionalRank axisField strengthField LoraPicker searchInput"
_BUTTONS = "button segments"


def _source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _imports(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """The modules that a module imports, with the names it takes from them."""
    for names, module in re.findall(r'^import \{([^}]*)\} from "(\.[^"]+)"', _source(path), re.MULTILINE):
        yield (path.parent / module).resolve(), [name.strip() for name in names.split(",") if name.strip()]


def _modules(panel: Path) -> list[Path]:
    """A panel's module, those that it imports, and what these use of the panel's own folder."""
    own = {"files": "library"}.get(panel.stem, panel.stem)
    found = [panel]
    for path in found:
        for module, _ in _imports(path):
            folder = module.parent.name
            shown = folder == own or (path == panel and folder not in (*_SHARED, "library"))
            if shown and module not in found:
                found.append(module)
    return found


def _control(call: Call, source: str) -> tuple[str, str, str] | None:
    """(label, default, tooltip) of a call that makes a control; None for one whose label is computed.

    Texts of which one is shown, as by `done ? t("…") : t("…")`, are joined.
    """
    if not call.arguments:
        return None
    first, *rest = call.arguments
    if call.name == "LoraPicker":
        given = call.options(0)
        tip = (texts(given.get("tip", "")) or ["A file of the library; any words of its name find it"])[0]
        return (texts(given.get("label", "")) or ["LoRA"])[0], "", tip
    if call.name == "searchInput":
        label, tip = (texts(call.options(0).get(name, "")) for name in ("placeholder", "title"))
        return (label[0], "", (tip or [""])[0]) if label else None
    if call.name == "segments":
        return _choice(first, rest)
    if call.name == "range":  # (stored, name, label, tip, limits, usual)
        first, rest = rest[1], [rest[4], rest[2]]
    options = Call(call.name, (first, *rest)).options()
    labels = texts(first)
    tips = texts(options.get("tip", "")) or [text for one in rest if not one.startswith("{") for text in texts(one)]
    named = [options["tip"] or "tip"] if "tip" in options else [one for one in rest if re.fullmatch(r"\w*[tT]ip", one)]
    if not tips and named:  # `{ tip }`, or the name of another constant
        tips = [" / ".join(texts_of_constant(source, named[0], call.function))]
    value = options.get("usual") or options.get("value") or (rest[0] if rest else "")
    return (" / ".join(labels), _default(call.name, value, source), tips[-1] if tips else "") if labels else None


def _choice(rows: str, rest: list[str]) -> tuple[str, str, str] | None:
    """A row of buttons of which one is chosen: `segments(rows, value, onchange, label)`."""
    named = [
        (value, found[0])
        for value, more in re.findall(r'\[\s*(?:"([^"]*)"|\w+),([^\[\]]*)\]', rows)
        if (found := texts(more))
    ]
    names = [name for _, name in named]
    labels = texts(rest[2]) if len(rest) > 2 else names and [" / ".join(names)]
    usual = dict(named).get(rest[0].strip('"'), "") if rest else ""
    return (labels[0], usual, "One of: " + ", ".join(names) if names else "") if labels else None


def _default(kind: str, value: str, source: str) -> str:
    """A default that the source has as it stands; that of a menu where it is made."""
    if kind == "field" and re.fullmatch(r"\w+", value):
        made = definition(source, value)
        value = made.arguments[1] if made and made.name == "select" and len(made.arguments) > 1 else ""
    if kind == "checkbox":
        return {"true": "on", "false": "off"}.get(value, "")
    value = value.rpartition("??")[2].rpartition("||")[2].strip()
    if kind in ("numberField", "rangeField", "range", "field") and re.fullmatch(r'-?[\d.]+|"[^"]+"', value):
        return value.strip('"')
    return ""


def _rows(path: Path, wanted: list[str] | None = None) -> list[str]:
    """The controls of a module, or of some of its functions, as rows of a table."""
    source = _source(path)
    rows: dict[str, None] = {}
    for call in calls(source, (_FIELDS + " " + _BUTTONS).split()):
        if wanted is not None and call.function not in wanted:
            continue
        made = _control(call, source)
        if made:
            label, default, tip = made
            kind = " (button)" if call.name == "button" else ""
            rows[f"| **{cell(label)}**{kind} | {code(default) if default else ''} | {cell(tip)} |\n"] = None
    return list(rows)


def _about(path: Path) -> str:
    """What a module says of itself in its first comment, as a heading and the sentences after it."""
    comment = re.match(r"(?://[^\n]*\n)+", _source(path))
    text = " ".join(line.strip("/ ") for line in comment[0].splitlines()) if comment else path.stem
    heading, colon, rest = text.partition(": ")
    if not colon:
        heading, colon, rest = text.partition("; ")
    rest = rest[:1].upper() + rest[1:]
    return f"## {cell(heading.rstrip('.'))}\n\n" + (f"{cell(rest.rstrip('.'))}.\n\n" if rest else "")


def _sections(panel: Path) -> Iterator[str]:
    for path in _modules(panel):
        rows = _rows(path)
        for module, names in _imports(path):
            if module.parent.name == "controls" and module.name == "sampling_fields.mjs":
                rows += _rows(module, names)
        if rows:
            yield f"{_about(path)}{_HEAD}{''.join(rows)}\n"


def _train_options() -> Iterator[str]:
    """The form's options in its groups."""
    source = _source(SCRIPTS / "train" / "form_words.mjs")
    words = dict(re.findall(r'^ {4}(\w+): t\("([^"]+)"\)', source, re.MULTILINE))
    groups: dict[str, list[str]] = {}
    for option in form_fields():
        title = words.get(option.name) if option.name not in ("mode", "model") else None
        name = f"**{cell(title)}** {code(option.name)}" if title else code(option.name)
        default = "" if option.default in (None, "", [], False) else code(option.default)
        groups.setdefault(option.group, []).append(
            f"| {name} | {default} | {cell(option.help)}{'' if option.basic else ' *(all)*'} |\n"
        )
    yield (
        "## The form\n\nThe form shows the basic options first; those marked *(all)* appear under **all** and in the "
        "search. The names in code are those of the command line and of config files.\n"
    )
    for group, rows in groups.items():
        title = words.get(group, group)
        yield f"### {title[0].upper()}{title[1:]}\n\n{_HEAD}{''.join(rows)}\n"


def _panel(path: Path) -> tuple[int, str, str, str]:
    """(place in the bar of tabs, name, title, tooltip)."""
    source = _source(path)
    registered = source[source.rindex("registerPanel(") :]
    name, order = re.search(r'name: "(\w+)"', registered), re.search(r"order: (\d+)", registered)
    title, tip = (
        re.search(r'title: \(\) => t\("([^"]+)"\)', registered),
        re.search(r'tip: \(\) => t\("([^"]+)"\)', registered),
    )
    if not (name and order and title and tip):
        raise ValueError(f"{path.name} registers no panel with a name, an order, a title and a tip")
    return int(order[1]), name[1], title[1], tip[1]


def _page(path: Path, title: str, tip: str) -> str:
    name = path.stem
    picture = f"![{title}](../tab-{name}.png)\n\n" if (ROOT / "docs" / f"tab-{name}.png").is_file() else ""
    options = "\n".join(_train_options()) + "\n" if name == "train" else ""
    return f"# {title}\n\n{cell(tip)}.\n\n{picture}{options}" + "".join(_sections(path))


def pages() -> dict[str, tuple[str, str]]:
    """Address → (title in the navigation, Markdown)."""
    panels = sorted((*_panel(path)[:1], path, *_panel(path)[2:]) for path in (SCRIPTS / "panels").glob("*.mjs"))
    rows = "".join(f"| [{title}]({path.stem}.md) | {cell(tip)} |\n" for _, path, title, tip in panels)
    index = (
        "# Panels\n\nThe panels of the tab **LoRA**, from left to right, with each control, its default and the "
        "sentence that its tooltip has. These pages are made from the page's own modules; [the tab](../TAB.md) tells "
        f"what is common to them.\n\n| panel | what it is for |\n| --- | --- |\n{rows}"
    )
    return {
        "panels/index.md": ("Overview", index),
        **{f"panels/{path.stem}.md": (title, _page(path, title, tip)) for _, path, title, tip in panels},
    }
