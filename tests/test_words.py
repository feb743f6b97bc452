"""Texts that people see keep to plain English and the field's terms: what stopped readers before does not come back."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import lora_ext

ROOT = Path(lora_ext.__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = sorted((ROOT / "javascript").rglob("*.mjs"))
WORD_LISTS = {ROOT / "lora_ext" / "embedded" / "tokenizer.py"}
SOURCES = sorted(set((ROOT / "lora_ext").rglob("*.py")) - WORD_LISTS)

ARTIST = r"\bartists?\b"
METAPHORS = {  # what a reader has to solve -> the field's term
    r"\bknobs?\b": "option",
    r"\bdesks?\b": "backend",
    r"\bstudios?\b": "app state",
    r"\bshel(?:f|ves)\b": "preset store",
    ARTIST: "image renderer",
    r"\bwish(?:es)?\b": "request, options",
    r"\blessons?\b": "toy task",
    r"\bborrow(?:s|ed|ing)?\b": "training context; use",
    r"\b(?:rooms?|floors?) of (?:the|this) (?:house|code)\b": "package, layer",
    r"\bdoors? for\b": "extension point",
}
IDIOMS = {
    r"\bthe very same\b": "the original, the same",
    r"\bits place back\b": "hands back to",
    r"\bgo(?:ne|es|ing)? on with\b": "resume, continue with",
    r"\bcomes? to nothing\b": "has no effect",
    r"\bthat comes? along\b": "part of the project",
    r"\bwhat the model itself says\b": "the base model's own predictions",
    r"\bis gone with\b": "is lost",
    r"\bdoes not wait any more\b": "has already started",
    r"\bsaid aloud\b": "explicit",
    r"\bas ever\b": "as usual",
    r"\bby itself alone\b": "alone",
    r"\bturns from square to straight\b": "threshold between the quadratic and the linear part",
}


def _python_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Strings and comments with their line."""
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type in kinds:
            yield token.start[0], token.string


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    yield from enumerate(path.read_text(encoding="utf-8").splitlines(), 1)


@pytest.mark.parametrize("path", [*PAGES, *SCRIPTS, *SOURCES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_metaphor_and_no_idiom(path: Path) -> None:
    found = [
        f"{path.name}:{line}: {match[0]!r}: write {plain}"
        for line, text in (_python_texts if path.suffix == ".py" else _lines)(path)
        for pattern, plain in {**METAPHORS, **IDIOMS}.items()
        if not (path.parent.name == "guide" and pattern == ARTIST)  # where styles of artists are spoken of
        for match in re.finditer(pattern, re.sub(r"\s+", " ", text), re.IGNORECASE)
    ]
    assert not found, "\n".join(found)
