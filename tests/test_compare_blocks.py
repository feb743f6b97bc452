"""Block analysis: by ‖ΔW‖ and by pictures, for every layout; the preset that comes of it; the heat map."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Tiny, layer_ids_in, lora_file

from lora_ext.adapters import Lora
from lora_ext.block_weights import parse_block_presets, parse_block_weights
from lora_ext.blocks import BASE, BLOCK_LAYOUTS
from lora_ext.cli import main as cli
from lora_ext.compare import block_analysis, heatmap
from lora_ext.compare.block_analysis import BlockAnalysis, analyse_by_images, analyse_by_norms, parse_layout
from lora_ext.compare.cell_store import CellStore
from lora_ext.compare.generate_cells import SheetProgress
from lora_ext.compare.image_spec import ImageSpec
from lora_ext.embedded import CHECKPOINT, LORA_DIR
from lora_ext.errors import BlockError, LoraError
from lora_ext.file.loading import load_lora_file
from lora_ext.file.lora_file import LoraFile
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.file.saving import save_lora_file
from lora_ext.generate import Settings, load_settings_model
from lora_ext.generate.image_renderer import StandaloneImageRenderer
from lora_ext.generate.sheet_progress_bar import SheetProgressBar
from lora_ext.host.standalone.loader import StandaloneModel
from lora_ext.inject import find_layer_targets

CHOSEN = {12: "OUT04", 17: "IN05", 20: "OUT07", 25: "OUT09", 26: "BASE"}
"""Layout → the block that a file acts in."""


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny()


def only(file: LoraFile, block: str) -> LoraFile:
    """The part of a file in one block."""
    return LoraFile({layer_id: file.adapters[layer_id] for layer_id in layer_ids_in(file, block)})


# --- by norms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", BLOCK_LAYOUTS)
def test_norms_find_the_only_block(tiny: Tiny, size: int) -> None:
    whole = lora_file(tiny, wide=True)
    for label in parse_layout(size).labels:
        file = only(whole, label)
        if file.adapters:
            found = analyse_by_norms(file, parse_layout(size))
            assert (
                found.shares[label] == pytest.approx(1)
                and found.blocks_to_keep() == (label,)
                and found.outside_share == 0
            )


@pytest.mark.parametrize("kind", ["lora", "loha", "lora-dora-out"])
def test_norms_are_those_of_the_weight_changes(tiny: Tiny, kind: str) -> None:
    file = lora_file(tiny, kind, wide=True)
    places = {
        layer_id: t for part, root in tiny.parts().items() for layer_id, t in find_layer_targets(part, root).items()
    }
    found = analyse_by_norms(file, parse_layout(26), targets=places)
    for label in ("BASE", "IN04", "MID", "OUT11"):
        deltas = [
            file.adapters[layer_id].delta(dict(places[layer_id].module.named_parameters())["weight"]).double()
            for layer_id in layer_ids_in(file, label)
        ]
        expected = torch.cat([delta.flatten() for delta in deltas]).norm().item()
        assert found.amounts[label] == pytest.approx(expected, rel=1e-4)
    if kind != "lora":
        with pytest.raises(LoraError, match="can only be measured with a model"):
            analyse_by_norms(file, parse_layout(26))


def test_what_a_layout_leaves_out_is_reported(tiny: Tiny) -> None:
    whole = lora_file(tiny)
    layer_ids = [*layer_ids_in(whole, "IN03"), *layer_ids_in(whole, "IN04")]
    found = analyse_by_norms(LoraFile({layer_id: whole.adapters[layer_id] for layer_id in layer_ids}), parse_layout(17))
    assert found.blocks_to_keep() == ("IN04",)
    if layer_ids_in(whole, "IN03"):
        assert 0 < found.outside_share < 1 and "switches off" in found.summary()


# --- by pictures -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> StandaloneModel:
    if not Path(CHECKPOINT).is_file():
        pytest.skip("no embedded model in this installation")
    return load_settings_model(Settings(device="cpu"))


@pytest.mark.long
@pytest.mark.parametrize("size", BLOCK_LAYOUTS)
def test_pictures_find_the_only_block(model: StandaloneModel, size: int, tmp_path: Path) -> None:
    """Each other block leaves the picture as it is, whatever the model draws."""
    block, torch_rng = CHOSEN[size], torch.Generator().manual_seed(size)
    adapters = {}
    for part, root in model.parts().items():
        for layer_id, target in find_layer_targets(part, root).items():
            if layer_id.block == block and len(target.shape) == 2:
                up, down = (torch.randn(*s, generator=torch_rng) for s in ((target.shape[0], 2), (2, target.shape[1])))
                adapters[layer_id] = Lora({"lora_up.weight": up * 0.4, "lora_down.weight": down * 0.4})
    assert adapters
    save_lora_file(LoraFile(adapters), tmp_path / "one.safetensors")
    settings, library = Settings(device="cpu"), LoraLibrary([tmp_path])
    base = ImageSpec(prompt="a red circle <lora:one:1>", steps=1, cfg=1, seed=1, width=32, height=32, sampler="Euler")
    for way in (block_analysis.LOWERED, block_analysis.RAISED):
        with StandaloneImageRenderer(settings, model, library) as renderer:
            found = analyse_by_images(base, parse_layout(size), way, renderer, CellStore(tmp_path / way), seeds=[1])
        assert found.blocks_to_keep() == (block,), way
        assert found.shares[block] > 0.98
        assert set(found.images) == {*parse_layout(size).labels, ""}


def test_ways_and_layouts_are_named(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match="did you mean 'lowered'"):
        block_analysis.block_image_specs(ImageSpec(prompt="<lora:a:1>", lora="a"), parse_layout(17), "lower")
    with pytest.raises(BlockError, match="no layout has the size 18"):
        parse_layout(18)
    with pytest.raises(LoraError, match="which LoRA"):
        analyse_by_images(ImageSpec(prompt="a"), parse_layout(17), "lowered", None, CellStore(tmp_path))  # type: ignore[arg-type]


# --- what comes of it --------------------------------------------------------------------------------------------


@given(st.sampled_from(list(BLOCK_LAYOUTS)), st.data(), st.floats(0.05, 1))
def test_presets_keep_the_fewest_blocks_that_do_enough(size: int, data: st.DataObject, share: float) -> None:
    layout = parse_layout(size)
    values = data.draw(st.lists(st.floats(0, 10), min_size=size, max_size=size))
    found = BlockAnalysis("a", layout, block_analysis.NORMS, dict(zip(layout.labels, values, strict=True)))
    kept = found.blocks_to_keep(share)
    if sum(values) > 0:
        assert sum(found.shares[label] for label in kept) >= share - 1e-6
        smallest = min(found.shares[label] for label in kept)
        assert sum(found.shares[label] for label in kept) - smallest < share + 1e-6
    weights = parse_block_weights("FACE", presets=parse_block_presets(found.preset_line("FACE", share)))
    assert {label for label in layout.labels if weights.weight_of(label)} == set(kept)


def test_summary_and_preset_names() -> None:
    layout = parse_layout(17)
    amounts = dict.fromkeys(("BASE", "IN01", "OUT03", "OUT04", "OUT05", "MID"), 1.0)
    found = BlockAnalysis("face", layout, block_analysis.NORMS, amounts)
    assert found.summary(1).startswith("Keep BASE, IN01, MID–OUT05: 6 of 17 blocks make up 100%")
    assert "No block" in BlockAnalysis("none", layout, block_analysis.NORMS, {}).summary()
    with pytest.raises(BlockError, match="a preset cannot be named"):
        found.preset_line("A:B")


@pytest.mark.parametrize("size", BLOCK_LAYOUTS)
def test_the_map_shows_the_hottest_block_red(size: int) -> None:
    layout = parse_layout(size)
    hot = layout.labels[-1]
    for label in (hot, layout.labels[0]):
        picture = np.asarray(heatmap.draw_heatmap(BlockAnalysis("a", layout, block_analysis.NORMS, {label: 1.0})))
        red = (picture == heatmap.HOT).all(-1)
        at = np.argwhere(red).mean(0)
        assert red.sum() > 1000
        assert (at[1] > picture.shape[1] / 2) == (label == hot) or label == BASE


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], model: StandaloneModel) -> None:
    name = sorted(Path(LORA_DIR).glob("*.safetensors"))[0].stem
    assert cli(["blocks", "--lora", name, "--out", str(tmp_path), "--name", "FACE", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["way"] == "norms" and output["preset"].startswith("FACE:") and Path(output["map"]).is_file()
    weights = output["preset"].removeprefix("FACE:")
    assert output["tag"] == f"<lora:{name}:1:lbw={weights}>"
    options = ["--prompt", f"a <lora:{name}:0.5:lbw=OUTALL>", "--way", "norms", "--out", str(tmp_path)]
    assert cli(["blocks", *options]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [f"KEEP:{weights}", f"<lora:{name}:0.5:lbw={weights}>"]
    expected = analyse_by_norms(load_lora_file(Path(LORA_DIR) / f"{name}.safetensors"), parse_layout(17))
    with (tmp_path / "blocks.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["block"]: float(row["share"]) for row in csv.DictReader(file)}
    assert rows == pytest.approx(expected.shares, abs=1e-4)
    assert cli(["blocks", "--lora", name, "--layout", "13", "--out", str(tmp_path)]) == 2
    assert cli(["blocks"]) == 2
    assert "no LoRA is given" in capsys.readouterr().err


def test_a_log_file_gets_few_lines_of_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard error is no terminal here; there each state of a bar is one more line that stays."""
    bar = SheetProgressBar()
    for done in range(500):
        bar(SheetProgress(500, done=done))
    bar.close()
    assert len(capsys.readouterr().err.split("\r")) < 8
