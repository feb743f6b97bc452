"""Text for consoles that cannot show all of it (what they lack is escaped), and text that any file can hold."""

from __future__ import annotations

import codecs
import contextlib
import re
import sys
from typing import Any

ESCAPE_ERROR_HANDLER = "lora_ext_escaped"
"""An error handler of encodings: characters become `\\uXXXX` as in JSON, so that JSON stays JSON."""


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = replace_lone_surrogates(error.object[error.start : error.end]).encode("utf-16-be")
    pairs = (units[place : place + 2] for place in range(0, len(units), 2))
    return "".join(f"\\u{pair.hex()}" for pair in pairs), error.end


codecs.register_error(ESCAPE_ERROR_HANDLER, _escaped)


_HALF = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")


def replace_lone_surrogates(text: str) -> str:
    """Text without halves of surrogate pairs, so that every encoding of Unicode takes it.

    Names of files and arguments that the system's encoding could not read came in as surrogates, a byte each: they
    become the UTF-8 that they are, or `\ufffd`.
    """
    if text.isascii() or text.isprintable():  # surrogates are not printable
        return text
    return _HALF.sub("\ufffd", text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def make_output_safe() -> None:
    """Standard output and error take any text from now on (Windows' code pages, LC_ALL=C, names that are no UTF-8)."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with contextlib.suppress(OSError, ValueError):  # closed, or not to be changed any more
                reconfigure(errors=ESCAPE_ERROR_HANDLER)


def printable_text(text: str, stream: Any = None) -> str:
    """The text as a stream (standard output without one) can show it, for streams that are another program's."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, ESCAPE_ERROR_HANDLER).decode(encoding)
