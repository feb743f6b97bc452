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
        name: the name in the prompt; "" for the file's own.
        notes: further notes for the report.
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
        """The name in the prompt, or the file's own."""
        return self.name or self.file.name

    @property
    def is_scheduled(self) -> bool:
        """Whether the weight changes from step to step."""
        return self.start is not None or self.stop is not None

    def is_active(self, step: int, total: int) -> bool:
        """Whether the U-Net part acts at a denoiser call.

        Args:
            step: the call, from 0.
            total: the number of calls.

        Returns:
            True inside the schedule.
        """
        return is_step_in_range(self.start, self.stop, step, total)

    def weight_at(self, layer_id: LayerId) -> float:
        """Returns the weight at one layer.

        Args:
            layer_id: the layer.

        Returns:
            The part's weight times the block's weight.
        """
        part = self.unet if layer_id.part == UNET else self.te
        names = element_rule_names(layer_id) if self.blocks.rules else ()
        return part * self.blocks.weight_of(layer_id.block, names)


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
    return AdapterSpec(
        file=file,
        te=tag.te,
        unet=tag.unet,
        blocks=resolve_block_weights(tag, presets, seed=seed),
        dyn=tag.dyn,
        start=tag.start,
        stop=tag.stop,
        name=tag.name,
        notes=tuple(filter(None, [library.ambiguity(tag.name), *preset_notes])),
    )


def resolve_block_weights(tag: LoraTag, presets: Presets, *, seed: int | str = 0) -> BlockWeights:
    """Parses the block weights and element rules of a tag.

    Args:
        tag: the tag.
        presets: presets for `lbw` and `lbwe`.
        seed: as in `resolve_tag`.

    Returns:
        The weights; uniform where the tag has none.

    Raises:
        PromptError: they cannot be parsed; the message names the tag.
    """
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
