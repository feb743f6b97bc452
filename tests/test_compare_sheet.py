"""Generating into a store, resuming after a kill, pages, scores and the suggestion, with a renderer without a model."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageFont
from test_compare_axes import write

import lora_ext
from lora_ext.compare import heatmap, image_measures, sheet_pages, text_layout
from lora_ext.compare.block_analysis import BlockAnalysis, parse_layout
from lora_ext.compare.build_sheet import _shared_settings, build_sheet
from lora_ext.compare.cell_store import CellStore, load_manifest
from lora_ext.compare.generate_cells import DenoisingCallback, SheetProgress, SheetStopped, cell_keys, generate_cells
from lora_ext.compare.image_spec import ImageSpec
from lora_ext.compare.scores import Scorer, find_training_images
from lora_ext.compare.sheet_layout import Bar, Sheet, draw_sheet
from lora_ext.compare.sheet_pages import PageDetails, split_into_tiles
from lora_ext.compare.sheet_plan import SheetPlan, plan_sheet
from lora_ext.embedded import shapes
from lora_ext.errors import FileError, LoraError
from lora_ext.file.lora_library import LoraLibrary

EPOCHS = 6


class FrameRenderer:
    """A renderer whose LoRAs "train" a frame into images: each epoch more of it, the last ones too much."""

    def __init__(self, log: Path | None = None, slow: float = 0.0, version: str = "") -> None:
        self.log, self.slow, self.version = log, slow, version
        self.drawn: list[str] = []
        self.batches: list[int] = []
        self.title = "paint"

    def identity(self, image_spec: ImageSpec) -> str:
        return self.version

    def batch_key(self, image_spec: ImageSpec) -> Hashable:
        return image_spec.batch_key()

    def generate(self, image_specs: Sequence[ImageSpec], on_step: DenoisingCallback) -> list[Image.Image]:
        self.batches.append(len(image_specs))
        for step in range(3):
            on_step(step, 3)
            time.sleep(self.slow)
        images = [self.paint(image_spec) for image_spec in image_specs]
        if self.log:
            with self.log.open("a") as file:
                file.writelines(f"{image_spec.key()}\n" for image_spec in image_specs)
        self.drawn += [image_spec.key() for image_spec in image_specs]
        return images

    def paint(self, image_spec: ImageSpec) -> Image.Image:
        """At strength 1 the framed scene; above, ever less of it and more noise; below, less frame."""
        strength = sum(request.unet * int(request.name[-1]) / 4 for request in image_spec.tags())
        rng = np.random.default_rng(image_spec.seed)
        scene = shapes.random_scene(rng)
        plain, framed = (
            np.asarray(shapes.draw_scene(s), float) for s in (scene, shapes.replace(scene, style="framed"))
        )
        share = min(strength, 1.0)
        noise = rng.normal(0, 90 * max(0.0, strength - 1.1), plain.shape)
        image = Image.fromarray((plain * (1 - share) + framed * share + noise).clip(0, 255).astype(np.uint8))
        image.info["parameters"] = f"{image_spec.prompt}\nSeed: {image_spec.seed}"
        return image


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> LoraLibrary:
    folder = tmp_path_factory.mktemp("loras")
    for epoch in range(1, EPOCHS + 1):
        write(folder / f"run-{epoch:06}.safetensors")
    return LoraLibrary([folder])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(77)
    for number in range(12):
        shapes.draw_scene(shapes.random_scene(rng, style="framed")).save(folder / f"{number}.png")
    return folder


def sheet(library: LoraLibrary, seeds: str = "1,2") -> SheetPlan:
    """6 epochs × 7 weights × 2 seeds."""
    return plan_sheet(
        ImageSpec(prompt="a shape <lora:run-000001:1>"), "epoch:all", "weight:0.2-1.4(+0.2)", f"seed:{seeds}", library
    )


# --- the store ---------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_84_cells_each_once_and_kept(library: LoraLibrary, tmp_path: Path) -> None:
    made, renderer, store = sheet(library), FrameRenderer(), CellStore(tmp_path)
    image_specs = [cell.image_spec for cell in made.cells]
    assert len(image_specs) == 84
    progress = generate_cells(image_specs, renderer, store, batch=8)
    assert (progress.total, progress.kept, progress.done) == (84, 0, 84)
    assert len(set(renderer.drawn)) == len(renderer.drawn) == 84
    assert renderer.batches == [8] * 10 + [4]
    again = FrameRenderer()
    assert generate_cells(image_specs, again, CellStore(tmp_path)).kept == 84 and not again.drawn
    for cell, key in zip(made.cells, cell_keys(made, renderer), strict=True):
        image = store.load_image(key)
        assert (
            image is not None and image.info["parameters"] == f"{cell.image_spec.prompt}\nSeed: {cell.image_spec.seed}"
        )
        assert np.array_equal(np.asarray(image), np.asarray(renderer.paint(cell.image_spec)))


def test_where_no_model_can_be_loaded_no_folder_is_left(library: LoraLibrary, tmp_path: Path) -> None:
    renderer = FrameRenderer()
    renderer.identity = lambda image_spec: (_ for _ in ()).throw(LoraError("no model"))  # type: ignore[method-assign]
    with pytest.raises(LoraError, match="no model"):
        generate_cells([ImageSpec(prompt="a")], renderer, CellStore(tmp_path / "previews"))
    assert not (tmp_path / "previews").exists()


def test_a_sheet_is_stopped_before_its_first_picture(library: LoraLibrary, tmp_path: Path) -> None:
    """The keys of 20,000 cells take seconds; what the folder has stays."""
    made, store = sheet(library, "1-7"), CellStore(tmp_path)
    asked: list[SheetProgress] = []

    def stop(now: SheetProgress) -> None:
        asked.append(now)
        raise SheetStopped

    before = build_sheet(sheet(library), FrameRenderer(), store, on_progress=None).files
    result = build_sheet(made, FrameRenderer(), store, on_progress=stop)
    assert not result.finished and (result.progress.total, result.progress.done) == (294, 0)
    assert [(now.total, now.done) for now in asked] == [(294, 0)], "after 255 cells"
    assert all(path.is_file() for path in before) and len(list(store.cells.glob("*.png"))) == 84


SCRIPT = """
import sys
from pathlib import Path
from types import SimpleNamespace
from test_compare_sheet import FrameRenderer, LoraLibrary, CellStore, generate_cells, sheet
specs = [cell.image_spec for cell in sheet(LoraLibrary([sys.argv[1]])).cells]
generate_cells(specs, FrameRenderer(Path(sys.argv[3]), 0.1), CellStore(Path(sys.argv[2])), batch=4)
"""


@pytest.mark.long
def test_going_on_after_kill_9(library: LoraLibrary, tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    command = [sys.executable, "-c", SCRIPT, str(library.folders[0]), str(out), str(log)]
    here = os.pathsep.join([str(Path(lora_ext.__file__).parents[1]), str(Path(__file__).parent)])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": here})
    end = time.monotonic() + 120
    while len(list(out.glob("cells/0*.png"))) < 10 and time.monotonic() < end and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    half = out / "cells" / ".0099-half.part"
    half.write_bytes(b"half")
    os.utime(half, (1, 1))
    young = set(out.glob("cells/.*.part")) - {half}  # the cell being written; it may as well be another process'
    before = sorted(out.glob("cells/0*.png"))
    assert 10 <= len(before) < 84
    renderer, made = FrameRenderer(), sheet(library)
    progress = generate_cells([cell.image_spec for cell in made.cells], renderer, CellStore(out), batch=8)
    assert progress.kept == len(before) and len(renderer.drawn) == 84 - len(before)
    assert not set(renderer.drawn) & {path.stem.split("-")[-1] for path in before}
    assert len(list(out.glob("cells/0*.png"))) == 84 and set(out.glob("cells/.*")) == young
    assert {path.stem.split("-")[-1] for path in out.glob("cells/0*.png")} == set(cell_keys(made, renderer))


def test_what_a_picture_depends_on_is_in_its_name(library: LoraLibrary, tmp_path: Path) -> None:
    image_specs = [ImageSpec(prompt="a <lora:run-000001:1>"), ImageSpec(prompt="a <lora:run-000001:1>", seed=1)]
    generate_cells(image_specs, FrameRenderer(version="checkpoint 1"), CellStore(tmp_path))
    other = FrameRenderer(version="checkpoint 2")
    generate_cells(image_specs, other, CellStore(tmp_path))
    assert len(other.drawn) == 2
    next(tmp_path.glob("cells/0000-*.png")).write_bytes(b"")  # as after a power cut
    third = FrameRenderer(version="checkpoint 2")
    generate_cells(image_specs, third, CellStore(tmp_path))
    assert len(third.drawn) <= 1


@pytest.mark.long
def test_stopping_keeps_what_is_drawn(library: LoraLibrary, tmp_path: Path) -> None:
    made = sheet(library)

    def watch(progress: SheetProgress) -> None:
        if progress.done >= 16 and progress.batch_share > 0.5:
            raise SheetStopped

    half = build_sheet(made, FrameRenderer(), CellStore(tmp_path), on_progress=watch)
    assert half.progress.done == 16 and not half.finished and half.files and not half.scores
    assert not json.loads((tmp_path / "sheet.json").read_text(encoding="utf-8"))["complete"]
    whole = build_sheet(made, FrameRenderer(), CellStore(tmp_path))
    assert whole.finished and whole.progress.kept == 16


def test_a_drawn_seed_is_gone_on_with(tmp_path: Path, library: LoraLibrary) -> None:
    store, image_spec = CellStore(tmp_path), ImageSpec(prompt="a <lora:run-000001:1>", seed=123)
    build_sheet(plan_sheet(image_spec, "weight:1", "", "", library), FrameRenderer(), store)
    asked = {name: value for name, value in load_manifest(tmp_path)["base"].items() if name != "seed"}
    assert store.resumable_seed(asked, ("weight:1", "", "")) == 123
    assert store.resumable_seed(asked, ("weight:2", "", "")) is None
    assert store.resumable_seed({**asked, "prompt": "b"}, ("weight:1", "", "")) is None
    assert CellStore(tmp_path / "new").resumable_seed(asked, ("weight:1", "", "")) is None


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        CellStore(tmp_path / "file").create_folder()


# --- scores and the suggestion -----------------------------------------------------------------------------------


@pytest.mark.long
def test_the_suggested_cell_is_neither_untrained_nor_overtrained(
    library: LoraLibrary, images: Path, tmp_path: Path
) -> None:
    made = build_sheet(
        sheet(library, "1,2,3"), FrameRenderer(), CellStore(tmp_path), scorer=Scorer(find_training_images(images))
    )
    assert made.suggestion is not None and made.suggestion.cells
    for place in made.suggestion.cells:
        (request,) = made.plan.cells[place].image_spec.tags()
        strength = request.unet * int(request.name[-1]) / 4
        assert 0.6 <= strength <= 1.2, made.suggestion.reason
    assert len(made.suggestion.cells) == 3 and "likeness" in made.suggestion.reason
    first = made.plan.cells[made.suggestion.cells[0]]
    assert made.plan.x.values[first.x].label in made.suggestion.reason
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 126 and sum(row["suggested"] == "yes" for row in rows) == 3
    assert all((tmp_path / row["file"]).is_file() for row in rows)
    manifest = json.loads((tmp_path / "sheet.json").read_text(encoding="utf-8"))
    assert manifest["complete"] and manifest["pages"] == ["sheet-1.png", "sheet-2.png", "sheet-3.png"]
    assert [cell["prompt"] for cell in manifest["cells"]] == [cell.image_spec.prompt for cell in made.plan.cells]
    assert manifest["cells"][0]["tag"] == "<lora:run-000001:0.2>" and manifest["measured"].startswith(
        "colours and edges"
    )


@pytest.mark.long
def test_without_training_pictures_only_changes_speak(library: LoraLibrary, tmp_path: Path) -> None:
    made = build_sheet(sheet(library), FrameRenderer(), CellStore(tmp_path / "a"), scorer=Scorer())
    assert made.suggestion is not None and "without training pictures" in made.suggestion.reason
    none = build_sheet(
        plan_sheet(ImageSpec(prompt="a <lora:run-000001:1>"), "weight:0,0.001", "", "", library), FrameRenderer(),
                CellStore(tmp_path / "b"), scorer=Scorer())  # fmt: skip
    assert none.suggestion is not None and not none.suggestion.cells and "No cell differs" in none.suggestion.reason


def test_copies_of_training_pictures_are_named(images: Path, tmp_path: Path) -> None:
    training = find_training_images(images)
    scorer = Scorer(training)
    with Image.open(training[3]) as image:
        copied = image.convert("RGB")
    base = shapes.draw_scene(shapes.random_scene(np.random.default_rng(5)))
    for picture in (copied, copied.transpose(Image.Transpose.FLIP_LEFT_RIGHT), copied.resize((100, 100))):
        score = scorer.score(picture, base)
        assert score.copy_of == training[3].name and score.near is not None and score.near > 0.9
    assert not scorer.score(base, base).copy_of
    with pytest.raises(FileError, match="no pictures"):
        find_training_images(tmp_path)


@pytest.mark.long
def test_near_duplicates_are_warned_of(library: LoraLibrary, images: Path, tmp_path: Path) -> None:
    class Copier(FrameRenderer):
        """Past strength 1.2 it gives a training picture."""

        def paint(self, image_spec: ImageSpec) -> Image.Image:
            if sum(request.unet for request in image_spec.tags()) < 1.3:
                return super().paint(image_spec)
            with Image.open(find_training_images(images)[3]) as image:
                return image.convert("RGB")

    made = build_sheet(sheet(library), Copier(), CellStore(tmp_path), scorer=Scorer(find_training_images(images)))
    assert made.warning.startswith("Overfitting: 12 of 84") and "epoch 1 × weight 1.4" in made.warning
    assert load_manifest(tmp_path)["warning"] == made.warning
    assert made.suggestion and all(made.plan.cells[place].y != 6 for place in made.suggestion.cells)


@pytest.mark.long
def test_pages_are_drawn_while_a_sheet_fills(
    library: LoraLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 0.0  # one a step, however slow the machine is
    monkeypatch.setattr("lora_ext.compare.build_sheet.PREVIEW_SECONDS", 8.0)
    monkeypatch.setattr("lora_ext.compare.build_sheet.time", SimpleNamespace(monotonic=lambda: seconds))
    seen: list[int] = []

    def watch(now: SheetProgress) -> None:
        nonlocal seconds
        seconds += 1
        page = tmp_path / "sheet-1.png"
        if page.is_file():
            with Image.open(page) as image:
                seen.append(int((np.asarray(image.convert("RGB")) == (243, 243, 246)).all(-1).sum()))
        shown = [bool(cell["file"]) for cell in load_manifest(tmp_path)["cells"]]
        assert sum(shown) == now.done

    made = build_sheet(sheet(library), FrameRenderer(), CellStore(tmp_path), on_progress=watch)
    assert made.finished and len(seen) > 2 and seen[0] > seen[-1]  # ever fewer blank cells


def test_the_settings_that_cells_share_are_reported(library: LoraLibrary, tmp_path: Path) -> None:
    image_spec = ImageSpec(prompt="a <lora:run-000001:1>", negative_prompt="blurry", width=512, height=768, cfg=3)
    made = plan_sheet(image_spec, "weight:0.5,1", "steps:10,20", "", library)
    assert _shared_settings(made, "model") == "DPM++ 2M, CFG 3, 512x768, seed 0, without: blurry, model"


def test_measures() -> None:
    flat, half = Image.new("RGB", (64, 64), "grey"), Image.new("RGB", (64, 64), "white")
    assert image_measures.colour_difference(flat, flat) == 0 == image_measures.sharpness(flat)
    assert image_measures.colour_difference(Image.new("RGB", (8, 8)), half) == 1
    assert image_measures.colour_difference(flat.resize((32, 32)), flat) == pytest.approx(0, abs=1e-6)
    scene = shapes.draw_scene(shapes.Scene("circle", "red", "blue"))
    blurred = scene.resize((16, 16)).resize((64, 64))
    assert image_measures.sharpness(scene) > 1.5 * image_measures.sharpness(blurred)
    features = np.stack([image_measures.colour_edge_features(image) for image in (scene, blurred, flat)])
    assert np.linalg.norm(features, axis=1)[:2] == pytest.approx(1, abs=1e-4)
    near = image_measures.mean_likeness(features[:1], features[1:2])[0]
    assert 1 > near > image_measures.mean_likeness(features[:1], features[2:])[0]


# --- pages ---------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_pages_tiles_and_formats(library: LoraLibrary, tmp_path: Path) -> None:
    made, renderer, store = sheet(library), FrameRenderer(), CellStore(tmp_path)
    generate_cells([cell.image_spec for cell in made.cells], renderer, store)
    own = cell_keys(made, renderer)
    assert [path.name for path in sheet_pages.save_pages(made, store, own, PageDetails("t"))] == [
        "sheet-1.png",
        "sheet-2.png",
    ]
    cut = sheet_pages.save_pages(made, store, own, PageDetails("t"), largest=400_000)
    assert len(cut) > 4 and all("tile" in path.name for path in cut)
    assert sorted(path.name for path in tmp_path.glob("sheet*")) == sorted(path.name for path in cut)
    for path in cut:
        with Image.open(path) as image:
            assert image.width * image.height <= 500_000
    assert sheet_pages.save_page_image(Image.new("RGB", (4000, 3500)), tmp_path, "big").suffix == ".webp"
    assert (
        sheet_pages.save_page_image(Image.new("RGB", (17000, 1000)), tmp_path, "wide").suffix == ".png"
    )  # WebP ends at 16383


@pytest.mark.parametrize("largest", [10**9, 10**6, 10**5, 1])
def test_tiles_cover_each_cell_once(library: LoraLibrary, largest: int) -> None:
    spans = split_into_tiles(sheet(library), (100, 120), largest)
    found = [(row, column) for rows, columns in spans for row in rows for column in columns]
    assert sorted(found) == [(row, column) for row in range(7) for column in range(6)]


@pytest.mark.long
def test_pictures_stand_under_their_heads_unchanged() -> None:
    """Each cell's colour is found where its row and column say, whatever the letters around it."""
    rng = np.random.default_rng(1)
    for size, heads in (((64, 64), "a"), ((32, 96), "a-very-long-name_of-a-file-000001"), ((200, 100), "猫 " * 20)):
        colours = rng.integers(0, 200, (3, 4, 3))
        cells = [[Image.new("RGB", size, tuple(map(int, colour))) for colour in row] for row in colours]
        bars = {(row, column): [Bar(0.5, "#4c6ef5", "50%")] for row in range(3) for column in range(4)}
        picture = np.asarray(
            draw_sheet(
                Sheet(
                    "t" * 300,
                    [heads] * 4,
                    [heads] * 3,
                    cells,
                    "note",
                    subtitle="s",
                    bars=bars,
                    marks=frozenset({(0, 0)}),
                )
            )
        )
        places = np.array([[np.argwhere((picture == colour).all(-1)).min(0) for colour in row] for row in colours])
        assert (np.diff(places[:, :, 1], axis=1) >= size[0]).all() and (
            np.diff(places[:, :, 0], axis=0) >= size[1]
        ).all()
        assert (places[:, :, 0] == places[:, :1, 0]).all() and (places[:, :, 1] == places[:1, :, 1]).all()
        counts = [(picture == colour).all(-1).sum() for row in colours for colour in row]
        assert counts == [size[0] * size[1]] * 12


@pytest.mark.parametrize("fonts", ["none", "further"])
def test_an_older_pillow_draws_any_letters(monkeypatch: pytest.MonkeyPatch, fonts: str) -> None:
    """Before Pillow 10.1 its own font has one size and Latin letters only, and there may be no other."""
    fixed = ImageFont.load_default_imagefont() if hasattr(ImageFont, "load_default_imagefont") else None
    if fixed is None:
        pytest.skip("this Pillow is an old one itself")

    def load_default(*size: float) -> ImageFont.ImageFont:
        if size:
            raise TypeError("load_default() takes 0 positional arguments but 1 was given")
        return fixed

    def none(*_: object) -> None:
        raise OSError("cannot open resource")

    monkeypatch.setattr(ImageFont, "load_default", load_default)
    if fonts == "none":
        monkeypatch.setattr(ImageFont, "truetype", none)
    text_layout._default_font.cache_clear()
    text_layout._truetype_font.cache_clear()
    words = ["stop – “猫” …", "weight 0.5×"]
    shown = Sheet("‖ΔW‖ 猫", words, words, [[Image.new("RGB", (64, 64), "red")] * 2] * 2, "–", legend=[("red", "猫 –")])
    assert draw_sheet(shown).size[0] > 128
    assert heatmap.draw_heatmap(BlockAnalysis("猫 –", parse_layout(17), "norms", {"IN01": 1.0})).size[0] > 500
    text_layout._default_font.cache_clear()
    text_layout._truetype_font.cache_clear()
