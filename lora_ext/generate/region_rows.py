"""The LoRA files of a prompt with regions: one row of specs for each region, or for each region's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from ..adapter_spec import AdapterSpec
from ..applied_networks import AppliedNetworks
from ..compare.per_image_weights import PerImageNetworks
from ..fit_report import FitReport
from ..lora_tags import LoraTag
from ..prompt_regions import RegionalPrompt
from ..regions import Region

SpecRows: TypeAlias = "Sequence[Sequence[AdapterSpec]]"
"""`rows[i]` acts on row i of a `RegionalPrompt`."""


def unused_ratios_notes(prompt: RegionalPrompt, ratios: str) -> list[str]:
    """Says that ratios of regions change nothing in a prompt that no word divides."""
    if not ratios.strip() or prompt.is_divided:
        return []
    return [f"region_ratios {ratios!r} changes nothing: no BREAK, ADDCOL or ADDROW divides the prompt"]


def rows_of_specs(prompt: RegionalPrompt, tags: Sequence[LoraTag], specs: Sequence[AdapterSpec]) -> SpecRows:
    """Returns the specs of each row; tags that are not among `tags`, whose files are missing, are left out."""
    found = dict(zip(tags, specs, strict=True))
    rows = [[found[tag] for tag in row.tags if tag in found] for row in prompt.rows]
    return rows if len(rows) > 1 else rows_of_texts(rows[0])


def rows_of_texts(specs: Sequence[AdapterSpec]) -> SpecRows:
    """Returns the specs once for each text that is encoded: the whole picture's, and that of each region of a spec.

    A file that acts in a region by output masks acts on the text encoder for the region's text alone.
    """
    return [
        [spec if spec.region in (None, own) else replace(spec, te=0.0) for spec in specs]
        for own in (None, *output_regions(specs))
    ]


def output_regions(specs: Sequence[AdapterSpec]) -> list[Region]:
    """Returns the regions in which files act by output masks, each once."""
    return list(dict.fromkeys(spec.region for spec in specs if spec.region is not None))


def apply_rows(applied: AppliedNetworks, rows: SpecRows) -> list[FitReport]:
    """Applies the files of each row to it. Raises as `AppliedNetworks.apply`."""
    return applied.apply_each(rows) if isinstance(applied, PerImageNetworks) else applied.apply(rows[0])
