"""Scores of a sheet's pictures: difference from the picture without a LoRA, likeness to training pictures, sharpness,
and near-duplicates of training pictures.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import FileError
from ..file.broken_links import broken_links_ending, tell_broken_links
from ..file.displayed_names import files_below
from ..file.saving import replacing_file
from ..file.unreadable_files import why_unreadable
from . import image_measures
from .image_measures import Array
from .image_spec import ImageSpec
from .sheet_layout import Bar
from .sheet_plan import SheetPlan

ImageEmbedder = Callable[[Sequence[Image.Image]], Array]
"""Pictures → unit vectors (n, d) float32 of an image model such as CLIP."""

COPY_DISTANCE = 0.07
"""A near-duplicate is a picture with at most this distance (root mean square of colours at 32×32) from a training
picture, and clearly nearer to it than without the LoRA."""
SCORED_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SCORES_FILE = "scores.csv"
"""Name of the table of scores in a sheet's folder."""
MAX_TRAINING_IMAGES = 500
"""The largest number of training pictures that are read; of more, evenly spaced ones are chosen."""


_CSV_HEADS = (
    *("tag", "seed", "file", "difference", "sharpness", "likeness", "nearness"),
    *("copy of", "burnt", "noise", "same as", "suggested"),
)


@dataclass(frozen=True)
class Score:
    """The score of one picture.

    Attributes:
        difference: mean colour difference from the same picture without a LoRA, 0 to 1.
        sharpness: relative to the picture without a LoRA: 1 is equally sharp.
        likeness: to the training pictures, at most 1; None without training pictures.
        near: 1 − distance to the nearest training picture; None without training pictures.
        copy_of: file name of that training picture if this one is a near-duplicate of it, else "".
        burnt: `image_measures.clipped_share` minus that of the picture without a LoRA.
        noise: `image_measures.noise_level` minus that of the picture without a LoRA.
    """

    difference: float
    sharpness: float
    likeness: float | None = None
    near: float | None = None
    copy_of: str = ""
    burnt: float = 0.0
    noise: float = 0.0


class Scorer:
    """Scores pictures, and compares them with training pictures.

    Args:
        training_images: the training pictures; of more than `MAX_TRAINING_IMAGES` evenly spaced ones are used.
        embed: n pictures → their feature vectors (n, d); None for colours and edges.
        model: what messages call the image model behind `embed`.

    Attributes:
        embed: pictures → feature vectors.
        likeness_measure: how likeness is measured, in words.
        paths: the training pictures that were read.
        features: their feature vectors (n, d), or None without training pictures.
        thumbnails: their small copies, or None.
        sharpness: the median of their sharpness, or None.

    Raises:
        FileError: a training picture cannot be read.
    """

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
        """Whether there are training pictures to compare with."""
        return self.features is not None

    def nearness(self, image: Image.Image) -> float:
        """1 − distance of a picture to the nearest training picture; 0 without training pictures."""
        return 0.0 if self.thumbnails is None else 1 - image_measures.nearest_image(image, self.thumbnails)[1]

    def score(self, image: Image.Image, base: Image.Image) -> Score:
        """Scores a picture.

        Args:
            image: the picture.
            base: the same picture without a LoRA.
        """
        sharp = image_measures.sharpness(image) / max(image_measures.sharpness(base), 1e-6)
        difference = image_measures.colour_difference(image, base)
        burnt = image_measures.clipped_share(image) - image_measures.clipped_share(base)
        noise = image_measures.noise_level(image) - image_measures.noise_level(base)
        if self.features is None or self.thumbnails is None:
            return Score(difference, sharp, burnt=burnt, noise=noise)
        index, apart = image_measures.nearest_image(image, self.thumbnails)
        before = image_measures.nearest_image(base, self.thumbnails)[1]
        copied = difference > 0.01 and apart < min(COPY_DISTANCE, 0.6 * before)
        copy = self.paths[index].name if copied else ""
        return Score(difference, sharp, self.likeness(image), 1 - apart, copy, burnt, noise)

    def likeness(self, image: Image.Image) -> float:
        """Likeness of a picture to the training pictures; 0 without training pictures."""
        return (
            0.0 if self.features is None else float(image_measures.mean_likeness(self.embed([image]), self.features)[0])
        )


def find_training_images(folder: Path) -> list[Path]:
    """The pictures in a folder and its subfolders.

    Args:
        folder: the folder.

    Returns:
        The files in a fixed order.

    Raises:
        FileError: no folder, or no pictures in it.
    """
    if not folder.is_dir():
        raise FileError(f"{folder} is not a folder of training pictures")
    links: list[Path] = []
    found = list(files_below(folder, SCORED_IMAGE_SUFFIXES, broken_links=links))
    if not found:
        raise FileError(f"no pictures ({', '.join(SCORED_IMAGE_SUFFIXES)}) in {folder}{broken_links_ending(links)}")
    tell_broken_links(links)
    return found


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.draft("RGB", (512, 512))
            return image.convert("RGB")
    except OSError as error:
        raise FileError(f"{path} cannot be read as a picture: {why_unreadable(path, error)}") from error


def unique_without_loras(image_specs: Iterable[ImageSpec]) -> list[ImageSpec]:
    """The specs of the same pictures without any LoRA, each once; differences are measured from these pictures."""
    return list(dict.fromkeys(image_spec.without_loras() for image_spec in image_specs))


BAR_COLOURS = {
    "difference": "#4c6ef5",
    "likeness": "#12b886",
    "sharpness": "#fab005",
    "near": "#868e96",
    "copy": "#e03131",
}
"""Measure → colour of its bar."""


def score_bars(score: Score, largest: Score) -> list[Bar]:
    """The bars under a picture, in the order of `score_legend`.

    Args:
        score: of the picture.
        largest: the greatest value of each measure on the sheet, which gets the longest bar.
    """
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
    """(colour, meaning) of each bar."""
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
    """The greatest difference and sharpness of all scores."""
    rows = list(scores)
    return Score(max((s.difference for s in rows), default=0.0), max((s.sharpness for s in rows), default=1.0))


def spreadsheet_text(text: str) -> str:
    """Text that a spreadsheet does not take for a formula: one that begins with = + - @ gets an apostrophe in front.

    Example:
        >>> spreadsheet_text("=1+1"), spreadsheet_text("-0.5")
        ("'=1+1", '-0.5')
    """
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
    """Writes `scores.csv`, one line for each cell: labels, tag, seed, file and scores.

    Args:
        path: the file to write.
        plan: the sheet.
        scores: the score of each cell.
        files: the picture of each cell, relative to the sheet's folder.
        suggested: index of a cell → whether it is suggested.
        identical: index of a cell → what its picture is identical to.

    Raises:
        FileError: the file cannot be written.
    """
    heads = [axis.title or name for axis, name in ((plan.x, "x"), (plan.y, "y"), (plan.z, "z"))]
    with replacing_file(path, overwrite=True) as part, part.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*map(spreadsheet_text, heads), *_CSV_HEADS])
        for index, (cell, score, name) in enumerate(zip(plan.cells, scores, files, strict=True)):
            labels = [plan.x.values[cell.x].label, plan.y.values[cell.y].label, plan.z.values[cell.z].label]
            numbers = [score.difference, score.sharpness, score.likeness, score.near]
            texts = ["" if number is None else f"{number:.4f}" for number in numbers]
            damage = [f"{score.burnt:.4f}", f"{score.noise:.4f}"]
            row = [
                *labels,
                cell.tag,
                cell.image_spec.seed,
                name,
                *texts,
                score.copy_of,
                *damage,
                identical.get(index, ""),
            ]
            rows.writerow([*(spreadsheet_text(str(item)) for item in row), "yes" if suggested.get(index) else ""])
