"""The types of an axis: labelled edits of an `ImageSpec`, and the parsers that make them from text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..adapter_spec import Presets
from ..file.lora_library import LoraLibrary
from .image_spec import ImageSpec

ImageSpecEdit = Callable[[ImageSpec], ImageSpec]
"""A picture's spec → the changed spec."""


@dataclass(frozen=True)
class AxisValue:
    """One value of an axis.

    Attributes:
        label: the label of its row or column.
        edit: the edit that it makes to a picture's spec.
    """

    label: str
    edit: ImageSpecEdit


@dataclass(frozen=True)
class Axis:
    """One axis of a sheet.

    Attributes:
        title: what is varied.
        values: its rows, columns or pages.
        text: the axis as the user wrote it.
        kind: the name of its `AxisKind`; "" for `NO_AXIS`.
        order: axes with a smaller order edit first.
        name: the LoRA that it changes.
    """

    title: str
    values: tuple[AxisValue, ...]
    text: str = ""
    kind: str = ""
    order: int = 2
    name: str = ""


@dataclass(frozen=True)
class AxisContext:
    """What the values of an axis are looked up in.

    Attributes:
        library: the LoRA files.
        image_spec: the picture that is varied.
        presets: block weight presets.
    """

    library: LoraLibrary
    image_spec: ImageSpec
    presets: Presets = field(default_factory=Presets)


AxisParser = Callable[[str, str, AxisContext], Axis]
"""(text of the values, NAME or "", context) → the axis."""


@dataclass(frozen=True)
class AxisKind:
    """A kind of axis.

    Attributes:
        name: the word before the colon.
        title: what the user sees.
        example: how it is written.
        parse: the parser of its values.
        changes_tag: whether it changes a LoRA's tag, so that other programs' plots have no such axis of their own.
        loads_file: whether each value loads another file, which is slow.
        needs_lora_ext: whether it changes a part of the tag that only LoRA ext understands.
        choices: returns what may be chosen as a value; None where nothing can be listed.
    """

    name: str
    title: str
    example: str
    parse: AxisParser
    changes_tag: bool = False
    loads_file: bool = False
    needs_lora_ext: bool = False
    choices: Callable[[AxisContext], list[str]] | None = None


NO_AXIS = Axis("", (AxisValue("", lambda image_spec: image_spec),))
