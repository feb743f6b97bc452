"""Runs the tests of faults and of endurance and the fuzzer, and writes what held into docs/RELIABILITY.md.

    python benchmarks/reliability.py [--reports FOLDER] [--parts faults soak fuzz] [--inputs 1000000] [--page FILE]

Each part takes ten minutes to an hour. Its report is kept in the folder (PART.xml, or several that begin so; fuzz.txt);
a part that has one there is not run again. The section of a part that is not named stays as it is on the page.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import torch

ROOT = Path(__file__).parents[1]
PARTS = {
    "faults": ("Faults", "Signal 9 at random moments, full and write-protected disks, files that change meanwhile"),
    "soak": ("Endurance", "Thousands of repetitions in one process; memory is compared with half way"),
    "fuzz": ("Fuzzing", "Damaged and random inputs to every reader of what comes from outside (`python -m fuzz`)"),
}
"""Part → its heading and what it does."""


@dataclass(frozen=True)
class Row:
    """A line of the page: what was tried, numbers of it, whether it held."""

    tried: str
    numbers: str
    held: str


def run_part(part: str, report: Path, inputs: int) -> None:
    """Runs a part and keeps its report: JUnit's XML, or the fuzzer's lines."""
    print(f"{part}: running; its report will be {report}", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if part == "fuzz":
        command = [sys.executable, "-m", "fuzz", "--inputs", str(inputs)]
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        report.write_text(done.stdout, encoding="utf-8")
        return
    command = [sys.executable, "-m", "pytest", "-m", part, f"tests/{part}", "-o", "junit_family=xunit1"]
    subprocess.run([*command, f"--junitxml={report}"], cwd=ROOT, env=environment)


def test_rows(reports: Sequence[Path]) -> Iterator[Row]:
    """The tests of JUnit reports, with the numbers that they recorded."""
    for case in (case for report in reports for case in ElementTree.parse(report).getroot().iter("testcase")):
        numbers = [f"{p.get('name')}: {p.get('value')}" for p in case.iter("property")]
        state = "no" if case.find("failure") is not None or case.find("error") is not None else "yes"
        skipped = case.find("skipped")
        if skipped is not None:
            state = f"not run: {skipped.get('message')}"
        name, _, parameter = (case.get("name") or "").removeprefix("test_").partition("[")
        tried = name.replace("_", " ") + (f" ({parameter.rstrip(']')})" if parameter else "")
        yield Row(tried, "; ".join([*numbers, f"{float(case.get('time') or 0):.0f} s"]), state)


def fuzz_rows(reports: Sequence[Path]) -> Iterator[Row]:
    """The readers of the fuzzer's reports."""
    for line in (line for report in reports for line in report.read_text(encoding="utf-8").splitlines()):
        found = re.match(r"(.{26}) +([\d,]+) inputs, +([\d,]+) refused, .*slowest +([\d.]+) ms", line)
        if found:
            name, inputs, refused, slowest = found.groups()
            yield Row(name.strip(), f"{inputs} inputs, {refused} refused, slowest {slowest} ms", "yes")
        elif line.startswith("    "):
            yield Row(line.strip().replace("|", "\\|")[:120], "", "no")
        elif total := re.match(r"seed \d+: (.+), (\d+) finds$", line):
            yield Row("all in one run", total[1], "yes" if total[2] == "0" else "no")


def sections(page: str) -> dict[str, str]:
    """Part → its section of a page that was written before."""
    found = {section.partition("\n")[0]: section.strip() for section in page.split("\n## ")[1:]}
    return {part: f"## {found[heading]}" for part, (heading, _) in PARTS.items() if heading in found}


def section(part: str, files: Sequence[Path], before: str = "") -> str:
    """The section of a part, in Markdown. before: a section whose other rows are kept."""
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    heading, text = PARTS[part]
    date = datetime.date.fromtimestamp(max(file.stat().st_mtime for file in files))
    lines = [f"## {heading}", "", f"{text}. {date}, {machine}, torch {torch.__version__}.", ""]
    lines += ["| tried | numbers | held |", "| --- | --- | --- |"]
    rows = fuzz_rows(files) if part == "fuzz" else test_rows(files)
    made = {row.tried: f"| {row.tried} | {row.numbers} | {row.held} |" for row in rows}
    kept = {
        line.split(" | ")[0].removeprefix("| "): line for line in before.split("| --- |\n")[-1].splitlines() if line
    }
    return "\n".join([*lines, *{**kept, **made}.values()])


def page(parts: dict[str, str]) -> str:
    """The page of these sections, in the order of `PARTS`."""
    head = (
        "# Reliability\n\nWhat was tried to break this program, how often, and what held. Made by "
        "`python benchmarks/reliability.py`; nothing here is typed by hand."
    )
    return "\n\n".join([head, *(parts[part] for part in PARTS if part in parts)]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reports", type=Path, default=ROOT / ".reliability", help="folder of the reports")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--add", action="store_true", help="keep the rows of tests that were not run again")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="inputs of the fuzzer")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "RELIABILITY.md")
    args = parser.parse_args()
    args.reports.mkdir(parents=True, exist_ok=True)
    parts = sections(args.page.read_text(encoding="utf-8")) if args.page.exists() else {}
    for part in args.parts:
        if not list(args.reports.glob(f"{part}*")):
            run_part(part, args.reports / (f"{part}.txt" if part == "fuzz" else f"{part}.xml"), args.inputs)
        before = parts.get(part, "") if args.add else ""
        parts[part] = section(part, sorted(args.reports.glob(f"{part}*")), before)
    args.page.write_text(page(parts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
