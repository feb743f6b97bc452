"""After a run: which epoch, at which weight? A sheet of its files over weights, on its sample prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .. import kohya_prompt_line
from ..compare.image_spec import Picture
from ..errors import TrainError
from ..generate.compare_command import compare
from ..host.standalone.trainable_model import SAMPLERS
from ..protocols import Sample
from ..train.config.recipe import Recipe
from ..train.data.dataset_folders import subsets
from ..train.data.dataset_scan import scan
from ..train.run import sample_images
from ..train.run.training_result import Outcome
from .standalone_run import settings_of

WEIGHTS = "weight:0.2-1.0(+0.2)"
CAPTIONS = 2
"""Captions that are drawn where the run had no sample prompts."""


@dataclass(frozen=True)
class Asked:
    """A sheet as `compare` takes it: its first picture's fields, the LoRA, and axes as text."""

    picture: Picture
    lora: str
    x: str
    y: str
    z: str = ""


def asked(recipe: Recipe, names: Sequence[str]) -> Asked:
    """Epochs across, weights down, a page a prompt. names: what prompts call the run's files, the last one last.

    Raises TrainError: prompts or pictures are not there any more, or no file was saved.
    """
    if not names:
        raise TrainError("the run saved no file that could be compared")
    wishes = _wishes(recipe)
    first = wishes[0]
    picture = Picture(
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
        kohya_prompt_line.write(wish.prompt, {k: v for k, v in asdict(wish).items() if k != "prompt"})
        for wish in wishes
    ]
    pages = f"prompt:{' | '.join(lines)}" if len(wishes) > 1 else ""
    several = len(names) > 1
    return Asked(picture, names[-1], "epoch:all" if several else WEIGHTS, WEIGHTS if several else "", pages)


def _wishes(recipe: Recipe) -> list[Sample]:
    """The run's sample prompts as it drew them (0 × 0: as large as the model was made for), else its first captions."""
    usual = Sample("", width=0, height=0, sampler=recipe.sample_sampler)
    if recipe.sample_prompts:
        found = sample_images.read_prompts(Path(recipe.sample_prompts), usual)
    else:
        found = [replace(usual, prompt=text) for text in _captions(recipe)]
    seed = recipe.seed or 0
    return [
        replace(
            wish,
            seed=(seed + number) % 2**32 if wish.seed is None else wish.seed,
            sampler=SAMPLERS.get(wish.sampler.lower().removeprefix("k_"), wish.sampler),
        )
        for number, wish in enumerate(found)
    ]


def _captions(recipe: Recipe) -> list[str]:
    """The first captions that differ."""
    few = [replace(subset, files=subset.files[:8]) for subset in subsets(recipe) if not subset.regularisation]
    return list(dict.fromkeys(picture.caption for picture in scan(few).pictures))[:CAPTIONS]


def pictures(recipe: Recipe) -> list[Path]:
    """What the run learned from: its pictures but those of regularisation. Raises TrainError."""
    return [path for subset in subsets(recipe) if not subset.regularisation for path in subset.files]


def draw(
    recipe: Recipe, outcome: Outcome, *, tokenizer: Path | None = None, config: Path | None = None, quiet: bool = False
) -> dict[str, Any]:
    """The sheet of a run that has ended, in `OUTPUT_DIR/NAME-compare`; what `compare` tells of it. Raises LoraError."""
    wanted = asked(recipe, [path.stem for path in outcome.files])
    folder = Path(str(recipe.output_dir))
    base = settings_of(recipe, tokenizer=tokenizer, config=config)
    settings = replace(base, **wanted.picture.picture(), lora_dir=(folder,))
    return compare(
        settings,
        x=wanted.x,
        y=wanted.y,
        z=wanted.z,
        lora=wanted.lora,
        images=pictures(recipe),
        out=folder / f"{recipe.output_name}-compare",
        json=quiet,
    )
