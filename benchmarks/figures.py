"""Tables of a benchmark: Markdown on the screen, and a record for each row for `python -m benchmarks --page`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

RECORDS = "LORA_EXT_FIGURES"
"""Names the file that gets a line of JSON for each row, where the environment has it."""


def line(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def print_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", *, peer: str = "", after: str = ""
) -> None:
    """Prints rows as they come.

    Args:
        head: the columns' names: units, and what a ratio is of where its cells do not say so. The first one names rows.
        rows: cells for each column.
        title: the settings that all rows share.
        peer: what ours is compared with.
        after: a line below the table, for people alone.
    """
    records = os.environ.get(RECORDS)
    if title:
        print(f"{title}\n")
    print(line(head) + "\n|" + " --- |" * len(head), flush=True)
    for name, *cells in rows:
        print(line([name, *cells]), flush=True)
        if records:
            values = dict(zip(head[1:], cells, strict=True))
            record = {"table": title, "peer": peer, "name": name, "values": values}
            with Path(records).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    print(after, flush=True)
