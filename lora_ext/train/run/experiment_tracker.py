"""`ExperimentTracker`: logs a run to TensorBoard or Weights & Biases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import TrainError
from .training_log import LogRow


class ExperimentTracker:
    """Logs to TensorBoard or Weights & Biases by accelerate's trackers.

    Args:
        kinds: "tensorboard" and "wandb"; of several, those that are installed.
        folder: The folder of the logs.
        name: The name of the run.
        config: The settings to log. Raises TrainError if none of the trackers is installed.

    Attributes:
        missing: Those of `kinds` that are not installed.
    """

    def __init__(self, kinds: Sequence[str], folder: Path, name: str, config: Mapping[str, Any]) -> None:
        try:
            from accelerate import PartialState
            from accelerate.tracking import LOGGER_TYPE_TO_CLASS, filter_trackers
        except ImportError as error:
            raise TrainError("--log_with needs accelerate: pip install accelerate") from error
        PartialState()  # accelerate's loggers need to know which process this is
        chosen = filter_trackers(list(kinds), str(folder))
        if not chosen:
            raise TrainError(f"--log_with {','.join(kinds)}: it is not installed (pip install {kinds[0]})")
        self.missing = tuple(kind for kind in kinds if kind not in map(str, chosen))
        self.trackers = []
        for item in chosen:
            kind = LOGGER_TYPE_TO_CLASS[str(item)] if isinstance(item, str) or hasattr(item, "value") else item
            where = (str(folder),) if getattr(kind, "requires_logging_directory", False) else ()
            tracker: Any = kind(name, *where)
            if hasattr(tracker, "start"):
                tracker.start()
            tracker.store_init_configuration(dict(config))
            self.trackers.append(tracker)

    def log(self, row: LogRow) -> None:
        """Logs a step's numbers."""
        values = {
            "loss/current": row.loss,
            "loss/average": row.smoothed,
            "lr/unet": row.lr_unet,
            "lr/textencoder": row.lr_text,
            "norm/grad": row.grad_norm,
            "norm/delta": row.delta_norm,
            "memory/mib": row.mib,
            "speed/images": row.images_per_s,
        }
        for tracker in self.trackers:
            tracker.log({name: value for name, value in values.items() if not math.isnan(value)}, step=row.step)

    def log_value(self, name: str, value: float, step: int) -> None:
        """Logs one number at a step."""
        for tracker in self.trackers:
            tracker.log({name: value}, step=step)

    def close(self) -> None:
        """Ends the trackers."""
        for tracker in self.trackers:
            tracker.finish()
