"""Text on pictures: fonts, sizes and line breaks."""

from __future__ import annotations

import importlib.util
import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

Font: TypeAlias = "ImageFont.FreeTypeFont | ImageFont.ImageFont"

INK_COLOUR, MUTED_COLOUR, PAPER_COLOUR, LINE_COLOUR = "#1b1b1f", "#5d5d68", "#ffffff", "#d9d9e0"
_FURTHER = ("NotoSansCJK-Regular.ttc", "YuGothM.ttc", "msgothic.ttc", "Hiragino Sans GB.ttc", "PingFang.ttc",
            "Arial Unicode.ttf", "DejaVuSans.ttf", "arial.ttf")  # fmt: skip
"""Fonts of common systems for letters that Pillow's own font lacks, tried in this order."""
_PLAIN = str.maketrans({"–": "-", "—": "-", "…": "...", "×": "x", "“": '"', "”": '"', "’": "'", "‖": "|", "Δ": "d"})
"""Replacements for marks that Pillow's own font lacks."""
_BREAK = re.compile(r"[^\s/_\-,:+]*[/_\-,:+]*")
_PROBE = ImageDraw.Draw(Image.new("RGB", (1, 1)))


@lru_cache(maxsize=64)
def _truetype_font(size: int, name: str) -> Font | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@lru_cache(maxsize=64)
def _default_font(size: int) -> Font:
    """Pillow's own font; before Pillow 10.1 one of matplotlib's or of the system, at worst a small bitmap font."""
    with suppress(TypeError):
        return ImageFont.load_default(size)
    found = importlib.util.find_spec("matplotlib")
    folder = Path(found.origin).parent if found and found.origin else Path()
    names = (str(folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"), *_FURTHER)
    return next((font for name in names if (font := _truetype_font(size, name)) is not None), ImageFont.load_default())


def load_font(size: int, text: str = "") -> Font:
    """A font for a text.

    Args:
        size: height in pixels.
        text: for letters beyond Latin one of the system's fonts is chosen, otherwise Pillow's own.
    """
    if any(ord(letter) > 0x24F and not 0x2000 <= ord(letter) <= 0x206F for letter in text):
        found = next((font for name in _FURTHER if (font := _truetype_font(size, name)) is not None), None)
        if found is not None:
            return found
    return _default_font(size)


def text_width(text: str, font: Font) -> int:
    """Width of the longest line in pixels."""
    return int(max((_PROBE.textlength(line, font=font) for line in displayable_text(text).split("\n")), default=0)) + 1


def text_height(text: str, font: Font) -> int:
    """Height of all lines in pixels, with the descenders of the last one."""
    return int(_PROBE.multiline_textbbox((0, 0), text + "\ng", font=font)[3]) - line_height(font) if text else 0


def line_height(font: Font) -> int:
    """Distance from one line to the next in pixels."""
    two, one = (_PROBE.multiline_textbbox((0, 0), text, font=font)[3] for text in ("g\ng", "g"))
    return int(two - one)


def displayable_text(text: str) -> str:
    """The text with simple typographic marks, and with ? for letters that no font on this system has."""
    text = text.translate(_PLAIN)
    if isinstance(load_font(16, text), ImageFont.FreeTypeFont):
        return text
    return text.encode("latin-1", "replace").decode("latin-1")


def wrap_text(text: str, font: Font, width: int, lines: int = 0) -> str:
    """Breaks a text into lines.

    Lines break at blanks, in long names also after - _ / and the like, and anywhere if nothing else is possible.

    Args:
        text: the text.
        font: of the text.
        width: of a line, in pixels.
        lines: the largest number of lines, the last ending in dots if text is left out; 0 for any number.
    """
    wrapped, line = [], ""
    for word in displayable_text(text).split():
        for piece, joint in _word_parts(word, font, width):
            longer = f"{line}{joint if line else ''}{piece}"
            if line and _PROBE.textlength(longer, font=font) > width:
                wrapped.append(line)
                longer = piece
            line = longer
    wrapped.append(line)
    if lines and len(wrapped) > lines:
        last = wrapped[lines - 1]
        while last and _PROBE.textlength(last + "...", font=font) > width:
            last = last[:-1]
        wrapped = [*wrapped[: lines - 1], last + "..."]
    return "\n".join(wrapped)


def _word_parts(word: str, font: Font, width: int) -> list[tuple[str, str]]:
    """(part of a word, text between it and the part before); a word that fits a line is one part."""
    if _PROBE.textlength(word, font=font) <= width:
        return [(word, " ")]
    pieces = []
    for part in filter(None, _BREAK.findall(word)):
        while part and _PROBE.textlength(part, font=font) > width:
            cut = max(1, next(n for n in range(len(part), 0, -1) if n == 1 or _fits(part[:n], font, width)))
            pieces.append(part[:cut])
            part = part[cut:]
        if part:
            pieces.append(part)
    return [(piece, "" if place else " ") for place, piece in enumerate(pieces)]


def _fits(text: str, font: Font, width: int) -> bool:
    return _PROBE.textlength(text, font=font) <= width
