"""Routes of the Weights panel: tags and block weights as text, presets."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from ..adapter_spec import resolve_tag, strong_weight_note
from ..block_weights import BlockWeights, parse_block_weights
from ..blocks import BASE, BLOCK_LABELS
from ..errors import BlockError, LoraError, PromptError
from ..file.displayed_names import displayed_name
from ..lora_tags import LORA_TAG_PATTERN, LoraTag, format_weights, parse_lora_tags, parse_tag_items
from ..no_effect_reasons import no_effect_reason
from ..weight_curve import parse_blocks_or_curve, parse_weight
from .app_state import AppState
from .preset_store import PresetRow
from .routing import RequestBody

_CURVE_POINTS, _MAX_CURVE_STEPS = 101, 1001
"""Points of a curve's picture: of one over shares or noise levels, and at most of one over steps."""
_FIRST_SIGMA, _LAST_SIGMA = 14.6, 0.03
"""The noise levels of Stable Diffusion: a curve's picture shows at least these."""
CurvePlaces = Literal["shares", "steps", "noise levels"]


class TagRequest(RequestBody):
    """What a `<lora:…>` tag says.

    Attributes:
        name: The file's name in the library.
        te: Weight of the text encoder.
        unet: Weight of the U-Net; null for that of the text encoder.
        lbw: Block weights, a preset's name or numbers; null for 1 everywhere.
        lbwe: Element rules; null for none.
        start: The step from which it acts; a whole number is a step, another a share of all. null for the first.
        stop: The step at which it stops; null for none.
        step: Both as text, as a tag has them: `5-10`, `0.25-`, `-1.0` (1 is a step, 1.0 a share, which JSON in a
            browser does not tell apart).
        dyn: How many ranks act; null for all.
        curve: Keyframes over the steps that the U-Net's weight is multiplied with; "" for none.
        hires: The weight or curve in the hires pass, `TE:UNET` for two; "" for the same.
        prompt: The prompt that the tag is written into; an older tag of the file is replaced.
    """

    name: str
    te: float = 1.0
    unet: float | None = None
    lbw: str | None = None
    lbwe: str | None = None
    start: float | None = None
    stop: float | None = None
    step: str | None = None
    dyn: int | None = None
    curve: str = ""
    hires: str = ""
    prompt: str = ""


class TextRequest(RequestBody):
    """A text to read.

    Attributes:
        text: The text.
    """

    text: str


class PresetRequest(RequestBody):
    """A preset of block weights.

    Attributes:
        name: Its name.
        values: 12, 17, 20, 25 or 26 values with commas between them.
        place: The place where one that was deleted is put back; then none of its name may be there. null for a new or
            changed one.
    """

    name: str
    values: str
    place: int | None = Field(None, ge=0)


class RenamePresetRequest(RequestBody):
    """A preset and its new name.

    Attributes:
        name: The preset's name.
        to: Its new name.
    """

    name: str
    to: str


@dataclass(frozen=True)
class TagAnswer:
    """A tag.

    Attributes:
        tag: The `<lora:…>` tag.
        prompt: The prompt with the tag in it.
        notes: What the tag will not do, and weights that look like a typing error, a sentence each.
        curve: The U-Net's weight over the steps as (place, weight): places are shares of the pass from 0 to 1, steps,
            or noise levels (sigma), which fall; empty where the weight is constant.
        curve_over: What the places are.
    """

    tag: str
    prompt: str
    notes: list[str]
    curve: list[tuple[float, float]]
    curve_over: CurvePlaces


@dataclass(frozen=True)
class TagSteps:
    """From which step until before which step a tag acts, as text: JSON in a browser does not tell the share 1.0 from
    step 1. "" where the tag does not say.
    """

    start: str
    stop: str


@dataclass(frozen=True)
class TagFields:
    """The fields of a tag.

    Attributes:
        name: the file's name as written in the tag.
        te: weight of the text encoders.
        unet: weight of the U-Net.
        dyn: use only the first `dyn` ranks (for DyLoRA files); None uses all.
        lbw: block weights as written: a preset's name or comma-separated numbers.
        lbwe: element rules as written.
        start: first step at which the U-Net part acts. An int counts steps from 0; a float is a fraction of all steps.
        stop: step before which the U-Net part stops acting; int or float as for `start`.
        x: the number that `X` in a preset stands for.
        steps: `start` and `stop` as text.
        curve: as in `TagRequest`.
        hires: as in `TagRequest`.
    """

    name: str
    te: float
    unet: float
    dyn: int | None
    lbw: str | None
    lbwe: str | None
    start: float | None
    stop: float | None
    x: float | None
    steps: TagSteps
    curve: str
    hires: str


def fields_of_tag(tag: LoraTag) -> TagFields:
    """The fields of a tag; a curve of the text encoder is its weight at the first step, the only one that acts."""
    start, stop = ("" if step is None else repr(step) for step in (tag.start, tag.stop))
    return TagFields(
        name=tag.name,
        te=tag.encoded_te,
        unet=tag.unet,
        dyn=tag.dyn,
        lbw=tag.lbw,
        lbwe=tag.lbwe,
        start=tag.start,
        stop=tag.stop,
        x=tag.x,
        steps=TagSteps(start, stop),
        curve="" if tag.unet_curve is None else tag.unet_curve.format_curve(),
        hires="" if tag.hires is None else ":".join(format_weights(tag.hires)),
    )


@dataclass(frozen=True)
class PresetsAnswer:
    """All block-weight presets.

    Attributes:
        notes: What is wrong with the files of presets, a sentence each.
    """

    presets: list[PresetRow]
    notes: list[str]


@dataclass(frozen=True)
class ImportedPresets(PresetsAnswer):
    """All block-weight presets after an import.

    Attributes:
        taken: The names of those that were imported.
    """

    taken: list[str]


@dataclass(frozen=True)
class PresetsText:
    """The user's own presets as a file's text."""

    text: str


def tag_from_request(options: TagRequest) -> LoraTag:
    """The request that its text would read back to. Raises PromptError."""
    if any(mark in options.name for mark in ":<>\n") or not options.name.strip():
        raise PromptError(
            f"{options.name[:80]!a} cannot be the name in a tag: give a name without : < > or line breaks"
        )
    items = [options.name, str(options.te)]
    if options.unet is not None:
        items.append(f"unet={options.unet}")
    hires = options.hires.strip()
    te, colon, unet = (part.strip() for part in hires.partition(":"))
    if hires:
        items += [f"hrte={te}", f"hrunet={unet}"] if colon else [f"hr={te}"]
    for name in ("lbw", "lbwe", "start", "stop", "step", "dyn"):
        value = getattr(options, name)
        if value is None or value == "":
            continue
        if name in ("start", "stop") and value == int(value) and value != 0.0:
            value = int(value)
        if any(mark in str(value) for mark in "<>=\n" + ":" * (name == "step")):
            raise PromptError(
                f"{name} {str(value)[:80]!a} cannot be written in a tag: it contains a character that ends the value"
            )
        items.append(f"{name}={value}")
    tag = parse_tag_items(":".join(items).split(":"))
    try:
        if options.curve.strip():
            weight, curve = parse_weight(options.curve, options.curve)
            tag = replace(tag, unet=tag.unet * weight, unet_curve=curve)
        if tag.lbw:
            parse_blocks_or_curve(tag.lbw, _check_block_weights)
    except BlockError as error:
        raise PromptError(str(error)) from None
    return tag


def _check_block_weights(text: str) -> BlockWeights:
    """Parses block weights whose preset may be unknown here. Raises BlockError."""
    return parse_block_weights(text, presets={text: "0," * 16 + "0"} if "," not in text else {})


def curve_points(tag: LoraTag) -> list[tuple[float, float]]:
    """The U-Net's weight over the steps, as `TagAnswer.curve`."""
    if tag.unet_curve is None:
        return []
    keyframes = tag.unet_curve.keyframes
    if keyframes.in_sigmas:
        first, last = max(keyframes.places[0], _FIRST_SIGMA), min(keyframes.places[-1], _LAST_SIGMA)
        levels = [first * (last / first) ** (i / (_CURVE_POINTS - 1)) for i in range(_CURVE_POINTS)]
        return [(level, tag.unet * tag.unet_curve.at(0, 1, level)) for level in levels]
    count = min(math.ceil(keyframes.places[-1]) + 1, _MAX_CURVE_STEPS) if keyframes.in_steps else _CURVE_POINTS
    scale = 1.0 if keyframes.in_steps else 1 / (count - 1)
    return [(step * scale, tag.unet * tag.unet_curve.at(step, count)) for step in range(count)]


def curve_places(tag: LoraTag) -> CurvePlaces:
    """What the places of a tag's curve are."""
    if tag.unet_curve is not None and tag.unet_curve.keyframes.in_sigmas:
        return "noise levels"
    return "steps" if tag.unet_curve is not None and tag.unet_curve.keyframes.in_steps else "shares"


def insert_tag(prompt: str, lora_tag: LoraTag, separator: str = " ") -> str:
    """The prompt with the tag in place of the first one of that name, or at its end.

    Where and how the file acts together with others stays as it was in the prompt. separator: what stands before it.
    """
    done = False

    def swap(match: Any) -> str:
        nonlocal done
        if done or displayed_name(match[2].split(":")[0]).strip().lower() != displayed_name(lora_tag.name).lower():
            return str(match[0])
        done = True
        with suppress(PromptError):
            old = parse_tag_items(match[2].split(":"))
            kept = replace(lora_tag, at=old.at, feather=old.feather, way=old.way, compose=old.compose)
            kept = replace(kept, part=old.part, neg=old.neg)
            return kept.format_tag()
        return lora_tag.format_tag()

    swapped = LORA_TAG_PATTERN.sub(swap, prompt)
    return swapped if done else joined(prompt, lora_tag.format_tag(), separator)


def joined(prompt: str, text: str, separator: str) -> str:
    """The prompt with a text at its end, as the web UI adds one; an empty prompt becomes the text alone."""
    return f"{prompt}{separator}{text}" if prompt.strip() else text


def tag_notes(app_state: AppState, lora_tag: LoraTag) -> list[str]:
    """What a tag will not do, and weights that look like a typing error; nothing about a file that is not there."""
    with suppress(LoraError):
        spec = resolve_tag(lora_tag, app_state.library, app_state.backend.presets())
        blocks = {layer_id.block for layer_id in spec.file.adapters if layer_id.block}
        given = spec.blocks.labels
        missing = [
            name for name in BLOCK_LABELS if name in blocks and name != BASE and given is not None and name not in given
        ]
        notes = [no_effect_reason(spec, spec.file.adapters), strong_weight_note(lora_tag, spec)]
        if missing:
            names = ", ".join(missing)
            notes.append(
                f"blocks {names} of this file are not among these weights and count as 0"
                if len(missing) > 1
                else f"block {names} of this file is not among these weights and counts as 0"
            )
        return [note for note in notes if note]
    return []


def register_weights_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the routes."""

    @api.post("/tag")
    def tag(options: TagRequest) -> TagAnswer:
        """The `<lora:…>` tag, the given prompt with it, and what of it will not act."""
        lora_tag = tag_from_request(options)
        return TagAnswer(
            tag=lora_tag.format_tag(),
            prompt=insert_tag(options.prompt, lora_tag, app_state.backend.tag_insertion().separator),
            notes=tag_notes(app_state, lora_tag),
            curve=curve_points(lora_tag),
            curve_over=curve_places(lora_tag),
        )

    @api.post("/tag/read")
    def read(given: TextRequest) -> TagFields:
        """The first tag of a text as its fields, with the block weights worked out where they are plain."""
        _, requests, errors = parse_lora_tags(given.text[:20000])
        if errors and not requests:
            raise errors[0]
        if not requests:
            raise PromptError("the text has no <lora:…> tag")
        return fields_of_tag(requests[0])

    @api.get("/presets")
    def presets() -> PresetsAnswer:
        """All block-weight presets; `own` ones can be changed. notes: what is odd about the files they are in."""
        return PresetsAnswer(app_state.presets.rows(), list(app_state.backend.presets().notes))

    @api.put("/presets")
    def save(preset: PresetRequest) -> PresetsAnswer:
        """Adds or replaces one of the user's own."""
        name, values = preset.name.strip(), preset.values.strip()
        if preset.place is None:
            app_state.presets.save({name: values})
        else:
            app_state.presets.put_back(name, values, preset.place)
        return presets()

    @api.delete("/presets")
    def remove(name: str = Query(..., max_length=200)) -> PresetsAnswer:
        """Deletes one of the user's own."""
        app_state.presets.remove(name)
        return presets()

    @api.post("/presets/rename")
    def rename(options: RenamePresetRequest) -> PresetsAnswer:
        """Renames one of the user's own."""
        app_state.presets.rename(options.name, options.to.strip())
        return presets()

    @api.get("/presets/export")
    def export() -> PresetsText:
        """The user's own presets as a text file's lines, as the block-weight extension reads them."""
        return PresetsText(app_state.presets.export_text())

    @api.post("/presets/import")
    def take(given: TextRequest) -> ImportedPresets:
        """Adds presets from lines `NAME:v,v,…`."""
        taken = app_state.presets.import_text(given.text[:1_000_000])
        return ImportedPresets(**vars(presets()), taken=taken)
