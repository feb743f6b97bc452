"""`python -m fuzz`: a million inputs for all readers, or as many as a time allows."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .engine import Find, Fuzzer, Target, TargetReport


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Gives damaged inputs to every reader.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all targets together")
    parser.add_argument("--seconds", type=float, default=0, help="processor time of all together; 0 for no limit")
    parser.add_argument("--target", action="append", default=[], help="a part of a target's name; may be repeated")
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--engine", choices=("own", "atheris"), default="own", help="atheris is to be installed")
    parser.add_argument("--finds", type=Path, help="a folder for the inputs that were not taken as they should")
    return parser


def all_targets(folder: Path) -> list[Target]:
    """Every reader. folder: an empty one, for the files that they want."""
    from .file_targets import file_targets
    from .folder_targets import folder_targets
    from .text_targets import text_targets

    return [*text_targets(folder), *file_targets(folder), *folder_targets(folder)]


def run(targets: list[Target], inputs: int, seconds: float, seed: int, engine: str = "own") -> list[TargetReport]:
    """Tries all targets one after another; what one leaves of its time goes to those after it."""
    reports: list[TargetReport] = []
    weight = sum(target.weight for target in targets)
    spent, attempt = (
        0.0,
        _with_atheris if engine == "atheris" else lambda target, *limits: Fuzzer(target, seed).run(*limits),
    )
    for target in targets:
        left = max(0.1, seconds - spent) / (len(targets) - len(reports)) if seconds else float("inf")
        report = attempt(target, math.ceil(inputs * target.weight / weight), left)
        reports.append(report)
        spent += report.seconds
        print(
            f"{report.name:26} {report.inputs:8,} inputs, {report.refused:8,} refused, {report.places:5} places, "
            f"slowest {report.slowest * 1000:6.1f} ms, {report.seconds:6.1f} s"
            + "".join(f"\n    {find.what}: {find.data[:80]!r}\n{find.detail}" for find in report.finds),
            flush=True,
        )
    return reports


def _with_atheris(target: Target, inputs: int, seconds: float) -> TargetReport:
    """Tries a target in a process of its own, which libFuzzer ends."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.json")
        limit, seed = (0.0 if seconds == float("inf") else seconds), int.from_bytes(os.urandom(4), "little")
        words = [target.name, str(inputs), str(limit), str(seed), str(path)]
        subprocess.run([sys.executable, "-m", "fuzz.with_atheris", *words], stderr=subprocess.DEVNULL)
        if not path.exists():
            return TargetReport(target.name, finds=[Find(target.name, "the process ended", b"")])
        found = json.loads(path.read_text(encoding="utf-8"))
    finds = [Find(**{**row, "data": bytes.fromhex(row["data"])}) for row in found.pop("finds")]
    return TargetReport(**found, finds=finds)


def main() -> int:
    """Returns 1 where an input was not taken as it should."""
    options = _parser().parse_args()
    seed = int.from_bytes(os.urandom(4), "little") if options.seed is None else options.seed
    # the library that a target asked for may still be looking at the folder
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        targets = [
            target
            for target in all_targets(Path(folder))
            if not options.target or any(part in target.name for part in options.target)
        ]
        reports = run(targets, options.inputs, options.seconds, seed, options.engine)
    finds = [find for report in reports for find in report.finds]
    for find in finds if options.finds else ():
        options.finds.mkdir(parents=True, exist_ok=True)
        (options.finds / f"{find.target}-{hashlib.sha256(find.data).hexdigest()[:12]}").write_bytes(find.data)
    total, spent = sum(report.inputs for report in reports), sum(report.seconds for report in reports)
    print(f"seed {seed}: {total:,} inputs for {len(reports)} readers in {spent:.0f} s, {len(finds)} finds")
    return bool(finds)


if __name__ == "__main__":
    sys.exit(main())
