"""After a run: which epoch, at which weight? A sheet of its files over weights, on its sample prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .. import kohya_prompt_line
from ..compare.image_spec import ImageSettings
from ..errors import TrainError
from ..generate.compare_command import compare
from ..host.standalone.trainable_model import KOHYA_SAMPLERS
from ..protocols import SampleSpec
from ..train.config.recipe import Recipe
from ..train.data.dataset_folders import find_subsets
from ..train.data.dataset_scan import scan_dataset
from ..train.run import sample_images
from ..train.run.training_result import TrainingResult
from .standalone_run import generate_settings_of_recipe

WEIGHT_AXIS = "weight:0.2-1.0(+0.2)"
CAPTION_PROMPT_COUNT = 2
"""Captions that are drawn where the run had no sample prompts."""


@dataclass(frozen=True)
class EpochComparison:
    """A sheet as `compare` takes it: its first picture's fields, the LoRA, and axes as text."""

    image_fields: ImageSettings
    lora: str
    x: str
    y: str
    z: str = ""


def epoch_comparison(recipe: Recipe, names: Sequence[str]) -> EpochComparison:
    """Epochs across, weights down, a page a prompt. names: what prompts call the run's files, the last one last.

    Raises TrainError: prompts or pictures are not there any more, or no file was saved.
    """
    if not names:
        raise TrainError("the run saved no file that could be compared")
    wishes = _sample_specs(recipe)
    first = wishes[0]
    picture = ImageSettings(
        prompt=first.prompt,
        negative_prompt=first.negative,
        seed=first.seed or 0,
        steps=first.steps,
        width=first.width,
        height=first.height,
        sampler=first.sampler,
        cfg=first.cfg,
        clip_skip=recipe.clip_skip or 1,
    )
    lines = [
        kohya_prompt_line.format_prompt_line(wish.prompt, {k: v for k, v in asdict(wish).items() if k != "prompt"})
        for wish in wishes
    ]
    pages = f"prompt:{' | '.join(lines)}" if len(wishes) > 1 else ""
    several = len(names) > 1
    return EpochComparison(
        picture, names[-1], "epoch:all" if several else WEIGHT_AXIS, WEIGHT_AXIS if several else "", pages
    )


def _sample_specs(recipe: Recipe) -> list[SampleSpec]:
    """The run's sample prompts as it drew them (0 × 0: as large as the model was made for), else its first captions."""
    usual = SampleSpec("", width=0, height=0, sampler=recipe.sample_sampler)
    if recipe.sample_prompts:
        found = sample_images.load_sample_prompts(Path(recipe.sample_prompts), usual)
    else:
        found = [replace(usual, prompt=text) for text in _captions(recipe)]
    seed = recipe.seed or 0
    return [
        replace(
            wish,
            seed=(seed + number) % 2**32 if wish.seed is None else wish.seed,
            sampler=KOHYA_SAMPLERS.get(wish.sampler.lower().removeprefix("k_"), wish.sampler),
        )
        for number, wish in enumerate(found)
    ]


def _captions(recipe: Recipe) -> list[str]:
    """The first captions that differ."""
    few = [replace(subset, files=subset.files[:8]) for subset in find_subsets(recipe) if not subset.regularisation]
    return list(dict.fromkeys(picture.caption for picture in scan_dataset(few).images))[:CAPTION_PROMPT_COUNT]


def training_image_paths(recipe: Recipe) -> list[Path]:
    """What the run learned from: its pictures but those of regularisation. Raises TrainError."""
    return [path for subset in find_subsets(recipe) if not subset.regularisation for path in subset.files]


def build_epoch_comparison(
    recipe: Recipe,
    result: TrainingResult,
    *,
    tokenizer: Path | None = None,
    config: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """The sheet of a run that has ended, in `OUTPUT_DIR/NAME-compare`; what `compare` tells of it. Raises LoraError."""
    wanted = epoch_comparison(recipe, [path.stem for path in result.files])
    folder = Path(str(recipe.output_dir))
    base = generate_settings_of_recipe(recipe, tokenizer=tokenizer, config=config)
    settings = replace(base, **wanted.image_fields.image_fields(), lora_dir=(folder,))
    return compare(
        settings,
        x=wanted.x,
        y=wanted.y,
        z=wanted.z,
        lora=wanted.lora,
        images=training_image_paths(recipe),
        out=folder / f"{recipe.output_name}-compare",
        json=quiet,
    )
