"""Build a sheet from its plan: cells, scores, a suggestion, pages, a table of scores and a manifest."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import combinations

from ..counted_words import counted
from ..file.saving import FileInUseError
from . import identical_cells, image_measures, sheet_pages
from .cell_store import CellStore
from .generate_cells import (
    ImageRenderer,
    SheetProgress,
    SheetProgressCallback,
    SheetStopped,
    cell_keys,
    generate_cells,
)
from .image_spec import ImageSpec
from .scores import SCORES_FILE, Score, Scorer, save_scores_csv, score_legend, unique_without_loras
from .sheet_pages import PageDetails
from .sheet_plan import SheetPlan
from .sheet_result import SheetResult, build_manifest, cell_file_name
from .suggestion import copies_warning, sample_key, suggest, tags_key

PREVIEW_SECONDS = 20.0
"""The shortest time in seconds between two previews of the pages while the cells are drawn."""


def build_sheet(
    plan: SheetPlan,
    renderer: ImageRenderer,
    store: CellStore,
    *,
    batch: int = 8,
    scorer: Scorer | None = None,
    on_progress: SheetProgressCallback | None = None,
    write_pages: bool = True,
) -> SheetResult:
    """Generates the missing pictures, and writes pages, `scores.csv` and `sheet.json` into the store's folder.

    Args:
        plan: the sheet.
        renderer: generates the pictures.
        store: keeps them.
        batch: pictures in a batch, at most.
        scorer: measures the pictures; for this each prompt and seed is generated once more without a LoRA. None for no
            scores.
        on_progress: called at each step; may raise `SheetStopped`, and the pages then show what is drawn so far.
        write_pages: False where another process of the same sheet measures the pictures and writes the pages.

    Returns:
        The sheet with its files, scores and suggestion.

    Raises:
        FileInUseError: a page or `scores.csv` is open in another program; everything else is written.
        LoraError: from the renderer, such as a file that does not fit the model.
    """
    image_specs = [cell.image_spec for cell in plan.cells]
    without = unique_without_loras(image_specs) if scorer else []
    try:
        keys = cell_keys(plan, renderer, on_progress)
    except SheetStopped:  # nothing of this sheet is drawn, and what is in the folder stays as it is
        return SheetResult(plan, store.folder, [], SheetProgress(len(plan.cells)))
    result = SheetResult(plan, store.folder, keys, SheetProgress(0))
    details = PageDetails(plan.base.prompt or "(empty prompt)", _shared_settings(plan, renderer.title))
    if write_pages:
        store.save_manifest(build_manifest(result, store, details.title).as_json())
        on_progress = _with_previews(result, store, details, on_progress)
    result.progress = generate_cells([*image_specs, *without], renderer, store, batch=batch, on_progress=on_progress)
    if not write_pages:
        return result
    if scorer and result.finished:
        base_keys = {image_spec: image_spec.key(renderer.identity(image_spec)) for image_spec in without}
        _score_cells(result, store, scorer, base_keys)
        result.likeness_measure, result.warning = scorer.likeness_measure, copies_warning(plan, result.scores)
        details = _with_scores(details, result, scorer)
    _save_files(result, store, details)
    return result


def _save_files(result: SheetResult, store: CellStore, details: PageDetails) -> None:
    """Writes pages, scores and manifest. A file that is open elsewhere is an error at the end, after all others."""
    errors: list[FileInUseError] = []
    try:
        result.files = sheet_pages.save_pages(result.plan, store, result.keys, details)
    except FileInUseError as error:
        errors.append(error)
    if result.scores:
        names = [cell_file_name(store, key) for key in result.keys]
        try:
            marks = dict.fromkeys(details.marks, True)
            save_scores_csv(store.folder / SCORES_FILE, result.plan, result.scores, names, marks, result.identical)
        except FileInUseError as error:
            errors.append(error)
    store.save_manifest(build_manifest(result, store, details.title).as_json())
    if errors:
        raise FileInUseError(f"{errors[0]}; all pictures are kept, and the same command generates none of them again")


def _with_scores(details: PageDetails, result: SheetResult, scorer: Scorer) -> PageDetails:
    """What the pages show, with the scores, the suggestion and the sentences about them."""
    same = identical_cells.identical_cells_sentence(result.plan, result.identical)
    reason = result.suggestion.reason if result.suggestion else ""
    return replace(
        details,
        note="  ".join(filter(None, (reason, same, result.warning))),
        scores=result.scores,
        marks=frozenset(result.suggestion.cells if result.suggestion else ()),
        legend=score_legend(scorer),
        identical=result.identical,
    )


def _shared_settings(plan: SheetPlan, model: str) -> str:
    """The settings that all cells share, as one line."""
    first, *others = (cell.image_spec.image_fields() for cell in plan.cells)
    settings = {
        "steps": counted(first["steps"], "step"),
        "sampler": first["sampler"],
        "scheduler": first["scheduler"] if first["scheduler"] != ImageSpec.scheduler else "",
        "cfg": f"CFG {first['cfg']:g}",
        "width": f"{first['width']}x{first['height']}" if first["width"] and first["height"] else "",
        "seed": f"seed {first['seed']}",
        "clip_skip": f"clip skip {first['clip_skip']}" if first["clip_skip"] > 1 else "",
        "negative_prompt": first["negative_prompt"] and f"without: {first['negative_prompt']}",
    }
    shared = [text for name, text in settings.items() if all(other[name] == first[name] for other in others)]
    return ", ".join(filter(None, (*shared, model)))


def _with_previews(
    result: SheetResult, store: CellStore, details: PageDetails, on_progress: SheetProgressCallback | None
) -> SheetProgressCallback:
    """`on_progress` extended: it also draws the pages now and then, in about a twentieth of the whole time."""
    due, shown = time.monotonic() + PREVIEW_SECONDS, 0

    def report_progress(now: SheetProgress) -> None:
        nonlocal due, shown
        if on_progress:
            on_progress(now)
        begun = time.monotonic()
        if begun >= due and now.done > shown:
            with suppress(FileInUseError):  # open in another program; it is written again later
                result.files = sheet_pages.save_pages(result.plan, store, result.keys, details)
            took = time.monotonic() - begun
            due, shown = begun + took + max(PREVIEW_SECONDS, 20 * took), now.done

    return report_progress


def _score_cells(result: SheetResult, store: CellStore, scorer: Scorer, base_keys: Mapping[ImageSpec, str]) -> None:
    """Fills in the scores, the identical cells and the suggestion."""
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
    sharpness = sum(map(image_measures.sharpness, plain)) / len(plain)
    identical = identical_cells.find_identical_cells(result.keys, store)
    unchanged = [index for index, score in enumerate(result.scores) if score.difference == 0]
    result.identical = identical_cells.identical_cell_labels(result.plan, identical, unchanged)
    result.suggestion = suggest(
        result.plan,
        result.scores,
        base=(alike, near) if scorer.has_training_images else None,
        training_sharpness=scorer.sharpness / sharpness if scorer.sharpness and sharpness else 1.0,
        variety=_variety(result, store, base_keys),
        identical=identical,
    )


def _variety(result: SheetResult, store: CellStore, base_keys: Mapping[ImageSpec, str]) -> dict[str, float]:
    """Tags → mean difference of their pictures of different seeds, as a share of that without a LoRA."""
    groups: dict[str, dict[ImageSpec, str]] = {}
    for cell, key in zip(result.plan.cells, result.keys, strict=True):
        groups.setdefault(tags_key(cell.image_spec), {})[sample_key(cell.image_spec)] = key
    plain = {sample_key(image_spec): key for image_spec, key in base_keys.items()}
    found = {}
    for choice, samples in groups.items():
        before = _mean_difference([plain[sample] for sample in samples if sample in plain], store)
        if len(samples) > 1 and before > 0.01:
            found[choice] = _mean_difference(list(samples.values()), store) / before
    return found


def _mean_difference(wanted: Sequence[str], store: CellStore, most: int = 6) -> float:
    """Mean colour difference between the first `most` pictures."""
    images = [image for key in wanted[:most] if (image := store.load_image(key)) is not None]
    pairs = [image_measures.colour_difference(a, b) for a, b in combinations(images, 2)]
    return sum(pairs) / len(pairs) if pairs else 0.0
