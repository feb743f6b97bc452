"""Runs the benchmarks and writes their figures into docs/NUMBERS.md; nothing on that page is typed by hand.

    python -m benchmarks --page [FILE] [--short] [--only apply tools …] [--device cpu|cuda]

Each part is a program of this folder in a process of its own. Its rows are kept as records in docs/NUMBERS.json, from
which the page is written, with their own date, machine and versions: those of a part that was not run again, of
another device or of a longer run stay as they are. A part that fails changes nothing, and the status is 1.
--short takes minutes instead of hours: smaller models, fewer repetitions.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from .figures import RECORDS, line

Record = dict[str, Any]
"""A row of a benchmark: name, values by column (number and unit), peer, table; part, device, kind (full or short),
date, seconds of the whole part, command, machine, versions."""
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "NUMBERS.md"
VERSIONS = ("torch", "diffusers", "transformers", "peft")
_HEAD = """# Figures

Made by `python -m benchmarks --page` from [the records](NUMBERS.json) that the benchmarks print. Ratios compare two
things within one run; times belong to the machine that is named. *short*: smaller models and fewer repetitions. What
the figures mean, what they aim at and what was tried: [Benchmarks](BENCHMARKS.md).

"""


@dataclass(frozen=True)
class Part:
    """A benchmark. on_device: whether it takes --device; short: its options for a short run."""

    heading: str
    program: str
    options: tuple[str, ...] = ()
    short: tuple[str, ...] = ()
    on_device: bool = False

    def command(self, short: bool, device: str) -> list[str]:
        """What runs it, after the name of the interpreter."""
        chosen = [*(self.short if short else self.options), *(["--device", device] if self.on_device else [])]
        return [f"benchmarks/{self.program}.py", *chosen]


PARTS = {
    "apply": Part("Applying", "apply", (), ("--quick", "--threads", "1"), True),
    "control": Part("Weights over the steps", "control", (), ("--quick",), True),
    "memory": Part("Memory", "memory", ("--measure",), ()),
    "compare": Part("Comparison sheets", "compare", (), ("--cells", "12", "--steps", "4"), True),
    "train": Part("A training step", "train", (), ("--quick",), True),
    "data": Part("Reading pictures", "train_data", (), ("--pictures", "12", "--steps", "0.2")),
    "tools": Part("File tools", "tools", (), ("--quick",)),
    "regions": Part("Regions", "regions", (), ("--prompts", "4")),
    "obeyed": Part("What the embedded model draws", "obeyed", (), ("--prompts", "48")),
    "learn": Part("What training teaches", "learn", (), ("--only", "lierla")),
}


def machine(device: str) -> str:
    """The processor with its cores and, for a run on one, the GPU."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        name = found[1] if found else name
    gpu = f", {torch.cuda.get_device_name()}" if device.startswith("cuda") else ""
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return f"{name}, {os.cpu_count()} cores{gpu}, {platform.system()}{load}"


def versions() -> str:
    """Python and the packages that the figures depend on."""
    found = [f"Python {platform.python_version()}"]
    for name in VERSIONS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def read_records(file: Path) -> list[Record]:
    """The records of a file that may be there already."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def key_of(record: Record) -> tuple[int, str, str]:
    """What a later run replaces: the same part on the same device, as long or as short."""
    return list(PARTS).index(record["part"]), record["kind"], record["device"]


def run_part(name: str, short: bool, device: str) -> list[Record]:
    """Runs a part and returns a record for each row. Raises CalledProcessError where it fails."""
    part = PARTS[name]
    command = part.command(short, device)
    where, begun = machine(device), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows")
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, RECORDS: str(rows), "PYTHONPATH": paths}
        subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, env=environment, check=True)
        found = [json.loads(row) for row in rows.read_text(encoding="utf-8").splitlines()]
    facts = {
        "part": name,
        "device": device,
        "kind": "short" if short and part.short != part.options else "full",
        "date": str(datetime.date.today()),
        "seconds": round(time.monotonic() - begun),
        "command": f"python {' '.join(command)}",
        "machine": where,
        "versions": versions(),
    }
    return [{**facts, **row} for row in found]


def page_text(records: Sequence[Record]) -> str:
    """The page: a section for each run, in the order of `PARTS`."""
    text = _HEAD
    for (place, kind, device), run in groupby(sorted(records, key=key_of), key_of):
        rows = list(run)
        facts = rows[0]
        heading = list(PARTS.values())[place].heading
        marks = [mark for mark, is_told in ((kind, kind != "full"), (device, device != "cpu")) if is_told]
        text += f"## {', '.join([heading, *marks])}\n\n{facts['date']}, {facts['seconds']} s: `{facts['command']}`\n\n"
        text += f"{facts['machine']}; {facts['versions']}.\n\n"
        for (title, peer, *columns), table in groupby(rows, lambda row: (row["table"], row["peer"], *row["values"])):
            settings = [one for one in (title, f"beside: {peer}" if peer else "") if one]
            text += f"{'; '.join(settings)}.\n\n" if settings else ""
            text += line(["what", *columns]) + "\n" + line(["---"] * (1 + len(columns))) + "\n"
            text += "".join(line([row["name"], *row["values"].values()]) + "\n" for row in table) + "\n"
    return text.rstrip() + "\n"


def write(page: Path, records: Sequence[Record]) -> None:
    """Writes the records, a line each, and the page that they make."""
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in sorted(records, key=key_of))
    page.with_suffix(".json").write_text(f"[\n{lines}\n]\n", encoding="utf-8", newline="\n")
    page.write_text(page_text(records), encoding="utf-8", newline="\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the parts one after the other; the page is written after each, so that a stop loses one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, nargs="?", const=PAGE, required=True, help="the page to write")
    parser.add_argument("--short", action="store_true", help="smaller models and fewer repetitions")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="these parts alone; none: write the page again")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; with cuda the parts that can use one")
    args = parser.parse_args(argv)
    records, failed = read_records(args.page.with_suffix(".json")), []
    for name in PARTS if args.only is None else args.only:
        if args.device != "cpu" and not PARTS[name].on_device:
            continue
        print(f"{name}: running", flush=True)
        try:
            rows = run_part(name, args.short, args.device)
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"{name}: failed ({error}); its section stays as it was", file=sys.stderr)
            failed.append(name)
            continue
        replaced = {key_of(row) for row in rows}
        records = [record for record in records if key_of(record) not in replaced] + rows
        write(args.page, records)
    write(args.page, records)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
