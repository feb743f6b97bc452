"""A short run of the fuzzer in every test run: some seconds of processor time, other inputs after each commit.

Errors that are not the project's own fail it. Time and memory do not, since a busy machine decides no test; `python -m
fuzz` tells those.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from fuzz.__main__ import run  # noqa: E402
from fuzz.engine import TOO_LONG, TOO_MUCH  # noqa: E402
from fuzz.file_targets import file_targets  # noqa: E402
from fuzz.text_targets import text_targets  # noqa: E402

SECONDS, INPUTS = 5.0, 30_000


def commit_count() -> int:
    """How many commits there are; 0 where the sources are no clone."""
    command = ["git", "-C", str(ROOT), "rev-list", "--count", "HEAD"]
    try:
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return 0


def test_no_reader_is_brought_down(tmp_path: Path) -> None:
    seed = 20261129 + commit_count()
    targets = [*text_targets(tmp_path), *file_targets(tmp_path)]
    found = (find for report in run(targets, INPUTS, SECONDS, seed) for find in report.finds)
    finds = [find for find in found if find.what not in (TOO_LONG, TOO_MUCH)]
    assert not finds, f"seed {seed}: " + "; ".join(f"{f.target}: {f.what}: {f.data[:200]!r}" for f in finds)
