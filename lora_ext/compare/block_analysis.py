"""Block analysis: how much each block of a LoRA does, by its ΔW or by pictures with one block lowered or raised alone.

The outcome is a share a block, a heat map over the U-Net (`heatmap`), and a preset that keeps the blocks that matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image
from torch import Tensor

from ..block_weights import BlockWeights
from ..blocks import BASE, BLOCK_LABELS, BLOCK_LAYOUTS, BlockLayout
from ..errors import BlockError, LoraError, did_you_mean
from ..file.lora_file import LoraFile
from ..inject import LayerTarget
from ..layer_names import LayerId
from . import image_measures
from .cell_store import CellStore
from .generate_cells import ImageRenderer, SheetProgressCallback, generate_cells
from .image_spec import ImageSpec, edit_tag, find_tag

NORMS, LOWERED, RAISED = "norms", "lowered", "raised"
ANALYSIS_METHODS = {
    NORMS: "share of the norm of the weight change ‖ΔW‖; no picture is drawn",
    LOWERED: "change of the picture when this block alone is switched off",
    RAISED: "change of the picture when this block alone is on",
}


@dataclass(frozen=True)
class BlockAnalysis:
    """amounts: layout's label → how much the block does, in whatever unit `method` has. outside: what layers do that no
    position of the layout covers, as a share of all (norms only). pictures: label → a picture that shows it."""

    lora: str
    layout: BlockLayout
    method: str
    amounts: Mapping[str, float]
    outside_share: float = 0.0
    images: Mapping[str, Image.Image] = field(default_factory=dict)

    @property
    def shares(self) -> dict[str, float]:
        """Label → share of all amounts, in the layout's order; zeros where nothing does anything."""
        total = sum(self.amounts.values())
        return {label: self.amounts.get(label, 0.0) / total if total else 0.0 for label in self.layout.labels}

    def blocks_to_keep(self, share: float = 0.8) -> tuple[str, ...]:
        """The fewest blocks that together do at least `share` of all, in the layout's order."""
        ranked = sorted(self.shares.items(), key=lambda item: -item[1])
        kept, total = set(), 0.0
        for label, amount in ranked:
            if total >= share - 1e-9 or not amount:
                break
            kept.add(label)
            total += amount
        return tuple(label for label in self.layout.labels if label in kept)

    def preset_line(self, name: str, share: float = 0.8) -> str:
        """`NAME:1,0,…`: a line of the presets' file that keeps those blocks alone. Raises BlockError for a bad name."""
        if not name.strip() or any(mark in name for mark in ":,<>=\n"):
            raise BlockError(f"{name!r} is no name for a preset: it may not hold : , < > = or line ends")
        kept = self.blocks_to_keep(share)
        return f"{name.strip()}:{','.join('1' if label in kept else '0' for label in self.layout.labels)}"

    def summary(self, share: float = 0.8) -> str:
        """What to keep, in words."""
        kept = self.blocks_to_keep(share)
        if not kept:
            return f"No block of {self.lora} does anything in this layout."
        does = sum(self.shares[label] for label in kept)
        ranges = format_block_ranges(kept, self.layout.labels)
        text = f"Keep {ranges}: {len(kept)} of {len(self.layout.labels)} do {does:.0%} of it."
        if self.outside_share > 0.005:
            text += f" {self.outside_share:.0%} of the whole file lies in layers that this layout switches off."
        return text

    def as_dict(self, share: float, name: str) -> dict[str, Any]:
        """What faces tell: shares, what to keep, the preset `name`, the sentence. Raises BlockError for a bad name."""
        return {
            "lora": self.lora,
            "way": self.method,
            "shares": {label: round(part, 4) for label, part in self.shares.items()},
            "outside": round(self.outside_share, 4),
            "keep": list(self.blocks_to_keep(share)),
            "preset": self.preset_line(name, share),
            "text": self.summary(share),
        }


def format_block_ranges(kept: Sequence[str], labels: Sequence[str]) -> str:
    """`OUT03–OUT06, MID`: neighbours in `labels` drawn together."""
    groups: list[list[str]] = []
    for label in kept:
        at = labels.index(label)
        if groups and at and labels[at - 1] == groups[-1][-1] and BASE not in groups[-1]:
            groups[-1].append(label)
        else:
            groups.append([label])
    return ", ".join(g[0] if len(g) == 1 else f"{g[0]}–{g[-1]}" for g in groups)


def parse_layout(size: int | str) -> BlockLayout:
    """The layout of 12, 17, 20, 25 or 26 positions. Raises BlockError."""
    try:
        return BLOCK_LAYOUTS[int(size)]
    except (KeyError, ValueError):
        raise BlockError(f"no layout has {size} positions{did_you_mean(str(size), map(str, BLOCK_LAYOUTS))}") from None


def check_analysis_method(method: str) -> str:
    """The way. Raises LoraError with the nearest one."""
    if method not in ANALYSIS_METHODS:
        raise LoraError(f"unknown way {method!r}{did_you_mean(method, ANALYSIS_METHODS)}")
    return method


def can_measure_without_model(file: LoraFile) -> bool:
    """Whether `analyse_by_norms` needs no model for it."""
    return all(adapter.low_rank() is not None for adapter in file.adapters.values())


def analyse_by_norms(
    file: LoraFile, layout: BlockLayout, name: str = "", targets: Mapping[LayerId, LayerTarget] | None = None
) -> BlockAnalysis:
    """Each block's ‖ΔW‖ (Frobenius, over all of its layers, at weight 1).

    targets: the model's layers, for kinds whose ΔW depends on its weights; without them such layers raise LoraError.
    """
    squares: dict[str, float] = {}
    for site, adapter in file.adapters.items():
        low = adapter.low_rank()
        if low is not None:
            square = low.frobenius() ** 2
        else:
            target = (targets or {}).get(site)
            if target is None:
                if targets is None:
                    raise LoraError(f"{adapter.kind} layers have no ‖ΔW‖ without the model that they are for")
                continue
            square = float(adapter.delta(_weight(target)).double().square().sum())
        squares[site.block] = squares.get(site.block, 0.0) + square
    norms = {label: math.sqrt(square) for label, square in squares.items()}
    inside = {label: norms.get(label, 0.0) for label in layout.labels}
    whole = sum(norms.values())
    kept = sum(inside.values()) + (norms.get(BASE, 0.0) if BASE not in layout.labels else 0.0)
    return BlockAnalysis(name or file.name, layout, NORMS, inside, 1 - kept / whole if whole else 0.0)


def _weight(target: LayerTarget) -> Tensor:
    *path, slot = target.slot.split(".")
    module = target.module.get_submodule(".".join(path)) if path else target.module
    weight: Tensor = module.get_parameter(slot).detach()
    return weight[slice(*target.rows)] if target.rows else weight


def block_image_specs(base: ImageSpec, layout: BlockLayout, method: str) -> tuple[ImageSpec, dict[str, ImageSpec]]:
    """(the shot to measure from, label → the shot with that block lowered, or raised, alone).

    The tag of `base.lora` gets block weights; what it had is replaced. BASE stays on in a layout without it.
    """
    others = 1.0 if check_analysis_method(method) == LOWERED else 0.0

    def with_weights(changed: str | None) -> ImageSpec:
        weights = dict.fromkeys(layout.labels, others)
        if changed is not None:
            weights[changed] = 1 - others
        vector = BlockWeights(weights).vector(layout)
        text = ",".join(format(value, "g") for value in vector)
        prompt = edit_tag(base.prompt, base.lora, lambda request: replace(request, lbw=text, lbwe=None, x=None))
        return replace(base, prompt=prompt)

    return with_weights(None), {label: with_weights(label) for label in layout.labels}


def analyse_by_images(
    base: ImageSpec,
    layout: BlockLayout,
    method: str,
    renderer: ImageRenderer,
    store: CellStore,
    *,
    seeds: Sequence[int] = (),
    batch: int = 8,
    on_progress: SheetProgressCallback | None = None,
) -> BlockAnalysis:
    """Draws a picture a block (and the one to measure from) for each seed, and measures the mean colour difference.

    base: the prompt with its settings; `base.lora` names the LoRA. Raises LoraError when it was stopped.
    """
    lora = base.lora or next((request.name for request in base.tags()), "")
    if not lora:
        raise LoraError("which LoRA is meant? Put <lora:name:1> into the prompt, or name it with --lora")
    base = replace(base, lora=lora)
    rows = [block_image_specs(replace(base, seed=seed), layout, method) for seed in (seeds or [base.seed])]
    every = [shot for first, others in rows for shot in (first, *others.values())]
    if generate_cells(every, renderer, store, batch=batch, on_progress=on_progress).done < len(
        {shot.key(renderer.identity(shot)) for shot in every}
    ):
        raise LoraError("stopped before all blocks were drawn; ask again to go on")

    def picture(shot: ImageSpec) -> Image.Image:
        image = store.load_image(shot.key(renderer.identity(shot)))
        assert image is not None
        return image

    amounts = dict.fromkeys(layout.labels, 0.0)
    for first, others in rows:
        reference = picture(first)
        for label, shot in others.items():
            amounts[label] += image_measures.colour_difference(picture(shot), reference) / len(rows)
    shown = {label: picture(shot) for label, shot in rows[0][1].items()}
    shown[""] = picture(rows[0][0])
    tag = find_tag(base.prompt, lora)
    return BlockAnalysis(tag or lora, layout, method, amounts, images=shown)


def block_rows(analysis: BlockAnalysis) -> list[tuple[str, float, float]]:
    """(label, amount, share) of every position, in the U-Net's order."""
    shares = analysis.shares
    return [(label, analysis.amounts.get(label, 0.0), shares[label]) for label in BLOCK_LABELS if label in shares]
