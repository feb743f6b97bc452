"""A program that runs for long: 1,000 jobs and a day of a page's questions through the HTTP API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from resident_memory import check_flat, resident_bytes
from test_web import Client, lora

JOBS, POLLS = 1_000, 28_800
"""Polls: a page asks every three seconds, for 24 hours."""
Record = Callable[[str, object], None]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path)
    lora(tmp_path / "loras" / "one.safetensors", 4)
    client.app_state.refresh_library()
    yield client
    client.app_state.jobs.close()


def test_jobs(api: Client, tmp_path: Path, record_property: Record) -> None:
    readings = []
    for number in range(JOBS):
        body = {"name": "one", "save_to": "small", "new_rank": 1 + number % 4, "overwrite": True}
        assert api.done("/resize", body)["state"] == "done"
        if number % 50 == 49:
            readings.append(resident_bytes())
    kept = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file() and "job" in path.name)
    assert kept < 2 * 2**20, f"the history of jobs takes {kept} bytes"
    record_property("jobs", JOBS)
    record_property("memory grew", f"{check_flat(readings):.1%}")


def test_a_day_of_polls(api: Client, record_property: Record) -> None:
    readings = []
    for number in range(POLLS):
        api("GET", "/jobs" if number % 2 else "/library")
        if number % 1440 == 1439:
            readings.append(resident_bytes())
    record_property("polls", POLLS)
    record_property("memory grew", f"{check_flat(readings):.1%}")
