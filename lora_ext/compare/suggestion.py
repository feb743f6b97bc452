"""Which file and weight to keep: one cell of a sheet, with the reason in a sentence.

With training pictures the choice that comes nearest to them is suggested. Without them only the change against the
picture without a LoRA is known. Over the weights it is an S-shaped curve: slow while the effect is not there yet,
steep while it appears, flat when it is complete. A good choice lies where the curve begins to flatten:

1. Damaged choices are put aside: burnt (`BURNT`), noisy (`NOISY`), blurred (`DULL`), all seeds alike (`ALIKE`). More
   edges are no damage: frames and stripes are edges.
2. Of the others, the one with the least change that has at least `FULL_EFFECT_SHARE` of their greatest
   change is suggested.
3. Where the curve still gets steeper at its end (`STEEPER_FACTOR`) the effect is not complete:
   the strongest is suggested.
4. Nothing is suggested where nothing can be said: no visible change, the same picture everywhere, all damaged, or most
   of the change only in damaged pictures (`MIN_UNDAMAGED_SHARE`); what looks like damage may be the effect then, such
   as line art.

What a picture shows is not seen: a LoRA that replaces the subject, without burning or blurring it, has an effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..lora_tags import LoraTag
from .identical_cells import shared_label
from .image_spec import ImageSpec
from .scores import Score
from .sheet_plan import SheetPlan

ENOUGH_GAIN = 0.9
"""A choice that reaches this share of the best gain is as good; the gentlest of these is taken."""
DULL, HARSH = 0.55, 1.8
"""Sharpness below or above these multiples of what is usual speaks of blur, or of burnt-in noise. HARSH only counts
with training pictures, which say how sharp is usual."""
ALIKE = 0.45
"""Pictures of different seeds that differ less than this share of what they differ without a LoRA have collapsed."""
FAINT = 0.02
"""A colour difference below this is no change that anyone sees."""
BURNT = 0.3
"""A choice is burnt when this share of all colour values went to an end of the scale, black or full, beyond those that
are there without a LoRA. By eye: pictures are whole up to 0.25 and lose their subject from 0.3 to 0.7; photographs
with contrast doubled or colours tripled have 0.3 to 0.7."""
NOISY = 0.04
"""A choice is noisy when its noise (`measures.noise`) grew by this. 10 of 255 is seen as grain at a glance; generated
frames and stripes come to 0.002, photographs to 0.015."""
FULL_EFFECT_SHARE = 0.7
"""Share of the greatest undamaged change at which an effect counts as complete. By eye frames are closed and stripes
whole from 0.6 to 0.75 on; what is above only gets harsher."""
STEEPER_FACTOR = 1.1
"""The effect is not complete where the change grows this much faster than the weight up to the end of the sheet."""
MIN_UNDAMAGED_SHARE = 0.5
"""Undamaged choices that show less than this share of the change of damaged ones do not show the effect."""


@dataclass(frozen=True)
class Suggestion:
    """cells: places in `plan.cells` of one choice (each of its seeds and prompts), none where nothing is to suggest."""

    cells: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Choice:
    """What one set of tags came to, averaged over its seeds and prompts. twin: all its pictures are those of others."""

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
        """Neither blurred, burnt, copied nor collapsed. usual: the range of sharpness that is normal."""
        clear = DULL * usual[0] <= self.sharpness <= HARSH * usual[1]
        return clear and self.copies < 0.5 and not self.collapsed

    @property
    def collapsed(self) -> bool:
        """Whether its seeds give nearly the same picture."""
        return self.variety is not None and self.variety < ALIKE

    def damage(self) -> str:
        """What is wrong with its pictures, judged without training pictures; "" where nothing is."""
        found = {
            "burnt (colours at the ends of their scale)": self.burnt >= BURNT,
            "noisy": self.noise >= NOISY,
            "blurred": self.sharpness < DULL,
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
    """The choice to keep, see above; of pictures that are the same, the first one's.

    base: mean likeness and nearness without a LoRA; None without training pictures, when only differences can speak.
    training_sharpness: theirs, as multiples of the pictures' without a LoRA. variety: choice (`tags_key`) → how far
    its pictures of different seeds differ, as a share of what they do without a LoRA. same: `identical.same_pictures`.
    """
    every = _choices(plan, scores, variety or {}, identical or {})
    strong = [choice for choice in every if choice.difference >= FAINT]
    distinct = [choice for choice in strong if not choice.is_duplicate]
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
    return _by_likeness(sound, len(distinct) - len(sound), *base)


def _by_change(choices: Sequence[Choice]) -> Suggestion:
    """By the change against no LoRA alone, see the top of this file."""
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
    why = f"It changes most of those that are not damaged ({best.difference:.0%} of the colours)"
    if best is not top:
        why = (
            f"It is the gentlest that shows the effect whole ({best.difference:.0%} of the colours change; in the "
            f"strongest undamaged choice, {top.label}, {top.difference:.0%})"
        )
    more = f"Left out as {words}: {len(damaged)}." if damaged else ""
    if best is top and not damaged:
        more = "Nothing stronger is on the sheet: higher weights may show more."
    told = "This is judged by how much changes, without training pictures; whether the prompt is obeyed is not seen."
    return Suggestion(best.cells, " ".join(filter(None, (f"Suggested: {best.label}. {why}.", more, told))))


def _grows(best: Choice, top: Choice) -> bool:
    """Whether the change gets steeper from `best` to `top`, which differ in nothing but a larger weight."""
    before, after = _weight(best), _weight(top)
    if _tags_without_weights(best) != _tags_without_weights(top) or not 0 < before < after:
        return False
    return top.difference - best.difference > STEEPER_FACTOR * best.difference / before * (after - before)


def _weight(choice: Choice) -> float:
    """The sum of its tags' weights."""
    return sum(abs(request.te) + abs(request.unet) for request in choice.tags)


def _tags_without_weights(choice: Choice) -> tuple[LoraTag, ...]:
    """All of its tags but the weights."""
    return tuple(replace(request, te=1.0, unet=1.0) for request in choice.tags)


def _by_likeness(sound: Sequence[Choice], left: int, likeness: float, near: float) -> Suggestion:
    """The gentlest of those that gain most. A gain is the mean of two: in likeness, which sees style anywhere in the
    picture, and in nearness to a single training picture, which falls again when a picture is overdone."""
    gains = [((c.likeness or 0.0) - likeness, (c.near or 0.0) - near) for c in sound]
    most = [max(column) for column in zip(*gains, strict=True)]
    if most[0] <= 0:
        return Suggestion((), f"No choice is nearer to the training pictures than the model alone ({likeness:.2f}).")
    whole = [sum(g / m for g, m in zip(gain, most, strict=True) if m > 0) for gain in gains]
    best = min((c for c, gain in zip(sound, whole, strict=True) if gain >= ENOUGH_GAIN * max(whole)), key=_change)
    out = f"; {left} were left out as burnt in, blurred or copying" if left else ""
    return Suggestion(
        best.cells,
        f"Suggested: {best.label}. It is the gentlest of those that come nearest to the training pictures (likeness "
        f"{best.likeness:.2f}, {likeness:.2f} without a LoRA){out}.",
    )


def copies_warning(plan: SheetPlan, scores: Sequence[Score]) -> str:
    """A warning that names cells which are nearly copies of training pictures; "" where there are none."""
    found = [(shared_label(plan, [cell]), score.copy_of) for cell, score in zip(plan.cells, scores, strict=True)
             if score.copy_of]  # fmt: skip
    if not found:
        return ""
    named = ", ".join(f"{label} (like {picture})" for label, picture in found[:3]) + (" …" if len(found) > 3 else "")
    return f"Overfitting: {len(found)} of {len(scores)} pictures are nearly copies of training pictures: {named}."


def _change(choice: Choice) -> float:
    return choice.difference


def tags_key(image_spec: ImageSpec) -> str:
    """What is chosen between: the tags, without seed, text or settings."""
    return " ".join(request.format_tag() for request in image_spec.tags())


def sample_key(image_spec: ImageSpec) -> ImageSpec:
    """What a choice is tried on: everything but the tags."""
    return replace(image_spec.without_loras(), lora="")


def _choices(
    plan: SheetPlan, scores: Sequence[Score], variety: Mapping[str, float], identical: Mapping[int, int]
) -> list[Choice]:
    """The plan's choices that act at all and were tried on as many samples as any other.

    A choice that the axes name twice (0.5 and 0.50) counts once, by its first cells.
    """
    members: dict[str, dict[ImageSpec, int]] = {}
    for place, cell in enumerate(plan.cells):
        if any(request.te or request.unet for request in cell.image_spec.tags()):
            members.setdefault(tags_key(cell.image_spec), {}).setdefault(sample_key(cell.image_spec), place)
    most = max((len(samples) for samples in members.values()), default=0)
    tried = {tag: tuple(samples.values()) for tag, samples in members.items() if len(samples) == most}
    firsts = {place: tag for tag, places in tried.items() for place in places}
    return [
        replace(
            _average(tag, places, plan, scores, variety.get(tag)),
            is_duplicate=all(firsts.get(identical.get(place, -1), tag) != tag for place in places),
        )
        for tag, places in tried.items()
    ]


def _average(
    tag: str, places: Sequence[int], plan: SheetPlan, scores: Sequence[Score], variety: float | None
) -> Choice:
    rows = [scores[place] for place in places]
    likes = [row.likeness for row in rows if row.likeness is not None]
    nears = [row.near for row in rows if row.near is not None]
    return Choice(
        tuple(places),
        shared_label(plan, [plan.cells[place] for place in places]) or tag,
        tuple(plan.cells[places[0]].image_spec.tags()),
        sum(row.difference for row in rows) / len(rows),
        sum(row.sharpness for row in rows) / len(rows),
        sum(likes) / len(likes) if likes else None,
        sum(nears) / len(nears) if nears else None,
        sum(bool(row.copy_of) for row in rows) / len(rows),
        sum(row.burnt for row in rows) / len(rows),
        sum(row.noise for row in rows) / len(rows),
        variety,
    )
