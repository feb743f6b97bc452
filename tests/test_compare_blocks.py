"""Block analysis: by ‖ΔW‖ and by pictures, for every layout; the preset that comes of it; the heat map."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Tiny, lora_file, sites_in

from lora_ext.adapters import Lora
from lora_ext.blocks import BASE, LAYOUTS, parse_weights, read_presets
from lora_ext.cli import main as cli
from lora_ext.compare import block_analysis, heatmap
from lora_ext.compare.block_analysis import Analysis, by_norms, by_pictures, layout_of
from lora_ext.compare.cell_store import Store
from lora_ext.compare.image_spec import Shot
from lora_ext.embedded import CHECKPOINT, LORA_DIR
from lora_ext.errors import BlockError, LoraError
from lora_ext.file.loading import read
from lora_ext.file.lora_file import LoraFile
from lora_ext.file.lora_library import Library
from lora_ext.file.saving import write
from lora_ext.generate import Settings, open_model
from lora_ext.generate.image_renderer import StandaloneArtist
from lora_ext.host.standalone.loader import Standalone
from lora_ext.inject import targets

CHOSEN = {12: "OUT04", 17: "IN05", 20: "OUT07", 25: "OUT09", 26: "BASE"}
"""Layout → the block that a file acts in."""


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny()


def only(file: LoraFile, block: str) -> LoraFile:
    """The part of a file in one block."""
    return LoraFile({site: file.adapters[site] for site in sites_in(file, block)})


# --- by norms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", LAYOUTS)
def test_norms_find_the_only_block(tiny: Tiny, size: int) -> None:
    whole = lora_file(tiny, wide=True)
    for label in layout_of(size).labels:
        file = only(whole, label)
        if file.adapters:
            found = by_norms(file, layout_of(size))
            assert found.shares[label] == pytest.approx(1) and found.keep() == (label,) and found.outside == 0


@pytest.mark.parametrize("kind", ["lora", "loha", "lora-dora-out"])
def test_norms_are_those_of_the_weight_changes(tiny: Tiny, kind: str) -> None:
    file = lora_file(tiny, kind, wide=True)
    places = {site: t for part, root in tiny.parts().items() for site, t in targets(part, root).items()}
    found = by_norms(file, layout_of(26), targets=places)
    for label in ("BASE", "IN04", "MID", "OUT11"):
        deltas = [
            file.adapters[site].delta(dict(places[site].module.named_parameters())["weight"]).double()
            for site in sites_in(file, label)
        ]
        expected = torch.cat([delta.flatten() for delta in deltas]).norm().item()
        assert found.amounts[label] == pytest.approx(expected, rel=1e-4)
    if kind != "lora":
        with pytest.raises(LoraError, match="without the model"):
            by_norms(file, layout_of(26))


def test_what_a_layout_leaves_out_is_told(tiny: Tiny) -> None:
    whole = lora_file(tiny)
    sites = [*sites_in(whole, "IN03"), *sites_in(whole, "IN04")]
    found = by_norms(LoraFile({site: whole.adapters[site] for site in sites}), layout_of(17))
    assert found.keep() == ("IN04",)
    if sites_in(whole, "IN03"):
        assert 0 < found.outside < 1 and "switches off" in found.sentence()


# --- by pictures -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Standalone:
    if not Path(CHECKPOINT).is_file():
        pytest.skip("no embedded model in this installation")
    return open_model(Settings(device="cpu"))


@pytest.mark.parametrize("size", LAYOUTS)
def test_pictures_find_the_only_block(model: Standalone, size: int, tmp_path: Path) -> None:
    """Each other block leaves the picture as it is, whatever the model draws."""
    block, torch_rng = CHOSEN[size], torch.Generator().manual_seed(size)
    adapters = {}
    for part, root in model.parts().items():
        for site, target in targets(part, root).items():
            if site.block == block and len(target.shape) == 2:
                up, down = (torch.randn(*s, generator=torch_rng) for s in ((target.shape[0], 2), (2, target.shape[1])))
                adapters[site] = Lora({"lora_up.weight": up * 0.4, "lora_down.weight": down * 0.4})
    assert adapters
    write(LoraFile(adapters), tmp_path / "one.safetensors")
    settings, library = Settings(device="cpu"), Library([tmp_path])
    base = Shot(prompt="a red circle <lora:one:1>", steps=1, cfg=1, seed=1, width=32, height=32, sampler="Euler")
    for way in (block_analysis.LOWERED, block_analysis.RAISED):
        with StandaloneArtist(settings, model, library) as artist:
            found = by_pictures(base, layout_of(size), way, artist, Store(tmp_path / way), seeds=[1])
        assert found.keep() == (block,), way
        assert found.shares[block] > 0.98
        assert set(found.pictures) == {*layout_of(size).labels, ""}


def test_ways_and_layouts_are_named(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match="did you mean 'lowered'"):
        block_analysis.shots(Shot(prompt="<lora:a:1>", lora="a"), layout_of(17), "lower")
    with pytest.raises(BlockError, match="no layout has 18"):
        layout_of(18)
    with pytest.raises(LoraError, match="which LoRA"):
        by_pictures(Shot(prompt="a"), layout_of(17), "lowered", None, Store(tmp_path))  # type: ignore[arg-type]


# --- what comes of it --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.sampled_from(list(LAYOUTS)), st.data(), st.floats(0.05, 1))
def test_presets_keep_the_fewest_blocks_that_do_enough(size: int, data: st.DataObject, share: float) -> None:
    layout = layout_of(size)
    values = data.draw(st.lists(st.floats(0, 10), min_size=size, max_size=size))
    found = Analysis("a", layout, block_analysis.NORMS, dict(zip(layout.labels, values, strict=True)))
    kept = found.keep(share)
    if sum(values) > 0:
        assert sum(found.shares[label] for label in kept) >= share - 1e-6
        smallest = min(found.shares[label] for label in kept)
        assert sum(found.shares[label] for label in kept) - smallest < share + 1e-6
    weights = parse_weights("FACE", presets=read_presets(found.preset("FACE", share)))
    assert {label for label in layout.labels if weights.of(label)} == set(kept)


def test_words() -> None:
    layout = layout_of(17)
    amounts = dict.fromkeys(("BASE", "IN01", "OUT03", "OUT04", "OUT05", "MID"), 1.0)
    found = Analysis("face", layout, block_analysis.NORMS, amounts)
    assert found.sentence(1).startswith("Keep BASE, IN01, MID–OUT05: 6 of 17 do 100%")
    assert "No block" in Analysis("none", layout, block_analysis.NORMS, {}).sentence()
    with pytest.raises(BlockError, match="no name for a preset"):
        found.preset("A:B")


@pytest.mark.parametrize("size", LAYOUTS)
def test_the_map_shows_the_hottest_block_red(size: int) -> None:
    layout = layout_of(size)
    hot = layout.labels[-1]
    for label in (hot, layout.labels[0]):
        picture = np.asarray(heatmap.render(Analysis("a", layout, block_analysis.NORMS, {label: 1.0})))
        red = (picture == heatmap.HOT).all(-1)
        at = np.argwhere(red).mean(0)
        assert red.sum() > 1000
        assert (at[1] > picture.shape[1] / 2) == (label == hot) or label == BASE


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], model: Standalone) -> None:
    name = sorted(Path(LORA_DIR).glob("*.safetensors"))[0].stem
    assert cli(["blocks", "--lora", name, "--out", str(tmp_path), "--name", "FACE", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["way"] == "norms" and told["preset"].startswith("FACE:") and Path(told["map"]).is_file()
    expected = by_norms(read(Path(LORA_DIR) / f"{name}.safetensors"), layout_of(17))
    with (tmp_path / "blocks.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["block"]: float(row["share"]) for row in csv.DictReader(file)}
    assert rows == pytest.approx(expected.shares, abs=1e-4)
    assert cli(["blocks", "--lora", name, "--layout", "13", "--out", str(tmp_path)]) == 2
    assert cli(["blocks"]) == 2
    assert "which LoRA" in capsys.readouterr().err
