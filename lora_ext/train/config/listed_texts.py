"""Options that are lists of texts: a list, or one line as people type it."""

from __future__ import annotations

import shlex

from ...errors import TrainError


def split_texts(line: str) -> list[str]:
    r"""Splits a line at spaces outside of quotation marks; a backslash is a character, as in Windows' paths.

    Args:
        line: The line.

    Returns:
        Its texts.

    Raises:
        ValueError: A quotation mark without its end.

    Example:
        >>> split_texts("betas='0.9, 0.99' path=C:\\loras")
        ['betas=0.9, 0.99', 'path=C:\\loras']
    """
    words = shlex.shlex(line, posix=True, punctuation_chars=False)
    words.whitespace_split, words.escape, words.commenters = True, "", ""
    return list(words)


def listed_texts(name: str, given: object) -> list[str]:
    """Returns the texts of the option `name`: a list's, or those of one line. Raises TrainError."""
    try:
        texts = split_texts(given) if isinstance(given, str) else given
    except ValueError as error:
        raise TrainError(f"{name}: {str(given)[:80]!r} cannot be split into texts: {error}") from None
    if texts is not None and not isinstance(texts, (list, tuple)):
        raise TrainError(f"{name} must be name=value pairs, not {shown_value(given)}")
    return [str(text) for text in texts or ()]


def shown_value(given: object) -> str:
    """An option's value as a message shows it."""
    try:
        return repr(given)
    except ValueError:  # hexadecimal integers in TOML may be larger than Python writes in digits
        return "an integer of thousands of digits"
