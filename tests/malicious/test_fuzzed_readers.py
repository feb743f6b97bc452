"""A short run of the fuzzer in every test run: about ten seconds of processor time, other inputs after each commit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from fuzz.__main__ import run  # noqa: E402
from fuzz.file_targets import file_targets  # noqa: E402
from fuzz.text_targets import text_targets  # noqa: E402

SECONDS, INPUTS = 10.0, 30_000


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
    finds = [find for report in run(targets, INPUTS, SECONDS, seed) for find in report.finds]
    assert not finds, f"seed {seed}: " + "; ".join(f"{f.target}: {f.what}: {f.data[:200]!r}" for f in finds)
