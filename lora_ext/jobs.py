"""Background jobs: one at a time on the model, several for files; progress, log, cancel and result of each.

A job lives on the server, so that a page may be closed and opened again. Knows no page, no host and no file format.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import LoraError, did_you_mean

MODEL, FILES = "model", "files"
WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
ENDED = frozenset({DONE, FAILED, CANCELLED})
_LOG = 400
"""Lines of its log that a job keeps."""


UP, DOWN, FIRST = "up", "down", "first"
"""Where a job that waits may go among those that wait for the same lane."""


class JobError(LoraError):
    """A job that is not there, or does not wait."""


class Stopped(Exception):
    """Raised inside a job's work at its next report after the user cancelled it."""


@dataclass(eq=False)
class Job:
    """One piece of work. done, total: how far; live: what a face may show meanwhile (a curve, the newest picture).

    lane: "model" or "files". result: what the work returned, ready for JSON. Times are seconds since 1970.
    """

    id: str
    kind: str
    title: str
    lane: str
    state: str = WAITING
    done: int = 0
    total: int = 0
    text: str = ""
    log: deque[str] = field(default_factory=lambda: deque(maxlen=_LOG))
    live: dict[str, Any] = field(default_factory=dict)
    result: Any = None
    error: str | None = None
    created: float = field(default_factory=time.time)
    started: float | None = None
    seconds_left: float | None = None
    """To go, where the work itself knows better than from how far it is."""
    ended: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    dropped: bool = False
    """Whether it was stopped without saving what it could save."""
    over: threading.Event = field(default_factory=threading.Event)

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Says how far the work is. Raises Stopped when the user cancelled it."""
        self.done, self.total, self.text = done, total, text
        if self.stop.is_set():
            raise Stopped

    def cancelled(self) -> bool:
        """Whether the user asked to stop."""
        return self.stop.is_set()

    def say(self, text: str) -> None:
        """A line for its log."""
        self.log.append(text)

    @property
    def left(self) -> float | None:
        """Seconds to go if the rest takes as long as what is done, None where that cannot be told."""
        if self.state != RUNNING or self.started is None or not 0 < self.done < self.total:
            return None
        if self.seconds_left is not None:
            return self.seconds_left
        return (time.time() - self.started) / self.done * (self.total - self.done)

    def as_json(self, *, brief: bool = False) -> dict[str, Any]:
        """Everything that a face shows; brief: without log, live and result."""
        names = ("id", "kind", "title", "lane", "state", "done", "total", "text", "error", "created", "started")
        shown = {name: getattr(self, name) for name in (*names, "ended", "left")}
        shown["stopping"] = self.stop.is_set() and self.state not in ENDED
        return shown if brief else {**shown, "log": list(self.log), "live": dict(self.live), "result": self.result}


Work = Callable[[Job], Any]
Guard = Callable[[], AbstractContextManager[Any]]


class Jobs:
    """All jobs, newest last. on_model: what to hold while a model job works (a web UI's queue lock).

    cannot: kind of job → why it cannot use the model, "" where it can.

    files: how many file jobs work at once. history: a JSON file that keeps ended jobs between starts.
    """

    def __init__(
        self,
        *,
        on_model: Guard = nullcontext,
        cannot: Callable[[str], str] = lambda kind: "",
        files: int = 3,
        keep: int = 200,
        history: Path | None = None,
    ) -> None:
        self._guards: Mapping[str, Guard] = {MODEL: on_model, FILES: nullcontext}
        self._pools = {
            MODEL: ThreadPoolExecutor(1, thread_name_prefix="lora-ext-model"),
            FILES: ThreadPoolExecutor(files, thread_name_prefix="lora-ext-files"),
        }
        self._jobs: dict[str, Job] = {}
        self._queues: Mapping[str, list[tuple[Job, Work]]] = {lane: [] for lane in self._pools}
        self._lock = threading.Lock()
        self._cannot, self._keep, self._history = cannot, keep, history
        self._numbers = itertools.count(1)
        self._stamp = f"{int(time.time()):x}"
        self._recall()

    def start(self, kind: str, title: str, work: Work, *, lane: str = FILES) -> Job:
        """Queues `work(job)` and returns at once. What it returns, which must be fit for JSON, is the job's result.

        Raises LoraError for a model job that this program cannot do: nothing of it is begun.
        """
        if lane == MODEL and (reason := self._cannot(kind)):
            raise LoraError(reason)
        job = Job(f"{self._stamp}-{next(self._numbers)}", kind, title, lane)
        with self._lock:
            self._jobs[job.id] = job
            ended = [known for known in self._jobs.values() if known.state in ENDED]
            for old in ended[: max(0, len(self._jobs) - self._keep)]:
                del self._jobs[old.id]
            self._queues[lane].append((job, work))
        self._pools[lane].submit(self._next, lane)
        return job

    def get(self, name: str) -> Job:
        """The job of this id. Raises JobError."""
        job = self._jobs.get(name)
        if job is None:
            raise JobError(f"there is no job {name!r}{did_you_mean(name, list(self._jobs)[-12:])}")
        return job

    def all(self) -> list[Job]:
        """Every job, oldest first; those that wait come last, in the order in which they will begin."""
        with self._lock:
            queued = [job for queue in self._queues.values() for job, _ in queue]
            return [job for job in self._jobs.values() if job not in queued] + queued

    @property
    def busy(self) -> bool:
        """Whether a job works or waits."""
        return any(job.state not in ENDED for job in self.all())

    def move(self, name: str, to: str) -> Job:
        """Puts a job that waits one place up or down, or first, in its lane. Raises JobError."""
        job = self.get(name)
        with self._lock:
            queue = self._queues[job.lane]
            at = next((place for place, (waiting, _) in enumerate(queue) if waiting is job), None)
            if at is None:
                raise JobError(f"{job.title} does not wait any more")
            row = queue.pop(at)
            queue.insert({UP: max(0, at - 1), DOWN: at + 1, FIRST: 0}[to], row)
        return job

    def cancel(self, name: str, *, save: bool = True) -> Job:
        """Asks a job to stop: at once if it waits, at its next report if it works. Raises JobError.

        save: work that can be gone on with later is saved first.
        """
        job = self.get(name)
        job.dropped = job.dropped or not save
        job.stop.set()
        with self._lock:
            queue = self._queues[job.lane]
            queue[:] = [row for row in queue if row[0] is not job]
            if job.state == WAITING:
                self._end(job, CANCELLED)
        return job

    def forget(self, name: str) -> None:
        """Takes an ended job off the list; cancels one that is not ended. Raises JobError."""
        job = self.cancel(name)
        if job.state in ENDED:
            with self._lock:
                self._jobs.pop(job.id, None)
            self._remember()

    def close(self) -> None:
        """Cancels what waits and what works; does not wait for it."""
        for job in self.all():
            if job.state not in ENDED:
                self.cancel(job.id)
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    # --- at work

    def _next(self, lane: str) -> None:
        """Takes the first job that waits, if one still does, once the lane is free."""
        with self._guards[lane]():
            with self._lock:
                if not self._queues[lane]:
                    return
                job, work = self._queues[lane].pop(0)
                job.state, job.started = RUNNING, time.time()
            try:
                job.result = work(job)
                state = CANCELLED if job.stop.is_set() and job.result is None else DONE
            except Stopped:
                state = CANCELLED
            except LoraError as error:
                job.error, state = str(error), FAILED
            except BaseException as error:
                traceback.print_exc()
                job.error, state = f"{type(error).__name__}: {error}", FAILED
        with self._lock:
            self._end(job, state)
        self._remember()

    def _end(self, job: Job, state: str) -> None:
        job.state, job.ended = state, time.time()
        job.over.set()

    # --- between starts

    def _remember(self) -> None:
        if self._history is None:
            return
        rows = [job.as_json() for job in self.all() if job.state in ENDED]
        with suppress(OSError, TypeError, ValueError):
            part = self._history.with_suffix(".part")
            part.write_text(json.dumps(rows), encoding="utf-8")
            part.replace(self._history)

    def _recall(self) -> None:
        """Ended jobs of earlier starts; a file that cannot be read is none."""
        if self._history is None or not self._history.is_file():
            return
        plain = (
            "id",
            "kind",
            "title",
            "lane",
            "state",
            "done",
            "total",
            "text",
            "error",
            "created",
            "started",
            "ended",
        )
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            for row in json.loads(self._history.read_text(encoding="utf-8"))[-self._keep :]:
                job = Job(**{name: row[name] for name in plain}, live=row["live"], result=row["result"])
                job.log.extend(row["log"])
                job.over.set()
                self._jobs[job.id] = job
