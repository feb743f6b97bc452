"""After a run: which epoch at which weight? A sheet of its files over weights, with its sample prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .. import kohya_prompt_line
from ..compare.image_spec import ImageSettings
from ..errors import TrainError
from ..generate.compare_command import ComparisonSummary, compare
from ..host.kohya_names import webui_sampler_name
from ..protocols import SampleSpec
from ..train.config.recipe import Recipe
from ..train.data.dataset_folders import find_subsets
from ..train.data.dataset_scan import scan_dataset
from ..train.run import sample_images
from ..train.run.training_result import TrainingResult
from .standalone_run import generate_settings_of_recipe

WEIGHT_AXIS = "weight:0.2-1.0(+0.2)"
CAPTION_PROMPT_COUNT = 2
"""Captions to compare with, if the run had no sample prompts."""


@dataclass(frozen=True)
class EpochComparison:
    """The arguments of a sheet for `compare`.

    Attributes:
        image_fields: The settings of every image.
        lora: The LoRA's name in tags.
        x: The axis across, as text.
        y: The axis down, as text; "" for none.
        z: The axis of pages, as text; "" for none.
    """

    image_fields: ImageSettings
    lora: str
    x: str
    y: str
    z: str = ""


def epoch_comparison(recipe: Recipe, names: Sequence[str]) -> EpochComparison:
    """Plans a sheet: epochs across, weights down, one page for each prompt.

    Args:
        recipe: The run's settings.
        names: Names of the run's files in tags, the final one last.

    Raises:
        TrainError: No file was saved, or the prompts or images are missing by now.
    """
    if not names:
        raise TrainError("the run saved no file to compare")
    specs = _sample_specs(recipe)
    first = specs[0]
    image = ImageSettings(
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
        kohya_prompt_line.format_prompt_line(spec.prompt, {k: v for k, v in asdict(spec).items() if k != "prompt"})
        for spec in specs
    ]
    pages = f"prompt:{' | '.join(lines)}" if len(specs) > 1 else ""
    has_epochs = len(names) > 1
    return EpochComparison(
        image, names[-1], "epoch:all" if has_epochs else WEIGHT_AXIS, WEIGHT_AXIS if has_epochs else "", pages
    )


def _sample_specs(recipe: Recipe) -> list[SampleSpec]:
    """The run's sample prompts as it generated them, else its first captions. 0 × 0 means the model's native size."""
    usual = SampleSpec("", width=0, height=0, sampler=recipe.sample_sampler)
    found = sample_images.load_sample_prompts(Path(recipe.sample_prompts), usual) if recipe.sample_prompts else []
    if not found:
        found = [replace(usual, prompt=text) for text in _captions(recipe)]
    seed = recipe.seed or 0
    return [
        replace(
            spec,
            seed=(seed + number) % 2**32 if spec.seed is None else spec.seed,
            sampler=webui_sampler_name(spec.sampler),
        )
        for number, spec in enumerate(found)
    ]


def _captions(recipe: Recipe) -> list[str]:
    """The first captions that differ."""
    few = [replace(subset, files=subset.files[:8]) for subset in find_subsets(recipe) if not subset.regularisation]
    return list(dict.fromkeys(image.caption for image in scan_dataset(few).images))[:CAPTION_PROMPT_COUNT]


def training_image_paths(recipe: Recipe) -> list[Path]:
    """The training images of a run, without regularisation images. Raises TrainError."""
    return [path for subset in find_subsets(recipe) if not subset.regularisation for path in subset.files]


def build_epoch_comparison(
    recipe: Recipe,
    result: TrainingResult,
    *,
    tokenizer: Path | None = None,
    config: Path | None = None,
    quiet: bool = False,
) -> ComparisonSummary:
    """Builds the sheet of a finished run in `OUTPUT_DIR/NAME-compare`.

    Args:
        recipe: The run's settings.
        result: What the run returned.
        tokenizer: Folder with CLIP's vocabulary, if it is not beside the model.
        config: LDM yaml, if it is not beside the model.
        quiet: Whether to print nothing.

    Returns:
        What `compare` returns for `--json`.

    Raises:
        LoraError: The sheet cannot be built.
    """
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
