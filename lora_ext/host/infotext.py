"""The web UI's infotext: the parameters that it writes into an image and reads back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from PIL import Image, PngImagePlugin

from ..console import replace_lone_surrogates

PARAMETERS_KEY = "parameters"
"""Name of the PNG text chunk."""


def quote_infotext_value(value: object) -> str:
    """Formats a value; one with a comma, a colon or a line end becomes a JSON string.

    Example:
        >>> quote_infotext_value("a, b")
        '"a, b"'
    """
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text


def format_infotext_number(value: float) -> str:
    """Formats a number without `.0`: 7, 7.5."""
    return str(int(value)) if float(value).is_integer() else str(value)


def format_infotext(prompt: str, negative: str, parameters: Mapping[str, object]) -> str:
    """Formats an infotext: prompt, negative prompt and `Name: value, …` in the given order, without None values."""
    line = ", ".join(
        f"{name}: {quote_infotext_value(value)}" for name, value in parameters.items() if value is not None
    )
    return f"{prompt}{f'{chr(10)}Negative prompt: {negative}' if negative else ''}\n{line}".strip()


def format_hashes(hashes: Mapping[str, str]) -> str | None:
    """Formats `name: 12 hex digits, …`; colons and commas are removed from names. None for no hashes."""
    kept = {name.translate(str.maketrans("", "", ":,")): digest[:12] for name, digest in hashes.items() if digest}
    return ", ".join(f"{name}: {digest}" for name, digest in kept.items()) or None


def parse_hashes(text: str) -> dict[str, str]:
    """Parses what `format_hashes` has formatted.

    Example:
        >>> parse_hashes("one: 0123456789ab, two: abcdef")
        {'one': '0123456789ab', 'two': 'abcdef'}
    """
    rows = (entry.rpartition(":") for entry in text.split(","))
    return {name.strip(): digest.strip() for name, _, digest in rows if name.strip() and digest.strip()}


def png_save_options(image: Image.Image) -> dict[str, Any]:
    """Returns options for `Image.save(…, format="PNG")` that keep the image's infotext."""
    text = image.info.get(PARAMETERS_KEY)
    if not text:
        return {}
    info = PngImagePlugin.PngInfo()
    info.add_text(PARAMETERS_KEY, replace_lone_surrogates(text))
    return {"pnginfo": info}
