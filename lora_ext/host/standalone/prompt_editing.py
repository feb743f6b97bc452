"""Prompt editing as in the web UI: `[from:to:when]`, `[a|b]` and `AND`.

`when` is a share of the steps where it has a decimal point, else a step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

_TOKEN = re.compile(r"\\.|[^\\\[\]():|]+|.", re.DOTALL)
_WHEN = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")
_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"\s*([-+]?(?:\d+\.?|\d*\.\d+))\s*")
_DEPTH = 40
"""Depth up to which brackets inside brackets are parsed."""

PromptPart: TypeAlias = "str | PromptEdit | PromptAlternation"


@dataclass(frozen=True)
class PromptEdit:
    """`[before:after:when]`: `before` in steps 1 … `last_step`, then `after`."""

    before: tuple[PromptPart, ...]
    after: tuple[PromptPart, ...]
    last_step: int


@dataclass(frozen=True)
class PromptAlternation:
    """`[a|b|c]`: one option at each step, in turn."""

    options: tuple[tuple[PromptPart, ...], ...]


@dataclass(frozen=True)
class PassSteps:
    """The number of steps of a pass.

    In the hires pass shares count from 1 to 2, and steps continue after the first pass's, so that one prompt serves
    both.

    Attributes:
        steps: steps of this pass.
        first_pass_steps: steps of the first pass where this is the hires pass, else None.
    """

    steps: int
    first_pass_steps: int | None = None

    def last_step(self, when: str) -> int:
        """Returns the last step, from 1, at which `before` still applies.

        Args:
            when: the number as written.
        """
        share = float(when)
        if "." in when:
            share = (share - (self.first_pass_steps is not None)) * self.steps
        else:
            share -= self.first_pass_steps or 0
        return int(max(-1.0, min(float(self.steps), share)))


def parse_prompt_editing(prompt: str, pass_steps: PassSteps) -> list[tuple[int, str]]:
    """Resolves prompt editing into texts for ranges of steps. Brackets that are no editing stay text.

    Returns:
        (last step, from 1, of the text; text) in order.

    Example:
        >>> parse_prompt_editing("a [cat:dog:0.5]", PassSteps(10))
        [(5, 'a cat'), (10, 'a dog')]
    """
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
    """Splits a prompt at AND into (text, weight) (Liu et al. 2022, arXiv:2206.01714).

    Example:
        >>> parse_and_prompts("a AND b :0.5")
        [('a', 1.0), (' b', 0.5)]
    """
    rows = []
    for text in _AND.split(prompt):
        before, colon, after = text.rpartition(":")
        match = _WEIGHT.fullmatch(after) if colon else None
        rows.append((before.rstrip(), float(match[1])) if match else (text.rstrip(), 1.0))
    return rows


def _text_at_step(parts: Sequence[PromptPart], step: int) -> str:
    """Returns the text at a step, from 1."""
    texts = []
    for part in parts:
        if isinstance(part, PromptEdit):
            texts.append(_text_at_step(part.before if step <= part.last_step else part.after, step))
        elif isinstance(part, PromptAlternation):
            texts.append(_text_at_step(part.options[(step - 1) % len(part.options)], step))
        else:
            texts.append(str(part))
    return "".join(texts)


def _change_steps(parts: Sequence[PromptPart], steps: int) -> Iterator[int]:
    """Yields steps after which the text may change."""
    for part in parts:
        if isinstance(part, PromptEdit):
            yield part.last_step
            yield from _change_steps((*part.before, *part.after), steps)
        elif isinstance(part, PromptAlternation):
            yield from range(1, steps + 1)


class _EditingParser:
    """Parses a prompt token by token. A `|` outside square brackets makes all of it plain text, as in the web UI."""

    def __init__(self, prompt: str, pass_steps: PassSteps) -> None:
        self.tokens = _TOKEN.findall(prompt)
        self.pass_steps, self.position = pass_steps, 0
        self.unclosed, self.is_plain_text = _find_unclosed_brackets(self.tokens)

    def parse(self) -> tuple[PromptPart, ...] | None:
        """Returns the prompt's parts, None where all of it is plain text."""
        parts: list[PromptPart] = []
        while self.position < len(self.tokens):
            token = self.tokens[self.position]
            parts += self._parse_bracket(0) if token in ("[", "(") else [token]
            self.position += token not in ("[", "(")
            self.is_plain_text |= token == "|"
        return None if self.is_plain_text else tuple(parts)

    def _parse_bracket(self, depth: int) -> list[PromptPart]:
        """Parses from an opening bracket to its closing one; without a closing one the bracket is text."""
        begun, opening = self.position, self.tokens[self.position]
        if begun in self.unclosed:
            self.position += 1
            return [opening]
        closing = "]" if opening == "[" else ")"
        fields: list[list[PromptPart]] = [[]]
        marks: list[str] = []
        self.position += 1
        while self.position < len(self.tokens):
            token = self.tokens[self.position]
            if token in ("[", "(") and depth < _DEPTH:
                fields[-1] += self._parse_bracket(depth + 1)
                continue
            self.position += 1
            if token == closing:
                return self._build_parts(opening, fields, marks, closing)
            if token in "])":
                break
            self.is_plain_text |= token == "|" and opening == "("
            if opening == "[" and token in ":|":
                marks.append(token)
                fields.append([])
            else:
                fields[-1].append(token)
        self.unclosed.add(begun)
        self.position = begun + 1
        return [opening]

    def _build_parts(
        self, opening: str, fields: list[list[PromptPart]], marks: list[str], closing: str
    ) -> list[PromptPart]:
        """Returns a complete bracket as editing, alternation or text."""
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


def _find_unclosed_brackets(tokens: Sequence[str]) -> tuple[set[int], bool]:
    """Finds in one pass the opening brackets that nothing closes. They are text: to parse from each of them would read
    to the end as often as there are brackets.

    Returns:
        Their positions, and whether a `|` is left outside square brackets.
    """
    opened: list[tuple[int, bool]] = []  # (position, whether a | belongs to it)
    unclosed: set[int] = set()
    has_stray_bar = False

    def keep_bar() -> None:
        nonlocal has_stray_bar
        if opened and tokens[opened[-1][0]] == "[":
            opened[-1] = (opened[-1][0], True)
        else:
            has_stray_bar = True

    def drop_last() -> None:
        position, has_bar = opened.pop()
        unclosed.add(position)
        if has_bar:
            keep_bar()

    for position, token in enumerate(tokens):
        if token in ("[", "("):
            opened.append((position, False))
        elif token == "|":
            keep_bar()
        elif token in ("]", ")"):
            while opened and tokens[opened[-1][0]] != ("[" if token == "]" else "("):
                drop_last()
            if opened:
                opened.pop()
    while opened:
        drop_last()
    return unclosed, has_stray_bar
