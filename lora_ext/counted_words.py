"""Counted words of messages: one picture, several pictures."""

from __future__ import annotations

import re

_COUNTED = re.compile(r"\{(\d)\} (\w+?)(?:(?<=ch)e)?s\b( have\b| are\b)?")
_VERBS = {"": "", " have": " has", " are": " is"}


def counted(count: int, one: str, many: str = "") -> str:
    """A number and what it counts.

    Args:
        count: the number.
        one: what follows the number 1, such as "picture".
        many: what follows every other number; without it `one` with an s.

    Returns:
        The text; thousands have commas.

    Example:
        >>> counted(1, "picture"), counted(1200, "picture"), counted(0, "file was", "files were")
        ('1 picture', '1,200 pictures', '0 files were')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def fill_counts(template: str, *values: object) -> str:
    """Fills a sentence's places, with the right words behind a 1. `core/singular_forms.mjs` does so on the page.

    Args:
        template: the sentence for many, with {0}, {1}, … for the values.
        *values: what stands there.

    Returns:
        The sentence.

    Example:
        >>> fill_counts("{0} pictures have {1} captions", 1, 2), fill_counts("{0} batches", "all")
        ('1 picture has 2 captions', 'all batches')
    """

    def one(found: re.Match[str]) -> str:
        place, word, verb = found[1], found[2], found[3] or ""
        return f"{{{place}}} {word}{_VERBS[verb]}" if str(values[int(place)]) == "1" else found[0]

    return _COUNTED.sub(one, template).format(*values)
