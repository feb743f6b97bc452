"""What the user asks of a run at work: samples, a save, other rates, the end. Also by a file beside its results.

The file is taken by the run after its next step. `python -m lora_ext control` writes it.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import TrainError
from ...file.saving import replacing_file
from ...json_text import parse_json

CONTROL_SUFFIX = ".control.json"
"""Behind the run's output name, in its output folder."""
LEAST_RATE_FACTOR, LARGEST_RATE_FACTOR = 1e-4, 1e4
_MOST_BYTES = 10_000


@dataclass(frozen=True)
class RunRequest:
    """What is asked of a run after its next step.

    Attributes:
        sample: Whether to generate the sample prompts.
        save: Whether to save the file, and a state from which the run can be resumed.
        stop: Whether to end the run, saved so that it can be resumed.
        lr_factor: A factor on the learning rates of the recipe, whatever was set before; its schedule goes on.
    """

    sample: bool = False
    save: bool = False
    stop: bool = False
    lr_factor: float | None = None

    def __post_init__(self) -> None:
        """Raises TrainError for a factor that is out of range."""
        factor = self.lr_factor
        if factor is not None and not LEAST_RATE_FACTOR <= factor <= LARGEST_RATE_FACTOR:
            raise TrainError(f"lr_factor {str(factor)[:40]} is not in {LEAST_RATE_FACTOR:g}..{LARGEST_RATE_FACTOR:g}")

    def merged(self, newer: RunRequest) -> RunRequest:
        """Both requests; of two factors the newer one."""
        factor = self.lr_factor if newer.lr_factor is None else newer.lr_factor
        return RunRequest(self.sample or newer.sample, self.save or newer.save, self.stop or newer.stop, factor)


TakeRequest = Callable[[], RunRequest]


class RunRequests:
    """Requests that wait for a run's next step; for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = RunRequest()

    def add(self, request: RunRequest) -> None:
        """Adds a request to those that wait."""
        with self._lock:
            self._waiting = self._waiting.merged(request)

    def take(self) -> RunRequest:
        """All that waits; nothing waits then."""
        with self._lock:
            taken, self._waiting = self._waiting, RunRequest()
        return taken


def control_path(folder: Path, name: str) -> Path:
    """The file that a run looks for."""
    return folder / f"{name}{CONTROL_SUFFIX}"


def write_control_file(folder: Path, name: str, request: RunRequest) -> Path:
    """Asks a run by a file beside its results; a file that was not taken yet is merged into it.

    Args:
        folder: The run's output folder.
        name: Its output name.
        request: What is asked.

    Returns:
        The file.

    Raises:
        FileError: It cannot be written.
    """
    path = control_path(folder, name)
    with contextlib.suppress(OSError, TrainError):
        request = _load(path).merged(request)
    with replacing_file(path, overwrite=True) as part:
        part.write_text(json.dumps(asdict(request)), encoding="utf-8")
    return path


def _load(path: Path) -> RunRequest:
    """Raises TrainError, OSError."""
    if path.stat().st_size > _MOST_BYTES:
        raise TrainError(f"{path.name} is too large")
    try:
        found: Any = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainError(f"{path.name} is not JSON: {error}") from None
    kinds = {field.name: float if field.name == "lr_factor" else bool for field in fields(RunRequest)}
    if not isinstance(found, dict) or set(found) - set(kinds):
        raise TrainError(f"{path.name} has other entries than {', '.join(kinds)}")
    factor = found.get("lr_factor")
    if factor is not None and (isinstance(factor, bool) or not isinstance(factor, (int, float))):
        raise TrainError(f"{path.name}: lr_factor {str(factor)[:40]!r} is not a number")
    if not all(isinstance(found.get(name, False), bool) for name in kinds if name != "lr_factor"):
        raise TrainError(f"{path.name}: sample, save and stop are true or false")
    return RunRequest(**found)


class ControlFile:
    """The control file of a run that begins: one that was there before is removed, since it was for another run.

    Args:
        folder: The run's output folder.
        name: Its output name.
        notify: Called with a sentence for a file that cannot be read.
    """

    def __init__(self, folder: Path, name: str, notify: Callable[[str], object]) -> None:
        self.path, self._notify = control_path(folder, name), notify
        self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()

    def take(self) -> RunRequest:
        """What the file asks; it is removed. Nothing where there is none, or it cannot be read, which is told."""
        if not self.path.is_file():
            return RunRequest()
        try:
            return _load(self.path)
        except (TrainError, OSError) as error:
            self._notify(f"{error}; it is ignored")
            return RunRequest()
        finally:
            self._remove()
