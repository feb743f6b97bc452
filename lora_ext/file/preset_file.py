"""Preset files of the user and of other extensions, in whatever encoding an editor saved them."""

from __future__ import annotations

import codecs
import locale
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..block_weights import parse_block_presets

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def decode_unknown_text(data: bytes) -> tuple[str, str]:
    """(text, what it was read as: "" for UTF-8 and UTF-16 with its mark).

    Text of another encoding does not say which one it is: tried are this system's own (Windows' "ANSI"), GB18030 (which
    holds GBK) and Windows-1252, which takes every byte.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace"), ""
    try:
        text = data.decode("utf-8")
        if "\0" not in text:
            return text, ""
    except UnicodeDecodeError:
        pass
    if b"\0" in data:  # UTF-16 without its mark: the numbers' other bytes are 0
        encoding = "utf-16-le" if data[1::2].count(0) >= data[::2].count(0) else "utf-16-be"
        return data.decode(encoding, "replace"), encoding.upper()
    for encoding in dict.fromkeys([locale.getpreferredencoding(False), "gb18030"]):
        try:
            return data.decode(encoding), encoding
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("cp1252", "replace"), "Windows-1252"


def load_preset_file(path: Path) -> tuple[dict[str, str], str]:
    """(presets, a sentence for the user where something is odd). Never raises: pictures are made without it too."""
    try:
        text, encoding = decode_unknown_text(path.read_bytes()) if path.is_file() else ("", "")
    except OSError as error:
        return {}, f"{path.name} cannot be read ({error.strerror or error}): its presets are left out"
    if not encoding:
        return parse_block_presets(text), ""
    return parse_block_presets(
        text
    ), f"{path.name} is not UTF-8 text and was read as {encoding}; save it as UTF-8 to be sure"


def load_preset_files(base: Mapping[str, str], files: Iterable[Path]) -> tuple[dict[str, str], tuple[str, ...]]:
    """(`base` and over it the presets of each file, what the user is told about them)."""
    presets, notes = dict(base), []
    for file in files:
        own, note = load_preset_file(file)
        presets.update(own)
        notes += [note] if note else []
    return presets, tuple(notes)
