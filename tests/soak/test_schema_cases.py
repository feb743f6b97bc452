"""Requests made from the schema of every route, right ones and wrong ones: none is answered with 500.

Needs `schemathesis` (pip install schemathesis). What jobs would do is left out, so that no request draws for hours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis")
from test_web import Client, lora  # noqa: E402

from lora_ext.web.access_guard import AccessGuard  # noqa: E402

CASES = 5_000
"""In all, shared out to the routes, with and without a password."""
Record = Callable[[str, object], None]


def client(root: Path, monkeypatch: pytest.MonkeyPatch, users: bool) -> Client:
    made = Client(root, AccessGuard(users=lambda: {"anna": "geheim"}) if users else None)
    lora(root / "loras" / "one.safetensors", 4)
    made.app_state.refresh_library()
    jobs = made.app_state.jobs
    start = jobs.start
    monkeypatch.setattr(jobs, "start", lambda kind, title, work, **more: start(kind, title, lambda job: None, **more))
    return made


@pytest.mark.parametrize("users", [False, True], ids=["no password", "with a password"])
def test_no_request_ends_in_500(
    users: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    api = client(tmp_path, monkeypatch, users)
    document = api("GET", "/openapi.json", headers={"Authorization": "Basic YW5uYTpnZWhlaW0="})
    schema = schemathesis.openapi.from_dict(document)
    operations = [operation.ok() for operation in schema.get_all_operations()]
    statuses = Counter[int]()
    many = settings(max_examples=CASES // len(operations), derandomize=True, suppress_health_check=list(HealthCheck))
    for operation in operations:

        def send(case: Any) -> None:
            path = case.formatted_path
            headers = {**(case.headers or {})}
            if users:
                headers["Authorization"] = "Basic YW5uYTpnZWhlaW0="
            body = {"json": case.body} if isinstance(case.body, (dict, list, str, int, float, bool)) else {}
            for fields in (case.query, case.body):  # every second time a file that there is, so that more is reached
                if isinstance(fields, dict) and "name" in fields and sum(statuses.values()) % 2:
                    fields["name"] = "one"
            answer = api.http.request(case.method, path, params=case.query, headers=headers, **body)
            statuses[answer.status_code] += 1
            assert answer.status_code < 500, f"{case.method} {path} {case.query} {body}: {answer.text[:500]}"

        given(case=operation.as_strategy())(many(send))()
    assert sum(statuses.values()) >= CASES // 2
    record_property("cases", sum(statuses.values()))
    record_property("answers", dict(sorted(statuses.items())))
    api.app_state.jobs.close()
