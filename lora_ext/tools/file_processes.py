"""Shares work on many files out to processes: one for each core, each with its share of torch's threads."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Generic, TypeVar

import torch

from ..errors import LoraError

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")

PROCESS_START_SECONDS = 2.0
"""What starting a process takes, most of it for importing torch: files that take less are not shared out."""


@dataclass(frozen=True)
class WorkOutcome(Generic[_Result]):
    """What became of the work on one file.

    Attributes:
        result: what the work returned; None where it failed.
        error: why it failed; "" where it did not.
        seconds: how long it took.
    """

    result: _Result | None
    error: str = ""
    seconds: float = 0.0


def available_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def work_in_processes(
    work: Callable[[_Job], _Result], jobs: Sequence[_Job], sizes: Sequence[int], processes: int
) -> Iterator[tuple[int, WorkOutcome[_Result]]]:
    """Does the work on each file; a file that fails, or whose process dies, does not stop the others.

    The first files are worked on in this process. The others go to other processes as soon as their time, judged by
    the size of those that are done, is longer than starting these.

    Args:
        work: a function that can be pickled.
        jobs: its arguments, which can be pickled.
        sizes: bytes of each file.
        processes: at most so many processes; 1 for none but this one.

    Yields:
        (position in `jobs`, what became of it), in the order in which they end.
    """
    left = list(range(len(jobs)))
    begun, done = time.perf_counter(), 0
    while left:
        rest = sum(sizes[index] for index in left)
        if done and len(left) > 1 and processes > 1:
            expected = (time.perf_counter() - begun) / done * rest
            if expected * (1 - 1 / min(processes, len(left))) > PROCESS_START_SECONDS:
                break
        index = left.pop(0)
        yield index, _attempt(work, jobs[index])
        done += sizes[index] + 1
    while left:
        yield from _in_workers(work, jobs, left, min(processes, len(left)))


def _in_workers(
    work: Callable[[_Job], _Result], jobs: Sequence[_Job], left: list[int], processes: int
) -> Iterator[tuple[int, WorkOutcome[_Result]]]:
    """Works in processes until all is done, or until one of them dies and the file that did it is found.

    Which file a dead process had is not known, so that fewer and fewer are tried side by side. What is done is removed
    from `left`.
    """
    while left:
        threads = max(1, available_cores() // processes)
        pool = ProcessPoolExecutor(processes, _context(), initializer=_begin_worker, initargs=(threads,))
        futures: dict[Future[WorkOutcome[_Result]], int] = {}
        try:
            with _numpy_threads(threads):  # the processes start here
                for index in left:
                    futures[pool.submit(_attempt, work, jobs[index])] = index
            for future in as_completed(futures):
                outcome = future.result()
                left.remove(futures[future])
                yield futures[future], outcome
        except KeyboardInterrupt:
            # files that are being worked on are written to their end: the next run is to find them done, not in its way
            pool.shutdown(wait=True, cancel_futures=True)
            for future, index in futures.items():
                if index in left and not future.cancelled() and future.exception() is None:
                    left.remove(index)
                    yield index, future.result()
            raise
        except BrokenProcessPool:
            if processes == 1:
                error = "its process ended without a word, maybe for lack of memory; try it with --processes 1"
                yield left.pop(0), WorkOutcome(None, error)
                return
            processes = max(1, processes // 2)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _context() -> BaseContext:
    """How processes start. A fork of this process, whose torch may have started threads, could wait for ever.

    On Linux they are forks of a server that has imported what the tools need and has done nothing else, so that torch
    is imported once for all. Elsewhere each imports it.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([name for name in sys.modules if name.startswith("lora_ext.tools.")])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl+C would print where its imports are
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


@contextlib.contextmanager
def _numpy_threads(threads: int) -> Iterator[None]:
    """Limits NumPy's threads in processes that start meanwhile; its BLAS has no other way than the environment."""
    names = ("OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    mine = [name for name in names if not {name, "OMP_NUM_THREADS"} & os.environ.keys()]
    os.environ.update(dict.fromkeys(mine, str(threads)))
    try:
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)


def _begin_worker(threads: int) -> None:
    """In a new process: Ctrl+C ends it by its parent, after the file that it has."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Lets glibc keep the memory of a file for the next one: getting it anew is 4 % of the time of `resize`."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def _attempt(work: Callable[[_Job], _Result], job: _Job) -> WorkOutcome[_Result]:
    begun = time.perf_counter()
    try:
        return WorkOutcome(work(job), seconds=time.perf_counter() - begun)
    except LoraError as error:
        text = str(error)
    except Exception as error:  # whatever is wrong with one file, the others are done
        text = f"{type(error).__name__}: {error}"
    return WorkOutcome(None, text, time.perf_counter() - begun)
