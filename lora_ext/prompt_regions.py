"""`split_by_region`: a prompt → one row for each region of the picture, with the row's text and LoRA tags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .errors import LoraError, PromptError
from .lora_tags import OUTPUT, LoraTag, parse_lora_tags
from .regions import DividedPrompt, Region, combine_masks, divide_prompt

LoadMask = Callable[[Region], Region]
"""Returns a region that names a mask with the mask's pixels. Raises LoraError where there is no such mask."""

DEFAULT_BASE_SHARE = 0.2
"""Share of ADDBASE's prediction within the regions, Regional Prompter's usual base ratio."""
_COVERAGE_SIDE = 64
"""Side in pixels of the masks that tell whether regions cover the whole picture."""


@dataclass(frozen=True)
class RegionRow:
    """A part of the picture with what is drawn there: a row of the U-Net's batch.

    Attributes:
        region: where; None for the base, which is everything that no region covers.
        text: the row's prompt, without tags.
        tags: the tags that act on the row.
    """

    region: Region | None
    text: str
    tags: tuple[LoraTag, ...] = ()


@dataclass(frozen=True)
class RegionalPrompt:
    """A prompt as rows of regions. A prompt without regions has one row, whose region is None.

    Attributes:
        rows: the base first, where there is one, then the regions in an order that does not depend on the prompt's.
        base_share: share of the base's prediction within the regions.
        errors: what is wrong with single tags, which are left out.
        is_divided: whether words divide the prompt.
    """

    rows: tuple[RegionRow, ...]
    base_share: float = 0.0
    errors: tuple[LoraError, ...] = field(default=(), compare=False)
    is_divided: bool = False
    _weights: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def has_regions(self) -> bool:
        """Whether the picture is made of several predictions."""
        return any(row.region is not None for row in self.rows)

    @property
    def tags(self) -> tuple[LoraTag, ...]:
        """All tags; one that acts on several rows is named once."""
        if len(self.rows) == 1:
            return self.rows[0].tags
        return tuple(dict.fromkeys(tag for row in self.rows for tag in row.tags))

    def weights(self, height: int, width: int) -> Tensor:
        """Computes the weight of each row's prediction at each pixel; once for each size, since each step asks.

        Args:
            height: rows of the latent.
            width: columns of the latent.

        Returns:
            (rows, height, width) float32 on the CPU; the rows sum to 1.
        """
        found = self._weights.get((height, width))
        if found is None:
            found = self._weights[height, width] = self._combined_masks(height, width)
        return found

    def _combined_masks(self, height: int, width: int) -> Tensor:
        regions = [row.region for row in self.rows if row.region is not None]
        if not regions:
            return torch.ones(1, height, width)
        masks = torch.stack([region.mask(height, width) for region in regions])
        return combine_masks(masks, self.base_share, with_base=len(regions) < len(self.rows))


def split_by_region(
    prompt: str,
    *,
    ratios: str = "",
    base_share: float = DEFAULT_BASE_SHARE,
    load_mask: LoadMask | None = None,
    words: bool = True,
) -> RegionalPrompt:
    """Splits a prompt by the regions of its tags (`at=`) and by Regional Prompter's words.

    Tags of one region share a row. A tag without a region acts on all rows, or on the rows of its text where words
    divide the prompt. A tag with `way=output` makes no row; it is on all rows of its text.

    Args:
        prompt: the prompt.
        ratios: as for `regions.divide_prompt`.
        base_share: share of ADDBASE's prediction within the regions.
        load_mask: loads masks that tags name; without it such tags are errors.
        words: whether Regional Prompter's words divide the prompt.

    Returns:
        The rows, and an error for each tag that is left out.

    Example:
        >>> prompt = split_by_region("two cats <lora:a:1:at=left><lora:b:1:at=right>")
        >>> [(row.region.format_region(), [tag.name for tag in row.tags]) for row in prompt.rows]
        [('0-0.5;0-1', ['a']), ('0.5-1;0-1', ['b'])]
    """
    parser = _TagParser(load_mask)
    divided = parser.divide(prompt, ratios) if words else None
    if divided is None:
        text, tags = parser.parse(prompt)
        common, cells = [tag for tag in tags if not _has_row(tag)], []
    else:
        text, tags = parser.parse(divided.common if divided.base is None else divided.base)
        common = [tag for tag in parser.parse(divided.common)[1] if not _has_row(tag)]
        cells = [(region, *parser.parse(part)) for region, part in divided.regions]
    rows = {region: (part, [tag for tag in found if not _has_row(tag)]) for region, part, found in cells}
    for tag in (*tags, *(tag for _, _, found in cells for tag in found)):
        if _has_row(tag):
            row_tags = rows.setdefault(parser.region_of(tag), (text, list(common)))[1]
            if not cells or tag not in row_tags:  # a tag before ADDCOMM is in the text of each cell
                row_tags.append(tag)
    regions = sorted(rows, key=lambda region: (region.format_region(), region.feather))
    share = base_share if divided is not None and divided.base is not None else 0.0
    base = RegionRow(None, text, tuple(tag for tag in tags if not _has_row(tag)))
    return RegionalPrompt(
        (
            *(() if not share and cover_everything(regions) else (base,)),
            *(RegionRow(region, rows[region][0], tuple(rows[region][1])) for region in regions),
        ),
        share,
        tuple(parser.errors),
        divided is not None,
    )


def _has_row(tag: LoraTag) -> bool:
    """Whether the tag makes a row of its region."""
    return tag.at is not None and tag.way != OUTPUT


class _TagParser:
    """Parses texts of a prompt and loads the masks that their tags name; collects errors, each once."""

    def __init__(self, load_mask: LoadMask | None) -> None:
        self._load_mask = load_mask
        self._loaded: dict[Region, Region] = {}
        self.errors: list[LoraError] = []

    def divide(self, prompt: str, ratios: str) -> DividedPrompt | None:
        """As `divide_prompt`; wrong ratios leave the prompt in one piece."""
        try:
            return divide_prompt(prompt, ratios)
        except PromptError as error:
            self.errors.append(error)
            return None

    def parse(self, text: str) -> tuple[str, list[LoraTag]]:
        """Returns the text without tags, and the tags without those that cannot be parsed or whose mask is missing."""
        plain, tags, wrong = parse_lora_tags(text)
        good = []
        for tag in tags:
            try:
                if tag.at is not None:
                    self.region_of(tag)
                good.append(tag)
            except LoraError as error:
                wrong.append(PromptError(f"{tag.format_tag()}: {error}"))
        self.errors += [error for error in wrong if str(error) not in map(str, self.errors)]
        return plain, good

    def region_of(self, tag: LoraTag) -> Region:
        """Returns the region of a tag that has one, with its pixels where it is a mask."""
        region = tag.region
        assert region is not None
        if region not in self._loaded:
            if region.mask_name and self._load_mask is None:
                raise PromptError(f"there are no masks here, and {region.mask_name!r} is no other place")
            self._loaded[region] = self._load_mask(region) if region.mask_name and self._load_mask else region
        return self._loaded[region]


def cover_everything(regions: Sequence[Region]) -> bool:
    """Whether nothing is left for the base, apart from what rounding leaves."""
    if not regions:
        return False
    total = torch.stack([region.mask(_COVERAGE_SIDE, _COVERAGE_SIDE) for region in regions]).sum(0)
    return bool((total >= 1 - 1e-4).all())
