"""Typed results as JSON."""

from __future__ import annotations

from dataclasses import is_dataclass


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
