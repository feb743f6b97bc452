"""Work in a forked process, which a test kills with signal 9 at a random moment."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

Work = Callable[[], object]


def fork(work: Work, log: Path) -> int:
    """Begins work in a copy of this process, whose modules are loaded. Its text goes to `log`; 0 is its good status."""
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = sys.stderr = os.fdopen(handle, "w", buffering=1, encoding="utf-8")
        torch.set_num_threads(1)
        status = int(work() or 0)  # type: ignore[call-overload]
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def run_forked(work: Work, log: Path) -> tuple[int, float]:
    """Does work in a copy of this process. Returns its status and its seconds."""
    begun = time.monotonic()
    _, status = os.waitpid(fork(work, log), 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - begun


@dataclass(frozen=True)
class KillReport:
    """What `kill_at_random_moments` did: how many were killed, how many had ended before."""

    killed: int
    ended: int


def kill_at_random_moments(
    work: Work, check: Callable[[], object], *, times: int, seconds: float, log: Path, seed: int = 0
) -> KillReport:
    """Begins work again and again, kills it with signal 9 within `seconds` and checks what it left.

    Args:
        work: What is begun; status 0, or a test fails.
        check: Called after each kill.
        times: Kills.
        seconds: How long the whole work takes.
        log: Gets the work's text.
        seed: Of the moments.

    Returns:
        How many were killed while they worked; at least half of them.
    """
    moments, killed, ended = random.Random(seed), 0, 0
    while killed < times:
        process = fork(work, log)
        time.sleep(moments.uniform(0, seconds))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, -signal.SIGKILL), log.read_text(encoding="utf-8")
        if code == 0:  # it was too late: the machine is faster now than when the seconds were counted
            ended, seconds = ended + 1, 0.9 * seconds
        killed += code != 0
        assert ended <= times, f"{ended} of {ended + killed} had ended before they were killed"
        check()
    return KillReport(killed, ended)
