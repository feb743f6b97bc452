"""Preset files of the user and of other extensions, in whatever encoding an editor saved them."""

from __future__ import annotations

import codecs
import locale
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..block_weights import parse_block_presets

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def decode_unknown_text(data: bytes) -> tuple[str, str]:
    """Decodes text of an unknown encoding.

    UTF-8, and UTF-16 with or without its mark, are recognised. For others this system's own encoding (Windows' "ANSI"),
    GB18030 (which includes GBK) and Windows-1252, which accepts every byte, are tried in this order.

    Args:
        data: the bytes of a text file.

    Returns:
        (text, name of the encoding). The name is "" for UTF-8 and for UTF-16 with its mark.
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
    """Loads a file of block-weight presets. It never raises, so that images are generated without it too.

    Args:
        path: the file; it need not exist.

    Returns:
        (name → preset, a sentence for the user where something is wrong, else "").
    """
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
    """Loads several files of block-weight presets over some others.

    Args:
        base: name → preset, to begin with.
        files: the files; a later one replaces presets of an earlier one.

    Returns:
        (name → preset, sentences for the user).
    """
    presets, notes = dict(base), []
    for file in files:
        own, note = load_preset_file(file)
        presets.update(own)
        notes += [note] if note else []
    return presets, tuple(notes)
