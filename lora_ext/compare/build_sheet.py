"""From a plan to everything a sheet is: cells, scores, a suggestion, pages, a table and a manifest."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from ..file.saving import HeldFile
from . import identical_cells, image_measures, sheet_pages
from .cell_store import Store
from .generate_cells import Artist, Progress, Watch, draw, keys
from .image_spec import Shot
from .scores import TABLE, Score, Scorer, bases, legend, write_csv
from .sheet_pages import Look
from .sheet_plan import Plan
from .suggestion import Suggestion, choice_of, copies, sample_of, suggest

EVERY = 20.0
"""Seconds between pages that are drawn while a sheet fills, at least."""


@dataclass
class Made:
    """What came of a plan. keys: one a cell. scores: one a cell, none where it was not finished. files: the pages."""

    plan: Plan
    folder: Path
    keys: list[str]
    progress: Progress
    scores: list[Score] = field(default_factory=list)
    suggestion: Suggestion | None = None
    files: list[Path] = field(default_factory=list)
    measured: str = ""
    """By what likeness was measured, where it was."""
    warning: str = ""
    same: dict[int, str] = field(default_factory=dict)
    """Place of a cell → what its picture is the same as (see `same.same_as`), where it was measured."""

    @property
    def finished(self) -> bool:
        """Whether every cell is there."""
        return self.progress.done == self.progress.pictures


def make(
    plan: Plan,
    artist: Artist,
    store: Store,
    *,
    batch: int = 8,
    scorer: Scorer | None = None,
    watch: Watch | None = None,
) -> Made:
    """Draws what is missing, and writes pages, `scores.csv` and `sheet.json` into the store's folder.

    With a scorer each prompt and seed is drawn once more without LoRA, to measure from. A stopped one (see `Watch`)
    has its pages with what there is. Raises LoraError.
    """
    shots = [cell.shot for cell in plan.cells]
    without = bases(shots) if scorer else []
    made = Made(plan, store.folder, keys(plan, artist), Progress(0))
    title = plan.base.prompt or "(empty prompt)"
    store.write(manifest(made, store, title))
    look = Look(title, _settings(plan, artist.title))
    watch = _filling(made, store, look, watch)
    made.progress = draw([*shots, *without], artist, store, batch=batch, watch=watch)
    if scorer and made.finished:
        base_keys = {shot: shot.key(artist.identity(shot)) for shot in without}
        _score(made, store, scorer, base_keys)
        made.measured, made.warning = scorer.how, copies(plan, made.scores)
        chosen = frozenset(made.suggestion.cells if made.suggestion else ())
        reason = made.suggestion.reason if made.suggestion else ""
        note = "  ".join(filter(None, (reason, identical_cells.told(plan, made.same), made.warning)))
        look = replace(look, note=note, scores=made.scores, marks=chosen, legend=legend(scorer), same=made.same)
    held: list[HeldFile] = []
    try:
        made.files = sheet_pages.write(plan, store, made.keys, look)
    except HeldFile as error:
        held.append(error)
    if made.scores:
        names = [_name(store, key) for key in made.keys]
        try:
            marks = dict.fromkeys(look.marks, True)
            write_csv(store.folder / TABLE, plan, made.scores, names, marks, made.same)
        except HeldFile as error:
            held.append(error)
    store.write(manifest(made, store, title))
    if held:  # after everything else is written
        raise HeldFile(f"{held[0]}; all pictures are kept, and the same command draws none of them again")
    return made


def _settings(plan: Plan, model: str) -> str:
    """The settings that all cells share, in a line."""
    first, *others = (cell.shot.picture() for cell in plan.cells)
    told = {
        "steps": f"{first['steps']} steps",
        "sampler": first["sampler"],
        "scheduler": first["scheduler"] if first["scheduler"] != Shot.scheduler else "",
        "cfg": f"CFG {first['cfg']:g}",
        "width": f"{first['width']}x{first['height']}" if first["width"] and first["height"] else "",
        "seed": f"seed {first['seed']}",
        "clip_skip": f"clip skip {first['clip_skip']}" if first["clip_skip"] > 1 else "",
        "negative_prompt": first["negative_prompt"] and f"without: {first['negative_prompt']}",
    }
    shared = [text for name, text in told.items() if all(other[name] == first[name] for other in others)]
    return ", ".join(filter(None, (*shared, model)))


def _filling(made: Made, store: Store, look: Look, watch: Watch | None) -> Watch:
    """`watch`, and the pages drawn anew now and then while the sheet fills; that takes a twentieth of the time."""
    due, shown = time.monotonic() + EVERY, 0

    def watching(now: Progress) -> None:
        nonlocal due, shown
        if watch:
            watch(now)
        begun = time.monotonic()
        if begun >= due and now.done > shown:
            with suppress(HeldFile):  # someone looks at it; it is written again
                made.files = sheet_pages.write(made.plan, store, made.keys, look)
            took = time.monotonic() - begun
            due, shown = begun + took + max(EVERY, 20 * took), now.done

    return watching


def _score(made: Made, store: Store, scorer: Scorer, base_keys: Mapping[Shot, str]) -> None:
    """Scores, cells that are the same, and the suggestion."""
    known: dict[tuple[str, str], Score] = {}
    for cell, key in zip(made.plan.cells, made.keys, strict=True):
        base_key = base_keys[cell.shot.plain()]
        if (key, base_key) not in known:
            image, base = store.open(key), store.open(base_key)
            assert image is not None and base is not None
            known[key, base_key] = scorer.score(image, base)
        made.scores.append(known[key, base_key])
    plain = [image for key in dict.fromkeys(base_keys.values()) if (image := store.open(key)) is not None]
    alike, near = (sum(map(measure, plain)) / len(plain) for measure in (scorer.likeness, scorer.near))
    usual = sum(map(image_measures.sharpness, plain)) / len(plain)
    equal = identical_cells.same_pictures(made.keys, store)
    unchanged = [place for place, score in enumerate(made.scores) if score.difference == 0]
    made.same = identical_cells.same_as(made.plan, equal, unchanged)
    made.suggestion = suggest(
        made.plan,
        made.scores,
        base=(alike, near) if scorer.trained else None,
        training_sharpness=scorer.sharpness / usual if scorer.sharpness and usual else 1.0,
        variety=_variety(made, store, base_keys),
        same=equal,
    )


def _variety(made: Made, store: Store, base_keys: Mapping[Shot, str]) -> dict[str, float]:
    """Choice → how far its pictures of different seeds differ, as a share of what they do without a LoRA."""
    groups: dict[str, dict[Shot, str]] = {}
    for cell, key in zip(made.plan.cells, made.keys, strict=True):
        groups.setdefault(choice_of(cell.shot), {})[sample_of(cell.shot)] = key
    plain = {sample_of(shot): key for shot, key in base_keys.items()}
    found = {}
    for choice, samples in groups.items():
        before = _apart([plain[sample] for sample in samples if sample in plain], store)
        if len(samples) > 1 and before > 0.01:
            found[choice] = _apart(list(samples.values()), store) / before
    return found


def _apart(wanted: Sequence[str], store: Store, most: int = 6) -> float:
    """Mean colour difference of the first pictures among each other."""
    images = [image for key in wanted[:most] if (image := store.open(key)) is not None]
    pairs = [image_measures.difference(a, b) for a, b in combinations(images, 2)]
    return sum(pairs) / len(pairs) if pairs else 0.0


def _name(store: Store, key: str) -> str:
    path = store.path(key)
    return path.relative_to(store.folder).as_posix() if path else ""


def manifest(made: Made, store: Store, title: str) -> dict[str, Any]:
    """What `sheet.json` holds: axes, and for each cell its place, file, exact prompt, tag, seed and scores."""
    plan = made.plan
    cells = []
    for place, (cell, key) in enumerate(zip(plan.cells, made.keys, strict=True)):
        row: dict[str, Any] = {"x": cell.x, "y": cell.y, "z": cell.z, "key": key, "tag": cell.tag,
                               "file": _name(store, key)}  # fmt: skip
        row |= cell.shot.picture()
        if made.scores:
            row |= {"score": asdict(made.scores[place]), "same_as": made.same.get(place)}
        cells.append(row)
    axes = {name: {"title": axis.title, "asked": axis.text, "labels": [value.label for value in axis.values]}
            for name, axis in (("x", plan.x), ("y", plan.y), ("z", plan.z))}  # fmt: skip
    return {
        "version": 1,
        "title": title,
        "base": asdict(plan.base),
        "complete": bool(made.progress.pictures) and made.finished,
        "axes": axes,
        "measured": made.measured,
        "warning": made.warning,
        "same": identical_cells.told(plan, made.same),
        "suggested": asdict(made.suggestion) if made.suggestion else None,
        "pages": [path.name for path in made.files],
        "cells": cells,
    }
