"""JSON: typed results as text, and text of files and metadata as values."""

from __future__ import annotations

import json
from dataclasses import is_dataclass
from typing import Any


def parse_json(text: str, **hooks: Any) -> Any:
    """Parses JSON of a file or of metadata that anybody may have written.

    Args:
        text: the text.
        **hooks: those of `json.loads`.

    Returns:
        What it holds; its types are for the caller to check.

    Raises:
        ValueError: it is empty or not JSON, nested too deeply, or has an integer of more digits than Python converts.

    Example:
        >>> parse_json('{"a": [1, null]}')
        {'a': [1, None]}
    """
    if not text.strip():  # json says "Expecting value: line 1 column 1 (char 0)"
        raise ValueError("it is empty")
    try:
        return json.loads(text, **hooks)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        if "set_int_max_str_digits" not in str(error):  # else it is an advice to programmers
            raise
        raise ValueError("it has a number of thousands of digits") from None


def dataclass_fields(value: object) -> dict[str, object]:
    """The fields of a dataclass by name, for `json.dumps(value, default=dataclass_fields)`.

    Args:
        value: What `json` cannot write by itself.

    Returns:
        The fields in the order in which the class declares them.

    Raises:
        TypeError: The value is no dataclass.

    Example:
        >>> import json
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Size:
        ...     width: int
        ...     height: int
        >>> json.dumps([Size(64, 48)], default=dataclass_fields)
        '[{"width": 64, "height": 48}]'
    """
    if not is_dataclass(value) or isinstance(value, type):
        raise TypeError(f"{type(value).__name__} cannot be written as JSON")
    return vars(value)
