"""The suggestion of a sheet without training pictures, and cells that are the same.

`data/suggest.json` has the scores of sheets that `benchmarks/compare_suggest.py` drew, and what a person chose there.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from test_compare_axes import write
from test_compare_sheet import FrameRenderer

from lora_ext.compare import image_measures
from lora_ext.compare.build_sheet import build_sheet
from lora_ext.compare.cell_store import CellStore, load_manifest
from lora_ext.compare.identical_cells import find_identical_cells, shared_label
from lora_ext.compare.image_spec import ImageSpec
from lora_ext.compare.scores import Score, Scorer
from lora_ext.compare.sheet_layout import Sheet, draw_sheet
from lora_ext.compare.sheet_plan import SheetPlan, plan_sheet
from lora_ext.compare.sheet_result import SheetResult
from lora_ext.compare.suggestion import Suggestion, suggest
from lora_ext.embedded import CHECKPOINT, shapes
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.generate import Settings
from lora_ext.generate.compare_command import compare

SHEETS = json.loads((Path(__file__).parent / "data" / "suggest.json").read_text(encoding="utf-8"))
NOT_TAKEN = {"soft", "byheart-cross"}
"""Sheets whose suggestion the person would not take: what the prompt asks for is lost, without other damage."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> LoraLibrary:
    folder = tmp_path_factory.mktemp("loras")
    for name in ("run-000030", "run-000060", "run-000090", "run"):
        write(folder / f"{name}.safetensors")
    return LoraLibrary([folder])


def planned(library: LoraLibrary, x: str, y: str = "", z: str = "") -> SheetPlan:
    return plan_sheet(ImageSpec(prompt="a circle <lora:run:1>", lora="run"), x, y, z, library)


def suggested(made: SheetPlan, found: Suggestion) -> str:
    return shared_label(made, [made.cells[place] for place in found.cells]) if found.cells else "none"


def of_changes(library: LoraLibrary, changes: Sequence[float], **more: Sequence[float]) -> tuple[str, str]:
    """What is suggested of weights 0.2, 0.4 … with these differences, and the reason."""
    made = planned(library, f"weight:0.2-{0.2 * len(changes):.1f}(+0.2)")
    rows = ({"sharpness": 1.0, **{name: row[i] for name, row in more.items()}} for i in range(len(changes)))
    found = suggest(made, [Score(difference, **row) for difference, row in zip(changes, rows, strict=True)])
    return suggested(made, found), found.reason


# --- real sheets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet["name"])
def test_a_person_would_take_the_suggested_cell(library: LoraLibrary, sheet: Mapping[str, Any]) -> None:
    made = planned(library, sheet["x"], sheet["y"], sheet["z"])
    scores = [Score(d, s, burnt=burnt, noise=noise) for d, s, burnt, noise in sheet["scores"]]
    found = suggest(made, scores)
    taken = suggested(made, found) in (sheet["person"] or ["none"])
    assert taken == (sheet["name"] not in NOT_TAKEN), found.reason
    assert found.reason.startswith("Suggested: ") == bool(found.cells)


@pytest.mark.long
def test_a_frame_s_weight_is_one_at_which_the_frame_is_there(tmp_path: Path) -> None:
    """Drawn: all weights from 0.6 on were put aside for their edges, and 0.4 had "6% of 6%"."""
    if not Path(CHECKPOINT).is_file():
        pytest.skip("no embedded model in this installation")
    settings = Settings(prompt="a red circle on a blue background", steps=10, cfg=3.0, device="cpu", seed=1)
    manifest = compare(settings, x="weight:0.4-1.6(+0.2)", lora="framed", out=tmp_path, batch=8, json=True)
    assert manifest["tag"] in ("<lora:framed:0.8>", "<lora:framed:1>", "<lora:framed:1.2>"), manifest["suggestion"]
    rows = [cell["score"] for cell in load_manifest(tmp_path)["cells"]]
    sharpness, noise, burnt = ([row[name] for row in rows] for name in ("sharpness", "noise", "burnt"))
    assert max(sharpness) > 3 and max(noise) < 0.002  # many edges, no noise
    assert burnt[0] < 0.01 < 0.1 < max(burnt)


# --- what nothing, or little, can be said of -------------------------------------------------------------------------


def test_nothing_is_suggested_where_nothing_can_be_said(library: LoraLibrary) -> None:
    assert of_changes(library, [0.001, 0.01, 0.019]) == (
        "none",
        "No cell differs visibly from the picture without a LoRA.",
    )
    label, reason = of_changes(library, [0.4, 0.45, 0.5], burnt=[0.4, 0.5, 0.6])
    assert label == "none" and "every choice that changes anything is burnt" in reason and "lower weights" in reason
    # line art, or a white ground: what shows the effect is at the ends of the scale, and the rest is too faint
    label, reason = of_changes(library, [0.05, 0.15, 0.35, 0.4], burnt=[0.02, 0.1, 0.5, 0.6])
    assert label == "none" and "cannot be said without training pictures" in reason and "15%" in reason


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"noise": [0, 0, 0, 0.05]}, "too noisy"),
        ({"burnt": [0, 0, 0, 0.31]}, "burnt"),
        ({"sharpness": [1, 1, 1, 0.4]}, "too blurred"),
    ],
)
def test_damaged_cells_are_left_out_and_the_reason_says_why(
    library: LoraLibrary, more: dict[str, list[float]], word: str
) -> None:
    label, reason = of_changes(library, [0.05, 0.2, 0.28, 0.5], **more)
    assert label == "weight 0.4" and f"Left out as {word}" in reason and reason.count("28%") == 1
    label, reason = of_changes(library, [0.05, 0.2, 0.28, 0.5])
    assert label == "weight 0.8" and "Nothing stronger is on the sheet" in reason


def test_more_edges_alone_are_no_damage(library: LoraLibrary) -> None:
    label, _ = of_changes(library, [0.06, 0.2, 0.3, 0.32], sharpness=[1, 3, 6, 9])
    assert label == "weight 0.6"


def test_where_the_change_gets_steeper_to_the_end_the_strongest_is_suggested(library: LoraLibrary) -> None:
    label, reason = of_changes(library, [0.01, 0.02, 0.045, 0.06, 0.08])
    assert label == "weight 1" and "higher weights may show more" in reason
    assert of_changes(library, [0.03, 0.05, 0.065, 0.075, 0.08])[0] == "weight 0.6"
    made = planned(library, "epoch:30,60,90")  # no weights to compare by
    found = suggest(made, [Score(0.02, 1), Score(0.04, 1), Score(0.057, 1)])
    assert suggested(made, found) == "epoch 60"


# --- cells that are the same -----------------------------------------------------------------------------------------


def drawn(library: LoraLibrary, folder: Path, x: str, y: str = "", z: str = "") -> SheetResult:
    """A sheet of the renderer, whose files act on the U-Net alone."""
    return build_sheet(planned(library, x, y, z), TwinRenderer(), CellStore(folder), scorer=Scorer())


class TwinRenderer(FrameRenderer):
    """Frames that grow with the U-Net weight; text-encoder weights change one colour value by rounding."""

    def paint(self, image_spec: ImageSpec) -> Image.Image:
        share = min(1.0, sum(request.unet for request in image_spec.tags()))
        scene = shapes.random_scene(np.random.default_rng(image_spec.seed))
        plain, framed = (
            np.asarray(shapes.draw_scene(s), float) for s in (scene, shapes.replace(scene, style="framed"))
        )
        values = plain * (1 - share) + framed * share
        values[0, 0] += sum(request.te for request in image_spec.tags()) / 2  # below what counts as a difference
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))


def test_equal_cells_are_reported_and_only_the_first_is_suggested(library: LoraLibrary, tmp_path: Path) -> None:
    made = drawn(library, tmp_path, "te:0.2,0.6,1", "unet:0,0.5,1", "seed:1,2")
    places = [place for place, _ in enumerate(made.plan.cells)]
    first = [place for place in places if made.plan.cells[place].x == 0]
    assert made.suggestion and set(made.suggestion.cells) <= set(first) and len(made.suggestion.cells) == 2
    manifest = load_manifest(tmp_path)
    for place, cell in zip(places, manifest["cells"], strict=True):
        weight, seed = (axis.values[at].label for axis, at in ((made.plan.y, cell["y"]), (made.plan.z, cell["z"])))
        expected = None if place in first else f"te 0.2 × {weight} × {seed}"
        assert cell["same_as"] == ("without a LoRA" if cell["y"] == 0 else expected)
    names = (
        "te 0.2 × U-Net 0 × seed 1 = te 0.6 × U-Net 0 × seed 1 = te 1 × U-Net 0 × seed 1 and 3 more "
        "= without a LoRA; te 0.6 × U-Net 0.5 × seed 1 = te 1 × U-Net 0.5 × seed 1 = te 0.2 × U-Net 0.5 × seed 1;"
    )
    assert manifest["same"].startswith(f"The same picture in 14 of 18 cells: {names}") and manifest["same"].endswith(
        "; and 2 more."
    )
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["same as"] for row in rows] == [cell["same_as"] or "" for cell in manifest["cells"]]


def test_a_sheet_of_one_picture_says_so(library: LoraLibrary, tmp_path: Path) -> None:
    made = drawn(library, tmp_path, "te:0.2,0.6,1")
    assert made.suggestion == Suggestion((), "Nothing to choose: all cells show the same picture as te 0.2.")
    assert made.identical == {1: "te 0.2", 2: "te 0.2"}


def test_a_weight_that_is_named_twice_is_one_choice(library: LoraLibrary, tmp_path: Path) -> None:
    made = drawn(library, tmp_path, "weight:0.2,0.2,0.6,0.8")
    assert made.suggestion is not None and made.suggestion.cells == (2,) and made.identical == {1: "weight 0.2"}


def test_whole_prompts_are_called_by_their_number(library: LoraLibrary) -> None:
    made = planned(library, "epoch:30,60", z="prompt:a circle on a ground that is long to read | a square")
    assert shared_label(made, [made.cells[3]]) == "epoch 60 × prompt 2"


def test_weight_0_is_called_no_lora_where_none_is_left(library: LoraLibrary) -> None:
    assert [value.label for value in planned(library, "seed:1,2", "weight:0,0.5").y.values] == ["no LoRA", "weight 0.5"]
    made = plan_sheet(ImageSpec(prompt="<lora:run:1> <lora:run-000030:1>"), "weight run:0,1", "", "", library)
    assert made.x.values[0].label == "weight 0"


def test_a_weight_of_nothing_is_no_news(library: LoraLibrary, tmp_path: Path) -> None:
    made = drawn(library, tmp_path, "weight:0,0.5,1")
    assert made.identical == {} and load_manifest(tmp_path)["same"] == ""


def test_equal_but_for_rounding(tmp_path: Path) -> None:
    store, rng = CellStore(tmp_path), np.random.default_rng(1)
    one = rng.integers(0, 250, (64, 64, 3))
    kinds = {"one": one, "round": one + rng.integers(0, 2, one.shape), "two": one + 2 * (one == one[5, 5])}
    for number, (name, values) in enumerate(kinds.items()):
        store.save_image(name, Image.fromarray(values.astype(np.uint8)), number)
    store.save_image("large", Image.fromarray(one.astype(np.uint8)).resize((128, 128), Image.Resampling.NEAREST), 9)
    assert find_identical_cells(["one", "two", "round", "large", "two"], store) == {2: 0, 4: 1}


def test_captions_stand_under_their_pictures() -> None:
    cell = shapes.draw_scene(shapes.Scene("circle", "red", "blue"))
    plain = Sheet("t", ["a", "b"], [""], [[cell, cell]], scale=2)
    both = draw_sheet(Sheet("t", ["a", "b"], [""], [[cell, cell]], scale=2, captions={(0, 1): "= a"}))
    before, after = np.asarray(draw_sheet(plain)), np.asarray(both)
    grown = after.shape[0] - before.shape[0]
    assert 8 < grown < 40
    under, second = after[-grown - 18 : -18], 6 + 128 + 6  # paper, but for the text under the second picture
    assert (under[:, :second] == 255).all() and not (under[:, second:] == 255).all()


# --- measures ---------------------------------------------------------------------------------------------------------


def test_noise_is_seen_and_edges_are_not() -> None:
    rng = np.random.default_rng(2)
    for style in shapes.STYLES:
        scene = shapes.random_scene(rng, style=style)
        assert image_measures.noise_level(shapes.draw_scene(scene)) < 0.001
    image = shapes.draw_scene(shapes.Scene("circle", "cyan", "purple", style="striped"))
    for size in (5, 10, 20):  # stripes and rounding add a little
        noisy = (np.asarray(image, float) + rng.normal(0, size, (64, 64, 1))).clip(0, 255).round().astype(np.uint8)
        assert 1 <= image_measures.noise_level(Image.fromarray(noisy)) / (size / 255) < 1.4
    flat = (128 + rng.normal(0, 10, (64, 64, 1)) + np.zeros(3)).round().astype(np.uint8)
    assert image_measures.noise_level(Image.fromarray(flat)) == pytest.approx(10 / 255, rel=0.1)
    assert image_measures.noise_level(Image.new("RGB", (1, 1))) == 0
    assert image_measures.sharpness(image) > 5 * image_measures.sharpness(image.filter(ImageFilter.GaussianBlur(3)))


def test_clipping_is_the_share_of_values_at_an_end() -> None:
    values = np.full((10, 10, 3), 128, np.uint8)
    values[:5, :, 0], values[5:, :, 0] = 255, 0
    assert image_measures.clipped_share(Image.fromarray(values)) == pytest.approx(1 / 3)
    assert image_measures.clipped_share(Image.new("RGB", (8, 8), (4, 250, 128))) == 0


def test_what_gains_in_one_measure_and_loses_more_in_the_other_is_not_suggested(library: LoraLibrary) -> None:
    """It ended in an error."""
    made = planned(library, "weight:0.5,1")
    scores = [Score(0.2, 1.0, likeness=0.51, near=0.1), Score(0.2, 1.0, likeness=0.1, near=0.51)]
    found = suggest(made, scores, base=(0.5, 0.5))
    assert not found.cells and "No choice is nearer" in found.reason


def test_where_nothing_was_learned_longer_training_is_advised(library: LoraLibrary) -> None:
    """The numbers of two runs that ended too early, and of one that taught; the last cell was suggested."""
    made = planned(library, "epoch:30,60")
    early = [(0.0, 0.47, 0.63), (0.102, 0.452, 0.688)], [(0.005, 0.707, 0.78), (0.039, 0.731, 0.779)]
    for base, rows in zip(((0.47, 0.62), (0.71, 0.78)), early, strict=True):
        found = suggest(made, [Score(d, 1.0, likeness=a, near=b) for d, a, b in rows], base=base)
        assert not found.cells and "Train longer (more epochs), or with a higher" in found.reason
    faint = [Score(d, 1.0, likeness=0.9, near=0.9) for d in (0.001, 0.01)]
    assert "No cell differs" in (reason := suggest(made, faint, base=(0.4, 0.6)).reason) and "Train longer" in reason
    taught = [Score(0.078, 1.0, likeness=0.55, near=0.66), Score(0.28, 1.0, likeness=0.864, near=0.885)]
    assert suggest(made, taught, base=(0.47, 0.62)).cells


GAIN = st.floats(-0.5, 0.5)


@pytest.fixture(scope="module")
def eight_choices(library: LoraLibrary) -> SheetPlan:
    return planned(library, "weight:0.2-0.8(+0.2)", "epoch:30,60")


@settings(max_examples=60, deadline=None)
@given(gains=st.lists(st.tuples(GAIN, GAIN), min_size=8, max_size=8))
@example(gains=[(0.1, 0.1), *[(-0.5, -0.5)] * 7])  # ended in an error
def test_any_gains_have_a_choice_that_gains_or_none(eight_choices: SheetPlan, gains: list[tuple[float, float]]) -> None:
    places = [(0.5 + a, 0.5 + b) for a, b in gains]
    scores = [Score(0.1 * i + 0.1, 1.0, likeness=a, near=b) for i, (a, b) in enumerate(places)]
    found = suggest(eight_choices, scores, base=(0.5, 0.5))
    assert found.reason.startswith("Suggested: " if found.cells else "No choice is nearer to the training pictures")
    assert all(max(places[cell]) > 0.5 for cell in found.cells)
    assert found.cells or not any(min(place) > 0.5 for place in places)


def test_with_training_pictures_the_nearest_is_suggested_not_the_gentlest(library: LoraLibrary) -> None:
    """What is clearly less near has learned less; one picture may be near by luck, where those beside it are not."""
    made = planned(library, "epoch:all")
    near = [(0.25, 0.8, 0.82), (0.28, 0.865, 0.885), (0.277, 0.86, 0.884), (0.279, 0.832, 0.879)]
    found = suggest(made, [Score(d, 1.0, likeness=a, near=b) for d, a, b in near], base=(0.475, 0.626))
    assert suggested(made, found) == "epoch 90", found.reason
    lucky = [(0.2, 0.7, 0.7), (0.27, 0.87, 0.89), (0.18, 0.66, 0.66), (0.279, 0.86, 0.88), (0.278, 0.862, 0.881)]
    weights, presets = "0.2-1.0(+0.2)", "ALL,INS,MIDD,OUTD,NONE"
    axes = {f"weight:{weights}": "weight 1", f"Weight :{weights}": "weight 1", f"preset:{presets}": "INS"}
    for axis, expected in axes.items():
        made = planned(library, axis)  # presets have no order, so that each stands for itself
        found = suggest(made, [Score(d, 1.0, likeness=a, near=b) for d, a, b in lucky], base=(0.475, 0.626))
        assert suggested(made, found) == expected, found.reason
