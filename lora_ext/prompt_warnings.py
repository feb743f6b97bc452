"""Warnings about tags that do not do what they seem to: read as text, or without effect of the brackets around them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .errors import did_you_mean
from .lora_tags import LORA_TAG_PATTERN, TAG_NAMES

_OPEN, _CLOSE = "<＜〈《‹⟨«([{（［｛【", ">＞〉》›⟩»)]}）］｝】"
_LIKE = re.compile(
    rf"(?P<open>[{re.escape(_OPEN)}]|&lt;)(?P<blank>\s*)(?P<word>{'|'.join(TAG_NAMES)})(?P<gap>\s*)(?P<colon>[:：﹕;；=])"
    rf"(?P<rest>[^\n{re.escape(_OPEN + _CLOSE)}&]*)(?P<close>[{re.escape(_CLOSE)}]|&gt;)?",
    re.IGNORECASE,
)
"""Text that was meant as a tag: with other brackets, a blank, another colon, or no end."""
_NAMED = re.compile(r"<(\w+):[^<>]*>")
_PLAIN = str.maketrans("：﹕；＝，．－０１２３４５６７８９", "::;=,.-0123456789")
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*")
_BLANK = "\0"
"""Replaces a tag's characters while the brackets around it are parsed."""


def unread_tag_warnings(
    prompt: str,
    negative: str = "",
    tag_names: Sequence[str] = TAG_NAMES,
    *,
    remaining_text: str | None = None,
    lowercase_only: bool = False,
) -> list[str]:
    """Explains why texts that look like tags are not applied.

    Args:
        prompt: the prompt.
        negative: the negative prompt.
        tag_names: names of tags that are applied here.
        remaining_text: the prompt without its tags, where the web UI has already removed them.
        lowercase_only: whether tag names count in small letters only, as in the web UI.

    Returns:
        One sentence for each such text.

    Example:
        >>> unread_tag_warnings("a cat <lora: cat:0.8")
        ['<lora: cat:0.8 has no > at its end: it is read as text, and nothing is applied: write <lora:cat:0.8>']
    """
    found = [
        *_misspelt(LORA_TAG_PATTERN.sub("", prompt) if remaining_text is None else remaining_text),
        *_unknown(prompt, tag_names, lowercase_only),
    ]
    for match in (*LORA_TAG_PATTERN.finditer(negative), *_LIKE.finditer(LORA_TAG_PATTERN.sub("", negative))):
        found.append(
            f"{_short(match[0])} in the negative prompt is not applied but read as text: write tags into the "
            "prompt, with a weight below 0 for the opposite effect"
        )
    return list(dict.fromkeys(found))


def tag_warnings(prompt: str, negative: str = "") -> list[str]:
    """Explains which texts are read as no tags, and which brackets have no effect on a tag.

    Args:
        prompt: the prompt.
        negative: the negative prompt.

    Returns:
        A sentence for each.
    """
    return [*unread_tag_warnings(prompt, negative), *bracketed_tag_warnings(prompt)]


def bracketed_tag_warnings(prompt: str) -> list[str]:
    """Explains what tags in brackets do: they act at all steps, at the weight written in the tag.

    Args:
        prompt: the prompt.

    Returns:
        One sentence for each tag whose brackets have no effect on it.
    """
    masked = LORA_TAG_PATTERN.sub(lambda match: _BLANK * len(match[0]), prompt)
    pairs = list(_pairs(masked))
    found = []
    for match in LORA_TAG_PATTERN.finditer(prompt):
        around = [(kind, a, b) for kind, a, b in pairs if a < match.start() and match.end() <= b]
        if text := _in_brackets(match[0], match.start(), masked, around):
            found.append(text)
    return list(dict.fromkeys(found))


def _misspelt(text: str) -> Iterator[str]:
    """Warnings about text that was meant as a tag, in a prompt without its tags."""
    for match in _LIKE.finditer(text):
        rest, closed = match["rest"].translate(_PLAIN), match["close"]
        if match["open"] == "[" and closed and _NUMBER.fullmatch(rest.rpartition(":")[2]) and ":" not in rest:
            continue  # [lora:10], an edit of the prompt
        name = (rest if closed else rest.split()[0] if rest.split() else "").strip().rstrip(",.;")
        why = "is read as text" if closed else "has no > at its end: it is read as text"
        write = f": write <{match['word'].lower()}:{name}>" if name else ""
        yield f"{_short(match[0].strip(), 100 if closed else 60)} {why}, and nothing is applied{write}"


def _unknown(prompt: str, tag_names: Sequence[str], lowercase_only: bool) -> Iterator[str]:
    """Tags of another name than those that are read."""
    for match in _NAMED.finditer(prompt):
        name = match[1]
        if name in tag_names or (not lowercase_only and name.lower() in tag_names):
            continue
        hint = f"; write <{name.lower()}:…>" if name.lower() in tag_names else did_you_mean(name, tag_names)
        prefixes = " or ".join(f"<{word}:" for word in tag_names)
        yield f"{_short(match[0])} is not applied: tags begin with {prefixes}{hint}"


def _pairs(text: str) -> Iterator[tuple[str, int, int]]:
    """(bracket, where it opens, where it closes) of every pair; those after a backslash are text."""
    opened: list[tuple[str, int]] = []
    for match in re.finditer(r"\\.|[()\[\]]", text, re.DOTALL):
        mark = match[0]
        if mark in "([":
            opened.append((mark, match.start()))
        elif mark in ")]" and opened and opened[-1][0] == {")": "(", "]": "["}[mark]:
            yield (*opened.pop(), match.start())


def _in_brackets(tag: str, at: int, masked: str, around: Sequence[tuple[str, int, int]]) -> str:
    """The sentence about one tag in its brackets, the innermost first; "" where they change nothing of it."""
    for kind, begin, end in sorted(around, key=lambda pair: -pair[1]):
        inner = masked[begin + 1 : end]
        parts = list(_split(inner))
        if kind == "[" and "|" in _top(inner):
            return f"{_short(tag)} in [… | …] acts at all steps: the text changes there, not what is applied"
        if kind == "[" and 2 <= len(parts) <= 3 and _NUMBER.fullmatch(parts[-1]):
            first = len(parts) == 3 and at < begin + 1 + len(parts[0])
            when = parts[-1].strip()
            step = f"-{when}" if first else f"{when}-"
            return f"{_short(tag)} in [… : … : {when}] acts at all steps: write {_short(tag[:-1])}:step={step}>"
        if not parts[0].strip(f"{_BLANK} ,") and (len(parts) == 1 or _NUMBER.fullmatch(parts[1])):
            return f"{_short(tag)} in brackets has the same effect as without them: its weight is the number in the tag"
    return ""


def _top(text: str) -> str:
    """The text with everything in brackets masked."""
    depth, kept = 0, []
    for mark in text:
        depth += (mark in "([") - (mark in ")]")
        kept.append("\1" if depth or mark in ")]" else mark)
    return "".join(kept)


def _split(text: str) -> Iterator[str]:
    """The parts between colons outside of inner brackets."""
    begin = 0
    for at, mark in enumerate(_top(text)):
        if mark == ":":
            yield text[begin:at]
            begin = at + 1
    yield text[begin:]


def _short(text: str, limit: int = 100) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
