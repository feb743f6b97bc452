"""Prompts that change while a picture is made, as the web UI reads them: `[from:to:when]`, `[a|b]`, `AND`.

Pure text. when: a number with a point is a share of the steps, one without is a step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

_PIECE = re.compile(r"\\.|[^\\\[\]():|]+|.", re.DOTALL)
_WHEN = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")
_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"(.*?)(?:\s*:\s*([-+]?(?:\d+\.?|\d*\.\d+)))?\s*", re.DOTALL)
_DEPTH = 40
"""Brackets inside brackets that are looked into."""

Part: TypeAlias = "str | Edit | Turns"


@dataclass(frozen=True)
class Edit:
    """`[before:after:when]`: `before` in steps 1 … `last`, then `after`."""

    before: tuple[Part, ...]
    after: tuple[Part, ...]
    last: int


@dataclass(frozen=True)
class Turns:
    """`[a|b|c]`: one after the other, a step each."""

    options: tuple[tuple[Part, ...], ...]


@dataclass(frozen=True)
class Passes:
    """Steps of the pass that is drawn; first: those of the first pass where this is the hires pass, else None.

    In the hires pass shares count on from 1 and steps from the first pass's last, so that one prompt serves both.
    """

    steps: int
    first: int | None = None

    def last(self, when: str) -> int:
        """The last step, from 1, at which a written number still holds `before`."""
        share = float(when)
        if "." in when:
            share = (share - (self.first is not None)) * self.steps
        else:
            share -= self.first or 0
        return int(max(-1.0, min(float(self.steps), share)))


def phases(prompt: str, passes: Passes) -> list[tuple[int, str]]:
    """[(last step, from 1, text)]: what the prompt reads at which steps. Text that only looks like editing stays."""
    parts = _Reader(prompt, passes).parts()
    if parts is None:
        return [(passes.steps, prompt)]
    ends = sorted({passes.steps, *(end for end in _ends(parts, passes.steps) if 1 <= end <= passes.steps)})
    rows: list[tuple[int, str]] = []
    for end in ends:
        text = _text(parts, end)
        if rows and rows[-1][1] == text:
            rows[-1] = (end, text)
        else:
            rows.append((end, text))
    return rows


def several(prompt: str) -> list[tuple[str, float]]:
    """`a AND b :0.5` → [("a", 1), ("b", 0.5)] (Liu et al. 2022, arXiv:2206.01714)."""
    rows = []
    for text in _AND.split(prompt):
        match = _WEIGHT.fullmatch(text)
        assert match is not None, "the pattern takes every text"
        rows.append((match[1], 1.0 if match[2] is None else float(match[2])))
    return rows


def _text(parts: Sequence[Part], step: int) -> str:
    """What stands there at a step, from 1."""
    said = []
    for part in parts:
        if isinstance(part, Edit):
            said.append(_text(part.before if step <= part.last else part.after, step))
        elif isinstance(part, Turns):
            said.append(_text(part.options[(step - 1) % len(part.options)], step))
        else:
            said.append(str(part))
    return "".join(said)


def _ends(parts: Sequence[Part], steps: int) -> Iterator[int]:
    """Steps after which something may change."""
    for part in parts:
        if isinstance(part, Edit):
            yield part.last
            yield from _ends((*part.before, *part.after), steps)
        elif isinstance(part, Turns):
            yield from range(1, steps + 1)


class _Reader:
    """Reads a prompt piece by piece. A `|` outside square brackets makes all of it plain text, as in the web UI."""

    def __init__(self, prompt: str, passes: Passes) -> None:
        self.pieces = _PIECE.findall(prompt)
        self.passes, self.at, self.astray = passes, 0, False
        self.unclosed: set[int] = set()

    def parts(self) -> tuple[Part, ...] | None:
        """The prompt's parts, None for one that is not understood."""
        parts: list[Part] = []
        while self.at < len(self.pieces):
            piece = self.pieces[self.at]
            parts += self._bracket(0) if piece in ("[", "(") else [piece]
            self.at += piece not in ("[", "(")
            self.astray |= piece == "|"
        return None if self.astray else tuple(parts)

    def _bracket(self, depth: int) -> list[Part]:
        """From an opening bracket to behind its closing one; only the bracket as text where it has none."""
        begun, opening = self.at, self.pieces[self.at]
        if begun in self.unclosed:
            self.at += 1
            return [opening]
        closing = "]" if opening == "[" else ")"
        fields: list[list[Part]] = [[]]
        marks: list[str] = []
        self.at += 1
        while self.at < len(self.pieces):
            piece = self.pieces[self.at]
            if piece in ("[", "(") and depth < _DEPTH:
                fields[-1] += self._bracket(depth + 1)
                continue
            self.at += 1
            if piece == closing:
                return self._made(opening, fields, marks, closing)
            if piece in "])":
                break
            self.astray |= piece == "|" and opening == "("
            if opening == "[" and piece in ":|":
                marks.append(piece)
                fields.append([])
            else:
                fields[-1].append(piece)
        self.unclosed.add(begun)
        self.at = begun + 1
        return [opening]

    def _made(self, opening: str, fields: list[list[Part]], marks: list[str], closing: str) -> list[Part]:
        """What a whole bracket is: an edit, turns, or text."""
        if marks and set(marks) == {"|"}:
            return [Turns(tuple(map(tuple, fields)))]
        last = fields[-1]
        when = _WHEN.fullmatch(last[0]) if len(last) == 1 and isinstance(last[0], str) else None
        if when and marks and set(marks) == {":"} and len(marks) <= 2:
            before = fields[0] if len(marks) == 2 else []
            return [Edit(tuple(before), tuple(fields[-2]), self.passes.last(when[1]))]
        self.astray |= "|" in marks
        text: list[Part] = [opening, *fields[0]]
        for mark, field in zip(marks, fields[1:], strict=True):
            text += [mark, *field]
        return [*text, closing]
