"""`python tests/pictures.py` makes every picture of the documentation again."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pictures
import pytest
from kept_pictures import shows
from PIL import Image, ImageDraw


def test_every_picture_is_made_by_one_part() -> None:
    parts = {name: pictures.pictures_of(part) for name, part in pictures.PARTS.items()}
    makers = {path: [name for name, made in parts.items() if path in made] for path in pictures.all_pictures()}
    assert makers and {path: names for path, names in makers.items() if len(names) != 1} == {}
    patterns = [pattern for part in pictures.PARTS.values() for pattern in part.makes]
    assert [pattern for pattern in patterns if not list(pictures.DOCS.glob(pattern))] == []


def test_each_state_is_named_by_what_is_seen() -> None:
    """It was "Tools, side 1": a reader had to open the picture to know what it shows."""
    page = (pictures.DOCS / "states.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert headings and [one for one in headings if re.search(r"\d", one)] == []
    named = {re.sub("[^a-z0-9]+", "-", one.lower()) for one in headings}
    assert named == {path.stem for path in (pictures.DOCS / "states").glob("*.webp")}
    assert named == set(re.findall(r"\(states/(.+)\.webp\)", page))


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


def test_a_recording_is_judged_by_all_that_it_shows_for_long(tmp_path: Path) -> None:
    """It was judged by its last frame alone, so that all before it could be of another page."""
    scenes = [Image.new("RGB", (96, 64), "white") for _ in range(4)]
    for number, scene in enumerate(scenes):
        ImageDraw.Draw(scene).rectangle((4 + 20 * number, 8, 20 + 20 * number, 40), "navy")
    path, (first, second, third, other) = tmp_path / "a.webp", scenes

    def recorded(*frames: Image.Image, shown: tuple[int, ...] = ()) -> bytes:
        made, (one, *rest) = io.BytesIO(), frames
        times = [*shown] or [1000] * len(frames)
        one.save(made, "WEBP", save_all=True, append_images=rest, duration=times, quality=85)
        return made.getvalue()

    path.write_bytes(recorded(first, second, third))
    assert shows(path, recorded(first, second, third), 900) and shows(path, recorded(first, third), 900)
    assert shows(path, recorded(first, other, third, shown=(1000, 100, 1000)), 900)
    assert not shows(path, recorded(first, other, third), 900) and not shows(path, recorded(second, first), 900)
