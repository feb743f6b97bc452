"""The table of all routes: who is answered. `python tests/malicious/route_table.py` writes docs/ROUTES.md.

Each cell is a request that was sent to the program (the standalone one, with and without users).
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from test_requests import HERE, USERS, Target, alone  # noqa: E402

PAGE = ROOT / "docs" / "ROUTES.md"
_COLUMNS = ("method", "route", "other Host", "other Origin, with the token", "no token",
            "with users: nobody", "with users: wrong password")  # fmt: skip
_HEAD = f"""# Routes

Who is answered, for each route of the standalone program. Made by `python tests/malicious/route_table.py`, which sends
each of these requests; a test compares this page with the program. *answers* is any answer of the route itself, also
one that says what is wrong with the request; after several wrong passwords 401 becomes 429 (wait). *With users* is a
program that was started with `--auth`.

| {" | ".join(_COLUMNS)} |
|{" --- |" * len(_COLUMNS)}
"""


def _password(name: str, word: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{word}".encode()).decode()}


def _answer(target: Target, method: str, path: str, **request: Any) -> str:
    status = target.send(method, path, **request).status_code
    status = 401 if status == 429 else status  # a wrong password after several wrong ones
    return f"refused ({status})" if status in (401, 403) else "answers"


def rows(open_program: Target, locked_program: Target) -> list[tuple[str, ...]]:
    """(method, route, and an answer for each column of the page)."""
    token = {"X-Lora-Ext": open_program.guard.token}
    found = []
    for method, path in sorted(open_program.routes(), key=lambda row: (row[1], row[0])):
        if method in ("HEAD", "OPTIONS"):
            continue
        found.append(
            (
                method,
                f"`{path}`",
                _answer(open_program, method, path, host="evil.example:7870", headers=token),
                _answer(open_program, method, path, headers={**token, "Origin": "http://evil.example"}),
                _answer(open_program, method, path, headers={"Origin": f"http://{HERE}"}),
                _answer(locked_program, method, path),
                _answer(locked_program, method, path, headers=_password(next(iter(USERS)), "wrong")),
            )
        )
    return found


def text() -> str:
    """The page, in Markdown."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        programs = Target(Path(first), alone), Target(Path(second), alone, users=lambda: USERS)
        lines = ["| " + " | ".join(row) + " |\n" for row in rows(*programs)]
        for program in programs:
            program.app_state.jobs.close()
    return _HEAD + "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
