"""Scores of a sheet's pictures: difference from no LoRA, likeness to training pictures, sharpness, near-duplicates."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import FileError
from ..file.displayed_names import files_below
from ..file.saving import replacing_file
from . import image_measures
from .image_measures import Array
from .image_spec import ImageSpec
from .sheet_layout import Bar
from .sheet_plan import SheetPlan

ImageEmbedder = Callable[[Sequence[Image.Image]], Array]
"""Pictures → unit vectors (n, d) of an image model."""

COPY_DISTANCE = 0.07
"""A picture this near (root mean square of colours at 32×32) to a training picture, and clearly nearer than without the
LoRA, is called a near-duplicate."""
SCORED_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SCORES_FILE = "scores.csv"
MAX_TRAINING_IMAGES = 500
"""Training pictures that are looked at, evenly chosen."""


@dataclass(frozen=True)
class Score:
    """difference: mean colour difference from the same picture without a LoRA, 0..1. likeness: to the training
    pictures, 1 at most. sharpness: 1 is as sharp as without a LoRA. near: 1 − distance to the nearest training picture.
    copy_of: that picture, where this one is nearly the same. burnt, noise: what `measures.clipped` and `noise` are more
    than without a LoRA. None: not measured."""

    difference: float
    sharpness: float
    likeness: float | None = None
    near: float | None = None
    copy_of: str = ""
    burnt: float = 0.0
    noise: float = 0.0


class Scorer:
    """Scores pictures against training pictures; `likeness_measure` says by what likeness is measured."""

    def __init__(
        self, training_images: Iterable[Path] = (), embed: ImageEmbedder | None = None, model: str = ""
    ) -> None:
        self.embed: ImageEmbedder = embed or (
            lambda images: np.stack([image_measures.colour_edge_features(image) for image in images])
        )
        self.likeness_measure = (
            f"image model {model}".strip() if embed else f"{image_measures.COLOUR_EDGE_LABEL}, no image model"
        )
        every = list(training_images)
        self.paths = [every[round(at)] for at in np.linspace(0, len(every) - 1, min(len(every), MAX_TRAINING_IMAGES))]
        images = [_opened(path) for path in self.paths]
        self.features = self.embed(images) if images else None
        self.thumbnails = image_measures.thumbnail_vectors(images) if images else None
        self.sharpness = float(np.median([image_measures.sharpness(image) for image in images])) if images else None

    @property
    def has_training_images(self) -> bool:
        """Whether there are training pictures to measure by."""
        return self.features is not None

    def nearness(self, image: Image.Image) -> float:
        """1 − distance of one picture to the nearest training picture; 0 without any."""
        return 0.0 if self.thumbnails is None else 1 - image_measures.nearest_image(image, self.thumbnails)[1]

    def score(self, image: Image.Image, base: Image.Image) -> Score:
        """The score of a picture whose `base` is the same one without a LoRA."""
        sharp = image_measures.sharpness(image) / max(image_measures.sharpness(base), 1e-6)
        difference = image_measures.colour_difference(image, base)
        burnt = image_measures.clipped_share(image) - image_measures.clipped_share(base)
        noise = image_measures.noise_level(image) - image_measures.noise_level(base)
        if self.features is None or self.thumbnails is None:
            return Score(difference, sharp, burnt=burnt, noise=noise)
        place, apart = image_measures.nearest_image(image, self.thumbnails)
        before = image_measures.nearest_image(base, self.thumbnails)[1]
        copied = difference > 0.01 and apart < min(COPY_DISTANCE, 0.6 * before)
        copy = self.paths[place].name if copied else ""
        return Score(difference, sharp, self.likeness(image), 1 - apart, copy, burnt, noise)

    def likeness(self, image: Image.Image) -> float:
        """Likeness of one picture to the training pictures; 0 without any."""
        return (
            0.0 if self.features is None else float(image_measures.mean_likeness(self.embed([image]), self.features)[0])
        )


def find_training_images(folder: Path) -> list[Path]:
    """The pictures of a training folder and its folders. Raises FileError where there is none."""
    if not folder.is_dir():
        raise FileError(f"{folder} is not a folder of training pictures")
    found = list(files_below(folder, SCORED_IMAGE_SUFFIXES))
    if not found:
        raise FileError(f"no pictures ({', '.join(SCORED_IMAGE_SUFFIXES)}) in {folder}")
    return found


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.draft("RGB", (512, 512))
            return image.convert("RGB")
    except OSError as error:
        raise FileError(f"{path} is not a readable picture: {error}") from error


def unique_without_loras(image_specs: Iterable[ImageSpec]) -> list[ImageSpec]:
    """The same pictures without any LoRA, each once: what differences are measured from."""
    return list(dict.fromkeys(shot.without_loras() for shot in image_specs))


BAR_COLOURS = {
    "difference": "#4c6ef5",
    "likeness": "#12b886",
    "sharpness": "#fab005",
    "near": "#868e96",
    "copy": "#e03131",
}


def score_bars(score: Score, largest: Score) -> list[Bar]:
    """The bars under a picture, in the order of `score_legend`. `largest`: the greatest of each on the sheet."""
    rows = [
        Bar(score.difference / (largest.difference or 1), BAR_COLOURS["difference"], f"{score.difference:.0%}"),
        Bar(score.sharpness / max(largest.sharpness, 1), BAR_COLOURS["sharpness"], f"{score.sharpness:.1f}x"),
    ]
    if score.likeness is not None and score.near is not None:
        rows.append(Bar(score.likeness, BAR_COLOURS["likeness"], f"{score.likeness:.2f}"))
        colour = BAR_COLOURS["copy"] if score.copy_of else BAR_COLOURS["near"]
        rows.append(Bar(score.near, colour, f"{score.near:.2f}"))
    return rows


def score_legend(scorer: Scorer) -> list[tuple[str, str]]:
    """Colour and meaning of the bars."""
    rows = [
        (BAR_COLOURS["difference"], "colour difference from the picture without a LoRA"),
        (BAR_COLOURS["sharpness"], "sharpness against it"),
    ]
    if scorer.has_training_images:
        rows += [
            (BAR_COLOURS["likeness"], f"likeness to the training pictures ({scorer.likeness_measure})"),
            (BAR_COLOURS["near"], "nearness to the nearest training picture"),
            (BAR_COLOURS["copy"], "near-duplicate of one: a sign of overfitting"),
        ]
    return rows


def greatest_scores(scores: Iterable[Score]) -> Score:
    """The greatest of each measure."""
    rows = list(scores)
    return Score(max((s.difference for s in rows), default=0.0), max((s.sharpness for s in rows), default=1.0))


def spreadsheet_text(text: str) -> str:
    """Text as a spreadsheet shows it: what it would take for a formula (= + - @ first) begins with an apostrophe."""
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")):
        return text
    try:
        float(text)
        return text
    except ValueError:
        return f"'{text}"


def save_scores_csv(
    path: Path,
    plan: SheetPlan,
    scores: Sequence[Score],
    files: Sequence[str],
    suggested: Mapping[int, bool],
    identical: Mapping[int, str],
) -> None:
    """A line a cell: heads, tag, seed, file and scores. same: place of a cell → what its picture is the same as.

    Raises FileError.
    """
    heads = [axis.title or name for axis, name in ((plan.x, "x"), (plan.y, "y"), (plan.z, "z"))]
    with replacing_file(path, overwrite=True) as part, part.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            [
                *map(spreadsheet_text, heads),
                "tag",
                "seed",
                "file",
                "difference",
                "sharpness",
                "likeness",
                "nearness",
                "copy of",
                "burnt",
                "noise",
                "same as",
                "suggested",
            ]
        )
        for place, (cell, score, name) in enumerate(zip(plan.cells, scores, files, strict=True)):
            labels = [plan.x.values[cell.x].label, plan.y.values[cell.y].label, plan.z.values[cell.z].label]
            numbers = [score.difference, score.sharpness, score.likeness, score.near]
            told = ["" if number is None else f"{number:.4f}" for number in numbers]
            damage = [f"{score.burnt:.4f}", f"{score.noise:.4f}"]
            row = [
                *labels,
                cell.tag,
                cell.image_spec.seed,
                name,
                *told,
                score.copy_of,
                *damage,
                identical.get(place, ""),
            ]
            rows.writerow([*(spreadsheet_text(str(item)) for item in row), "yes" if suggested.get(place) else ""])
