"""From a plan to everything a sheet is: cells, scores, a suggestion, pages, a table and a manifest."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from ..file.saving import FileInUseError
from . import identical_cells, image_measures, sheet_pages
from .cell_store import CellStore
from .generate_cells import ImageRenderer, SheetProgress, SheetProgressCallback, cell_keys, generate_cells
from .image_spec import ImageSpec
from .scores import SCORES_FILE, Score, Scorer, save_scores_csv, score_legend, unique_without_loras
from .sheet_pages import PageDetails
from .sheet_plan import SheetPlan
from .suggestion import Suggestion, copies_warning, sample_key, suggest, tags_key

PREVIEW_SECONDS = 20.0
"""Seconds between pages that are drawn while a sheet fills, at least."""


@dataclass
class SheetResult:
    """What came of a plan. keys: one a cell. scores: one a cell, none where it was not finished. files: the pages."""

    plan: SheetPlan
    folder: Path
    keys: list[str]
    progress: SheetProgress
    scores: list[Score] = field(default_factory=list)
    suggestion: Suggestion | None = None
    files: list[Path] = field(default_factory=list)
    likeness_measure: str = ""
    """By what likeness was measured, where it was."""
    warning: str = ""
    identical: dict[int, str] = field(default_factory=dict)
    """Place of a cell → what its picture is the same as (see `same.same_as`), where it was measured."""

    @property
    def finished(self) -> bool:
        """Whether every cell is there."""
        return self.progress.done == self.progress.total


def build_sheet(
    plan: SheetPlan,
    renderer: ImageRenderer,
    store: CellStore,
    *,
    batch: int = 8,
    scorer: Scorer | None = None,
    on_progress: SheetProgressCallback | None = None,
) -> SheetResult:
    """Draws what is missing, and writes pages, `scores.csv` and `sheet.json` into the store's folder.

    With a scorer each prompt and seed is drawn once more without LoRA, to measure from. A stopped one (see
    `SheetProgressCallback`)
    has its pages with what there is. Raises LoraError.
    """
    shots = [cell.image_spec for cell in plan.cells]
    without = unique_without_loras(shots) if scorer else []
    made = SheetResult(plan, store.folder, cell_keys(plan, renderer), SheetProgress(0))
    title = plan.base.prompt or "(empty prompt)"
    store.save_manifest(build_manifest(made, store, title))
    look = PageDetails(title, _settings(plan, renderer.title))
    on_progress = _with_previews(made, store, look, on_progress)
    made.progress = generate_cells([*shots, *without], renderer, store, batch=batch, on_progress=on_progress)
    if scorer and made.finished:
        base_keys = {shot: shot.key(renderer.identity(shot)) for shot in without}
        _score(made, store, scorer, base_keys)
        made.likeness_measure, made.warning = scorer.likeness_measure, copies_warning(plan, made.scores)
        chosen = frozenset(made.suggestion.cells if made.suggestion else ())
        reason = made.suggestion.reason if made.suggestion else ""
        note = "  ".join(
            filter(None, (reason, identical_cells.identical_cells_sentence(plan, made.identical), made.warning))
        )
        look = replace(
            look, note=note, scores=made.scores, marks=chosen, legend=score_legend(scorer), identical=made.identical
        )
    held: list[FileInUseError] = []
    try:
        made.files = sheet_pages.save_pages(plan, store, made.keys, look)
    except FileInUseError as error:
        held.append(error)
    if made.scores:
        names = [_name(store, key) for key in made.keys]
        try:
            marks = dict.fromkeys(look.marks, True)
            save_scores_csv(store.folder / SCORES_FILE, plan, made.scores, names, marks, made.identical)
        except FileInUseError as error:
            held.append(error)
    store.save_manifest(build_manifest(made, store, title))
    if held:  # after everything else is written
        raise FileInUseError(f"{held[0]}; all pictures are kept, and the same command draws none of them again")
    return made


def _settings(plan: SheetPlan, model: str) -> str:
    """The settings that all cells share, in a line."""
    first, *others = (cell.image_spec.image_fields() for cell in plan.cells)
    told = {
        "steps": f"{first['steps']} steps",
        "sampler": first["sampler"],
        "scheduler": first["scheduler"] if first["scheduler"] != ImageSpec.scheduler else "",
        "cfg": f"CFG {first['cfg']:g}",
        "width": f"{first['width']}x{first['height']}" if first["width"] and first["height"] else "",
        "seed": f"seed {first['seed']}",
        "clip_skip": f"clip skip {first['clip_skip']}" if first["clip_skip"] > 1 else "",
        "negative_prompt": first["negative_prompt"] and f"without: {first['negative_prompt']}",
    }
    shared = [text for name, text in told.items() if all(other[name] == first[name] for other in others)]
    return ", ".join(filter(None, (*shared, model)))


def _with_previews(
    result: SheetResult, store: CellStore, details: PageDetails, on_progress: SheetProgressCallback | None
) -> SheetProgressCallback:
    """`on_progress`, and the pages drawn anew now and then while the sheet fills; that takes a twentieth of the
    time.
    """
    due, shown = time.monotonic() + PREVIEW_SECONDS, 0

    def watching(now: SheetProgress) -> None:
        nonlocal due, shown
        if on_progress:
            on_progress(now)
        begun = time.monotonic()
        if begun >= due and now.done > shown:
            with suppress(FileInUseError):  # someone looks at it; it is written again
                result.files = sheet_pages.save_pages(result.plan, store, result.keys, details)
            took = time.monotonic() - begun
            due, shown = begun + took + max(PREVIEW_SECONDS, 20 * took), now.done

    return watching


def _score(result: SheetResult, store: CellStore, scorer: Scorer, base_keys: Mapping[ImageSpec, str]) -> None:
    """Scores, cells that are the same, and the suggestion."""
    known: dict[tuple[str, str], Score] = {}
    for cell, key in zip(result.plan.cells, result.keys, strict=True):
        base_key = base_keys[cell.image_spec.without_loras()]
        if (key, base_key) not in known:
            image, base = store.load_image(key), store.load_image(base_key)
            assert image is not None and base is not None
            known[key, base_key] = scorer.score(image, base)
        result.scores.append(known[key, base_key])
    plain = [image for key in dict.fromkeys(base_keys.values()) if (image := store.load_image(key)) is not None]
    alike, near = (sum(map(measure, plain)) / len(plain) for measure in (scorer.likeness, scorer.nearness))
    usual = sum(map(image_measures.sharpness, plain)) / len(plain)
    equal = identical_cells.find_identical_cells(result.keys, store)
    unchanged = [place for place, score in enumerate(result.scores) if score.difference == 0]
    result.identical = identical_cells.identical_cell_labels(result.plan, equal, unchanged)
    result.suggestion = suggest(
        result.plan,
        result.scores,
        base=(alike, near) if scorer.has_training_images else None,
        training_sharpness=scorer.sharpness / usual if scorer.sharpness and usual else 1.0,
        variety=_variety(result, store, base_keys),
        identical=equal,
    )


def _variety(result: SheetResult, store: CellStore, base_keys: Mapping[ImageSpec, str]) -> dict[str, float]:
    """Choice → how far its pictures of different seeds differ, as a share of what they do without a LoRA."""
    groups: dict[str, dict[ImageSpec, str]] = {}
    for cell, key in zip(result.plan.cells, result.keys, strict=True):
        groups.setdefault(tags_key(cell.image_spec), {})[sample_key(cell.image_spec)] = key
    plain = {sample_key(shot): key for shot, key in base_keys.items()}
    found = {}
    for choice, samples in groups.items():
        before = _mean_difference([plain[sample] for sample in samples if sample in plain], store)
        if len(samples) > 1 and before > 0.01:
            found[choice] = _mean_difference(list(samples.values()), store) / before
    return found


def _mean_difference(wanted: Sequence[str], store: CellStore, most: int = 6) -> float:
    """Mean colour difference of the first pictures among each other."""
    images = [image for key in wanted[:most] if (image := store.load_image(key)) is not None]
    pairs = [image_measures.colour_difference(a, b) for a, b in combinations(images, 2)]
    return sum(pairs) / len(pairs) if pairs else 0.0


def _name(store: CellStore, key: str) -> str:
    path = store.path(key)
    return path.relative_to(store.folder).as_posix() if path else ""


def build_manifest(result: SheetResult, store: CellStore, title: str) -> dict[str, Any]:
    """What `sheet.json` holds: axes, and for each cell its place, file, exact prompt, tag, seed and scores."""
    plan = result.plan
    cells = []
    for place, (cell, key) in enumerate(zip(plan.cells, result.keys, strict=True)):
        row: dict[str, Any] = {"x": cell.x, "y": cell.y, "z": cell.z, "key": key, "tag": cell.tag,
                               "file": _name(store, key)}  # fmt: skip
        row |= cell.image_spec.image_fields()
        if result.scores:
            row |= {"score": asdict(result.scores[place]), "same_as": result.identical.get(place)}
        cells.append(row)
    axes = {name: {"title": axis.title, "asked": axis.text, "labels": [value.label for value in axis.values]}
            for name, axis in (("x", plan.x), ("y", plan.y), ("z", plan.z))}  # fmt: skip
    return {
        "version": 1,
        "title": title,
        "base": asdict(plan.base),
        "complete": bool(result.progress.total) and result.finished,
        "axes": axes,
        "measured": result.likeness_measure,
        "warning": result.warning,
        "same": identical_cells.identical_cells_sentence(plan, result.identical),
        "suggested": asdict(result.suggestion) if result.suggestion else None,
        "pages": [path.name for path in result.files],
        "cells": cells,
    }
