"""What an axis is: labelled edits of a `Shot`, and the readers that make them from text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..applied_networks import Presets
from ..file.lora_library import Library
from .image_spec import Shot

Edit = Callable[[Shot], Shot]


@dataclass(frozen=True)
class Value:
    """One row or column: its head, and what it does to a shot."""

    label: str
    edit: Edit


@dataclass(frozen=True)
class Axis:
    """title: what is varied. text: as it was asked for. order: axes of smaller order edit first. name: its LoRA."""

    title: str
    values: tuple[Value, ...]
    text: str = ""
    order: int = 2
    name: str = ""


@dataclass(frozen=True)
class Known:
    """What values are looked up in. shot: the picture that is varied."""

    library: Library
    shot: Shot
    presets: Presets = field(default_factory=Presets)


Reader = Callable[[str, str, Known], Axis]
"""(values' text, NAME or "", what is known) → the axis."""


@dataclass(frozen=True)
class Kind:
    """A kind of axis: its title, how it is written, and the reader of its values."""

    name: str
    title: str
    example: str
    read: Reader


NONE = Axis("", (Value("", lambda shot: shot),))
