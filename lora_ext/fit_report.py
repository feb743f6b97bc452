"""How a file fits a model, as a report that a user can read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .layer_names import LayerId


@dataclass(frozen=True)
class FitReport:
    """How well a file fits a model: layers matched, layers the model lacks, layers of another shape, unread keys.

    dead: positions of the block-weight vector that this model has no block for.
    uncovered: blocks of the file that the vector says nothing about; they count as 0.
    damaged, damage: how many layers were skipped because they are damaged, and what is wrong with one.
    assumed: what is taken where the file does not say its strength.
    other: a sentence about a file that is not for SD1, SD2 or SDXL; nothing of it is applied.
    way: why all files are live where they would have been baked; nothing is wrong with that.
    """

    name: str
    family: str = "unknown"
    matched: int = 0
    unmatched: tuple[LayerId, ...] = ()
    wrong_shape: tuple[LayerId, ...] = ()
    unread: int = 0
    dead: tuple[str, ...] = ()
    uncovered: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    damaged: int = 0
    damage: str = ""
    other: str = ""
    way: str = ""
    assumed: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is nothing to tell."""
        wrong = self.unmatched or self.wrong_shape or self.unread or self.notes or self.damaged
        return self.matched > 0 and not wrong

    def __str__(self) -> str:
        if self.other:
            return "; ".join([self.other, *self.notes])
        total = self.matched + len(self.unmatched) + len(self.wrong_shape) + self.damaged
        base = "" if self.family == "unknown" else f" (made for {self.family})"
        if not self.matched:
            text = f"{self.name}{base} does not fit this model: none of its {total} layers applies"
        else:
            text = f"{self.name}{base}: {self.matched} of {total} layers apply"
        lacks = Counter(layer_id.part for layer_id in self.unmatched)
        parts = [f"{count} not in this model's {part}" for part, count in sorted(lacks.items())]
        if self.wrong_shape:
            parts.append(f"{len(self.wrong_shape)} of another size, such as {self.wrong_shape[0]}")
        if self.damaged:
            parts.append(f"{self.damaged} damaged and skipped: {self.damage}")
        if self.unread:
            parts.append(f"{self.unread} keys not understood")
        if self.dead:
            parts.append(f"no block {', '.join(self.dead)} in this model")
        if self.uncovered:
            parts.append(f"blocks {', '.join(self.uncovered)} not in the given block weights, taken as 0")
        way = [f"live: {self.way}"] if self.way and self.way not in self.notes else []
        return "; ".join(filter(None, [text, *parts, self.assumed, *self.notes, *way]))
