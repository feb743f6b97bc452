"""Prompts that change while a picture is made, as the web UI reads them: `[from:to:when]`, `[a|b]`, `AND`.

Pure text. when: a number with a point is a share of the steps, one without is a step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

_TOKEN = re.compile(r"\\.|[^\\\[\]():|]+|.", re.DOTALL)
_WHEN = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")
_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"(.*?)(?:\s*:\s*([-+]?(?:\d+\.?|\d*\.\d+)))?\s*", re.DOTALL)
_DEPTH = 40
"""Brackets inside brackets that are looked into."""

PromptPart: TypeAlias = "str | PromptEdit | PromptAlternation"


@dataclass(frozen=True)
class PromptEdit:
    """`[before:after:when]`: `before` in steps 1 … `last_step`, then `after`."""

    before: tuple[PromptPart, ...]
    after: tuple[PromptPart, ...]
    last_step: int


@dataclass(frozen=True)
class PromptAlternation:
    """`[a|b|c]`: one after the other, a step each."""

    options: tuple[tuple[PromptPart, ...], ...]


@dataclass(frozen=True)
class PassSteps:
    """Steps of the pass that is drawn; first: those of the first pass where this is the hires pass, else None.

    In the hires pass shares count on from 1 and steps from the first pass's last, so that one prompt serves both.
    """

    steps: int
    first_pass_steps: int | None = None

    def last_step(self, when: str) -> int:
        """The last step, from 1, at which a written number still holds `before`."""
        share = float(when)
        if "." in when:
            share = (share - (self.first_pass_steps is not None)) * self.steps
        else:
            share -= self.first_pass_steps or 0
        return int(max(-1.0, min(float(self.steps), share)))


def parse_prompt_editing(prompt: str, pass_steps: PassSteps) -> list[tuple[int, str]]:
    """[(last step, from 1, text)]: what the prompt reads at which steps. Text that only looks like editing stays."""
    parts = _EditingParser(prompt, pass_steps).parse()
    if parts is None:
        return [(pass_steps.steps, prompt)]
    ends = sorted(
        {pass_steps.steps, *(end for end in _change_steps(parts, pass_steps.steps) if 1 <= end <= pass_steps.steps)}
    )
    rows: list[tuple[int, str]] = []
    for end in ends:
        text = _text_at_step(parts, end)
        if rows and rows[-1][1] == text:
            rows[-1] = (end, text)
        else:
            rows.append((end, text))
    return rows


def parse_and_prompts(prompt: str) -> list[tuple[str, float]]:
    """`a AND b :0.5` → [("a", 1), ("b", 0.5)] (Liu et al. 2022, arXiv:2206.01714)."""
    rows = []
    for text in _AND.split(prompt):
        match = _WEIGHT.fullmatch(text)
        assert match is not None, "the pattern takes every text"
        rows.append((match[1], 1.0 if match[2] is None else float(match[2])))
    return rows


def _text_at_step(parts: Sequence[PromptPart], step: int) -> str:
    """What stands there at a step, from 1."""
    said = []
    for part in parts:
        if isinstance(part, PromptEdit):
            said.append(_text_at_step(part.before if step <= part.last_step else part.after, step))
        elif isinstance(part, PromptAlternation):
            said.append(_text_at_step(part.options[(step - 1) % len(part.options)], step))
        else:
            said.append(str(part))
    return "".join(said)


def _change_steps(parts: Sequence[PromptPart], steps: int) -> Iterator[int]:
    """Steps after which something may change."""
    for part in parts:
        if isinstance(part, PromptEdit):
            yield part.last_step
            yield from _change_steps((*part.before, *part.after), steps)
        elif isinstance(part, PromptAlternation):
            yield from range(1, steps + 1)


class _EditingParser:
    """Reads a prompt piece by piece. A `|` outside square brackets makes all of it plain text, as in the web UI."""

    def __init__(self, prompt: str, pass_steps: PassSteps) -> None:
        self.tokens = _TOKEN.findall(prompt)
        self.pass_steps, self.position, self.is_plain_text = pass_steps, 0, False
        self.unclosed: set[int] = set()

    def parse(self) -> tuple[PromptPart, ...] | None:
        """The prompt's parts, None for one that is not understood."""
        parts: list[PromptPart] = []
        while self.position < len(self.tokens):
            piece = self.tokens[self.position]
            parts += self._parse_bracket(0) if piece in ("[", "(") else [piece]
            self.position += piece not in ("[", "(")
            self.is_plain_text |= piece == "|"
        return None if self.is_plain_text else tuple(parts)

    def _parse_bracket(self, depth: int) -> list[PromptPart]:
        """From an opening bracket to behind its closing one; only the bracket as text where it has none."""
        begun, opening = self.position, self.tokens[self.position]
        if begun in self.unclosed:
            self.position += 1
            return [opening]
        closing = "]" if opening == "[" else ")"
        fields: list[list[PromptPart]] = [[]]
        marks: list[str] = []
        self.position += 1
        while self.position < len(self.tokens):
            piece = self.tokens[self.position]
            if piece in ("[", "(") and depth < _DEPTH:
                fields[-1] += self._parse_bracket(depth + 1)
                continue
            self.position += 1
            if piece == closing:
                return self._build_parts(opening, fields, marks, closing)
            if piece in "])":
                break
            self.is_plain_text |= piece == "|" and opening == "("
            if opening == "[" and piece in ":|":
                marks.append(piece)
                fields.append([])
            else:
                fields[-1].append(piece)
        self.unclosed.add(begun)
        self.position = begun + 1
        return [opening]

    def _build_parts(
        self, opening: str, fields: list[list[PromptPart]], marks: list[str], closing: str
    ) -> list[PromptPart]:
        """What a whole bracket is: an edit, turns, or text."""
        if marks and set(marks) == {"|"}:
            return [PromptAlternation(tuple(map(tuple, fields)))]
        last = fields[-1]
        when = _WHEN.fullmatch(last[0]) if len(last) == 1 and isinstance(last[0], str) else None
        if when and marks and set(marks) == {":"} and len(marks) <= 2:
            before = fields[0] if len(marks) == 2 else []
            return [PromptEdit(tuple(before), tuple(fields[-2]), self.pass_steps.last_step(when[1]))]
        self.is_plain_text |= "|" in marks
        text: list[PromptPart] = [opening, *fields[0]]
        for mark, field in zip(marks, fields[1:], strict=True):
            text += [mark, *field]
        return [*text, closing]
