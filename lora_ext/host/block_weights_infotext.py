"""Block weights in the web UI's infotext: written as numbers, and restored in the prompt when it is pasted.

`Lora block weights: "name: 1,0,0.523,…; other: 0,1,… IN05-OUT05:attn:0"`: for every tag with `lbw=` or `lbwe=`, in the
prompt's order, the vector (`-` where the tag has none), then the element rules. The image can be generated again
without the preset file or the random seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..adapter_spec import Presets, resolve_block_weights
from ..block_weights import BlockWeights, ElementRule
from ..errors import PromptError
from ..lora_tags import LORA_TAG_PATTERN, LoraTag, parse_tag_items
from ..weight_curve import BlockWeightCurve

BLOCK_WEIGHTS_KEY = "Lora block weights"
HIRES_BLOCK_WEIGHTS_KEY = "Lora hires block weights"
BLOCK_SEED_KEY = "Lora block seed"
"""The seed of random block weights (R and U); only where a tag has some."""

_NO_VECTOR = "-"
_ROW_KEYFRAMES, _TAG_KEYFRAMES = str.maketrans("; ", "|_"), str.maketrans("|_", "; ")
_SEPARATORS = str.maketrans("", "", ":;,\n")


@dataclass(frozen=True)
class BlockWeightsRow:
    """One tag's block weights as numbers.

    Attributes:
        name: the LoRA's name, without separators.
        vector: the value of `lbw=`.
        rules: the value of `lbwe=`.
    """

    name: str
    vector: str | None
    rules: str | None

    def __str__(self) -> str:
        return f"{self.name}: {self.vector or _NO_VECTOR}{f' {self.rules}' if self.rules else ''}"


def block_weights_row(tag: LoraTag, blocks: BlockWeights | BlockWeightCurve) -> BlockWeightsRow | None:
    """Returns the infotext's entry for one tag, None for a tag without block weights."""
    if tag.lbw is None and tag.lbwe is None:
        return None
    first = blocks.values[0] if isinstance(blocks, BlockWeightCurve) else blocks
    rules = ",".join(map(format_element_rule, first.rules)) or None
    return BlockWeightsRow(_clean_name(tag.name), None if tag.lbw is None else _format_lbw(blocks), rules)


def _format_lbw(blocks: BlockWeights | BlockWeightCurve) -> str:
    """The value of `lbw=` as numbers; of a curve without the separators of rows: `|` for `;` and `_` for a space."""
    if isinstance(blocks, BlockWeightCurve):
        vectors = tuple(map(_format_vector, blocks.values))
        return blocks.keyframes.format_values(vectors, ";").translate(_ROW_KEYFRAMES)
    return _format_vector(blocks)


def _format_vector(blocks: BlockWeights) -> str:
    """The weights as numbers in the user's own block layout, not in the shortest one."""
    labels = blocks.labels
    return ",".join(f"{blocks.weights[label]:g}" for label in labels) if labels else blocks.format_weights()


def format_element_rule(rule: ElementRule) -> str:
    """Formats a rule as `BLOCKS:ELEMENTS:weight`, which `ElementRule.parse` parses."""
    blocks = ("NOT " if rule.blocks_not else "") + " ".join(rule.blocks)
    elements = ("NOT " if rule.elements_not else "") + " ".join(rule.elements)
    return f"{blocks}:{elements}:{rule.weight:g}"


def format_block_weights_rows(rows: Iterable[BlockWeightsRow]) -> str | None:
    """Formats the infotext's value, None without rows."""
    return "; ".join(map(str, rows)) or None


def parse_block_weights_rows(text: str) -> list[BlockWeightsRow]:
    """Parses an infotext's value; parts that are no row are ignored.

    Example:
        >>> parse_block_weights_rows("cat: 1,0; dog: - IN05:attn:0")[1].rules
        'IN05:attn:0'
    """
    rows = []
    for part in text.split(";"):
        name, colon, rest = part.strip().partition(":")
        vector, _, rules = rest.strip().partition(" ")
        if colon and vector:
            rows.append(BlockWeightsRow(name.strip(), None if vector == _NO_VECTOR else vector, rules.strip() or None))
    return rows


def has_random_block_weights(tag: LoraTag, presets: Presets) -> bool:
    """Whether a tag's block weights contain random values (R, U)."""
    first, second = (resolve_block_weights(tag, presets, seed=f"probe {i}") for i in range(2))
    return first != second


def restore_block_weights(prompt: str, text: str, presets: Presets) -> str:
    """Writes the infotext's numbers into every tag whose block weights would be different now.

    Those are random values, and presets that are missing here or have other values. Other tags stay unchanged.

    Args:
        prompt: the prompt with its tags.
        text: the infotext's value.
        presets: the presets of this installation.
    """
    rows = parse_block_weights_rows(text)
    tags = [
        request for request in map(_parse_block_weights_tag, LORA_TAG_PATTERN.finditer(prompt)) if request is not None
    ]
    in_order = len(rows) == len(tags)

    def put_back(match) -> str:  # type: ignore[no-untyped-def]
        request = _parse_block_weights_tag(match)
        if request is None:
            return str(match[0])
        row = rows.pop(0) if in_order else _pop_row(rows, request.name)
        if row is None or _matches_row(request, row, presets):
            return str(match[0])
        lbw = row.vector and row.vector.translate(_TAG_KEYFRAMES) if request.lbw is not None else None
        lbwe = row.rules if request.lbwe is not None else None
        return replace(request, lbw=lbw, lbwe=lbwe, x=None).format_tag()

    return LORA_TAG_PATTERN.sub(put_back, prompt)


def _parse_block_weights_tag(match) -> LoraTag | None:  # type: ignore[no-untyped-def]
    """Parses a tag with block weights; None for others."""
    try:
        request = parse_tag_items(match[2].split(":"))
    except PromptError:
        return None
    return None if request.lbw is None and request.lbwe is None else request


def _pop_row(rows: list[BlockWeightsRow], name: str) -> BlockWeightsRow | None:
    """Removes the first row of that name from `rows` and returns it."""
    found = next((row for row in rows if row.name == _clean_name(name)), None)
    if found is not None:
        rows.remove(found)
    return found


def _matches_row(tag: LoraTag, row: BlockWeightsRow, presets: Presets) -> bool:
    """Whether a tag gives the row's values here, with any seed."""
    try:
        if has_random_block_weights(tag, presets):
            return False
        now = block_weights_row(tag, resolve_block_weights(tag, presets))
    except PromptError:
        return False
    return now is not None and (now.vector, now.rules) == (row.vector, row.rules)


def _clean_name(name: str) -> str:
    return name.translate(_SEPARATORS).strip()
