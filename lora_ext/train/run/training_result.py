"""What a training run came to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import sample_images


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to. stopped: by the user, before its end. loss: smoothed. files: all that are there, in order."""

    file: Path | None
    steps: int
    epochs: int
    loss: float
    seconds: float
    stopped: bool
    files: tuple[Path, ...] = ()
    samples: tuple[sample_images.SampleImage, ...] = ()
    state: Path | None = None
    sheet: Path | None = None
