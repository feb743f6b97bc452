"""Reads calls out of the page's modules: names, arguments and their texts. It knows strings, comments and brackets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|`(?:\\.|[^`\\])*`|[()\[\]{},]', re.DOTALL)
_TEXT = re.compile(r'\bt\(\s*((?:"(?:\\.|[^"\\])*"[\s+]*)+)')


@dataclass(frozen=True)
class Call:
    """A call. arguments: their source; function: the name of the top-level function that it stands in, or ""."""

    name: str
    arguments: tuple[str, ...]
    function: str = ""

    def options(self, place: int = -1) -> dict[str, str]:
        """The entries of an argument that is an object: name → source."""
        if not self.arguments or not self.arguments[place].startswith("{"):
            return {}
        entries = (entry.partition(":") for entry in _split(self.arguments[place][1:-1]))
        return {name.strip(): value.strip() for name, _, value in entries}


def texts(source: str) -> list[str]:
    """The texts that stand in `t("…")`, joined where they are added up."""
    return ["".join(re.findall(r'"((?:\\.|[^"\\])*)"', found)).replace('\\"', '"') for found in _TEXT.findall(source)]


def _split(source: str) -> list[str]:
    """The parts between the commas of the outermost level."""
    parts, depth, start = [], 0, 0
    for token in _TOKEN.finditer(source):
        mark = token[0]
        if mark in "([{":
            depth += 1
        elif mark in ")]}":
            depth -= 1
        elif mark == "," and depth == 0:
            parts.append(source[start : token.start()])
            start = token.end()
    bare = (re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL).strip() for text in (*parts, source[start:]))
    return [part for part in bare if part]


def _closing(source: str, opened: int) -> int:
    """The place of the bracket that closes the one at `opened`."""
    depth = 0
    for token in _TOKEN.finditer(source, opened):
        depth += (token[0] in "([{") - (token[0] in ")]}")
        if depth == 0 and token[0] in ")]}":
            return token.start()
    raise ValueError(f"no bracket closes {source[opened : opened + 40]!r}")


def calls(source: str, names: Sequence[str]) -> Iterator[Call]:
    """The calls of some functions or classes, in their order; not their definitions."""
    function = ""
    comments = [found.span() for found in _TOKEN.finditer(source) if found[0].startswith(("//", "/*"))]
    pattern = rf"^(?:export )?(?:const|function|class) (\w+)|(?<!function )(?<![.\w])({'|'.join(names)})\("
    for found in re.finditer(pattern, source, re.MULTILINE):
        if found[1]:
            function = found[1]
        elif not any(start <= found.start() < end for start, end in comments):
            opened = found.end() - 1
            yield Call(found[2], tuple(_split(source[opened + 1 : _closing(source, opened)])), function)


def texts_of_constant(source: str, name: str, function: str) -> list[str]:
    """The texts of `const name = …;`, of the function if it has one of that name, else of the module's first."""
    found = re.compile(rf"\b(?:const|let) {name} =(.*?);\n", re.DOTALL)
    start = (
        re.search(rf"^(?:export )?(?:const|function|class) {function}\b", source, re.MULTILINE) if function else None
    )
    own = found.search(source, start.start()) if start else None
    constant = own or found.search(source)
    return texts(constant[1]) if constant else []


def definition(source: str, name: str) -> Call | None:
    """The call whose result a constant is: `const name = call(…)`."""
    found = re.search(rf"\b(?:const|let) {name} = (\w+)\(", source)
    if not found:
        return None
    opened = found.end() - 1
    return Call(found[1], tuple(_split(source[opened + 1 : _closing(source, opened)])))
