"""The line of parameters that the web UI keeps in a picture, written so that it reads back there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from PIL import Image, PngImagePlugin

from ..console import replace_lone_surrogates

PARAMETERS_KEY = "parameters"
"""The PNG text chunk's name."""


def quote_infotext_value(value: object) -> str:
    """As it stands, or as a JSON text if it holds a comma, a colon or a line end."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text


def format_infotext_number(value: float) -> str:
    """Without a needless `.0`: 7, 7.5."""
    return str(int(value)) if float(value).is_integer() else str(value)


def format_infotext(prompt: str, negative: str, parameters: Mapping[str, object]) -> str:
    """Prompt, negative prompt if there is one, and `Name: value, …` in the given order; None values are left out."""
    told = ", ".join(
        f"{name}: {quote_infotext_value(value)}" for name, value in parameters.items() if value is not None
    )
    return f"{prompt}{f'{chr(10)}Negative prompt: {negative}' if negative else ''}\n{told}".strip()


def format_hashes(hashes: Mapping[str, str]) -> str | None:
    """`name: 12 hex digits, …` of the files in use; names lose colons and commas; None without any."""
    kept = {name.translate(str.maketrans("", "", ":,")): digest[:12] for name, digest in hashes.items() if digest}
    return ", ".join(f"{name}: {digest}" for name, digest in kept.items()) or None


def png_save_options(image: Image.Image) -> dict[str, Any]:
    """Options for `Image.save(…, format="PNG")` that keep the picture's infotext."""
    text = image.info.get(PARAMETERS_KEY)
    if not text:
        return {}
    info = PngImagePlugin.PngInfo()
    info.add_text(PARAMETERS_KEY, replace_lone_surrogates(text))
    return {"pnginfo": info}
