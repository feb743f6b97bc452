"""What the folder of a training run tells of it: its record and its curve, either of which may be damaged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from ..csv_rows import load_csv_rows
from ..json_text import parse_json
from .training_answers import CurveRow, RunRecord
from .training_progress import finite_or_none

RECORD_FILE = "run.json"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_FIELDS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("begun", "ended", "steps", "epochs", "loss", "seconds"), _is_number),
    **dict.fromkeys(("job", "prompts", "error"), _is_text),
    **dict.fromkeys(("files", "samples"), _is_list_of_text),
    "stopped": lambda value: isinstance(value, bool),
}
"""What may be in a record beside its name and its settings."""


def load_run_record(folder: Path) -> RunRecord:
    """Loads what is written down of a run; fields of other types than theirs are left out.

    Args:
        folder: The run's folder.

    Returns:
        The record.

    Raises:
        OSError: There is none, or it cannot be read.
        ValueError: It is no record of this run.
    """
    found: Any = parse_json((folder / RECORD_FILE).read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("name") != folder.name or not isinstance(found.get("settings"), dict):
        raise ValueError(f"{RECORD_FILE} is no record of {folder.name}")
    known = {name: found[name] for name, fits in _FIELDS.items() if name in found and fits(found[name])}
    return cast(RunRecord, {"name": folder.name, "settings": found["settings"], "job": "", "prompts": "", **known})


def load_curve_rows(folder: Path) -> list[CurveRow]:
    """Losses and learning rates from a run's table; rows that are damaged are left out. Raises OSError."""
    table = next((path for path in sorted(folder.glob("*.csv"))), None)
    head, *lines = (load_csv_rows(table) if table is not None else []) or [[]]
    rows: list[CurveRow] = []
    for line in lines:
        row = dict(zip(head, line, strict=False))
        with suppress(KeyError, ValueError):
            loss, smoothed, unet, text = (
                finite_or_none(float(row[name])) for name in ("loss", "smoothed", "lr_unet", "lr_text")
            )
            rows.append((int(row["step"]), loss, smoothed, unet, text))
    return rows
