"""Background jobs: order, cancelling, errors, what stays after a start."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from lora_ext.errors import ToolError
from lora_ext.jobs import (
    FILES_LANE,
    JOB_CANCELLED,
    JOB_DONE,
    JOB_FAILED,
    JOB_RUNNING,
    MODEL_LANE,
    Job,
    JobError,
    JobQueue,
)


def test_result_progress_and_log() -> None:
    jobs = JobQueue()

    def work(job: Job) -> dict[str, int]:
        job.progress(1, 2, "half")
        job.notify("a line")
        return {"answer": 42}

    job = jobs.start("merge", "x", work)
    assert job.ended_event.wait(10)
    details = jobs.get(job.id).details()
    assert (details.state, details.result, details.log, details.done, details.text) == (
        JOB_DONE,
        {"answer": 42},
        ["a line"],
        1,
        "half",
    )
    assert not hasattr(job.summary(), "log")


def test_one_on_the_model_several_on_files() -> None:
    most = {MODEL_LANE: 0, FILES_LANE: 0}
    now = {MODEL_LANE: 0, FILES_LANE: 0}
    lock, gate = threading.Lock(), threading.Barrier(3, timeout=10)

    def work(job: Job) -> str:
        with lock:
            now[job.lane] += 1
            most[job.lane] = max(most[job.lane], now[job.lane])
        if job.lane == FILES_LANE:
            gate.wait()  # only passes when three are at work together
        time.sleep(0.02)
        with lock:
            now[job.lane] -= 1
        return job.title

    jobs = JobQueue(file_workers=3)
    started = [jobs.start("a", str(n), work, lane=lane) for n in range(3) for lane in (MODEL_LANE, FILES_LANE)]
    assert all(job.ended_event.wait(20) for job in started)
    assert [job.state for job in started] == [JOB_DONE] * 6
    assert most == {MODEL_LANE: 1, FILES_LANE: 3}
    by_start = sorted((job for job in started if job.lane == MODEL_LANE), key=lambda job: job.started or 0)
    assert [job.title for job in by_start] == ["0", "1", "2"]


def test_the_guard_is_held_for_model_jobs_only() -> None:
    held: list[str] = []

    @contextmanager
    def guard():  # type: ignore[no-untyped-def]
        held.append("in")
        yield
        held.append("out")

    jobs = JobQueue(model_lock=guard)
    jobs.start("a", "a", lambda job: list(held), lane=FILES_LANE).ended_event.wait(10)
    assert held == []
    inside = jobs.start("a", "a", lambda job: list(held), lane=MODEL_LANE)
    assert inside.ended_event.wait(10) and inside.result == ["in"]
    for _ in range(100):
        if held == ["in", "out"]:
            break
        time.sleep(0.02)
    assert held == ["in", "out"]


def test_cancelling_one_that_works_and_one_that_waits() -> None:
    jobs, begun = JobQueue(), threading.Event()

    def work(job: Job) -> None:
        begun.set()
        while True:
            job.progress(0, 1)
            time.sleep(0.005)

    first = jobs.start("a", "first", work, lane=MODEL_LANE)
    second = jobs.start("a", "second", work, lane=MODEL_LANE)
    assert begun.wait(10) and first.state == JOB_RUNNING
    assert jobs.cancel(second.id).state == JOB_CANCELLED
    assert jobs.cancel(first.id).summary().stopping in (True, False)
    assert first.ended_event.wait(10) and first.state == JOB_CANCELLED
    assert second.started is None


def test_errors_are_reported_and_the_next_job_runs(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = JobQueue()

    def wrong(job: Job) -> None:
        raise ToolError("rank 0 is none")

    def broken(job: Job) -> None:
        raise ZeroDivisionError("oops")

    made = [jobs.start("a", "a", work, lane=MODEL_LANE) for work in (wrong, broken, lambda job: 1)]
    assert all(job.ended_event.wait(10) for job in made)
    assert [job.state for job in made] == [JOB_FAILED, JOB_FAILED, JOB_DONE]
    assert made[0].error == "rank 0 is none"
    assert made[1].error == "ZeroDivisionError: oops"
    assert "oops" in capsys.readouterr().err  # a bug of ours leaves its trace


def test_unknown_and_forgotten() -> None:
    jobs = JobQueue()
    with pytest.raises(JobError, match="there is no job"):
        jobs.get("x")
    job = jobs.start("a", "a", lambda job: 1)
    job.ended_event.wait(10)
    jobs.forget(job.id)
    with pytest.raises(JobError):
        jobs.get(job.id)


def test_ended_jobs_are_there_after_a_start(tmp_path: Path) -> None:
    history = tmp_path / "jobs.json"
    job = run(history, "<b>x</b>")
    again = JobQueue(history_path=history).get(job.id)
    assert (again.state, again.title, again.result) == (JOB_DONE, "<b>x</b>", "<b>x</b>")
    history.write_text("{", encoding="utf-8")
    assert JobQueue(history_path=history).list_jobs() == []


def run(history: Path, title: str, **options: int) -> Job:
    """Runs a job; when it has ended, it is in the history."""
    jobs = JobQueue(history_path=history, **options)
    job = jobs.start("merge", title, lambda job: title)
    assert job.ended_event.wait(10)
    jobs.close()
    return job


def test_an_ended_job_adds_one_line_and_a_broken_one_is_left_out(tmp_path: Path) -> None:
    history = tmp_path / "jobs.json"
    run(history, "a")
    first = history.read_bytes()
    with history.open("a", encoding="utf-8") as file:
        file.write('\n{"id": "torn')  # the program was killed
    run(history, "b")
    assert history.read_bytes().startswith(first)
    assert [job.title for job in JobQueue(history_path=history).list_jobs()] == ["a", "b"]


def test_the_history_of_an_older_version_is_read(tmp_path: Path) -> None:
    """It was one list."""
    history = tmp_path / "jobs.json"
    run(history, "a")
    history.write_text(f"[{history.read_text(encoding='utf-8').strip()}]", encoding="utf-8")
    run(history, "b")
    assert [job.title for job in JobQueue(history_path=history).list_jobs()] == ["a", "b"]


def test_a_history_of_many_jobs_is_written_anew(tmp_path: Path) -> None:
    history = tmp_path / "jobs.json"
    for number in range(9):
        run(history, str(number), max_kept=3)
    assert [job.title for job in JobQueue(history_path=history, max_kept=3).list_jobs()] == ["6", "7", "8"]
    assert history.read_text(encoding="utf-8").count("merge") <= 6


def test_a_job_that_is_removed_or_cancelled_before_it_begins(tmp_path: Path) -> None:
    history = tmp_path / "jobs.json"
    jobs, hold = JobQueue(history_path=history, file_workers=1), threading.Event()
    first = jobs.start("a", "first", lambda job: hold.wait(10))
    waits = jobs.start("a", "waits", lambda job: None)
    jobs.cancel(waits.id)
    assert [job.title for job in JobQueue(history_path=history).list_jobs()] == ["waits"]
    hold.set()
    first.ended_event.wait(10)
    jobs.forget(waits.id)
    assert "waits" not in [job.title for job in JobQueue(history_path=history).list_jobs()]


def test_only_so_many_are_kept() -> None:
    jobs = JobQueue(max_kept=5)
    for n in range(12):
        jobs.start("a", str(n), lambda job: 1).ended_event.wait(10)
    assert [job.title for job in jobs.list_jobs()][-1] == "11"
    assert len(jobs.list_jobs()) <= 6


def test_a_job_that_ends_early_on_request_is_stopped_also_after_a_restart(tmp_path: Path) -> None:
    def until_stopped(job: Job) -> str:
        assert job.stop_event.wait(10)
        return "a part"

    jobs = JobQueue(history_path=tmp_path / "jobs.json")
    job, whole = jobs.start("a", "part", until_stopped), jobs.start("a", "whole", lambda job: "all")
    jobs.cancel(job.id)
    for one in (job, whole):
        one.ended_event.wait(10)
    again = JobQueue(history_path=tmp_path / "jobs.json")
    for found in (job, again.get(job.id)):
        assert found.summary().state == "done" and found.summary().stopped and not found.summary().stopping
    assert not whole.summary().stopped and not again.get(whole.id).summary().stopped


def test_time_left_of_a_later_stage_is_told_from_that_stage_alone() -> None:
    job = Job("1", "a", "a", FILES_LANE, state=JOB_RUNNING, started=time.time() - 600)
    job.progress(99, 100, "drawing regularisation pictures")
    job.progress(0, 20, "caching latents")
    assert job.left is None
    job.progress(1, 20, "caching latents")
    assert job.left is not None and job.left < 5


def test_time_left() -> None:
    job = Job("1", "a", "a", FILES_LANE, state=JOB_RUNNING, started=time.time() - 10, done=1, total=3)
    assert job.left == pytest.approx(20, abs=1)
    job.seconds_left = 5.0
    assert job.left == 5.0
    job.done = 0
    assert job.left is None
