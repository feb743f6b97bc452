"""How a file fits a model, as a report that a user can read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .counted_words import counted
from .errors import FitError
from .layer_names import LayerId


def check_fits(fits: Iterable[FitReport]) -> None:
    """Stops where a file does not fit the model, or only a part of it does: what `--strict` asks for.

    Args:
        fits: the report of each file.

    Raises:
        FitError: names all such files, each once.
    """
    wrong = dict.fromkeys(str(fit) for fit in fits if not fit.is_whole)
    if wrong:
        raise FitError(f"--strict: nothing is generated, because not every layer applies. {'. '.join(wrong)}")


@dataclass(frozen=True)
class FitReport:
    """How well a file fits a model.

    Attributes:
        name: the file's name.
        family: the base model that the file is for.
        matched: number of layers that apply.
        unmatched: layers that the model lacks.
        wrong_shape: layers that have another shape in the model.
        unrecognized: number of keys that were not understood.
        absent_blocks: positions of the block weights that this model has no block for.
        blocks_without_weight: blocks of the file that the block weights leave out; they count as 0.
        notes: further sentences for the user.
        damaged: number of layers that are skipped because they are damaged.
        first_damage_reason: what is wrong with the first of them.
        foreign_architecture: a sentence about a file that is not for SD1, SD2 or SDXL; it is not applied.
        live_reason: why all files are applied live where they would have been baked; this is no fault.
        assumed: the alpha that is assumed where the file has none.

    Example:
        >>> print(FitReport("style", "SD1", matched=3, unrecognized=2))
        style (made for SD1): 3 of 3 layers apply; 2 keys not understood
    """

    name: str
    family: str = "unknown"
    matched: int = 0
    unmatched: tuple[LayerId, ...] = ()
    wrong_shape: tuple[LayerId, ...] = ()
    unrecognized: int = 0
    absent_blocks: tuple[str, ...] = ()
    blocks_without_weight: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    damaged: int = 0
    first_damage_reason: str = ""
    foreign_architecture: str = ""
    live_reason: str = ""
    assumed: str = ""

    @property
    def ok(self) -> bool:
        """Whether all layers apply and there is nothing to report."""
        return self.is_whole and not self.notes

    @property
    def is_worth_telling(self) -> bool:
        """Whether a user has to know of it: not all layers apply, or block weights and blocks differ."""
        return bool(not self.ok or self.absent_blocks or self.blocks_without_weight)

    @property
    def is_whole(self) -> bool:
        """Whether all layers of the file apply."""
        wrong = self.unmatched or self.wrong_shape or self.unrecognized or self.damaged
        return self.matched > 0 and not wrong

    def __str__(self) -> str:
        if self.foreign_architecture:
            return "; ".join([self.foreign_architecture, *self.notes])
        total = self.matched + len(self.unmatched) + len(self.wrong_shape) + self.damaged
        base = "" if self.family == "unknown" else f" (made for {self.family})"
        if not self.matched and total == 1:
            text = f"{self.name}{base} does not fit this model: its only layer does not apply"
        elif not self.matched:
            text = f"{self.name}{base} does not fit this model: none of its {total} layers applies"
        elif total == 1:
            text = f"{self.name}{base}: its only layer applies"
        elif self.matched == 1:
            text = f"{self.name}{base}: 1 of {total} layers applies"
        else:
            text = f"{self.name}{base}: {self.matched} of {total} layers apply"
        lacks = Counter(layer_id.part for layer_id in self.unmatched)
        parts = [f"{count} not in this model's {part}" for part, count in sorted(lacks.items())]
        if self.wrong_shape:
            parts.append(
                counted(
                    len(self.wrong_shape),
                    f"of another size: {self.wrong_shape[0]}",
                    f"of another size, such as {self.wrong_shape[0]}",
                )
            )
        if self.damaged:
            parts.append(f"{self.damaged} damaged and skipped: {self.first_damage_reason}")
        if self.unrecognized:
            parts.append(f"{counted(self.unrecognized, 'key')} not understood")
        if self.absent_blocks:
            parts.append(f"no block {', '.join(self.absent_blocks)} in this model")
        if self.blocks_without_weight:
            names = ", ".join(self.blocks_without_weight)
            parts.append(
                f"blocks {names} not in the given block weights, taken as 0"
                if len(self.blocks_without_weight) > 1
                else f"block {names} not in the given block weights, taken as 0"
            )
        live = [f"live: {self.live_reason}"] if self.live_reason and self.live_reason not in self.notes else []
        return "; ".join(filter(None, [text, *parts, self.assumed, *self.notes, *live]))
