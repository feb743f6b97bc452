"""Makes all pictures of the documentation again: `python tests/pictures.py [NAME …]` (an hour on one core; see PARTS).

Each part is a command that can also be run alone. A picture that shows what the kept one shows stays as it is, so that
afterwards `git status` lists the pictures of what has changed: the page, or the small built-in model. Each picture in
docs belongs to one part; one that its part no longer makes is told at the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from guide_pictures import SHEETS
from kept_pictures import LISTING, keep, keep_png
from PIL import Image
from ui.program import ROOT

DOCS = ROOT / "docs"
FORMATS = {".png", ".webp", ".gif", ".jpg", ".jpeg", ".svg", ".webm", ".mp4"}
COLOURS = 64
"""Colours of the pictures that the benchmarks draw."""


class Part(NamedTuple):
    """A command of Python.

    Attributes:
        command: Its words. What it writes into `{out}` is kept by `run`; the tests' scripts keep their own.
        minutes: How long it takes on one core.
        makes: Patterns of the pictures' paths within docs; what is in `{out}` has their last names.
    """

    command: str
    minutes: int
    makes: tuple[str, ...]


PARTS = {
    "demo": Part("-m lora_ext demo --out {out}", 4, ("demo.png", "training.png")),
    "social": Part("tests/social_picture.py", 1, ("social.png",)),  # of cells of the demo's
    "tab": Part("tests/tab_pictures.py", 3, ("tab-*.png",)),
    "recordings": Part("tests/screen_recordings.py", 8, ("recordings/*.webp",)),
    "guide": Part(
        "tests/guide_pictures.py",
        10,
        ("guide/images/*-en.png", *(f"guide/images/{name}.png" for name in (*SHEETS, "two-regions"))),
    ),
    "states": Part("tests/state_pictures.py", 3, ("states/*.webp",)),
    "controls": Part("tests/control_pictures.py", 1, ("controls/*.png",)),
    "regions": Part("benchmarks/regions.py --sheet {out}/regions.png", 5, ("regions.png",)),
    "regularisation": Part(
        "benchmarks/teach.py --picture {out}/regularisation.png", 25, ("guide/images/regularisation.png",)
    ),
}


def pictures_of(part: Part) -> set[Path]:
    """The pictures in docs that a part makes."""
    return {path for pattern in part.makes for path in DOCS.glob(pattern)}


def all_pictures() -> set[Path]:
    """All pictures and recordings in docs."""
    return {path for path in DOCS.rglob("*") if path.suffix in FORMATS}


def run(part: Part) -> list[str]:
    """Runs a part's command and keeps its pictures.

    Returns:
        A line for each kept picture that it did not make, and for each that it made and does not name.

    Raises:
        CalledProcessError: The command fails.
    """
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryDirectory() as scratch:
        listing = Path(scratch) / "made.txt"
        listing.touch()
        os.environ[LISTING] = str(listing)
        words = [word.replace("{out}", out) for word in part.command.split()]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        subprocess.run([sys.executable, *words], cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, check=True)
        for name in part.makes if "{out}" in part.command else ():
            image = Image.open(Path(out, Path(name).name))
            if image.mode == "P":
                keep_png(image, DOCS / name, COLOURS)
            else:
                keep(image, DOCS / name, optimize=True)
        made = {Path(line) for line in listing.read_text(encoding="utf-8").splitlines()}
    return [
        f"{path.relative_to(ROOT).as_posix()}: {'its part does not name it' if path in made else 'not made this time'}"
        for path in sorted(pictures_of(part) ^ made)
    ]


def main() -> None:
    """Runs all parts, or those that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = ", ".join(f"{name} ({part.minutes} min)" for name, part in PARTS.items())
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{known}; all without")
    names = parser.parse_args().names or list(PARTS)
    if wrong := [name for name in names if name not in PARTS]:
        parser.error(f"{wrong[0]} is none of {', '.join(PARTS)}")
    wrong = []
    for name in names:
        print(f"{name}: about {PARTS[name].minutes} minutes", flush=True)
        wrong += run(PARTS[name])
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
