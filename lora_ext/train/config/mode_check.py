"""What belongs to a mode of training, and what does not, each with a sentence that says what to change."""

from __future__ import annotations

from collections.abc import Iterator

from ...counted_words import counted
from .prompt_tasks import split_prompts
from .recipe import Recipe

_PAIRS = ("addift", "multi-addift")
_FIELDS = {
    "original_prompt": ("ileco", "slider", *_PAIRS, "difference"),
    "target_prompt": ("ileco", *_PAIRS),
    "keep_prompts": ("ileco", "slider"),
    "positive_prompt": ("slider",),
    "negative_prompt": ("slider",),
    "kept_attributes": ("slider",),
    "uce_start": ("ileco", "slider"),
    "denoise_steps": ("ileco", "slider"),
    "original_image": ("addift", "difference"),
    "target_image": ("addift", "difference"),
    "diff_load_1st_pass": ("difference",),
    "diff_target_name": ("multi-addift",),
    "target_data_dir": ("multi-addift",),
    "diff_use_diff_mask": _PAIRS,
    "paste_data_dir": ("addift",),
    "train_data_dir": ("pictures", "multi-addift"),
    "flip_aug": ("pictures", *_PAIRS, "difference"),
    "random_crop": ("pictures", *_PAIRS, "difference"),
}
"""Option → the modes that use it."""
_PICTURES_ONLY = (
    "reg_data_dir", "reg_generate", "dataset_config", "in_json", "masked_loss", "token_string",
    "network_train_text_encoder_only", "color_aug", "face_crop_aug_range", "cache_latents_to_disk", "torch_compile",
    "validation_split",
)  # fmt: skip
"""Options that need pictures to train on, or that run the U-Net with the network only."""
_NUMBERS = {
    "target_guidance": ("ileco",),
    "slider_guidance": ("slider",),
    "diff_alt_ratio": _PAIRS,
    "pair_weight": _PAIRS,
}
"""The same of options that always have a value, so that a recipe does not tell whether they were meant."""


def modes_of_option(name: str) -> tuple[str, ...]:
    """The modes that use an option; empty where all do."""
    return _FIELDS.get(name) or _NUMBERS.get(name) or (("pictures",) if name in _PICTURES_ONLY else ())


def mode_problems(recipe: Recipe) -> Iterator[str]:
    """Yields a sentence for each option that is missing in the recipe's mode or does not belong to it."""
    for name, modes in _FIELDS.items():
        if getattr(recipe, name) and recipe.mode not in modes:
            yield f"{name} belongs to mode {' or '.join(modes)}, not to {recipe.mode}; set that mode, or leave it out"
    if recipe.target_guidance != 1 and recipe.mode != "ileco":
        yield f"target_guidance belongs to mode ileco, not to {recipe.mode}; set that mode, or leave it out"
    if recipe.mode == "pictures":
        return
    for name in _PICTURES_ONLY:
        if getattr(recipe, name):
            yield f"{name} belongs to mode pictures; leave it out in mode {recipe.mode}"
    checks = {"ileco": _prompts, "slider": _prompts, "difference": _difference}
    yield from checks.get(recipe.mode, _pairs)(recipe)


def _pairs(recipe: Recipe) -> Iterator[str]:
    if recipe.mode == "addift" and not (recipe.original_image and recipe.target_image):
        yield "mode addift needs original_image and target_image, the same picture before and after a change"
    if recipe.paste_data_dir and recipe.target_prompt:
        yield "with paste_data_dir each picture's own caption is the prompt of both sides; leave target_prompt out"
    if recipe.mode == "multi-addift" and not recipe.train_data_dir:
        yield "mode multi-addift needs train_data_dir, a folder of pictures"
    if recipe.mode == "multi-addift" and bool(recipe.diff_target_name) == bool(recipe.target_data_dir):
        yield (
            "mode multi-addift needs one of diff_target_name, the ending of the changed pictures' names, and "
            "target_data_dir, a folder of them"
        )


def _difference(recipe: Recipe) -> Iterator[str]:
    if not (recipe.original_image or recipe.diff_load_1st_pass):
        yield "mode difference needs original_image, or diff_load_1st_pass, a LoRA of it that an earlier run has saved"
    elif recipe.diff_load_1st_pass and not recipe.target_image:
        yield "diff_load_1st_pass needs target_image, the picture after the change"


def _prompts(recipe: Recipe) -> Iterator[str]:
    originals = split_prompts(recipe.original_prompt)
    if recipe.mode == "ileco" and not originals:
        yield "mode ileco needs original_prompt, the prompt that is changed into target_prompt (or erased without one)"
    if recipe.mode == "slider" and not recipe.positive_prompt:
        yield "mode slider needs positive_prompt, such as 'a large circle', and usually negative_prompt, its opposite"
    for name in ("target_prompt", "positive_prompt", "negative_prompt"):
        prompts = split_prompts(getattr(recipe, name))
        if len(prompts) not in (0, 1, max(1, len(originals))):
            yield (
                f"{name} has {counted(len(prompts), 'prompt')} and original_prompt {len(originals)}; "
                "give one for all, or as many as originals"
            )
    if recipe.uce_start and (recipe.network_weights or recipe.init_lora_weights != "kaiming"):
        yield "uce_start is where a new LoRA starts; leave network_weights and init_lora_weights out, or uce_start"
    both = [prompt for prompt in split_prompts(recipe.keep_prompts) if prompt in originals]
    if both:
        yield f"{both[0]!r} is in original_prompt and in keep_prompts; leave it out of one of them"
