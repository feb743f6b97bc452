"""`AdapterSpec`: a loaded LoRA file with its weights, block weights and schedule; and how a tag becomes one."""

from __future__ import annotations

import random
from collections.abc import Mapping
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
from .errors import BlockError, PromptError
from .file.lora_file import LoraFile
from .layer_names import UNET, LayerId, element_rule_names
from .lora_tags import LoraTag


def is_step_in_range(start: float | None, stop: float | None, step: int, total: int) -> bool:
    """Whether `step` (from 0) of `total` lies from `start` until before `stop`, as `AdapterSpec` has them."""

    def at(value: float) -> float:
        return value * total if isinstance(value, float) else value

    return (start is None or step >= at(start)) and (stop is None or step < at(stop))


@dataclass(frozen=True)
class AdapterSpec:
    """One file at its weights. te, unet: multipliers; blocks: block weights; dyn: the first N ranks only.

    start, stop: the U-Net part acts from step `start` until before step `stop`; whole numbers are steps from 0,
    fractions are shares of all steps. The text encoder acts always: its output is made before the first step.
    notes: what else the user is told about it.
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

    @property
    def display_name(self) -> str:
        """What the user calls it."""
        return self.name or self.file.name

    @property
    def is_scheduled(self) -> bool:
        """Whether its weight changes from step to step."""
        return self.start is not None or self.stop is not None

    def is_active(self, step: int, total: int) -> bool:
        """Whether the U-Net part acts at denoiser call `step` (from 0) of `total`."""
        return is_step_in_range(self.start, self.stop, step, total)

    def weight_at(self, layer_id: LayerId) -> float:
        """The weight of this file at one site: the part's multiplier times the block's weight."""
        part = self.unet if layer_id.part == UNET else self.te
        names = element_rule_names(layer_id) if self.blocks.rules else ()
        return part * self.blocks.weight_of(layer_id.block, names)


class LoraFinder(Protocol):
    """Where files come from: `library.find(name)` with an entry to load."""

    def load(self, name: str) -> LoraFile:
        """The file called `name`. Raises FileError with the nearest names."""
        ...

    def ambiguity(self, name: str) -> str:
        """Which of several files of one name is meant, and how to name the others; "" for a clear name."""
        ...


@dataclass(frozen=True)
class Presets:
    """The user's block-weight and element presets, beside the built-in ones."""

    weights: Mapping[str, str] = field(default_factory=lambda: BLOCK_PRESETS)
    elements: Mapping[str, str] = field(default_factory=lambda: ELEMENT_PRESETS)
    notes: tuple[str, ...] = ()
    """What the user is told about the files they come from."""


def resolve_tag(
    tag: LoraTag, library: LoraFinder, presets: Presets | None = None, *, seed: int | str = 0
) -> AdapterSpec:
    """A request with its file loaded and its block weights worked out.

    R and U are drawn from a generator seeded by `seed` and the file's name, so the same picture is made again.
    Raises FileError (no such file, with nearest names) or PromptError (block weights that do not parse).
    """
    presets = presets or Presets()
    file = library.load(tag.name)
    asked = presets.notes if tag.lbw or tag.lbwe else ()
    return AdapterSpec(
        file=file,
        te=tag.te,
        unet=tag.unet,
        blocks=resolve_block_weights(tag, presets, seed=seed),
        dyn=tag.dyn,
        start=tag.start,
        stop=tag.stop,
        name=tag.name,
        notes=tuple(filter(None, [library.ambiguity(tag.name), *asked])),
    )


def resolve_block_weights(tag: LoraTag, presets: Presets, *, seed: int | str = 0) -> BlockWeights:
    """The block weights and element rules of a request. Raises PromptError."""
    if tag.lbw is None and tag.lbwe is None:
        return UNIFORM_WEIGHTS
    draw = random.Random(f"{seed}:{tag.name}").uniform
    try:
        blocks = UNIFORM_WEIGHTS
        if tag.lbw is not None:
            x = 1.0 if tag.x is None else tag.x
            blocks = parse_block_weights(tag.lbw, presets=presets.weights, x=x, random_uniform=draw)
        if tag.lbwe is not None:
            blocks = replace(blocks, rules=parse_element_rules(tag.lbwe, presets.elements))
    except BlockError as error:
        raise PromptError(f"<lora:{tag.name}>: {error}") from None
    return blocks
