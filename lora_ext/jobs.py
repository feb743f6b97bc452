"""Background jobs: one at a time on the model, several for files; progress, log, cancel and result of each.

A job lives on the server, so that a page may be closed and opened again. Knows no page, no host and no file format.
"""

from __future__ import annotations

import itertools
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from .errors import LoraError, did_you_mean
from .job_history import JobHistory

MODEL_LANE, FILES_LANE = "model", "files"
JobState = Literal["waiting", "running", "done", "failed", "cancelled"]
JOB_WAITING: JobState = "waiting"
JOB_RUNNING: JobState = "running"
JOB_DONE: JobState = "done"
JOB_FAILED: JobState = "failed"
JOB_CANCELLED: JobState = "cancelled"
JOB_ENDED_STATES = frozenset({JOB_DONE, JOB_FAILED, JOB_CANCELLED})
_LOG_LINES = 400
"""Lines of its log that a job keeps."""


MOVE_UP, MOVE_DOWN, MOVE_FIRST = "up", "down", "first"
"""Where a job that waits may go among those that wait for the same lane."""


class JobError(LoraError):
    """A job that is not there, or does not wait."""


class JobCancelledError(Exception):
    """Raised inside a job's work at its next report after the user cancelled it."""


@dataclass(frozen=True)
class JobSummary:
    """A job as a list shows it.

    Attributes:
        id: Names the job in routes.
        kind: What sort of work it is, such as "train" or "merge".
        title: What the work is about, for people.
        lane: The queue that it is in: "model" (one job at a time) or "files" (several).
        done: How much is done, in whatever unit `total` has.
        total: How much there is to do; 0 while that is not known.
        text: The stage that the job is in; empty where `left` is of the whole work.
        error: Why it failed; null where it did not.
        created: When it was queued, in seconds since 1970.
        started: When it started; null while it waits.
        ended: When it ended; null before.
        left: Seconds to go; null where that cannot be told.
        stopping: Whether the user has cancelled it and it still works.
        stopped: Whether it is done because the user has stopped it: its result is what it had by then.
    """

    id: str
    kind: str
    title: str
    lane: str
    state: JobState
    done: float
    total: int
    text: str
    error: str | None
    created: float
    started: float | None
    ended: float | None
    left: float | None
    stopping: bool
    stopped: bool


@dataclass(frozen=True)
class JobDetails(JobSummary):
    """A job with its log, what it shows meanwhile, and its result.

    Attributes:
        log: The newest lines of its log.
        live: What may be shown while it works; its fields depend on the kind.
        result: What the work returned; null before, and where it failed.
    """

    log: list[str]
    live: Any
    result: Any


@dataclass(eq=False)
class Job:
    """One piece of work in the background. Times are seconds since 1970.

    Attributes:
        id: names the job in routes.
        kind: what sort of work it is, such as "train" or "merge".
        title: what the work is about, for people.
        lane: the queue that it is in: "model" or "files".
        state: one of the `JobState`s.
        done: how much is done, in whatever unit `total` has.
        total: how much there is to do; 0 while that is not known.
        text: what the job does now.
        log: the newest lines of its log.
        live: what a page may show while it works, such as a curve or the newest image; ready for JSON.
        result: what the work returned, ready for JSON.
        error: why it failed; None where it did not.
        created: when it was queued.
        started: when it started; None while it waits.
        seconds_left: the work's own estimate; None leaves it to `left`.
        stage_start: when the present stage began, and at how much done; None where it is the first.
        ended: when it ended; None before.
        stop_event: set when the user cancels it.
        is_discarded: whether it was cancelled without saving what can be resumed.
        ended_event: set when it has ended.
    """

    id: str
    kind: str
    title: str
    lane: str
    state: JobState = JOB_WAITING
    done: float = 0
    total: int = 0
    text: str = ""
    log: deque[str] = field(default_factory=lambda: deque(maxlen=_LOG_LINES))
    live: Any = field(default_factory=dict)
    result: Any = None
    error: str | None = None
    created: float = field(default_factory=time.time)
    started: float | None = None
    seconds_left: float | None = None
    """To go, where the work itself knows better than from how far it is."""
    stage_start: tuple[float, float] | None = None
    """A stage counts anew: its speed tells nothing of another's."""
    ended: float | None = None
    stop_event: threading.Event = field(default_factory=threading.Event)
    is_discarded: bool = False
    """Whether it was stopped without saving what it could save."""
    ended_event: threading.Event = field(default_factory=threading.Event)

    def progress(self, done: float, total: int, text: str = "") -> None:
        """Reports how far the work is.

        Args:
            done: how much is done; a fraction where the unit is long.
            total: how much there is to do.
            text: what the job does now.

        Raises:
            JobCancelledError: the user has cancelled the job.
        """
        self.show_progress(done, total, text)
        if self.stop_event.is_set():
            raise JobCancelledError

    def show_progress(self, done: float, total: int, text: str = "") -> None:
        """As `progress`, for work that asks by itself whether it was cancelled."""
        if total != self.total or done < self.done:
            self.stage_start = (time.time(), done)
        self.done, self.total, self.text = done, total, text

    def cancelled(self) -> bool:
        """Whether the user asked to stop."""
        return self.stop_event.is_set()

    def notify(self, text: str) -> None:
        """Adds a line to its log.

        Args:
            text: the line.
        """
        self.log.append(text)

    @property
    def left(self) -> float | None:
        """Seconds to go, by the work's own estimate, or of the present stage at its speed; None where unknown."""
        if self.state != JOB_RUNNING or self.started is None or not 0 < self.done < self.total:
            return None
        if self.seconds_left is not None:
            return self.seconds_left
        began, first = self.stage_start or (self.started, 0)
        return (time.time() - began) / (self.done - first) * (self.total - self.done) if self.done > first else None

    def summary(self) -> JobSummary:
        """The job as a list shows it."""
        names = ("id", "kind", "title", "lane", "state", "done", "total", "text", "error", "created", "started")
        shown = {name: getattr(self, name) for name in (*names, "ended", "left")}
        if self.seconds_left is not None:
            shown["text"] = ""  # it names the stage that `left` is about, and this is of the whole work
        asked = self.stop_event.is_set()
        return JobSummary(
            **shown,
            stopping=asked and self.state not in JOB_ENDED_STATES,
            stopped=asked and self.state == JOB_DONE,
        )

    def details(self) -> JobDetails:
        """The job with its log, what it shows meanwhile, and its result."""
        return JobDetails(**vars(self.summary()), log=list(self.log), live=self.live, result=self.result)


JobWork = Callable[[Job], object]
LaneLock = Callable[[], AbstractContextManager[object]]


class JobQueue:
    """All jobs, newest last.

    Args:
        model_lock: Makes what is held while a model job works, such as the web UI's queue lock.
        unavailable_reason: Kind of job → why it cannot use the model; "" where it can.
        file_workers: How many jobs on files work at once.
        max_kept: How many jobs are kept.
        history_path: A file that keeps ended jobs between starts.
    """

    def __init__(
        self,
        *,
        model_lock: LaneLock = nullcontext,
        unavailable_reason: Callable[[str], str] = lambda kind: "",
        file_workers: int = 3,
        max_kept: int = 200,
        history_path: Path | None = None,
    ) -> None:
        self._lane_locks: Mapping[str, LaneLock] = {MODEL_LANE: model_lock, FILES_LANE: nullcontext}
        self._pools = {
            MODEL_LANE: ThreadPoolExecutor(1, thread_name_prefix="lora-ext-model"),
            FILES_LANE: ThreadPoolExecutor(file_workers, thread_name_prefix="lora-ext-files"),
        }
        self._jobs: dict[str, Job] = {}
        self._queues: Mapping[str, list[tuple[Job, JobWork]]] = {lane: [] for lane in self._pools}
        self._lock = threading.Lock()
        self._unavailable_reason, self._max_kept = unavailable_reason, max_kept
        self._history = JobHistory(history_path, max_kept)
        self._numbers = itertools.count(1)
        self._stamp = f"{time.time_ns():x}"  # other ids than those of an earlier start
        self._load_history()

    def start(self, kind: str, title: str, work: JobWork, *, lane: str = FILES_LANE) -> Job:
        """Queues a job and returns at once.

        Args:
            kind: what sort of work it is.
            title: what the work is about, for people.
            work: is called with the job, in a thread. What it returns has to be fit for JSON.
            lane: "files" (several jobs at once) or "model" (one).

        Returns:
            The job.

        Raises:
            LoraError: the model cannot be used for this kind of work; nothing is queued.

        Example:
            >>> queue = JobQueue()
            >>> job = queue.start("sum", "1 + 2", lambda job: 1 + 2)
            >>> job.ended_event.wait(10), job.state, job.result
            (True, 'done', 3)
        """
        if lane == MODEL_LANE and (reason := self._unavailable_reason(kind)):
            raise LoraError(reason)
        job = Job(f"{self._stamp}-{next(self._numbers)}", kind, title, lane)
        with self._lock:
            self._jobs[job.id] = job
            ended = [known for known in self._jobs.values() if known.state in JOB_ENDED_STATES]
            for old in ended[: max(0, len(self._jobs) - self._max_kept)]:
                del self._jobs[old.id]
            self._queues[lane].append((job, work))
        self._pools[lane].submit(self._run_next, lane)
        return job

    def get(self, name: str) -> Job:
        """Finds a job.

        Args:
            name: its id.

        Returns:
            The job.

        Raises:
            JobError: no job has this id.
        """
        job = self._jobs.get(name)
        if job is None:
            raise JobError(f"there is no job {name!r}{did_you_mean(name, list(self._jobs)[-12:])}")
        return job

    def list_jobs(self) -> list[Job]:
        """Every job, oldest first; those that wait come last, in the order in which they will begin."""
        with self._lock:
            queued = [job for queue in self._queues.values() for job, _ in queue]
            return [job for job in self._jobs.values() if job not in queued] + queued

    @property
    def is_busy(self) -> bool:
        """Whether a job works or waits."""
        return any(job.state not in JOB_ENDED_STATES for job in self.list_jobs())

    def move(self, name: str, to: str) -> Job:
        """Moves a waiting job within its lane.

        Args:
            name: its id.
            to: "up" or "down" by one place, or "first".

        Returns:
            The job.

        Raises:
            JobError: no job has this id, or it has already started.
        """
        job = self.get(name)
        with self._lock:
            queue = self._queues[job.lane]
            position = next((index for index, (waiting, _) in enumerate(queue) if waiting is job), None)
            if position is None:
                raise JobError(f"{job.title} has already started")
            row = queue.pop(position)
            queue.insert({MOVE_UP: max(0, position - 1), MOVE_DOWN: position + 1, MOVE_FIRST: 0}[to], row)
        return job

    def cancel(self, name: str, *, save: bool = True) -> Job:
        """Cancels a job: at once if it waits, at its next report of progress if it works.

        Args:
            name: its id.
            save: whether to save work that can be resumed.

        Returns:
            The job.

        Raises:
            JobError: no job has this id.
        """
        job = self.get(name)
        job.is_discarded = job.is_discarded or not save
        job.stop_event.set()
        with self._lock:
            queue = self._queues[job.lane]
            queue[:] = [row for row in queue if row[0] is not job]
            never_began = job.state == JOB_WAITING
            if never_began:
                self._end(job, JOB_CANCELLED)
        if never_began:
            self._keep(job)
        return job

    def forget(self, name: str) -> None:
        """Removes an ended job from the list; cancels one that has not ended.

        Args:
            name: its id.

        Raises:
            JobError: no job has this id.
        """
        job = self.cancel(name)
        if job.state in JOB_ENDED_STATES:
            job.ended_event.wait()
            with self._lock:
                self._jobs.pop(job.id, None)
            self._history.replace(self._ended_jobs())

    def close(self) -> None:
        """Cancels what waits and what works; does not wait for it."""
        for job in self.list_jobs():
            if job.state not in JOB_ENDED_STATES:
                self.cancel(job.id)
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    # --- at work

    def _run_next(self, lane: str) -> None:
        """Takes the first job that waits, if one still does, once the lane is free."""
        with self._lane_locks[lane]():
            with self._lock:
                if not self._queues[lane]:
                    return
                job, work = self._queues[lane].pop(0)
                job.state, job.started = JOB_RUNNING, time.time()
            state: JobState
            try:
                job.result = work(job)
                state = JOB_CANCELLED if job.stop_event.is_set() and job.result is None else JOB_DONE
            except JobCancelledError:
                state = JOB_CANCELLED
            except LoraError as error:
                job.error, state = str(error), JOB_FAILED
            except BaseException as error:
                traceback.print_exc()
                job.error, state = f"{type(error).__name__}: {error}", JOB_FAILED
        with self._lock:
            self._end(job, state)
        self._keep(job)

    def _end(self, job: Job, state: JobState) -> None:
        job.state, job.ended = state, time.time()

    def _keep(self, job: Job) -> None:
        """Writes an ended job into the history before those who wait for its end go on: what they forget stays so."""
        try:
            self._history.add(job.details(), self._ended_jobs())
        finally:
            job.ended_event.set()

    # --- between starts

    def _ended_jobs(self) -> Iterator[JobDetails]:
        return (job.details() for job in self.list_jobs() if job.state in JOB_ENDED_STATES)

    def _load_history(self) -> None:
        """Ended jobs of earlier starts; a row that is no job is left out."""
        plain = {item.name for item in fields(JobSummary)} - {"left", "stopping", "stopped"}
        for row in self._history.load():
            with suppress(KeyError, TypeError, AttributeError):
                job = Job(**{name: row[name] for name in plain}, live=row["live"], result=row["result"])
                job.log.extend(row["log"])
                if row.get("stopped"):
                    job.stop_event.set()
                job.ended_event.set()
                self._jobs[job.id] = job
