"""Block weights in the web UI's infotext: written as numbers, put back into the prompt when it is pasted.

`Lora block weights: "name: 1,0,0.523,…; other: 0,1,… IN05-OUT05:attn:0"`: for every tag with `lbw=` or `lbwe=`, in the
prompt's order, the vector (`-` where the tag has none), then the element rules. No file of presets and no random
generator is needed to make the picture again. Pure text; imports no `modules`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..applied_networks import Presets, resolve_blocks
from ..blocks import BlockWeights, ElementRule
from ..errors import PromptError
from ..lora_tags import TAG, Request, request_of

KEY = "Lora block weights"
HIRES_KEY = "Lora hires block weights"
SEED_KEY = "Lora block seed"
"""Which seed R and U were drawn with; only there where something was drawn."""

_NONE = "-"
_SEPARATORS = str.maketrans("", "", ":;,\n")


@dataclass(frozen=True)
class Row:
    """One tag's resolved block weights: `vector` and `rules` as `lbw=` and `lbwe=` read them."""

    name: str
    vector: str | None
    rules: str | None

    def __str__(self) -> str:
        return f"{self.name}: {self.vector or _NONE}{f' {self.rules}' if self.rules else ''}"


def row_of(request: Request, blocks: BlockWeights) -> Row | None:
    """What the infotext says about one tag, None for a tag without block weights."""
    if request.lbw is None and request.lbwe is None:
        return None
    vector = None
    if request.lbw is not None:  # in the user's own layout, not the shortest that holds the values
        labels = blocks.labels
        vector = ",".join(f"{blocks.weights[label]:g}" for label in labels) if labels else blocks.text()
    rules = ",".join(map(rule_text, blocks.rules)) or None
    return Row(_clean(request.name), vector, rules)


def rule_text(rule: ElementRule) -> str:
    """`BLOCKS:ELEMENTS:weight`, as `ElementRule.parse` reads it back."""
    blocks = ("NOT " if rule.blocks_not else "") + " ".join(rule.blocks)
    elements = ("NOT " if rule.elements_not else "") + " ".join(rule.elements)
    return f"{blocks}:{elements}:{rule.weight:g}"


def written(rows: Iterable[Row]) -> str | None:
    """The infotext's value, None without rows."""
    return "; ".join(map(str, rows)) or None


def read(text: str) -> list[Row]:
    """The rows of an infotext's value; what is not a row is left out."""
    rows = []
    for part in text.split(";"):
        name, colon, rest = part.strip().partition(":")
        vector, _, rules = rest.strip().partition(" ")
        if colon and vector:
            rows.append(Row(name.strip(), None if vector == _NONE else vector, rules.strip() or None))
    return rows


def drawn(request: Request, presets: Presets) -> bool:
    """Whether the request's block weights hold values that are drawn (R, U)."""
    first, second = (resolve_blocks(request, presets, seed=f"probe {i}") for i in range(2))
    return first != second


def restore(prompt: str, text: str, presets: Presets) -> str:
    """The prompt with the infotext's numbers in every tag whose block weights would come out otherwise now.

    Those are drawn ones, and presets that are unknown here or have other values. All else stays as it is written.
    """
    rows = read(text)
    tags = [request for request in map(_request, TAG.finditer(prompt)) if request is not None]
    in_order = len(rows) == len(tags)

    def put_back(match) -> str:  # type: ignore[no-untyped-def]
        request = _request(match)
        if request is None:
            return str(match[0])
        row = rows.pop(0) if in_order else _take(rows, request.name)
        if row is None or _same(request, row, presets):
            return str(match[0])
        lbw = row.vector if request.lbw is not None else None
        lbwe = row.rules if request.lbwe is not None else None
        return replace(request, lbw=lbw, lbwe=lbwe, x=None).tag()

    return TAG.sub(put_back, prompt)


def _request(match) -> Request | None:  # type: ignore[no-untyped-def]
    """The request of a tag with block weights; None for others."""
    try:
        request = request_of(match[2].split(":"))
    except PromptError:
        return None
    return None if request.lbw is None and request.lbwe is None else request


def _take(rows: list[Row], name: str) -> Row | None:
    """The first row of that name, taken out of `rows`."""
    found = next((row for row in rows if row.name == _clean(name)), None)
    if found is not None:
        rows.remove(found)
    return found


def _same(request: Request, row: Row, presets: Presets) -> bool:
    """Whether the tag as written gives the row's values here, whatever the seed."""
    try:
        if drawn(request, presets):
            return False
        now = row_of(request, resolve_blocks(request, presets))
    except PromptError:
        return False
    return now is not None and (now.vector, now.rules) == (row.vector, row.rules)


def _clean(name: str) -> str:
    return name.translate(_SEPARATORS).strip()
