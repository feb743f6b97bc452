"""What an axis is: labelled edits of a `ImageSpec`, and the readers that make them from text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..adapter_spec import Presets
from ..file.lora_library import LoraLibrary
from .image_spec import ImageSpec

ImageSpecEdit = Callable[[ImageSpec], ImageSpec]


@dataclass(frozen=True)
class AxisValue:
    """One row or column: its head, and what it does to a shot."""

    label: str
    edit: ImageSpecEdit


@dataclass(frozen=True)
class Axis:
    """title: what is varied. text: as it was asked for. order: axes of smaller order edit first. name: its LoRA."""

    title: str
    values: tuple[AxisValue, ...]
    text: str = ""
    order: int = 2
    name: str = ""


@dataclass(frozen=True)
class AxisContext:
    """What values are looked up in. shot: the picture that is varied."""

    library: LoraLibrary
    image_spec: ImageSpec
    presets: Presets = field(default_factory=Presets)


AxisParser = Callable[[str, str, AxisContext], Axis]
"""(values' text, NAME or "", what is known) → the axis."""


@dataclass(frozen=True)
class AxisKind:
    """A kind of axis: its title, how it is written, and the reader of its values."""

    name: str
    title: str
    example: str
    parse: AxisParser


NO_AXIS = Axis("", (AxisValue("", lambda shot: shot),))
