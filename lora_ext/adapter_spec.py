"""`AdapterSpec`: a loaded LoRA file with its weights, block weights and schedule; and how a tag becomes one."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from .block_weights import (
    BLOCK_PRESETS,
    ELEMENT_PRESETS,
    UNIFORM_WEIGHTS,
    BlockWeights,
    parse_block_weights,
    parse_element_rules,
)
from .composition import Turn, assign_turns
from .conditions import ConditionScope
from .errors import BlockError, PromptError, did_you_mean
from .file.lora_file import LoraFile
from .layer_names import UNET, LayerId, element_rule_names
from .lora_tags import OUTPUT, LoraTag
from .regions import Region
from .weight_curve import BlockWeightCurve, WeightCurve, parse_blocks_or_curve


def is_step_in_range(start: float | None, stop: float | None, step: int, total: int) -> bool:
    """Whether a step lies in a range.

    Args:
        start: first step; an int counts from 0, a float is a fraction of `total`; None means no limit.
        stop: step before which the range ends, int or float as for `start`.
        step: the step, from 0.
        total: the number of steps.

    Returns:
        True for `start` ≤ `step` < `stop`.

    Example:
        >>> [is_step_in_range(0.5, None, step, 4) for step in range(4)]
        [False, False, True, True]
    """

    def at(value: float) -> float:
        return value * total if isinstance(value, float) else value

    return (start is None or step >= at(start)) and (stop is None or step < at(stop))


@dataclass(frozen=True)
class AdapterSpec:
    """A LoRA file with the weights at which it is applied.

    Attributes:
        file: the loaded file.
        te: weight of the text encoders.
        unet: weight of the U-Net.
        blocks: block weights and element rules.
        dyn: use only the first `dyn` ranks; None uses all.
        start: first step at which the U-Net part acts. An int counts steps from 0; a float is a fraction of all steps.
            The text-encoder part always acts, since the text is encoded before the first step.
        stop: step before which the U-Net part stops acting.
        curve: factor of `unet` over the steps; None for 1.
        block_curve: block weights over the steps, in place of `blocks` in the U-Net; None where they are constant.
        name: the name in the prompt; "" for the file's own.
        notes: further notes for the report.
        compose: how it acts together with other files, as `composition.parse_composition` parses it; None as they do.
        region: where in the picture the U-Net part acts, by masks on the outputs of its layers; None for everywhere.
        turn: when it acts where files take turns (`with_turns`); it follows from the other specs of the prompt.
        scope: the conditions on which the file acts; None for all.
    """

    file: LoraFile
    te: float = 1.0
    unet: float = 1.0
    blocks: BlockWeights = UNIFORM_WEIGHTS
    dyn: int | None = None
    start: float | None = None
    stop: float | None = None
    name: str = ""
    notes: tuple[str, ...] = ()
    curve: WeightCurve | None = None
    block_curve: BlockWeightCurve | None = None
    compose: str | None = None
    region: Region | None = None
    turn: Turn | None = field(default=None, compare=False)
    scope: ConditionScope | None = None

    @property
    def display_name(self) -> str:
        """The name in the prompt, or the file's own."""
        return self.name or self.file.name

    @property
    def is_scheduled(self) -> bool:
        """Whether the weight changes from step to step."""
        return any(part is not None for part in (self.start, self.stop, self.curve, self.block_curve, self.turn))

    @property
    def needs_sigma(self) -> bool:
        """Whether the weight changes with the noise level."""
        return any(part is not None and part.keyframes.in_sigmas for part in (self.curve, self.block_curve))

    def at_step(self, step: int, total: int, sigma: float | None = None, prediction: int = 0) -> AdapterSpec:
        """Returns the spec with the constant weights that it has at one denoiser call.

        Args:
            step: the call, from 0.
            total: the number of calls.
            sigma: the noise level at the call; needed where `needs_sigma`, infinite before the first call.
            prediction: which prediction of the call, from 0, where several are averaged.

        Returns:
            A spec without schedule, whose `unet` is 0 outside the range of steps; itself where nothing is scheduled.

        Example:
            >>> from lora_ext.weight_curve import parse_curve
            >>> spec = AdapterSpec(LoraFile({}), unet=0.5, curve=parse_curve("0@0,1@1"))
            >>> [spec.at_step(step, 3).unet for step in range(3)]
            [0.0, 0.25, 0.5]
        """
        if not self.is_scheduled:
            return self
        factor = 1.0 if self.curve is None else self.curve.at(step, total, sigma)
        acts = is_step_in_range(self.start, self.stop, step, total)
        acts = acts and (self.turn is None or self.turn.acts_at(step, prediction))
        return replace(
            self,
            unet=self.unet * factor if acts else 0.0,
            blocks=self.blocks if self.block_curve is None else self.block_curve.at(step, total, sigma),
            start=None,
            stop=None,
            curve=None,
            block_curve=None,
            turn=None,
        )

    def weight_at(self, layer_id: LayerId) -> float:
        """Returns the weight at one layer.

        Args:
            layer_id: the layer.

        Returns:
            The part's weight times the block's weight.
        """
        return (self.unet if layer_id.part == UNET else self.te) * self.block_weight_at(layer_id)

    def block_weight_at(self, layer_id: LayerId) -> float:
        """Returns the weight of a layer's block, by the element rules where they name the layer.

        Args:
            layer_id: the layer.
        """
        return self.blocks.weight_of(layer_id.block, element_rule_names(layer_id) if self.blocks.rules else ())


def with_turns(specs: Sequence[AdapterSpec]) -> tuple[AdapterSpec, ...]:
    """Returns the specs of one prompt, each with its turn where files take turns (`compose=`)."""
    turns = assign_turns([spec.compose for spec in specs])
    return tuple(
        spec if spec.turn == turn else replace(spec, turn=turn) for spec, turn in zip(specs, turns, strict=True)
    )


class LoraFinder(Protocol):
    """Loads LoRA files by their names in a prompt; `file.lora_library.LoraLibrary` is one."""

    def load(self, name: str) -> LoraFile:
        """Loads the file called `name`. Raises FileError with the nearest name."""
        ...

    def ambiguity(self, name: str) -> str:
        """Says which of several files with one name is used and how to name the others; "" for a unique name."""
        ...


@dataclass(frozen=True)
class Presets:
    """Block-weight and element presets, the user's and the built-in ones.

    Attributes:
        weights: name → block weights as text.
        elements: name → element rules as text.
        notes: notes for the user about the files they were loaded from.
    """

    weights: Mapping[str, str] = field(default_factory=lambda: BLOCK_PRESETS)
    elements: Mapping[str, str] = field(default_factory=lambda: ELEMENT_PRESETS)
    notes: tuple[str, ...] = ()


MOST_USUAL_WEIGHT = 5.0
"""Sliders are used up to about this weight, and down to its negative; no file is made for more."""


def resolve_tag(
    tag: LoraTag, library: LoraFinder, presets: Presets | None = None, *, seed: int | str = 0
) -> AdapterSpec:
    """Loads the file of a tag and parses its block weights.

    Args:
        tag: the tag.
        library: loads the file.
        presets: presets for `lbw` and `lbwe`; by default the built-in ones.
        seed: seeds the random values R and U together with the file's name, so that an image can be reproduced.

    Returns:
        The spec to apply.

    Raises:
        FileError: no such file, or it cannot be loaded.
        PromptError: the block weights cannot be parsed.
    """
    presets = presets or Presets()
    file = library.load(tag.name)
    preset_notes = presets.notes if tag.lbw or tag.lbwe else ()
    spec = spec_from_tag(tag, file, presets, seed=seed)
    unused = [*unused_rule_notes(spec.blocks, file.adapters), _unused_x_note(tag, presets)]
    about = (strong_weight_note(tag, spec), text_encoder_curve_note(tag, file))
    notes = (library.ambiguity(tag.name), *preset_notes, *about, *unused)
    return replace(spec, notes=tuple(filter(None, notes)))


def unused_rule_notes(blocks: BlockWeights, layers: Iterable[LayerId]) -> list[str]:
    """Names the element rules that apply to no layer, so that a typing error in one is seen.

    Args:
        blocks: the block weights with their rules.
        layers: the layers of a file.

    Returns:
        A sentence for each rule.
    """
    if not blocks.rules:
        return []
    rows = [(layer_id.block, element_rule_names(layer_id)) for layer_id in layers]
    parts = {part.rstrip("0123456789") for _, names in rows for name in names for part in name.split("_")}
    notes = []
    for rule in blocks.rules:
        if not any(rule.applies_to(block, names) for block, names in rows):
            unknown = next((e for e in rule.elements if not any(e in name for _, names in rows for name in names)), "")
            hint = did_you_mean(unknown, filter(str.isalpha, parts)) if unknown else ""
            notes.append(f"the rule {rule.text.strip()!r} applies to no layer of the file{hint}")
    return notes


def _unused_x_note(tag: LoraTag, presets: Presets) -> str:
    """Says that `x=` changes nothing; "" where a block weight is X, or without it."""
    if tag.x is None:
        return ""
    values = [resolve_block_weights(replace(tag, x=x), presets) for x in (tag.x, tag.x + 1)]
    return f"x={tag.x:g} changes nothing: none of the block weights is X" if values[0] == values[1] else ""


def strong_weight_note(tag: LoraTag, spec: AdapterSpec) -> str:
    """Says that a weight is far outside what files are made for, as of a typing error; "" where none is.

    Args:
        tag: the tag.
        spec: what it applies.

    Returns:
        A sentence with the strongest weight that a layer of the file has in a step, of the hires pass too.
    """
    passes = [spec]
    if tag.hires:
        hires = tag.for_hires_pass()
        passes.append(replace(spec, te=hires.encoded_te, unet=hires.unet, curve=hires.unet_curve))
    weight, block = max(map(_strongest_layer, passes), key=lambda found: abs(found[0]))
    if abs(weight) <= MOST_USUAL_WEIGHT:
        return ""
    if block:  # the number stands nowhere in the tag: it is a product
        return (
            f"weight {weight:g} in block {block} is unusually strong: most files are made for about 1, "
            "sliders for at most 5"
        )
    return f"weight {weight:g} is unusually strong: most files are made for about 1, sliders for at most 5"


def _strongest_layer(spec: AdapterSpec) -> tuple[float, str]:
    """(the weight farthest from 0 that a layer of the file has, its block where the block's weight is not 1).

    Curves are at their strongest at keyframes. Of a curve and a curve of blocks, whose keyframes may be at other
    places, the strongest values are multiplied.
    """
    unet = spec.unet * (1.0 if spec.curve is None else max(spec.curve.values, key=abs))
    blocks = [spec.blocks] if spec.block_curve is None else spec.block_curve.at_keyframes()
    weight, block = 0.0, ""
    for moment in (replace(spec, unet=unet, blocks=each) for each in blocks):
        for layer_id in spec.file.adapters:
            if abs(found := moment.weight_at(layer_id)) > abs(weight):
                weight, block = found, layer_id.block if moment.block_weight_at(layer_id) != 1 else ""
    return weight, block


def text_encoder_curve_note(tag: LoraTag, file: LoraFile) -> str:
    """Says that the text encoder keeps one weight of its curve; "" without a curve or a layer of it."""
    if tag.te_curve is None or all(layer_id.part == UNET for layer_id in file.adapters):
        return ""
    return f"the prompt is encoded once: the text encoder has the curve's weight at the first step, {tag.encoded_te:g}"


def spec_from_tag(tag: LoraTag, file: LoraFile, presets: Presets, *, seed: int | str = 0) -> AdapterSpec:
    """Makes the spec of a tag whose file is loaded.

    Args:
        tag: the tag.
        file: its file.
        presets: presets for `lbw` and `lbwe`.
        seed: as in `resolve_tag`.

    Returns:
        The spec to apply.

    Raises:
        PromptError: the block weights cannot be parsed.
    """
    blocks = resolve_block_weights(tag, presets, seed=seed)
    return AdapterSpec(
        file=file,
        te=tag.encoded_te,
        unet=tag.unet,
        blocks=blocks.at(0, 1, math.inf) if isinstance(blocks, BlockWeightCurve) else blocks,
        dyn=tag.dyn,
        start=tag.start,
        stop=tag.stop,
        name=tag.name,
        curve=tag.unet_curve,
        block_curve=blocks if isinstance(blocks, BlockWeightCurve) else None,
        compose=tag.compose,
        region=tag.region if tag.way == OUTPUT else None,
    )


def resolve_block_weights(tag: LoraTag, presets: Presets, *, seed: int | str = 0) -> BlockWeights | BlockWeightCurve:
    """Parses the block weights and element rules of a tag.

    Args:
        tag: the tag.
        presets: presets for `lbw` and `lbwe`.
        seed: as in `resolve_tag`.

    Returns:
        The weights, uniform where the tag has none; a curve where `lbw` has keyframes.

    Raises:
        PromptError: they cannot be parsed; the message names the tag.
    """
    if tag.lbw is None and tag.lbwe is None:
        return UNIFORM_WEIGHTS
    draw = random.Random(f"{seed}:{tag.name}".encode("utf-8", "surrogatepass")).uniform
    try:
        rules = () if tag.lbwe is None else parse_element_rules(tag.lbwe, presets.elements)

        def parse(text: str) -> BlockWeights:
            x = 1.0 if tag.x is None else tag.x
            weights = parse_block_weights(text, presets=presets.weights, x=x, random_uniform=draw)
            return replace(weights, rules=rules)

        if tag.lbw is None:
            return replace(UNIFORM_WEIGHTS, rules=rules)
        return parse_blocks_or_curve(tag.lbw, parse)
    except BlockError as error:
        raise PromptError(f"<lora:{tag.name}>: {error}") from None
