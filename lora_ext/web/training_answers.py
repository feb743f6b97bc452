"""What the routes of the Train panel answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from ..train.run.preflight import PreflightReport

CurveRow = tuple[int, float | None, float | None, float | None, float | None]
"""Step, loss, smoothed loss, learning rate of the U-Net, of the text encoder; null where a number is not finite."""


@dataclass(frozen=True)
class FormField:
    """A training option.

    Attributes:
        group: The part of the form that it is in.
        type: "bool", "int", "float", "str", "ints", "floats" or "strs".
        kind: "folder" or "file" for a path, else "".
        choices: The accepted values; empty where others are accepted.
        low: The least number; null without one.
        high: The greatest number; null without one.
        basic: Whether it is shown without being asked for.
        modes: The modes of training that use it; empty where all do.
        optional: Whether null is a value.
    """

    name: str
    help: str
    group: str
    type: str
    kind: str
    choices: list[str]
    low: float | None
    high: float | None
    basic: bool
    modes: list[str]
    default: Any
    optional: bool


@dataclass(frozen=True)
class TrainForm:
    """The form of a training run.

    Attributes:
        datasets: Folders that can be trained on.
        loaded: Whether the model that the web UI has loaded is trained.
        captioners: What describes pictures here, by name.
    """

    fields: list[FormField]
    datasets: list[str]
    loaded: bool
    captioners: list[str]


@dataclass(frozen=True)
class FileSettings:
    """The settings that a file was trained with.

    Attributes:
        settings: Values of the form by name.
        told: A sentence for each value that is not known here.
    """

    settings: dict[str, Any]
    told: list[str]


@dataclass(frozen=True)
class ExpectedCost:
    """What a run is expected to need; null where a number is not finite.

    Attributes:
        weights: Bytes of the model's weights.
        training: Bytes of what is trained, with its gradients and the optimizer's state.
        activations: Bytes of a batch.
        seconds: Of a step; 0 where the speed is not known.
        have: Bytes that are free; 0 where that is not known.
        spare: What would make the run smaller.
        bytes: All together, with what the libraries take.
        total_seconds: Of the whole run; 0 where the speed is not known.
        least_seconds: The true time is expected between this
        most_seconds: and this; what else keeps the device busy is not known.
    """

    weights: float | None
    training: float | None
    activations: float | None
    seconds: float | None
    have: float | None
    spare: str
    bytes: float | None
    total_seconds: float | None
    least_seconds: float | None
    most_seconds: float | None


@dataclass(frozen=True)
class PreflightDetails(PreflightReport):
    """What is known of a run before it starts."""

    expected: ExpectedCost | None  # type: ignore[assignment]


@dataclass(frozen=True)
class PreflightResult:
    """What is known of a run before it starts.

    Attributes:
        text: The report as text.
    """

    report: PreflightDetails
    text: str


class RunStart(TypedDict):
    """A training run as it starts, as its JSON file holds it.

    Attributes:
        name: Its folder below outputs/train.
        job: Its job.
        settings: Values of the form by name.
        prompts: Sample prompts, one a line.
        begun: When it started, in seconds since 1970.
    """

    name: str
    job: str
    settings: dict[str, Any]
    prompts: str
    begun: float


class RunOutcome(TypedDict):
    """How a training run ended.

    Attributes:
        steps: Steps that it took.
        epochs: Epochs that it took.
        loss: The smoothed loss at its end; null where it is not finite.
        seconds: How long it took.
        stopped: Whether the user stopped it.
        files: What the library calls its files.
        samples: Sample pictures, by their paths below the output folder.
        state: The saved state from which it can be resumed; null without one.
    """

    steps: int
    epochs: int
    loss: float | None
    seconds: float
    stopped: bool
    files: list[str]
    samples: list[str]
    state: str | None


class FinishedRun(RunStart, RunOutcome):
    """A training run that has ended.

    Attributes:
        ended: When it ended, in seconds since 1970.
    """

    ended: float


class TrainResult(FinishedRun, total=False):
    """What came of a training job.

    Attributes:
        sheet: The job that draws its sheet of epochs and weights.
    """

    sheet: str


class RunRecord(RunStart, total=False):
    """A training run of before; of one that failed or did not end, only a part is there.

    Attributes:
        ended: When it ended, in seconds since 1970.
        error: Why it failed.
        state: The saved state from which it can be resumed; null without one.
    """

    ended: float
    error: str
    steps: int
    epochs: int
    loss: float | None
    seconds: float
    stopped: bool
    files: list[str]
    samples: list[str]
    state: str | None


@dataclass(frozen=True)
class TrainHistory:
    """Training runs of before, newest first."""

    runs: list[RunRecord]


@dataclass(frozen=True)
class TrainingCurve:
    """A run's losses and learning rates.

    Attributes:
        rows: Step, loss, smoothed loss, learning rates of the U-Net and of the text encoder.
    """

    rows: list[CurveRow]


@dataclass(frozen=True)
class RunOfFile(TrainingCurve):
    """The run that made a file.

    Attributes:
        run: Its name; null where the file was not trained here.
    """

    run: str | None


class EpochProgress(TypedDict):
    """How far a training run is.

    Attributes:
        left: Seconds to go; null where that is not known.
    """

    epoch: int
    epochs: int
    left: float | None


class TrainProgress(TypedDict):
    """What is shown of a training run at work.

    Attributes:
        run: Its folder below outputs/train.
        rows: Step, loss, smoothed loss, learning rates of the U-Net and of the text encoder.
        samples: Sample pictures, by their paths below the output folder.
        files: Names of files that it has saved.
        memory: Bytes in use; null where that cannot be told.
    """

    run: str
    rows: list[CurveRow]
    progress: EpochProgress
    samples: list[str]
    files: list[str]
    memory: int | None


@dataclass(frozen=True)
class SavedCaption:
    """A picture's caption as it was written."""

    caption: str


@dataclass(frozen=True)
class RequestedSamples:
    """Samples that a run generates after its next step.

    Attributes:
        job: The run's job.
    """

    job: str
