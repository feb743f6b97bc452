"""Text for consoles that cannot show all of it (what they lack is escaped), and text that any file can hold."""

from __future__ import annotations

import codecs
import contextlib
import re
import sys
from typing import TextIO

ESCAPE_ERROR_HANDLER = "lora_ext_escaped"
"""An error handler of encodings: characters become `\\uXXXX` as in JSON, so that JSON stays JSON."""


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = replace_lone_surrogates(error.object[error.start : error.end]).encode("utf-16-be")
    pairs = (units[start : start + 2] for start in range(0, len(units), 2))
    return "".join(f"\\u{pair.hex()}" for pair in pairs), error.end


codecs.register_error(ESCAPE_ERROR_HANDLER, _escaped)


_HALF = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")


def replace_lone_surrogates(text: str) -> str:
    """Replaces lone surrogates, so that every encoding of Unicode can hold the text.

    Python decodes bytes of file names and arguments that are not in the system's encoding as surrogates. Where such
    bytes are UTF-8 they become its characters, otherwise `\ufffd`.

    Args:
        text: any text.

    Returns:
        The text without lone surrogates.
    """
    if text.isascii() or text.isprintable():  # surrogates are not printable
        return text
    return _HALF.sub("\ufffd", text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def escape_control_characters(text: str) -> str:
    r"""Escapes what would command a terminal or turn the direction of a line; names of files can hold it.

    Args:
        text: any text.

    Returns:
        The text with `\u001b` and the like for each such character, so that JSON stays JSON; tabs and line breaks stay.
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def single_line(text: object, limit: int | None = 200) -> str:
    """One line of a text from a file, which may hold anything.

    Args:
        text: what is shown as text.
        limit: the most characters before it is cut; None for all.

    Returns:
        The text without line breaks and control characters.
    """
    line = escape_control_characters(" ".join(str(text).split()))
    return line if limit is None or len(line) <= limit else line[:limit] + "…"


def make_output_safe() -> None:
    """Lets standard output and error accept any text (Windows' code pages, LC_ALL=C, names that are not UTF-8)."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with contextlib.suppress(OSError, ValueError):  # closed, or not to be changed any more
                reconfigure(errors=ESCAPE_ERROR_HANDLER)


def printable_text(text: str, stream: TextIO | None = None) -> str:
    r"""Replaces what a stream cannot show: control characters, and those that it cannot encode.

    Args:
        text: any text.
        stream: the stream; None for standard output.

    Returns:
        The text with `\uXXXX` for each such character.
    """
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return escape_control_characters(text).encode(encoding, ESCAPE_ERROR_HANDLER).decode(encoding)


def print_text(text: object, *, file: TextIO | None = None, end: str = "\n") -> None:
    """Prints what may hold names of files, their metadata or a user's words.

    Args:
        text: what is printed as text.
        file: the stream; None for standard output.
        end: what follows the text.
    """
    print(printable_text(str(text), file), end=end, file=file)
