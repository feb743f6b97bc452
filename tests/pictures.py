"""Makes all pictures of the documentation again: `python tests/pictures.py [NAME …]` (an hour on one core; see PARTS).

Each part is a command that can also be run alone. A picture that shows what the kept one shows stays as it is, so that
afterwards `git status` lists the pictures of what has changed: the page, or the small built-in model.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from kept_pictures import keep, keep_png
from PIL import Image
from ui.program import ROOT

DOCS = ROOT / "docs"
IMAGES = DOCS / "guide" / "images"
COLOURS = 64
"""Colours of the pictures that the benchmarks draw."""


class Part(NamedTuple):
    """A command of Python, and where the pictures go that it writes into `{out}`; the tests' scripts keep their own."""

    command: str
    minutes: int
    pictures: dict[str, Path] = {}  # noqa: RUF012 - never changed


PARTS = {
    "demo": Part(
        "-m lora_ext demo --out {out}", 4, {"demo.png": DOCS / "demo.png", "training.png": DOCS / "training.png"}
    ),
    "social": Part("tests/social_picture.py", 1),  # of cells of the demo's
    "tab": Part("tests/tab_pictures.py", 3),
    "recordings": Part("tests/screen_recordings.py", 6),
    "guide": Part("tests/guide_pictures.py", 10),
    "states": Part("tests/state_pictures.py", 3),
    "controls": Part("tests/control_pictures.py", 1),
    "regions": Part("benchmarks/regions.py --sheet {out}/regions.png", 5, {"regions.png": DOCS / "regions.png"}),
    "regularisation": Part(
        "benchmarks/teach.py --picture {out}/regularisation.png",
        25,
        {"regularisation.png": IMAGES / "regularisation.png"},
    ),
}


def run(part: Part) -> None:
    """Runs a part's command and keeps its pictures. Raises CalledProcessError where the command fails."""
    with tempfile.TemporaryDirectory() as out:
        words = [word.replace("{out}", out) for word in part.command.split()]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        subprocess.run([sys.executable, *words], cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, check=True)
        for name, kept in part.pictures.items():
            image = Image.open(Path(out) / name)
            if image.mode == "P":
                keep_png(image, kept, COLOURS)
            else:
                keep(image, kept, optimize=True)


def main() -> None:
    """Runs all parts, or those that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = ", ".join(f"{name} ({part.minutes} min)" for name, part in PARTS.items())
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{known}; all without")
    names = parser.parse_args().names or list(PARTS)
    if wrong := [name for name in names if name not in PARTS]:
        parser.error(f"{wrong[0]} is none of {', '.join(PARTS)}")
    for name in names:
        print(f"{name}: about {PARTS[name].minutes} minutes", flush=True)
        run(PARTS[name])


if __name__ == "__main__":
    main()
