"""Suggest which file and weight to keep: one choice of a sheet, with the reason in a sentence.

With training pictures, the choice that is nearest to them is suggested, where those beside it are near too: one picture
may be near by luck. Without them only the change from the picture
without a LoRA is known. Over the weight it is an S-shaped curve: slow before the effect appears, steep while it
appears, flat when it is complete. A good choice is where the curve begins to flatten:

1. Damaged choices are left out: burnt (`BURNT`), noisy (`NOISY`), blurred (`DULL`), all seeds alike (`ALIKE`). More
   edges are not damage: frames and stripes are edges.
2. Of the others, the one with the least change that has at least `FULL_EFFECT_SHARE` of their greatest change is
   suggested.
3. Where the curve still gets steeper at its end (`STEEPER_FACTOR`) the effect is not complete, and the strongest is
   suggested.
4. Nothing is suggested if there is no visible change, if all pictures are identical, if all are damaged, or if most of
   the change is in damaged pictures only (`MIN_UNDAMAGED_SHARE`): what looks like damage may be the effect then, such
   as line art. With training pictures, nor if nothing was learned: no choice comes clearly nearer to them
   (`LEARNED_GAIN`), and none changes much (`LEARNED_CHANGE`).

The content of the pictures is not recognised: a LoRA that replaces the subject without burning or blurring it counts
as one with an effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..lora_tags import LoraTag
from .identical_cells import shared_label
from .image_spec import ImageSpec
from .scores import Score
from .sheet_plan import SheetPlan

ENOUGH_GAIN = 0.99
"""A choice with this share of the best gain counts as equally good; the one with the least change is suggested. A lower
share would not choose what is gentler but what has learned less: in a picture of the concept, the change is the
concept."""
ORDERED_AXES = ("epoch", "weight", "te", "unet", "rank")
"""Kinds of axes on which a value is like those beside it."""
DULL, HARSH = 0.55, 1.8
"""Sharpness below or above these multiples of the usual one is a sign of blur, or of burnt-in noise. HARSH is only used
with training pictures, which show how sharp is usual."""
ALIKE = 0.45
"""Pictures of different seeds are alike if they differ by less than this share of their difference without a LoRA."""
FAINT = 0.02
"""A colour difference below this is not visible."""
BURNT = 0.3
"""A choice is burnt if the share of colour values at an end of the scale, black or full, grew by this much from the
picture without a LoRA. By eye: pictures are intact up to 0.25 and lose their subject from 0.3 to 0.7; photographs with
doubled contrast or tripled colours have 0.3 to 0.7."""
NOISY = 0.04
"""A choice is noisy if its noise (`image_measures.noise_level`) grew by this much. 10 of 255 is visible as grain at
once; generated frames and stripes have 0.002, photographs 0.015."""
FULL_EFFECT_SHARE = 0.7
"""Share of the greatest undamaged change at which an effect counts as complete. By eye, frames are closed and stripes
complete from 0.6 to 0.75 on; above that they only get harsher."""
STEEPER_FACTOR = 1.1
"""The effect is not complete if the change grows this much faster than the weight up to the end of the sheet."""
LEARNED_GAIN, LEARNED_CHANGE = 0.1, 0.15
"""Below this share of the way to the training pictures (likeness 1), and this colour difference, nothing was learned.
Of toy runs those that ended too early had up to 0.07 and 0.10, those that taught from 0.55 and 0.28 on."""
MIN_UNDAMAGED_SHARE = 0.5
"""Undamaged choices with less than this share of the change of damaged ones do not show the effect."""


@dataclass(frozen=True)
class Suggestion:
    """The choice to keep.

    Attributes:
        cells: indices of its cells in `plan.cells`, one for each seed and prompt; empty if nothing is suggested.
        reason: why, in a sentence or two.
    """

    cells: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Choice:
    """One set of tags with its scores, averaged over its seeds and prompts.

    Attributes:
        cells: indices of its cells in `plan.cells`.
        label: what reasons call it.
        tags: its LoRA tags.
        difference: see `Score`, as the following ones.
        sharpness: relative to the pictures without a LoRA.
        likeness: to the training pictures, or None.
        near: nearness to the nearest training picture, or None.
        copies: share of its pictures that are near-duplicates of training pictures.
        burnt: growth of the share of clipped colours.
        noise: growth of the noise.
        variety: difference between its seeds as a share of that without a LoRA, or None for a single seed.
        is_duplicate: whether all its pictures are identical to those of an earlier choice.
    """

    cells: tuple[int, ...]
    label: str
    tags: tuple[LoraTag, ...]
    difference: float
    sharpness: float
    likeness: float | None
    near: float | None
    copies: float
    burnt: float = 0.0
    noise: float = 0.0
    variety: float | None = None
    is_duplicate: bool = False

    def is_sound(self, usual: tuple[float, float]) -> bool:
        """Whether it is not blurred, burnt, copied or alike for all seeds, judged with training pictures.

        Args:
            usual: the range of normal sharpness.
        """
        clear = DULL * usual[0] <= self.sharpness <= HARSH * usual[1]
        return clear and self.copies < 0.5 and not self.collapsed

    @property
    def collapsed(self) -> bool:
        """Whether its seeds give nearly the same picture (mode collapse)."""
        return self.variety is not None and self.variety < ALIKE

    def damage(self) -> str:
        """What is wrong with its pictures, judged without training pictures; "" if nothing is."""
        found = {
            "burnt (colours at the ends of their scale)": self.burnt >= BURNT,
            "too noisy": self.noise >= NOISY,
            "too blurred": self.sharpness < DULL,
            "alike for all seeds": self.collapsed,
        }
        return next((word for word, is_so in found.items() if is_so), "")


def suggest(
    plan: SheetPlan,
    scores: Sequence[Score],
    *,
    base: tuple[float, float] | None = None,
    training_sharpness: float = 1.0,
    variety: Mapping[str, float] | None = None,
    identical: Mapping[int, int] | None = None,
) -> Suggestion:
    """Suggests which choice to keep, see the module's text. Of choices with identical pictures the first one counts.

    Args:
        plan: the sheet.
        scores: the score of each cell.
        base: mean likeness and nearness of the pictures without a LoRA; None without training pictures.
        training_sharpness: sharpness of the training pictures relative to the pictures without a LoRA.
        variety: choice (`tags_key`) → how much its pictures of different seeds differ, as a share of the difference
            without a LoRA.
        identical: the result of `identical_cells.find_identical_cells`.
    """
    every = _choices(plan, scores, variety or {}, identical or {})
    strong = [choice for choice in every if choice.difference >= FAINT]
    distinct = [choice for choice in strong if not choice.is_duplicate]
    if not distinct and base is not None and every:
        return Suggestion(
            (),
            "No cell differs visibly from the picture without a LoRA: nothing was learned. Train longer (more epochs), "
            "or with a higher learning rate.",
        )
    if not distinct:
        return Suggestion((), "No cell differs visibly from the picture without a LoRA.")
    if len(every) > 1 and len(strong) == len(every) and len(distinct) == 1:
        return Suggestion((), f"Nothing to choose: all cells show the same picture as {distinct[0].label}.")
    if base is None:
        return _by_change(distinct)
    usual = min(1.0, training_sharpness), max(1.0, training_sharpness)
    sound = [choice for choice in distinct if choice.is_sound(usual)]
    if not sound:
        return Suggestion((), "Every choice is blurred, burnt in, or copies training pictures: try lower weights.")
    return _by_likeness(plan, sound, len(distinct) - len(sound), *base)


def _by_change(choices: Sequence[Choice]) -> Suggestion:
    """The suggestion without training pictures, by the change from no LoRA alone; see the module's text."""
    damaged = [choice for choice in choices if choice.damage()]
    sound = [choice for choice in choices if not choice.damage()]
    words = " or ".join(dict.fromkeys(choice.damage() for choice in damaged))
    if not sound:
        return Suggestion(
            (), f"Nothing is suggested: every choice that changes anything is {words}. Try lower weights."
        )
    top, greatest = max(sound, key=_change), max(choice.difference for choice in choices)
    if top.difference < MIN_UNDAMAGED_SHARE * greatest:
        return Suggestion(
            (),
            f"Nothing is suggested: the choices that change most ({greatest:.0%} of the colours) are {words}, and the "
            f"others change {top.difference:.0%} at most. Whether that is the LoRA's effect or damage cannot be said "
            "without training pictures. Look at the cells, or try weights between.",
        )
    best = min((choice for choice in sound if choice.difference >= FULL_EFFECT_SHARE * top.difference), key=_change)
    if not damaged and _grows(best, top):
        best = top
    more = f" Left out as {words}: {len(damaged)}." if damaged else ""
    if best is top and not damaged:
        more = " Nothing stronger is on the sheet: higher weights may show more."
    why = (
        f"Suggested: {best.label}. It changes most of those that are not damaged ({best.difference:.0%} of the "
        f"colours).{more}"
    )
    if best is not top:
        why = (
            f"Suggested: {best.label}. It is the gentlest that shows the whole effect ({best.difference:.0%} of the "
            f"colours change; in the strongest undamaged choice, {top.label}, {top.difference:.0%}).{more}"
        )
    return Suggestion(
        best.cells,
        f"{why} This is judged by how much changes, without training pictures; whether the prompt is obeyed is not "
        "seen.",
    )


def _grows(best: Choice, top: Choice) -> bool:
    """Whether the change gets steeper from `best` to `top`, which must differ by a larger weight only."""
    before, after = _weight(best), _weight(top)
    if _tags_without_weights(best) != _tags_without_weights(top) or not 0 < before < after:
        return False
    return top.difference - best.difference > STEEPER_FACTOR * best.difference / before * (after - before)


def _weight(choice: Choice) -> float:
    """The sum of the weights of its tags."""
    return sum(abs(tag.te) + abs(tag.unet) for tag in choice.tags)


def _tags_without_weights(choice: Choice) -> tuple[LoraTag, ...]:
    """Its tags with all weights set to 1, for comparison."""
    return tuple(replace(tag, te=1.0, unet=1.0) for tag in choice.tags)


def _neighbours(plan: SheetPlan, choices: Sequence[Choice]) -> list[list[int]]:
    """For each choice, the choices beside it on the sheet, along the axes whose values are in order."""
    steps = np.eye(3, dtype=int)[[axis.kind in ORDERED_AXES for axis in (plan.x, plan.y, plan.z)]]
    cells = [
        [(plan.cells[index].x, plan.cells[index].y, plan.cells[index].z) for index in one.cells] for one in choices
    ]
    places = {cell: number for number, rows in enumerate(cells) for cell in rows}
    beside = [[tuple(np.add(rows[0], step)) for step in (*steps, *-steps)] for rows in cells]
    return [[places[cell] for cell in row if places.get(cell, number) != number] for number, row in enumerate(beside)]


def _by_likeness(plan: SheetPlan, sound: Sequence[Choice], left: int, likeness: float, near: float) -> Suggestion:
    """The suggestion with training pictures: the choice with the least change of those that gain most.

    A gain is the mean of two: in likeness, which measures style anywhere in the picture, and in nearness to a single
    training picture, which falls again when a picture is overdone. Each counts as the mean of its own and of those
    beside it: of few pictures each, epochs that learn alike differ by more than what they have learned.
    """
    gains = [((c.likeness or 0.0) - likeness, (c.near or 0.0) - near) for c in sound]
    most = [max(column) for column in zip(*gains, strict=True)]
    whole = [sum(g / m for g, m in zip(gain, most, strict=True) if m > 0) for gain in gains]
    learned = most[0] >= LEARNED_GAIN * (1 - likeness)
    if not learned and max(map(_change, sound)) < LEARNED_CHANGE:
        return Suggestion(
            (),
            "Nothing is suggested: no choice comes clearly nearer to the training pictures (mean likeness "
            f"{likeness + most[0]:.2f} at best, {likeness:.2f} without a LoRA), so little or nothing was learned. "
            "Train longer (more epochs), or with a higher learning rate.",
        )
    if most[0] <= 0 or max(whole) <= 0:  # below 0: what each gains in one of the two, it loses more in the other
        return Suggestion((), f"No choice is nearer to the training pictures than the model alone ({likeness:.2f}).")
    beside = _neighbours(plan, sound)
    steady = [np.mean([gain, *(whole[i] for i in others)]) for gain, others in zip(whole, beside, strict=True)]
    gaining = [(c, gain) for c, own, gain in zip(sound, whole, steady, strict=True) if own > 0]
    top = max(gain for _, gain in gaining)
    # beside losing ones even the best may lose: a share of that is more than it
    best = min((c for c, gain in gaining if gain >= min(top, ENOUGH_GAIN * top)), key=_change)
    out = f"; left out as burnt in, blurred or copying: {left}" if left else ""
    return Suggestion(
        best.cells,
        f"Suggested: {best.label}. It is the gentlest of those that come nearest to the training pictures (mean "
        f"likeness {best.likeness:.2f}, {likeness:.2f} without a LoRA){out}.",
    )


def copies_warning(plan: SheetPlan, scores: Sequence[Score]) -> str:
    """A warning that names cells which are near-duplicates of training pictures; "" where there are none."""
    found = [(shared_label(plan, [cell]), score.copy_of) for cell, score in zip(plan.cells, scores, strict=True)
             if score.copy_of]  # fmt: skip
    if not found:
        return ""
    named = ", ".join(f"{label} (like {picture})" for label, picture in found[:3]) + (" …" if len(found) > 3 else "")
    text = (
        "Overfitting: {0} of {1} pictures is nearly a copy of a training picture: {2}."
        if len(found) == 1
        else "Overfitting: {0} of {1} pictures are nearly copies of training pictures: {2}."
    )
    return text.format(len(found), len(scores), named)


def _change(choice: Choice) -> float:
    return choice.difference


def tags_key(image_spec: ImageSpec) -> str:
    """The tags of a picture as one text, by which its choice is known."""
    return " ".join(tag.format_tag() for tag in image_spec.tags())


def sample_key(image_spec: ImageSpec) -> ImageSpec:
    """The spec without its tags: what all choices are tried with."""
    return replace(image_spec.without_loras(), lora="")


def _choices(
    plan: SheetPlan, scores: Sequence[Score], variety: Mapping[str, float], identical: Mapping[int, int]
) -> list[Choice]:
    """The choices with a weight other than 0 that were tried with the most seeds and prompts.

    A choice that the axes name twice (0.5 and 0.50) counts once, by its first cells.
    """
    members: dict[str, dict[ImageSpec, int]] = {}
    for index, cell in enumerate(plan.cells):
        if cell.image_spec.acting_tags():
            members.setdefault(tags_key(cell.image_spec), {}).setdefault(sample_key(cell.image_spec), index)
    most = max((len(samples) for samples in members.values()), default=0)
    tried = {tag: tuple(samples.values()) for tag, samples in members.items() if len(samples) == most}
    firsts = {index: tag for tag, indices in tried.items() for index in indices}
    return [
        replace(
            _average(tag, indices, plan, scores, variety.get(tag)),
            is_duplicate=all(firsts.get(identical.get(index, -1), tag) != tag for index in indices),
        )
        for tag, indices in tried.items()
    ]


def _average(
    tag: str, indices: Sequence[int], plan: SheetPlan, scores: Sequence[Score], variety: float | None
) -> Choice:
    rows = [scores[index] for index in indices]
    likes = [row.likeness for row in rows if row.likeness is not None]
    nears = [row.near for row in rows if row.near is not None]
    return Choice(
        tuple(indices),
        shared_label(plan, [plan.cells[index] for index in indices]) or tag,
        tuple(plan.cells[indices[0]].image_spec.tags()),
        sum(row.difference for row in rows) / len(rows),
        sum(row.sharpness for row in rows) / len(rows),
        sum(likes) / len(likes) if likes else None,
        sum(nears) / len(nears) if nears else None,
        sum(bool(row.copy_of) for row in rows) / len(rows),
        sum(row.burnt for row in rows) / len(rows),
        sum(row.noise for row in rows) / len(rows),
        variety,
    )
