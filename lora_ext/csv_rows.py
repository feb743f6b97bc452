"""The rows of CSV tables that this program wrote and that anybody may have changed."""

from __future__ import annotations

import csv
from contextlib import suppress
from pathlib import Path


def load_csv_rows(path: Path) -> list[list[str]]:
    """Loads a table of which a part may be damaged.

    Args:
        path: The file.

    Returns:
        Its rows, up to the first that is no CSV; what is not UTF-8 is replaced.

    Raises:
        OSError: It cannot be read.
    """
    text = path.read_text(encoding="utf-8", errors="replace").replace("\0", "")
    rows: list[list[str]] = []
    with suppress(csv.Error):
        rows.extend(csv.reader(text.splitlines()))  # what came before an error stays in the list
    return rows
