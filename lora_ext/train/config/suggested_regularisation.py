"""Regularisation pictures suggested for a run: whether they are worth their time, what they show, how many."""

from __future__ import annotations

from dataclasses import dataclass

from .suggested_setting import SMALL_MODEL_PIXELS, SuggestedSetting, TrainingSituation

REGULARISATION_PICTURES = 100
"""Pictures of a model: with the model's own predictions as target none is learned by heart, so that few are enough."""
_PEOPLE = (
    "{a photo|a painting|a drawing} of {a man|a woman|a boy|a girl|an old man|an old woman|two people|a crowd"
    "|a dog|a car|a house|a landscape} {in the sun|at night|in a city|by the sea|in a room|on a plain background}"
)
_FIGURES = (
    "{a drawing|an illustration|anime picture|a painting} of {a girl|a boy|a man|a woman|a knight|a wizard|a robot"
    "|a cat|a dragon|a castle|a forest} {in the sun|at night|in a city|by the sea|in a room|on a plain background}"
)
_THINGS = (
    "{a photo|a painting|a drawing} of {a chair|a cup|a car|a toy|a bag|a lamp|a dog|a bird|a tree|a house|a woman"
    "|a man} {on a table|in a room|in a garden|in a city|at night|on a white background}"
)
_SHAPES = (
    "a {red|green|blue|yellow|purple|cyan|white|black} {circle|square|triangle|cross|ring|diamond} on a "
    "{red|green|blue|yellow|purple|cyan|white|black} {background|ground}"
)
_PROMPTS = {"person": _PEOPLE, "character": _FIGURES}


@dataclass(frozen=True)
class RegularisationOffer:
    """Whether regularisation suits a run, and the settings that it takes.

    Attributes:
        choice: Whether it is on if the user says nothing, and why.
        settings: Option → value and reason.
    """

    choice: SuggestedSetting
    settings: dict[str, SuggestedSetting]


def offer_regularisation(situation: TrainingSituation, folder: str, found: int) -> RegularisationOffer:
    """Offers regularisation pictures, which are drawn where they are missing.

    Args:
        situation: What is known of the run.
        folder: Where the pictures of this model and kind are, or will be.
        found: How many of them are there.

    Returns:
        The offer.
    """
    small = situation.native_size < SMALL_MODEL_PIXELS
    return RegularisationOffer(_choice(situation, found, small), _settings(situation, folder, small))


def _choice(situation: TrainingSituation, found: int, small: bool) -> SuggestedSetting:
    """Whether it is worth its time."""
    missing = max(0, REGULARISATION_PICTURES - found)
    if situation.kind == "style":
        return SuggestedSetting(False, "a style is to change all pictures, and training would take twice as long")
    if missing and not small and not situation.on_gpu:
        return SuggestedSetting(False, "without a GPU it takes hours to draw {0} pictures", (missing,))
    if missing:
        return SuggestedSetting(True, "{0} pictures are drawn first, and training takes twice as long", (missing,))
    return SuggestedSetting(True, "{0} pictures of this model are there; training takes twice as long", (found,))


def _settings(situation: TrainingSituation, folder: str, small: bool) -> dict[str, SuggestedSetting]:
    """The options of regularisation."""
    shown = SuggestedSetting(
        _PROMPTS.get(situation.kind, _THINGS),
        "what is to stay as it is; each picture takes one of the words in brackets",
    )
    if small:
        text = "a model of {0} pixels can show single shapes and colours; these are to stay as they are"
        shown = SuggestedSetting(_SHAPES, text, (situation.native_size,))
    return {
        "reg_data_dir": SuggestedSetting(folder, "later runs with this model find the pictures there"),
        "reg_generate": SuggestedSetting(True, "what is missing is drawn before anything is learned"),
        "class_prompt": shown,
        "num_class_images": SuggestedSetting(REGULARISATION_PICTURES, "enough, since none of them is learned by heart"),
        "prior_loss_target": SuggestedSetting(
            "model", "kept is what the model itself makes of them, and nothing is learned"
        ),
        "prior_loss_weight": SuggestedSetting(3.0, "this loss is small: it is 0 where nothing has changed"),
    }
