"""Block weights in the web UI's infotext: written as numbers, put back into the prompt when it is pasted.

`Lora block weights: "name: 1,0,0.523,…; other: 0,1,… IN05-OUT05:attn:0"`: for every tag with `lbw=` or `lbwe=`, in the
prompt's order, the vector (`-` where the tag has none), then the element rules. No file of presets and no random
generator is needed to make the picture again. Pure text; imports no `modules`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..adapter_spec import Presets, resolve_block_weights
from ..block_weights import BlockWeights, ElementRule
from ..errors import PromptError
from ..lora_tags import LORA_TAG_PATTERN, LoraTag, parse_tag_items

BLOCK_WEIGHTS_KEY = "Lora block weights"
HIRES_BLOCK_WEIGHTS_KEY = "Lora hires block weights"
BLOCK_SEED_KEY = "Lora block seed"
"""Which seed R and U were drawn with; only there where something was drawn."""

_NO_VECTOR = "-"
_SEPARATORS = str.maketrans("", "", ":;,\n")


@dataclass(frozen=True)
class BlockWeightsRow:
    """One tag's resolved block weights: `vector` and `rules` as `lbw=` and `lbwe=` read them."""

    name: str
    vector: str | None
    rules: str | None

    def __str__(self) -> str:
        return f"{self.name}: {self.vector or _NO_VECTOR}{f' {self.rules}' if self.rules else ''}"


def block_weights_row(tag: LoraTag, blocks: BlockWeights) -> BlockWeightsRow | None:
    """What the infotext says about one tag, None for a tag without block weights."""
    if tag.lbw is None and tag.lbwe is None:
        return None
    vector = None
    if tag.lbw is not None:  # in the user's own layout, not the shortest that holds the values
        labels = blocks.labels
        vector = ",".join(f"{blocks.weights[label]:g}" for label in labels) if labels else blocks.format_weights()
    rules = ",".join(map(format_element_rule, blocks.rules)) or None
    return BlockWeightsRow(_clean_name(tag.name), vector, rules)


def format_element_rule(rule: ElementRule) -> str:
    """`BLOCKS:ELEMENTS:weight`, as `ElementRule.parse` reads it back."""
    blocks = ("NOT " if rule.blocks_not else "") + " ".join(rule.blocks)
    elements = ("NOT " if rule.elements_not else "") + " ".join(rule.elements)
    return f"{blocks}:{elements}:{rule.weight:g}"


def format_block_weights_rows(rows: Iterable[BlockWeightsRow]) -> str | None:
    """The infotext's value, None without rows."""
    return "; ".join(map(str, rows)) or None


def parse_block_weights_rows(text: str) -> list[BlockWeightsRow]:
    """The rows of an infotext's value; what is not a row is left out."""
    rows = []
    for part in text.split(";"):
        name, colon, rest = part.strip().partition(":")
        vector, _, rules = rest.strip().partition(" ")
        if colon and vector:
            rows.append(BlockWeightsRow(name.strip(), None if vector == _NO_VECTOR else vector, rules.strip() or None))
    return rows


def has_random_block_weights(tag: LoraTag, presets: Presets) -> bool:
    """Whether the request's block weights hold values that are drawn (R, U)."""
    first, second = (resolve_block_weights(tag, presets, seed=f"probe {i}") for i in range(2))
    return first != second


def restore_block_weights(prompt: str, text: str, presets: Presets) -> str:
    """The prompt with the infotext's numbers in every tag whose block weights would come out otherwise now.

    Those are drawn ones, and presets that are unknown here or have other values. All else stays as it is written.
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
        lbw = row.vector if request.lbw is not None else None
        lbwe = row.rules if request.lbwe is not None else None
        return replace(request, lbw=lbw, lbwe=lbwe, x=None).format_tag()

    return LORA_TAG_PATTERN.sub(put_back, prompt)


def _parse_block_weights_tag(match) -> LoraTag | None:  # type: ignore[no-untyped-def]
    """The request of a tag with block weights; None for others."""
    try:
        request = parse_tag_items(match[2].split(":"))
    except PromptError:
        return None
    return None if request.lbw is None and request.lbwe is None else request


def _pop_row(rows: list[BlockWeightsRow], name: str) -> BlockWeightsRow | None:
    """The first row of that name, taken out of `rows`."""
    found = next((row for row in rows if row.name == _clean_name(name)), None)
    if found is not None:
        rows.remove(found)
    return found


def _matches_row(tag: LoraTag, row: BlockWeightsRow, presets: Presets) -> bool:
    """Whether the tag as written gives the row's values here, whatever the seed."""
    try:
        if has_random_block_weights(tag, presets):
            return False
        now = block_weights_row(tag, resolve_block_weights(tag, presets))
    except PromptError:
        return False
    return now is not None and (now.vector, now.rules) == (row.vector, row.rules)


def _clean_name(name: str) -> str:
    return name.translate(_SEPARATORS).strip()
