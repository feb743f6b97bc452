"""Block analysis: how much each block of a LoRA does, by its ΔW or by pictures with a single block switched off or on.

The result is a share for each block, a heat map of the U-Net (`heatmap`), and a preset that keeps the blocks with the
largest shares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from PIL import Image
from torch import Tensor

from ..block_weights import BlockWeights
from ..blocks import BASE, BLOCK_LABELS, BLOCK_LAYOUTS, BlockLayout
from ..counted_words import counted
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
"""Method → what it measures, in words."""


@dataclass(frozen=True)
class BlockAnalysisData:
    """The JSON of a block analysis; see `BlockAnalysis` for the fields.

    Attributes:
        lora: the LoRA's name.
        way: the method.
        shares: block label → share, rounded.
        outside: the share of layers outside the layout.
        keep: labels of the blocks to keep.
        preset: the line for the presets file.
        text: which blocks to keep, as a sentence.
    """

    lora: str
    way: str
    shares: dict[str, float]
    outside: float
    keep: list[str]
    preset: str
    text: str


@dataclass(frozen=True)
class BlockAnalysis:
    """How much each block of a LoRA does.

    Attributes:
        lora: the LoRA's name.
        layout: the blocks that were measured.
        method: one of `ANALYSIS_METHODS`.
        amounts: block label → its amount, in the unit of the method.
        outside_share: the share of layers that no position of the layout covers, 0 to 1 (method "norms" only).
        images: block label → the picture with this block changed; "" → the picture that all are compared with.
    """

    lora: str
    layout: BlockLayout
    method: str
    amounts: Mapping[str, float]
    outside_share: float = 0.0
    images: Mapping[str, Image.Image] = field(default_factory=dict)

    @property
    def shares(self) -> dict[str, float]:
        """Block label → share of all amounts, in the layout's order; zeros where all amounts are 0."""
        total = sum(self.amounts.values())
        return {label: self.amounts.get(label, 0.0) / total if total else 0.0 for label in self.layout.labels}

    def blocks_to_keep(self, share: float = 0.8) -> tuple[str, ...]:
        """The fewest blocks whose shares add up to at least `share`, in the layout's order."""
        ranked = sorted(self.shares.items(), key=lambda item: -item[1])
        kept, total = set(), 0.0
        for label, amount in ranked:
            if total >= share - 1e-9 or not amount:
                break
            kept.add(label)
            total += amount
        return tuple(label for label in self.layout.labels if label in kept)

    def preset_line(self, name: str, share: float = 0.8) -> str:
        """`NAME:1,0,…`: a line for the presets file with weight 1 for `blocks_to_keep(share)` and 0 for the others.

        Raises:
            BlockError: a name that a preset cannot have.
        """
        if not name.strip() or any(mark in name for mark in ":,<>=\n"):
            raise BlockError(f"a preset cannot be named {name!r}: a name must not contain : , < > = or line breaks")
        kept = self.blocks_to_keep(share)
        return f"{name.strip()}:{','.join('1' if label in kept else '0' for label in self.layout.labels)}"

    def summary(self, share: float = 0.8) -> str:
        """Which blocks to keep, as a sentence.

        Args:
            share: how much the kept blocks do together, 0 to 1.

        Returns:
            One sentence, or two where a part of the file lies outside the layout.
        """
        kept = self.blocks_to_keep(share)
        if not kept:
            return f"No block of {self.lora} has an effect in this layout."
        effect = sum(self.shares[label] for label in kept)
        ranges = format_block_ranges(kept, self.layout.labels)
        blocks = len(self.layout.labels)
        text = f"Keep {ranges}: " + counted(
            len(kept),
            f"of {blocks} blocks makes up {effect:.0%} of the effect.",
            f"of {blocks} blocks make up {effect:.0%} of the effect.",
        )
        if self.outside_share > 0.005:
            text += f" {self.outside_share:.0%} of the whole file lies in layers that this layout switches off."
        return text

    def data(self, share: float, name: str) -> BlockAnalysisData:
        """The analysis for the user interfaces.

        Args:
            share: how much the kept blocks do together, 0 to 1.
            name: the name of the preset.

        Returns:
            Its shares, rounded to four digits, with a preset of the blocks to keep.

        Raises:
            BlockError: a name that a preset cannot have.
        """
        return BlockAnalysisData(
            lora=self.lora,
            way=self.method,
            shares={label: round(part, 4) for label, part in self.shares.items()},
            outside=round(self.outside_share, 4),
            keep=list(self.blocks_to_keep(share)),
            preset=self.preset_line(name, share),
            text=self.summary(share),
        )


def format_block_ranges(kept: Sequence[str], labels: Sequence[str]) -> str:
    """Block labels as ranges: neighbours in `labels` are joined.

    Example:
        >>> format_block_ranges(["IN01", "IN02", "OUT05"], ["IN01", "IN02", "MID", "OUT05"])
        'IN01–IN02, OUT05'
    """
    groups: list[list[str]] = []
    for label in kept:
        at = labels.index(label)
        if groups and at and labels[at - 1] == groups[-1][-1] and BASE not in groups[-1]:
            groups[-1].append(label)
        else:
            groups.append([label])
    return ", ".join(g[0] if len(g) == 1 else f"{g[0]}–{g[-1]}" for g in groups)


def parse_layout(size: int | str) -> BlockLayout:
    """The layout with 12, 17, 20, 25 or 26 positions.

    Args:
        size: the number of positions, also as text.

    Returns:
        The layout.

    Raises:
        BlockError: another number.
    """
    try:
        return BLOCK_LAYOUTS[int(size)]
    except (KeyError, ValueError):
        raise BlockError(f"no layout has the size {size}{did_you_mean(str(size), map(str, BLOCK_LAYOUTS))}") from None


def check_analysis_method(method: str) -> str:
    """Returns `method` if it is one of `ANALYSIS_METHODS`.

    Args:
        method: the name of a way to measure blocks.

    Returns:
        The same name.

    Raises:
        LoraError: an unknown method (with the nearest one).
    """
    if method not in ANALYSIS_METHODS:
        raise LoraError(f"unknown way {method!r}{did_you_mean(method, ANALYSIS_METHODS)}")
    return method


def can_measure_without_model(file: LoraFile) -> bool:
    """Whether `analyse_by_norms` can measure a file without a model.

    Args:
        file: the LoRA.

    Returns:
        True where every adapter has low-rank factors; False where the ΔW of one depends on the model's weights.
    """
    return all(adapter.low_rank() is not None for adapter in file.adapters.values())


def analyse_by_norms(
    file: LoraFile, layout: BlockLayout, name: str = "", targets: Mapping[LayerId, LayerTarget] | None = None
) -> BlockAnalysis:
    """Measures each block by ‖ΔW‖ (Frobenius, over all of its layers, at weight 1).

    Args:
        file: the LoRA.
        layout: the blocks to measure.
        name: what the result calls the LoRA; "" for the file's name.
        targets: the model's layers, for adapter kinds whose ΔW depends on the model's weights.

    Returns:
        Each block's share of the sum of the norms.

    Raises:
        LoraError: such a kind without `targets`.
    """
    squares: dict[str, float] = {}
    for layer_id, adapter in file.adapters.items():
        low = adapter.low_rank()
        if low is not None:
            square = low.frobenius() ** 2
        else:
            target = (targets or {}).get(layer_id)
            if target is None:
                if targets is None:
                    raise LoraError(f"the ‖ΔW‖ of {adapter.kind} layers can only be measured with a model")
                continue
            square = float(adapter.delta(_weight(target)).double().square().sum())
        squares[layer_id.block] = squares.get(layer_id.block, 0.0) + square
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
    """The pictures of a block analysis.

    Args:
        base: the picture; the block weights in its tag of `base.lora` are replaced. BASE stays on in a layout without
            it.
        layout: the blocks to measure.
        method: "lowered" or "raised".

    Returns:
        The spec of the picture that all are compared with, and block label → spec with this block alone switched off
        ("lowered") or on ("raised").

    Raises:
        LoraError: an unknown method.
    """
    others = 1.0 if check_analysis_method(method) == LOWERED else 0.0

    def with_weights(changed: str | None) -> ImageSpec:
        weights = dict.fromkeys(layout.labels, others)
        if changed is not None:
            weights[changed] = 1 - others
        vector = BlockWeights(weights).vector(layout)
        text = ",".join(format(value, "g") for value in vector)
        prompt = edit_tag(base.prompt, base.lora, lambda tag: replace(tag, lbw=text, lbwe=None, x=None))
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
    """Draws one picture for each block and seed, and measures its mean colour difference from the unchanged one.

    Args:
        base: the prompt with its settings; `base.lora` names the LoRA.
        layout: the blocks to measure.
        method: "lowered" or "raised".
        renderer: generates the pictures.
        store: keeps the pictures; those that are there already are not drawn again.
        seeds: the differences are averaged over these; empty for the seed of `base`.
        batch: pictures in a batch, at most.
        on_progress: called at each step; may raise `SheetStopped`.

    Returns:
        Each block's share of the sum of the differences.

    Raises:
        LoraError: no LoRA, an unknown method, or a user who stopped it.
    """
    lora = base.lora or next((tag.name for tag in base.tags()), "")
    if not lora:
        raise LoraError("which LoRA is meant? Put <lora:name:1> into the prompt, or name it with --lora")
    base = replace(base, lora=lora)
    rows = [block_image_specs(replace(base, seed=seed), layout, method) for seed in (seeds or [base.seed])]
    image_specs = [image_spec for first, others in rows for image_spec in (first, *others.values())]
    if generate_cells(image_specs, renderer, store, batch=batch, on_progress=on_progress).done < len(
        {image_spec.key(renderer.identity(image_spec)) for image_spec in image_specs}
    ):
        raise LoraError("stopped before all blocks were drawn; run the same analysis again to resume it")

    def load_picture(image_spec: ImageSpec) -> Image.Image:
        image = store.load_image(image_spec.key(renderer.identity(image_spec)))
        assert image is not None
        return image

    amounts = dict.fromkeys(layout.labels, 0.0)
    for first, others in rows:
        reference = load_picture(first)
        for label, image_spec in others.items():
            amounts[label] += image_measures.colour_difference(load_picture(image_spec), reference) / len(rows)
    shown = {label: load_picture(image_spec) for label, image_spec in rows[0][1].items()}
    shown[""] = load_picture(rows[0][0])
    tag_text = find_tag(base.prompt, lora)
    return BlockAnalysis(tag_text or lora, layout, method, amounts, images=shown)


def block_rows(analysis: BlockAnalysis) -> list[tuple[str, float, float]]:
    """(block label, amount, share) of every position, in the U-Net's order."""
    shares = analysis.shares
    return [(label, analysis.amounts.get(label, 0.0), shares[label]) for label in BLOCK_LABELS if label in shares]
