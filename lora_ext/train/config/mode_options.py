"""`ModeOptions`: the options of `Recipe` that say what is learned from: pictures, prompts or pairs of pictures."""

from __future__ import annotations

from dataclasses import dataclass

from .recipe_option import TRAINING_MODES, recipe_option


@dataclass(frozen=True)
class ModeOptions:
    """What is learned from; each option's help says what it does."""

    # --- mode
    mode: str = recipe_option(
        "pictures",
        "what is learned from: pictures; ileco (one prompt becomes another); slider (two opposite prompts); "
        "addift, multi-addift (pairs of pictures, before and after a change); difference (a copy of the "
        "first picture is learned and left out)",
        "mode",
        TRAINING_MODES,
        basic=True,
    )
    original_prompt: str | None = recipe_option(
        None,
        "ileco: prompt that is changed; slider: prompt it acts on; addift: prompt of the first picture; difference: of "
        "both; several are separated by |, but not for difference",
        "mode",
    )
    target_prompt: str | None = recipe_option(
        None,
        "ileco: what original_prompt becomes, one for all or one for each; empty erases it; addift: prompt of the "
        "second picture",
        "mode",
    )
    target_guidance: float = recipe_option(
        1.0,
        "ileco: how far a prompt goes towards its target; 1 reaches it, a little more erases what 1 leaves",
        "mode",
        low=0,
        high=10,
    )
    keep_prompts: str | None = recipe_option(
        None, "prompts that stay as they are, separated by |; with them the empty one", "mode"
    )
    positive_prompt: str | None = recipe_option(None, "slider: prompt of weight 1", "mode")
    negative_prompt: str | None = recipe_option(None, "slider: prompt of weight -1", "mode")
    kept_attributes: str | None = recipe_option(
        None, "slider: attributes put before its prompts and so kept, separated by |", "mode"
    )
    slider_guidance: float = recipe_option(
        4.0, "slider: factor on the difference of the two prompts", "mode", low=0, high=100
    )
    uce_start: bool = recipe_option(
        False, "ileco, slider: cross-attention starts at the closed form of Unified Concept Editing", "mode"
    )
    denoise_steps: int = recipe_option(
        0, "ileco, slider: steps that denoise a start to its timestep; 0 starts from noise", "mode", low=0, high=100
    )
    original_image: str | None = recipe_option(
        None, "addift, difference: the picture before the change", "mode", kind="file"
    )
    target_image: str | None = recipe_option(
        None, "addift, difference: the picture after the change", "mode", kind="file"
    )
    diff_target_name: str | None = recipe_option(
        None, "multi-addift: ending of the changed pictures' names, such as _closed", "mode"
    )
    target_data_dir: str | None = recipe_option(
        None, "multi-addift: folder of the changed pictures, named as the others", "mode", kind="folder"
    )
    diff_use_diff_mask: bool = recipe_option(False, "addift: learn only where the two pictures differ", "mode")
    diff_alt_ratio: float = recipe_option(
        1.0,
        "addift: strength of the steps back, from the changed picture to the other; 0 leaves them out",
        "mode",
        low=0,
        high=10,
    )
    paste_data_dir: str | None = recipe_option(
        None,
        "addift: folder of other pictures; what differs between the two is pasted into each, which is then a pair "
        "under its own caption. An empty folder gets a picture of each original_prompt",
        "mode",
        kind="folder",
    )
    diff_load_1st_pass: str | None = recipe_option(
        None, "difference: LoRA of the first picture that an earlier run saved as NAME-copy", "mode", kind="file"
    )
    pair_weight: float = recipe_option(
        0.25, "addift: weight of the LoRA while it learns; with a smaller one it is stronger", "mode", low=0, high=10
    )
