"""The tags of the current image, resolved, and the web UI's caches that belong to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from modules import shared

from ...adapter_spec import AdapterSpec
from ...region_masks import MaskFolders
from ...weight_trace import WeightTrace
from .. import block_weights_infotext as infotext
from .prompt_conditions import PassConditions


@dataclass
class ResolvedTags:
    """A prompt's tags with their files loaded.

    Attributes:
        specs: what is applied for each tag.
        hashes: file name → hash, for the infotext.
        rows: block weights, for the infotext.
        problems: sentences about tags that cannot be applied.
        has_random_weights: whether block weights were drawn at random.
        seed: the image's seed.
        conditions: the conditions of the prompt's parts.
        masks: the masks that tags name.
    """

    specs: list[AdapterSpec] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    rows: list[infotext.BlockWeightsRow] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    has_random_weights: bool = False
    seed: int = 0
    conditions: PassConditions = field(default_factory=PassConditions)
    masks: MaskFolders = field(default_factory=lambda: MaskFolders(()))


def set_if_given(params: dict[str, Any], key: str, value: str | None) -> None:
    """Sets an infotext parameter that has a value."""
    if value is not None:
        params[key] = value


def clear_conditioning(p: Any) -> None:
    """Empties the web UI's caches of conditioning in place, since jobs share them.

    Forge, its kin and --medvram encode the prompt of the hires pass before the first one, with the first one's weights
    of tags: in the hires pass it is encoded again, unless a setting wants it so.
    """
    for name in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
        cache = getattr(p, name, None)
        if isinstance(cache, list):
            cache[:] = [None, None]
    if getattr(p, "is_hr_pass", False) and not getattr(shared.opts, "hires_fix_use_firstpass_conds", False):
        p.hr_c = p.hr_uc = None


def show_weights(p: Any, step: int, weights: list[tuple[str, float]]) -> None:
    """Writes the weights so far below the picture, which the web UI shows also where the image is interrupted."""
    if p is None or not weights:
        return
    trace = p.lora_ext_trace = getattr(p, "lora_ext_trace", None) or WeightTrace()
    for line in trace.lines():
        p.comments.pop(line, None)
    trace.record(step, weights)
    for line in trace.lines():
        p.comment(line)
