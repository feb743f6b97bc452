"""The recording from which the stand-in of `tests/a1111` is made is what this web UI does."""

from __future__ import annotations

from pathlib import Path

from record_contract import recorded
from webui_contract import recording


def test_the_recording_is_what_this_web_ui_does(folder: Path, tmp_path: Path) -> None:
    now, then = recorded(folder, tmp_path), recording()
    assert list(now) == list(then)
    for part in then:
        for name in then[part]:
            assert now[part][name] == then[part][name], f"{part}: {name}"
