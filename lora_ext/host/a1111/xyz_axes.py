"""LoRA axes in the web UI's own X/Y/Z plot: epoch, file, weight, blocks, rank, steps.

Values have the syntax of sheets (`compare.axes`): `all`, `0.2-1.0 (+0.2)`, `0-1 [5]`. The prompt's tag is changed, or
added where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modules import scripts

from ...adapter_spec import Presets
from ...compare import axes, axis_values
from ...compare.axis_kinds import Axis, AxisContext, AxisKind, AxisValue
from ...compare.image_spec import ImageSpec, find_tag
from ...errors import LoraError
from ...file.lora_library import LoraLibrary

XYZ_SCRIPT = "xyz_grid.py"
FILE_COST = 0.4
"""How slow a change of the file is, 0..1: the plot changes slow axes least often."""


class XyzAxisValue(str):
    """A value as the plot handles it: a str, its label, with what it does."""

    value: AxisValue

    def __new__(cls, value: AxisValue) -> XyzAxisValue:
        """Creates the string from the value's label."""
        made = super().__new__(cls, value.label)
        made.value = value
        return made


class XyzAxes:
    """The axes, and what their values refer to.

    Args:
        library: returns the index of LoRA files; called when a plot begins.
        presets: returns what `lbw=` may name; called when a plot begins.
        other_tag_owner: returns the name of the extension that applies tags in place of this one, else "".
    """

    def __init__(
        self, library: Callable[[], LoraLibrary], presets: Callable[[], Presets], other_tag_owner: Callable[[], str]
    ) -> None:
        self.library, self.presets, self.other_tag_owner = library, presets, other_tag_owner

    def add_to_plot(self, *_: Any) -> None:
        """Adds the axes to the plot's list, in place of those from before Reload UI. Called by `on_before_ui`.

        Reload UI creates a new list in AUTOMATIC1111's web UI, and keeps the list in Forge Classic.
        """
        for data in scripts.scripts_data:
            if data.script_class.__module__ == XYZ_SCRIPT:
                options = data.module.axis_options
                others = [one for one in options if type(getattr(one.apply, "__self__", None)).__module__ != __name__]
                there = {option.label for option in others}
                made = (self._option(data.module, kind) for kind in axes.AXIS_KINDS.values() if kind.changes_tag)
                options[:] = [*others, *(option for option in made if option.label not in there)]

    def _option(self, plot: Any, kind: AxisKind) -> Any:
        choices = kind.choices

        def listed() -> list[str]:
            assert choices is not None
            return choices(AxisContext(self.library(), ImageSpec(), self.presets()))

        return plot.AxisOption(
            kind.title,
            str,
            self.apply,
            format_value=lambda p, option, x: str(x),
            confirm=lambda p, xs: self.confirm(p, kind.name, xs),
            cost=FILE_COST if kind.loads_file else 0.0,
            choices=listed if choices else None,
        )

    def confirm(self, p: Any, kind: str, xs: list[Any]) -> None:
        """Parses an axis's values and replaces them in place, before the plot generates images.

        Args:
            p: the web UI's `StableDiffusionProcessing`.
            kind: the axis, a key of `axes.AXIS_KINDS`.
            xs: the values as written.

        Raises:
            LoraError: a value cannot be parsed, or names a file or preset that does not exist.
        """
        owner = self.other_tag_owner()
        if owner and axes.AXIS_KINDS[kind].needs_lora_ext:
            raise LoraError(
                f"{axes.AXIS_KINDS[kind].title} would change nothing: {owner} applies LoRA tags here, not LoRA ext"
            )
        library = self.library()
        library.refresh()
        known = AxisContext(library, ImageSpec(prompt=p.prompt, negative_prompt=p.negative_prompt), self.presets())
        head, text = _split_name(kind, xs)
        axis = axes.parse_axis(f"{head}:{text}", known)
        p.lora_ext_axes = (*getattr(p, "lora_ext_axes", ()), axis)
        xs[:] = [XyzAxisValue(value) for value in axis.values]

    def apply(self, p: Any, x: XyzAxisValue, xs: list[Any]) -> None:
        """Changes the prompt for one cell, and the hires prompt where it has the tag too."""
        mine: tuple[Axis, ...] = getattr(p, "lora_ext_axes", ())
        lora = getattr(p, "lora_ext_lora", "") or axes.default_axis_lora(mine, ImageSpec(prompt=p.prompt))
        seed = int(p.seed) if isinstance(p.seed, (int, float)) else 0
        done = x.value.edit(ImageSpec(prompt=p.prompt, negative_prompt=p.negative_prompt, seed=seed, lora=lora))
        hires = getattr(p, "hr_prompt", "")
        if isinstance(hires, str) and lora and find_tag(hires, lora):
            p.hr_prompt = x.value.edit(ImageSpec(prompt=hires, seed=seed, lora=lora)).prompt
        p.prompt, p.lora_ext_lora = done.prompt, done.lora


def _split_name(kind: str, xs: list[Any]) -> tuple[str, str]:
    """Returns (`KIND NAME`, values) where the first value begins with `NAME:`, as in `OUT05: 0-1 [5]` or `run: all`."""
    texts = [str(x) for x in xs]
    name, colon, rest = texts[0].partition(":") if texts else ("", "", "")
    if not colon:
        return kind, axis_values.format_item_list(texts)
    return f"{kind} {name.strip()}", axis_values.format_item_list([rest.strip(), *texts[1:]])
