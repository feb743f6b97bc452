"""The memory and the processor time of this process, and whether they keep growing."""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import sys
from itertools import pairwise
from pathlib import Path

import pytest

MOST_GROWTH = 0.02
"""Share by which memory may be larger at the end than half way."""


def resident_bytes() -> int:
    """Bytes of this process in memory, after garbage is collected and the allocator has given back what is free."""
    gc.collect()
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is read from /proc, which this system lacks")
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def check_flat(readings: list[int]) -> float:
    """Compares the last reading with the one half way: before that, caches fill.

    Returns:
        The share by which memory grew.

    Raises:
        AssertionError: By more than `MOST_GROWTH`.
    """
    growth = readings[-1] / readings[len(readings) // 2] - 1
    assert growth <= MOST_GROWTH, f"memory grew by {growth:.1%}: {[reading >> 20 for reading in readings]} MiB"
    return growth


def slower(times: list[float]) -> str:
    """How much slower equal pieces of work became, as text: the last quarter's median against the second quarter's.

    It is told, not required: a clock on a busy machine decides no test.

    Args:
        times: Processor seconds since the process began, after each piece.
    """
    pieces = [end - start for start, end in pairwise(times)]
    quarter = len(pieces) // 4
    ratio = statistics.median(pieces[-quarter:]) / statistics.median(pieces[quarter : 2 * quarter])
    return f"{ratio:.2f}x"
