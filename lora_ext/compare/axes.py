"""Axes of a sheet: the text `KIND [NAME]:VALUES` becomes labelled edits of an `ImageSpec`.

Examples: `epoch:all`, `weight:0.2-1.0(+0.2)`, `block OUT05:0-1 [5]`, `weight style:0,1`, `seed:1,2,3`. NAME says which
LoRA of the prompt is meant where there are several; without it `default_axis_lora` chooses one. A new kind is a row in
`AXIS_KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..adapter_spec import Presets, resolve_block_weights
from ..block_weights import BlockWeights, parse_block_weights
from ..blocks import BLOCK_LABELS, BLOCK_LAYOUTS, parse_block_label, parse_block_range
from ..composition import parse_composition
from ..errors import LoraError, did_you_mean
from ..file.lora_library import LoraLibrary
from ..lora_tags import LoraTag
from ..weight_curve import BlockWeightCurve, parse_weight
from . import axis_values, setting_axes
from .axis_kinds import NO_AXIS, Axis, AxisContext, AxisKind, AxisParser, AxisValue, ImageSpecEdit
from .image_spec import ImageSpec, edit_tag
from .training_run_files import find_run, is_same_run, parse_run_file, prompt_names, select_run_files


def parse_axis(text: str, context: AxisContext) -> Axis:
    """Parses an axis from `KIND [NAME]:VALUES`; an empty text is `NO_AXIS`.

    Args:
        text: such as "weight:0.2-1.0(+0.2)".
        context: where files and presets are looked up.

    Returns:
        The axis with its values.

    Raises:
        LoraError: an unknown kind (with the nearest one), no values, or values that the kind cannot parse.
    """
    if not text.strip():
        return NO_AXIS
    head, colon, rest = text.partition(":")
    word, _, name = head.strip().partition(" ")
    kind = AXIS_KINDS.get(word.lower().replace("-", "_"))
    if kind is None:
        raise LoraError(f"unknown axis {word!r} in {text!r}{did_you_mean(word, AXIS_KINDS, len(AXIS_KINDS))}")
    if not colon:
        raise LoraError(f"axis {text!r} has no values; write {kind.name}:VALUES, such as {kind.example}")
    axis = kind.parse(rest.strip(), name.strip(), context)
    if not axis.values:
        raise LoraError(f"axis {text!r} has no values; write it as {kind.example}")
    return replace(axis, text=text, kind=kind.name)


def default_axis_lora(axes: Sequence[Axis], image_spec: ImageSpec, chosen: str = "") -> str:
    """The name of the LoRA that axes without a NAME change.

    The first of these that exists: `chosen`; the prompt's tag whose file an axis over files replaces; the first file
    of such an axis; the prompt's first tag; "".

    Args:
        axes: the axes of the sheet.
        image_spec: the picture that is varied.
        chosen: a name that the user gave; "" for none.

    Returns:
        The name as prompts have it.

    Raises:
        PromptError: the prompt has a tag that cannot be parsed.
    """
    names = [tag.name for tag in image_spec.tags()]
    listed = [axis.name for axis in axes if axis.order == 1 and axis.name]
    found = (name for name in names if any(is_same_run(name, other) for other in listed))
    return chosen or next(found, "") or (listed[0] if listed else "") or (names[0] if names else "")


# --- axes that change a tag -----------------------------------------------------------------------------------------


def _on_tag(name: str, change: Callable[[LoraTag, ImageSpec], LoraTag]) -> ImageSpecEdit:
    """The edit that changes the tag of `name`, or of the sheet's own LoRA without a name."""

    def apply(image_spec: ImageSpec) -> ImageSpec:
        meant = name or image_spec.lora
        if not meant:
            raise LoraError("which LoRA is meant? Put <lora:name:1> into the prompt, or name it with --lora")
        return replace(image_spec, prompt=edit_tag(image_spec.prompt, meant, lambda tag: change(tag, image_spec)))

    return apply


def _files(rows: Sequence[tuple[str, str]], title: str, name: str, group: str) -> Axis:
    """An axis that replaces the file of a tag, from (label, file name) of each value."""

    def to(file_name: str) -> ImageSpecEdit:
        def apply(image_spec: ImageSpec) -> ImageSpec:
            before = name or image_spec.lora or group
            prompt = edit_tag(image_spec.prompt, before, lambda tag: replace(tag, name=file_name))
            done = replace(image_spec, prompt=prompt)
            return done if name and not is_same_run(name, image_spec.lora) else replace(done, lora=file_name)

        return apply

    return Axis(title, tuple(AxisValue(text, to(file_name)) for text, file_name in rows), order=1, name=name or group)


def _epoch(text: str, name: str, context: AxisContext) -> Axis:
    wanted = (
        name
        or context.image_spec.lora
        or next((r.name for r in context.image_spec.tags() if _in_run(r.name, context.library)), None)
    )
    chosen = select_run_files(find_run(wanted, context.library), text)
    return _files(
        [(file_name.label, file_name.name) for file_name in chosen],
        f"epochs of {chosen[0].run}",
        name,
        parse_run_file(chosen[0].name).run,
    )


def _in_run(name: str, library: LoraLibrary) -> bool:
    try:
        return bool(find_run(name, library))
    except LoraError:
        return False


def _file(text: str, name: str, context: AxisContext) -> Axis:
    names = axis_values.parse_item_list(text)
    if names in (["all"], ["*"]):
        names = prompt_names(context.library)
    for file_name in names:
        context.library.find(file_name)
    tags = [tag.name for tag in context.image_spec.tags()]
    group = next((tag for tag in tags if tag in names), names[0] if names else "")
    return _files([(file_name, file_name) for file_name in names], "file", name, group)


def _tag_values(name: str, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[AxisValue, ...]:
    """The values of an axis that sets fields of the tag, from (label, fields) of each."""

    def value(text: str, fields: Mapping[str, Any]) -> AxisValue:
        return AxisValue(text, _on_tag(name, lambda tag, _: replace(tag, **fields)))

    return tuple(value(*row) for row in rows)


def _number(title: str, *fields: str) -> AxisParser:
    """The parser of a kind whose values are numbers for fields of the tag."""

    def parse(text: str, name: str, context: AxisContext) -> Axis:
        rows = (
            (f"{title} {number:g}", dict.fromkeys(fields, number))
            for number in axis_values.parse_number_list(text, title)
        )
        return Axis(f"{title} of {name}" if name else title, _tag_values(name, rows), name=name)

    return parse


def _preset(text: str, name: str, context: AxisContext) -> Axis:
    presets = context.presets.weights
    names = list(presets) if text.strip().lower() == "all" else axis_values.parse_item_list(text)
    for preset in names:
        parse_block_weights(preset, presets=presets)
    return Axis("block weights", _tag_values(name, ((preset, {"lbw": preset}) for preset in names)), name=name)


def _block(text: str, name: str, context: AxisContext) -> Axis:
    """`block OUT05:0-1 [5]`, or `block:IN04-OUT05=0, MID=0.5` (each of these blocks alone)."""
    word, _, rest = name.partition(" ")
    rest = rest.strip()
    if word:
        title = parse_block_label(word)
        pairs = [(title, number) for number in axis_values.parse_number_list(text, title)]
    else:
        title = "one block's weight"
        pairs = [pair for item in axis_values.parse_item_list(text) for pair in _block_item(item)]
    rows = (
        AxisValue(f"{block} {number:g}", _on_tag(rest, _block_to(block, number, context))) for block, number in pairs
    )
    return Axis(title, tuple(rows), name=rest)


def _block_item(item: str) -> list[tuple[str, float]]:
    blocks, equals, number = item.partition("=")
    if not equals:
        raise LoraError(f"block axis: {item!r} is not BLOCK=WEIGHT, such as OUT05=0.5 or IN04-OUT05=0")
    return [
        (block, value)
        for block in parse_block_range(blocks)
        for value in axis_values.parse_number_range(number.strip(), block)
    ]


def _block_to(block: str, weight: float, context: AxisContext) -> Callable[[LoraTag, ImageSpec], LoraTag]:
    def change(tag: LoraTag, image_spec: ImageSpec) -> LoraTag:
        sdxl = context.library.load(tag.name).family == "SDXL"
        labels = BLOCK_LAYOUTS[20 if sdxl else 26].labels
        return replace(tag, lbw=with_block_weight(tag, block, weight, labels, context.presets, image_spec.seed), x=None)

    return change


def with_block_weight(
    tag: LoraTag, block: str, weight: float, labels: Sequence[str], presets: Presets, seed: int = 0
) -> str:
    """The block weights of a tag as numbers, with one block changed.

    Args:
        tag: the tag; blocks that it has no weight for count as 1.
        block: the label of the block to change.
        weight: its new weight.
        labels: the blocks of the layout; all others get 0.
        presets: block weight presets that the tag may name.
        seed: the picture's seed, for random block weights.

    Returns:
        The text for `lbw=`; where the tag has keyframes, with that block changed in all of them.
    """

    def change(before: BlockWeights) -> str:
        weights = {name: before.weights.get(name, 1.0) if name in labels else 0.0 for name in BLOCK_LABELS}
        return BlockWeights(weights | {block: weight}).format_weights()

    before = resolve_block_weights(replace(tag, lbwe=None), presets, seed=seed)
    if isinstance(before, BlockWeightCurve):
        return before.keyframes.format_values(tuple(map(change, before.values)), ";")
    return change(before)


def _rank(text: str, name: str, context: AxisContext) -> Axis:
    """`rank:1,2,4`, or `rank:all` for the ranks that a DyLoRA was trained for."""
    if text.strip().lower() == "all":
        meant = name or context.image_spec.lora or next((tag.name for tag in context.image_spec.tags()), "")
        file_name = context.library.load(meant)
        full = max((adapter.rank or 0 for adapter in file_name.adapters.values()), default=0)
        unit = file_name.dylora_unit or 1
        text = ",".join(str(rank) for rank in sorted({*range(unit, full + 1, unit), full}))
    ranks = [int(rank) for rank in axis_values.parse_number_list(text, "rank", whole=True)]
    if min(ranks) < 1:
        raise LoraError(f"rank: {min(ranks)} is not a rank; ranks begin at 1")
    return Axis("rank", _tag_values(name, ((f"rank {rank}", {"dyn": rank}) for rank in ranks)), name=name)


def _curve(text: str, name: str, context: AxisContext) -> Axis:
    """`curve:0.8,0@0;1@0.5`: U-Net weights, each a number or keyframes separated by `;`."""

    def fields(item: str) -> dict[str, Any]:
        weight, curve = parse_weight(item, text)
        return {"unet": weight, "unet_curve": curve}

    return Axis(
        "U-Net weight", _tag_values(name, ((i, fields(i)) for i in axis_values.parse_item_list(text))), name=name
    )


def _compose(text: str, name: str, context: AxisContext) -> Axis:
    """`compose:sum,switch,composite`: tags that say nothing do as the one that is changed."""
    items = axis_values.parse_item_list(text)
    for item in items:
        parse_composition(item)
    return Axis("composition", _tag_values(name, ((item, {"compose": item}) for item in items)), name=name)


def _step(field: str) -> AxisParser:
    """The parser of the kinds `start` and `stop`."""

    def parse(text: str, name: str, context: AxisContext) -> Axis:
        def head(step: float | None) -> str:
            return f"{field} {'–' if step is None else f'{step:.0%}' if isinstance(step, float) else step}"

        rows = ((head(step), {field: step}) for step in axis_values.parse_step_list(text, field))
        return Axis(f"{field} step", _tag_values(name, rows), name=name)

    return parse


def _tag_kind(name: str, title: str, example: str, parse: AxisParser, **more: Any) -> AxisKind:
    return AxisKind(name, f"LoRA {title}", example, parse, changes_tag=True, **more)


def _file_names(context: AxisContext) -> list[str]:
    return prompt_names(context.library)


def _preset_names(context: AxisContext) -> list[str]:
    return list(context.presets.weights)


_OURS = {"needs_lora_ext": True}
_TABLE = (
    _tag_kind("epoch", "epoch", "epoch:all or epoch:2-6,last", _epoch, loads_file=True),
    _tag_kind("file", "file", "file:one,other", _file, loads_file=True, choices=_file_names),
    _tag_kind("weight", "weight", "weight:0.2-1.0(+0.2)", _number("weight", "te", "unet")),
    _tag_kind("te", "text encoder weight", "te:0-1 [5]", _number("te", "te")),
    _tag_kind("unet", "U-Net weight", "unet:0-1 [5]", _number("U-Net", "unet")),
    _tag_kind("preset", "block preset", "preset:ALL,INALL,OUTALL", _preset, **_OURS, choices=_preset_names),
    _tag_kind("block", "one block's weight", "block OUT05:0-1 [5] or block:IN04-OUT05=0", _block, **_OURS),
    _tag_kind("rank", "rank (DyLoRA)", "rank:1,2,4 or rank:all", _rank, **_OURS),
    _tag_kind("start", "start step", "start:0,5,10 or start:0.0-0.5 [3]", _step("start"), **_OURS),
    _tag_kind("stop", "stop step", "stop:5,10 or stop:0.5,1.0", _step("stop"), **_OURS),
    _tag_kind("curve", "weight curve", "curve:0.8, 0@0;1@0.5, 1@0;0@1", _curve, **_OURS),
    _tag_kind("compose", "composition", "compose:sum,switch,switch/5,composite", _compose, **_OURS),
    AxisKind("seed", "seed", "seed:1,2,3", setting_axes.parse_seed_axis),
    AxisKind("sr", "prompt S/R", "sr:cat,dog", setting_axes.parse_replacement_axis),
    AxisKind("prompt", "prompt", "prompt:a cat | a dog --d 7 --n blurry", setting_axes.parse_prompt_axis),
    AxisKind("steps", "steps", "steps:10,20", setting_axes.number_axis_parser("steps", "steps", True)),
    AxisKind("cfg", "CFG scale", "cfg:3,5,7", setting_axes.number_axis_parser("cfg", "CFG", False)),
    AxisKind("sampler", "sampler", "sampler:Euler,DPM++ 2M", setting_axes.text_axis_parser("sampler")),
    AxisKind("scheduler", "schedule type", "scheduler:Automatic,Karras", setting_axes.text_axis_parser("scheduler")),
)
AXIS_KINDS = {kind.name: kind for kind in _TABLE}
"""Name → kind, in the order in which they are listed for the user."""
