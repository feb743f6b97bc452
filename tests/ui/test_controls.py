"""Every kind of control looks in each state (off, on, focus, disabled, invalid) as in docs/controls.

`python tests/control_pictures.py` makes them again, for a change of looks that is meant.
"""

from __future__ import annotations

from typing import Any

import pytest
from control_pictures import FOLDER, THEMES, picture_of, show_controls
from PIL import Image, ImageChops, ImageStat
from program import Server

pytestmark = [pytest.mark.long, pytest.mark.flaky(reruns=1)]

ALIKE = 1.5
"""Of 255, the mean of a cell: what the kept pictures' few colours make. A missing mark or frame is 2 and more."""
CELLS = """() => {
    const { left, top } = document.querySelector('#lx-control-sheet').getBoundingClientRect();
    return [...document.querySelectorAll('[data-cell]')].filter(cell => cell.firstChild).map(cell => {
        const box = cell.getBoundingClientRect();
        const [x, y] = [box.left - left, box.top - top];
        return [cell.dataset.cell, [x - 5, y - 5, x + box.width + 5, y + box.height + 5]];
    });
}"""


def _apart(one: Image.Image, other: Image.Image) -> float:
    return max(ImageStat.Stat(ImageChops.difference(one, other)).mean)


@pytest.mark.parametrize("theme", THEMES)
def test_controls_look_as_kept(page: Any, server: Server, request: pytest.FixtureRequest, theme: str) -> None:
    name = str(request.node.callspec.params["server"]).replace(" ", "-")
    kept = Image.open(FOLDER / f"{name}-{theme}.png").convert("RGB")
    show_controls(page, server.url, theme)
    seen = picture_of(page)
    assert seen.size == kept.size
    labels = (0, 0, 90, seen.height)
    if _apart(seen.crop(labels), kept.crop(labels)) > ALIKE:
        pytest.skip("this machine has other fonts than the kept pictures")
    cells = page.evaluate(CELLS)
    wrong = {cell: far for cell, box in cells if (far := _apart(seen.crop(box), kept.crop(box))) > ALIKE}
    assert len(cells) > 75 and wrong == {}
