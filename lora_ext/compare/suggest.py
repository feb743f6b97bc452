"""Which file and weight to keep: one cell of a sheet, with the reason in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .plan import Cell, Plan
from .scores import Score
from .shot import Shot

ENOUGH = 0.9
"""A choice that reaches this share of the best gain is as good; the gentlest of these is taken."""
DULL, HARSH = 0.55, 1.8
"""Sharpness below or above these multiples of what is usual speaks of blur, or of burnt-in noise."""
ALIKE = 0.45
"""Pictures of different seeds that differ less than this share of what they differ without a LoRA have collapsed."""
FAINT = 0.02
"""A colour difference below this is no change that anyone sees."""


@dataclass(frozen=True)
class Suggestion:
    """cells: places in `plan.cells` of one choice (each of its seeds and prompts), none where nothing is to suggest."""

    cells: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Choice:
    """What one set of tags came to, averaged over its seeds and prompts."""

    cells: tuple[int, ...]
    label: str
    difference: float
    sharpness: float
    likeness: float | None
    near: float | None
    copies: float
    variety: float | None = None

    def sound(self, usual: tuple[float, float]) -> bool:
        """Neither blurred, burnt, copied nor collapsed. usual: the range of sharpness that is normal."""
        clear = DULL * usual[0] <= self.sharpness <= HARSH * usual[1]
        return clear and self.copies < 0.5 and (self.variety is None or self.variety >= ALIKE)


def suggest(
    plan: Plan,
    scores: Sequence[Score],
    *,
    base: tuple[float, float] | None = None,
    training_sharpness: float = 1.0,
    variety: Mapping[str, float] | None = None,
) -> Suggestion:
    """The gentlest choice that comes nearly as near to the training pictures as any sound one.

    base: mean likeness and nearness without a LoRA; None without training pictures, when only differences can speak.
    training_sharpness: theirs, as multiples of the pictures' without a LoRA. variety: choice (`choice_of`) → how far
    its pictures of different seeds differ, as a share of what they do without a LoRA.
    """
    choices = _choices(plan, scores, variety or {})
    usual = min(1.0, training_sharpness), max(1.0, training_sharpness)
    strong = [choice for choice in choices if choice.difference >= FAINT]
    if not strong:
        return Suggestion((), "No cell differs visibly from the picture without a LoRA.")
    sound = [choice for choice in strong if choice.sound(usual)]
    if not sound:
        return Suggestion((), "Every choice is blurred, burnt in, or copies training pictures: try lower weights.")
    if base is not None:
        return _by_likeness(sound, len(strong) - len(sound), *base)
    most = max(choice.difference for choice in sound)
    best = min((c for c in sound if c.difference >= 0.6 * most), key=_gentle)
    return Suggestion(
        best.cells,
        f"Suggested: {best.label}. It is the gentlest that shows most of the change ({best.difference:.0%} of "
        f"{most:.0%}) and stays sharp; without training pictures nothing more can be said.",
    )


def _by_likeness(sound: Sequence[Choice], left: int, likeness: float, near: float) -> Suggestion:
    """The gentlest of those that gain most. A gain is the mean of two: in likeness, which sees style anywhere in the
    picture, and in nearness to a single training picture, which falls again when a picture is overdone."""
    gains = [((c.likeness or 0.0) - likeness, (c.near or 0.0) - near) for c in sound]
    most = [max(column) for column in zip(*gains, strict=True)]
    if most[0] <= 0:
        return Suggestion((), f"No choice is nearer to the training pictures than the model alone ({likeness:.2f}).")
    whole = [sum(g / m for g, m in zip(gain, most, strict=True) if m > 0) for gain in gains]
    best = min((c for c, gain in zip(sound, whole, strict=True) if gain >= ENOUGH * max(whole)), key=_gentle)
    out = f"; {left} were left out as burnt in, blurred or copying" if left else ""
    return Suggestion(
        best.cells,
        f"Suggested: {best.label}. It is the gentlest of those that come nearest to the training pictures (likeness "
        f"{best.likeness:.2f}, {likeness:.2f} without a LoRA){out}.",
    )


def copies(plan: Plan, scores: Sequence[Score]) -> str:
    """A warning that names cells which are nearly copies of training pictures; "" where there are none."""
    found = [(_label(plan, [cell]), score.copy_of) for cell, score in zip(plan.cells, scores, strict=True)
             if score.copy_of]  # fmt: skip
    if not found:
        return ""
    named = ", ".join(f"{label} (like {picture})" for label, picture in found[:3]) + (" …" if len(found) > 3 else "")
    return f"Overfitting: {len(found)} of {len(scores)} pictures are nearly copies of training pictures: {named}."


def _gentle(choice: Choice) -> float:
    return choice.difference


def choice_of(shot: Shot) -> str:
    """What is chosen between: the tags, without seed, text or settings."""
    return " ".join(request.tag() for request in shot.tags())


def sample_of(shot: Shot) -> Shot:
    """What a choice is tried on: everything but the tags."""
    return replace(shot.plain(), lora="")


def _choices(plan: Plan, scores: Sequence[Score], variety: Mapping[str, float]) -> list[Choice]:
    """The plan's choices that act at all and were tried on as many samples as any other."""
    members: dict[str, list[int]] = {}
    for place, cell in enumerate(plan.cells):
        if any(request.te or request.unet for request in cell.shot.tags()):
            members.setdefault(choice_of(cell.shot), []).append(place)
    most = max((len(places) for places in members.values()), default=0)
    return [
        _average(tag, places, plan, scores, variety.get(tag)) for tag, places in members.items() if len(places) == most
    ]


def _average(tag: str, places: Sequence[int], plan: Plan, scores: Sequence[Score], variety: float | None) -> Choice:
    rows = [scores[place] for place in places]
    likes = [row.likeness for row in rows if row.likeness is not None]
    nears = [row.near for row in rows if row.near is not None]
    return Choice(
        tuple(places),
        _label(plan, [plan.cells[place] for place in places]) or tag,
        sum(row.difference for row in rows) / len(rows),
        sum(row.sharpness for row in rows) / len(rows),
        sum(likes) / len(likes) if likes else None,
        sum(nears) / len(nears) if nears else None,
        sum(bool(row.copy_of) for row in rows) / len(rows),
        variety,
    )


def _label(plan: Plan, cells: Sequence[Cell]) -> str:
    """The heads that all of these cells share."""
    heads = []
    for axis, places in (
        (plan.x, {c.x for c in cells}),
        (plan.y, {c.y for c in cells}),
        (plan.z, {c.z for c in cells}),
    ):
        if len(places) == 1 and len(axis.values) > 1:
            heads.append(axis.values[places.pop()].label)
    return ", ".join(heads)
