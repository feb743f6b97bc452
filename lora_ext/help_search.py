"""Finding help by the words that users type: `help sdxl`, `help black picture`, `help oom`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .errors import did_you_mean

MOST_FOUND = 8
"""Entries of one kind that are listed; more are counted."""
SAME_WORDS = {
    "oom": "memory", "vram": "memory", "ram": "memory", "xl": "sdxl", "sd15": "sd1", "sd1.5": "sd1", "sd21": "sd2",
    "sd2.1": "sd2", "color": "colour", "colors": "colour", "colours": "colour", "burned": "burnt", "fried": "burnt",
    "overfit": "overtrained", "overfitting": "overtrained", "image": "picture", "images": "picture",
    "pictures": "picture", "photos": "photo",
}  # fmt: skip
"""What users write → the word, or the beginning of the words, of the pages."""
_LEFT_OUT = frozenset(
    "a an and are at be do does for how i in is it my no not of on or the this to what when why with".split()
)
_WORD = re.compile(r"[^\W_]+(?:\.\d+)?")


class HelpEntry(NamedTuple):
    """Something that help can name.

    Attributes:
        kind: the heading that it is listed under.
        name: how it is called there.
        title: what it is, in a line.
        text: its text; "" where the title is all.
    """

    kind: str
    name: str
    title: str
    text: str = ""


def search_words(asked: str) -> list[str]:
    """The words of a question that say something, as the pages write them.

    Example:
        >>> search_words("why is my image black?")
        ['picture', 'black']
    """
    words = [SAME_WORDS.get(word, word) for word in _WORD.findall(asked.casefold()) if word not in _LEFT_OUT]
    return list(dict.fromkeys(words))


def search_help(asked: str, entries: Iterable[HelpEntry]) -> list[HelpEntry]:
    """The entries that have the most of the words; of a kind, only those that have them in their titles, if any has.

    Args:
        asked: what the user typed.
        entries: what there is.

    Returns:
        The entries in their order; empty where no word is known.
    """
    words = search_words(asked)
    rows = [(entry, set(_hits(words, f"{entry.name} {entry.title}"))) for entry in entries]
    counted = [(entry, len(titled), len(titled | set(_hits(words, entry.text)))) for entry, titled in rows]
    most = max((count for *_, count in counted), default=0)
    if not most:
        return []
    best = [(entry, titled) for entry, titled, count in counted if count == most]
    titles = {entry.kind for entry, titled in best if titled == most}
    return [entry for entry, titled in best if titled == most or entry.kind not in titles]


def is_titled(asked: str, entry: HelpEntry) -> bool:
    """Whether a word of the question stands in the title of an entry."""
    return any(_hits(search_words(asked), f"{entry.name} {entry.title}"))


def nearest_word(asked: str, entries: Iterable[HelpEntry], names: Iterable[str]) -> str:
    """A hint with the nearest name, or the nearest word of a title, to what was typed; "" where none is near."""
    titles = {word for entry in entries for word in _WORD.findall(entry.title.casefold()) if len(word) > 3}
    return did_you_mean(asked, {*names, *titles, *(entry.name for entry in entries)}, 0)


def found_lines(found: Sequence[HelpEntry]) -> Iterator[str]:
    """The entries under the headings of their kinds, as lines."""
    for kind in dict.fromkeys(entry.kind for entry in found):
        mine = [entry for entry in found if entry.kind == kind]
        yield f"{kind}:"
        width = max(len(entry.name) for entry in mine[:MOST_FOUND]) + 2
        yield from (f"  {entry.name:<{width}}{entry.title}" for entry in mine[:MOST_FOUND])
        if len(mine) > MOST_FOUND:
            yield f"  and {len(mine) - MOST_FOUND} more"


def _hits(words: Iterable[str], text: str) -> Iterator[str]:
    """The words that stand in a text: short ones whole, of longer ones the beginning is enough."""
    folded = text.casefold()
    for word in words:
        end = r"(?![^\W_])" if len(word) < 4 else ""
        if re.search(rf"(?<![^\W_]){re.escape(word)}{end}", folded):
            yield word
