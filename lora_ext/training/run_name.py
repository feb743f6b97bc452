"""The name of a run's files: one that no earlier run has left files of, and no other run at work has claimed."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ..console import print_text
from ..errors import TrainError
from ..file.name_claims import LOST_SECONDS, NameClaims
from ..train.config.recipe import Recipe


def with_unused_name(recipe: Recipe, claim: Callable[[str], bool] = lambda name: True) -> Recipe:
    """The recipe with a number after `output_name` where a run has files of that name, unless it resumes one.

    Args:
        recipe: The settings.
        claim: Takes a name; False where a run at work has it.

    Returns:
        The recipe; a sentence on stderr says where its name changed.
    """
    folder = Path(str(recipe.output_dir))
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    names = itertools.chain([recipe.output_name], (f"{recipe.output_name}-{number}" for number in itertools.count(2)))
    name = next(name for name in names if not _file_of_run(name, recipe, present) and claim(name))
    if name != recipe.output_name:
        found = _file_of_run(recipe.output_name, recipe, present)
        why = f"{folder / found} exists" if found else f"another run is writing {folder / recipe.output_name}"
        print_text(f"{why}: the results are named {name}", file=sys.stderr)
    return replace(recipe, output_name=name)


@contextlib.contextmanager
def claimed_name(recipe: Recipe) -> Iterator[Recipe]:
    """Keeps a name for a run while it is at work, so that one that starts meanwhile does not write its files.

    Args:
        recipe: The settings.

    Yields:
        The recipe with the name that was found; that of the run that it resumes stays.

    Raises:
        TrainError: The run that it resumes is at work.
    """
    if recipe.output_dir is None or int(os.environ.get("WORLD_SIZE", "1")) > 1:  # one claim for all processes of a run
        yield recipe if recipe.resume or recipe.output_dir is None else with_unused_name(recipe)
        return
    folder = Path(recipe.output_dir)
    created = not folder.is_dir()
    with contextlib.suppress(OSError):  # the run says why
        folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as at_end:
        if created:
            at_end.callback(_remove_if_empty, folder)
        claims = at_end.enter_context(NameClaims(folder))
        if not recipe.resume:
            recipe = with_unused_name(recipe, claims.take)
        elif not claims.take(recipe.output_name) and not _taken_when_lost(recipe.output_name, claims):
            raise TrainError(
                f"a run that writes {folder / recipe.output_name} is at work; let it end or stop it, or give another "
                "output_name"
            )
        yield recipe


def _remove_if_empty(folder: Path) -> None:
    """Removes the folder of a run that was refused before it wrote anything."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def _file_of_run(name: str, recipe: Recipe, present: set[str]) -> str:
    """One of the files or states that a run of this name has left in the folder; "" for none."""
    pattern = re.compile(rf"{re.escape(name)}(-\d{{6,}}|-step\d{{8,}})?(\.{recipe.save_model_as}|-state)")
    return min(filter(pattern.fullmatch, present), default="", key=lambda file: (len(file), file))


def _taken_when_lost(name: str, claims: NameClaims) -> bool:
    print_text(
        f"another run wrote {name}; looking whether it is at work, for {LOST_SECONDS:.0f} s at most", file=sys.stderr
    )
    return claims.take_when_lost(name)
