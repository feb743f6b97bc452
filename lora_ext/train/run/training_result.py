"""`TrainingResult`: what a training run returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import sample_images


@dataclass(frozen=True)
class TrainingResult:
    """What a training run returns.

    Attributes:
        file: The final file; None if the user stopped the run.
        steps: Optimizer steps done.
        epochs: Epochs done.
        loss: The smoothed loss.
        seconds: Duration.
        stopped: Whether the user stopped the run.
        files: All files, in order.
        samples: The sample images.
        state: The last saved state.
        sheet: The image of all samples by epoch.
    """

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
