"""`python tests/pictures.py` makes every picture of the documentation again."""

from __future__ import annotations

from pathlib import Path

import pictures
import pytest


def test_every_picture_is_made_by_one_part() -> None:
    parts = {name: pictures.pictures_of(part) for name, part in pictures.PARTS.items()}
    makers = {path: [name for name, made in parts.items() if path in made] for path in pictures.all_pictures()}
    assert makers and {path: names for path, names in makers.items() if len(names) != 1} == {}
    patterns = [pattern for part in pictures.PARTS.values() for pattern in part.makes]
    assert [pattern for pattern in patterns if not list(pictures.DOCS.glob(pattern))] == []


def test_a_part_tells_what_it_did_not_make_and_what_it_does_not_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(pictures.LISTING, "")
    made = pictures.DOCS / "social.png"
    script = tmp_path / "part.py"
    script.write_text(
        f"import os\nopen(os.environ[{pictures.LISTING!r}], 'a', encoding='utf-8').write({str(made)!r} + '\\n')",
        encoding="utf-8",
    )
    part = pictures.Part(str(script), 1, ("demo.png",))
    assert pictures.run(part) == ["docs/demo.png: not made this time", "docs/social.png: its part does not name it"]
    assert pictures.run(part._replace(makes=("social.png",))) == []
