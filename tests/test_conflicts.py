"""Conflicts of files: subspaces and shares against float64 NumPy, the split of blocks, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import KINDS, MAKERS, make, suits
from PIL import Image
from reference import reference
from safetensors.torch import load_file
from test_tools_laws import LAYERS, file_of, layer_id

from lora_ext import cli
from lora_ext.adapters import adapter_from_tensors
from lora_ext.adapters.lora import Lora
from lora_ext.block_weights import parse_block_weights
from lora_ext.compare.conflicts_command import format_conflicts
from lora_ext.errors import ToolError
from lora_ext.file.loading import load_lora_file
from lora_ext.file.lora_file import LoraFile
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.file.saving import save_lora_file
from lora_ext.lora_tags import parse_lora_tags
from lora_ext.lowrank import LowRank
from lora_ext.tools.block_split import suggest_split
from lora_ext.tools.conflicts import BlockConflict, measure_conflicts
from lora_ext.tools.layer_changes import LayerChange
from lora_ext.tools.layer_overlap import change_directions, layer_overlap

LAYER = next(iter(LAYERS))
WHOLE_NUMBERS = st.integers(0, 2**31)


def basis(matrix: np.ndarray) -> np.ndarray:
    """An orthonormal basis of a matrix's column space."""
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    return left[:, values > 1e-6 * values[0]]


def random_low_rank(seed: int, rank: int, shape: tuple[int, ...] = (12, 10)) -> LowRank:
    rng = np.random.default_rng(seed)
    up, down = (torch.from_numpy(rng.normal(size=size)).float() for size in ((shape[0], rank), (rank, *shape[1:])))
    return LowRank(up, torch.from_numpy(rng.uniform(0.1, 2, rank)).float(), down)


def exact_delta(low: LowRank) -> np.ndarray:
    up, gain, down = (t.double().numpy() for t in (low.up, low.gain, low.down))
    return (up * gain) @ down.reshape(len(down), -1)


def one_layer(low: LowRank) -> LoraFile:
    return LoraFile({layer_id(LAYER): Lora(low.to_tensors())})


def total(first: LoraFile, second: LoraFile, weights: tuple[float, float] = (1.0, 1.0)) -> BlockConflict:
    return measure_conflicts([first, second], weights, names=["a", "b"]).pairs[0].total


@settings(max_examples=12)
@given(WHOLE_NUMBERS, st.integers(1, 12), st.integers(1, 12), st.sampled_from([(12, 10), (8, 3, 3, 3)]))
def test_a_pair_of_layers_is_as_numpy_computes_it(seed: int, first: int, second: int, shape: tuple[int, ...]) -> None:
    lows = random_low_rank(seed, first, shape), random_low_rank(seed + 1, second, shape)
    found = layer_overlap(*(change_directions(LayerChange(low)) for low in lows))
    a, b = map(exact_delta, lows)
    columns, rows = [basis(a), basis(b)], [basis(a.T), basis(b.T)]
    assert found.energies == pytest.approx([(a**2).sum(), (b**2).sum()])
    assert found.inner == pytest.approx((a * b).sum(), abs=1e-9 * np.linalg.norm(a) * np.linalg.norm(b))
    inside = [((columns[1].T @ a @ rows[1]) ** 2).sum(), ((columns[0].T @ b @ rows[0]) ** 2).sum()]
    assert found.inside == pytest.approx(inside)
    for cosines, (one, other) in ((found.column_cosines, columns), (found.row_cosines, rows)):
        assert cosines.numpy() == pytest.approx(np.linalg.svd(one.T @ other)[1].clip(max=1))


@settings(max_examples=12)
@given(WHOLE_NUMBERS, st.integers(1, 10), st.floats(-2, 2).filter(lambda weight: abs(weight) > 0.01))
def test_a_file_lies_wholly_in_itself(seed: int, rank: int, weight: float) -> None:
    file = one_layer(random_low_rank(seed, rank))
    found = total(file, file, (1.0, weight))
    assert found.inside == pytest.approx((1, 1)) and found.interference == pytest.approx(1)
    assert found.cosine == pytest.approx(1 if weight > 0 else -1)
    assert max(found.output_angle, found.input_angle) < 1e-4
    assert found.norms[1] == pytest.approx(found.norms[0] * abs(weight))


@settings(max_examples=12)
@given(WHOLE_NUMBERS, st.integers(1, 5), st.sampled_from(["outputs", "inputs", "both"]))
def test_files_in_orthogonal_directions_have_nothing_in_common(seed: int, rank: int, where: str) -> None:
    first, second = random_low_rank(seed, rank), random_low_rank(seed + 1, rank)
    up, down = second.up, second.down
    if where != "inputs":
        up = up - torch.from_numpy(basis(first.up.double().numpy())).float() @ (
            torch.from_numpy(basis(first.up.double().numpy())).float().T @ up
        )
    if where != "outputs":
        rows = torch.from_numpy(basis(first.down.double().numpy().T)).float()
        down = down - (down @ rows) @ rows.T
    found = total(one_layer(first), one_layer(replace(second, up=up, down=down)))
    assert found.inside == pytest.approx((0, 0), abs=1e-8) and found.interference == 0
    assert found.cosine == pytest.approx(0, abs=1e-5)
    assert where == "inputs" or found.output_angle == pytest.approx(90, abs=0.01)
    assert where == "outputs" or found.input_angle == pytest.approx(90, abs=0.01)


@settings(max_examples=12)
@given(WHOLE_NUMBERS, st.integers(1, 6))
def test_other_factors_of_the_same_change_make_no_difference(seed: int, rank: int) -> None:
    first, second = random_low_rank(seed, rank), random_low_rank(seed + 1, 4)
    mixing = torch.from_numpy(np.random.default_rng(seed).normal(size=(rank, rank)) + 3 * np.eye(rank))
    scaled = first.up.double() * first.gain.double()
    other = LowRank(scaled @ mixing, torch.ones(rank), torch.linalg.solve(mixing, first.down.double()))
    before, after = (
        layer_overlap(change_directions(LayerChange(low)), change_directions(LayerChange(second)))
        for low in (first, other)
    )
    assert after.inner == pytest.approx(before.inner, abs=1e-6)
    assert after.inside == pytest.approx(before.inside, rel=1e-5)
    assert torch.allclose(after.column_cosines, before.column_cosines, atol=1e-6)
    assert torch.allclose(after.row_cosines, before.row_cosines, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if suits(kind, LAYERS[LAYER])])
def test_every_kind_is_measured_by_its_change_or_named(kind: str) -> None:
    shape = LAYERS[LAYER]
    tensors = make(kind, shape, 2, rng=np.random.default_rng(3))
    adapter = adapter_from_tensors(tensors)
    assert adapter is not None
    other = random_low_rank(1, 3, shape)
    report = measure_conflicts([LoraFile({layer_id(LAYER): adapter}), one_layer(other)], names=["a", "b"])
    found = report.pairs[0].total
    needs_base = kind.startswith(("lora-dora", "ia3", "oft", "boft", "glora"))
    if needs_base:
        assert found.layers == 0 and "base model" in report.warnings[0] and not report.notes
        return
    a, b = reference(kind, tensors, np.zeros(shape)).reshape(shape[0], -1), exact_delta(other)
    assert found.cosine == pytest.approx((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
    rows, columns = basis(b.T), basis(b)
    assert found.inside[0] == pytest.approx(((columns.T @ a @ rows) ** 2).sum() / (a**2).sum(), rel=1e-4)
    assert bool(report.notes) is not MAKERS[kind].is_low_rank or kind.endswith("bias")


def test_unrelated_files_interfere_by_chance_only() -> None:
    files = [LoraFile({layer_id(LAYER): Lora(random_low_rank(seed, 8, (160, 160)).to_tensors())}) for seed in (0, 1)]
    found = total(*files)
    assert found.by_chance == pytest.approx((0.0025, 0.0025)) and found.interference < 0.005


def test_blocks_and_pairs_are_those_of_the_files() -> None:
    files = [file_of("lora", seed) for seed in range(3)]
    report = measure_conflicts(files, names=["a", "b", "c"])
    assert [(pair.first, pair.second) for pair in report.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    blocks = list(dict.fromkeys(each.block for each in files[0].adapters))
    assert {row.block for row in report.pairs[0].blocks} == set(blocks)
    for file, energies in zip(files, report.energies, strict=True):
        norms = [adapter.low_rank().frobenius() ** 2 for adapter in file.adapters.values()]  # type: ignore[union-attr]
        assert sum(energies.values()) == pytest.approx(sum(norms))


def test_files_for_different_base_models_are_refused() -> None:
    with pytest.raises(ToolError, match=r"a and b, .*different base models"):
        measure_conflicts(
            [one_layer(random_low_rank(0, 2)), one_layer(random_low_rank(0, 2, (12, 14)))], names=["a", "b"]
        )
    with pytest.raises(ToolError, match="two files"):
        measure_conflicts([file_of("lora", 0)])


# --- split -----------------------------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(WHOLE_NUMBERS, st.floats(0, 0.5))
def test_a_conflicting_block_is_kept_by_one_file(seed: int, threshold: float) -> None:
    report = measure_conflicts([file_of("lora", seed), file_of("lora", seed + 1)], names=["a", "b"])
    splits = suggest_split(report, threshold=threshold)
    for row in report.pairs[0].blocks:
        keepers = [split.name for split in splits if row.block in split.keeps]
        assert len(keepers) == (1 if row.interference >= threshold and row.block != "BASE" else 2)
    for split in splits:
        _, tags, errors = parse_lora_tags(split.tag)
        assert not errors and tags[0].name == split.name and (tags[0].lbw or "") == split.lbw
        if split.lbw:
            weights = parse_block_weights(split.lbw)
            assert [block for block in split.keeps + split.gives_up if weights.weight_of(block)] == split.keeps


def test_a_block_goes_to_the_file_for_which_it_counts_most() -> None:
    """The strong file has nearly all of its energy in one block; it leaves the other block to the weak one."""
    names = list(LAYERS)[:2]
    low = {name: random_low_rank(i, 2, LAYERS[name]) for i, name in enumerate(names)}

    def file(first: float, second: float) -> LoraFile:
        tensors = {name: low[name].times(w).to_tensors() for name, w in zip(names, (first, second), strict=True)}
        return LoraFile({layer_id(name): Lora(each) for name, each in tensors.items()})

    strong, weak = suggest_split(measure_conflicts([file(100, 10), file(1, 1)], names=["strong", "weak"]))
    blocks = [layer_id(name).block for name in names]
    assert strong.keeps == blocks[:1] and weak.keeps == blocks[1:]
    assert strong.kept > 0.9


def test_three_files_share_out_every_block() -> None:
    report = measure_conflicts([file_of("lora", seed) for seed in range(3)], names=["a", "b", "c"])
    splits = suggest_split(report, every_block=True)
    kept = [block for split in splits for block in split.keeps if block != "BASE"]
    assert sorted(kept) == sorted({row.block for row in report.pairs[0].blocks} - {"BASE"})
    assert all(0 <= split.kept <= 1 for split in splits)


# --- names -----------------------------------------------------------------------------------------------------------


def test_files_of_one_name_get_tags_that_the_library_tells_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "loras" / where for where in ("face.safetensors", "a/face.safetensors", "b/c/face.safetensors",
                                                      "b/c/face.pt", "other.safetensors")]  # fmt: skip
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        (torch.save(load_file(paths[0]), path) if path.suffix == ".pt" else save_lora_file(file_of("lora", seed), path))
    report = measure_conflicts([load_lora_file(path) for path in paths])
    library = LoraLibrary([tmp_path / "loras"])
    assert [library.find(name).path for name in report.names] == paths
    assert len(set(report.names)) == 5 and report.names[4] == "other"
    assert report.names[:2] == ["loras/face", "a/face"]
    tags = [parse_lora_tags(split.tag)[1][0].name for split in suggest_split(report)]
    assert tags == report.names
    assert [note for note in report.notes if "4 files are called 'face'" in note and "loras/face, a/face" in note]


def test_a_file_that_is_given_twice_is_named() -> None:
    one = replace(file_of("lora", 1), path=Path("x/face.safetensors"))
    assert measure_conflicts([one, one]).warnings == ["face is given more than once and is compared with itself"]
    assert measure_conflicts([file_of("lora", 1), file_of("lora", 2)]).warnings == [
        "several files are called unnamed, and a tag cannot tell them apart: rename one"
    ]


def test_only_what_is_amiss_is_a_warning() -> None:
    same = [replace(file_of("lora", seed), path=Path(f"x/{where}.safetensors")) for seed, where in enumerate("ab")]
    report = measure_conflicts([*same, same[0], file_of("full", 3)], names=["a", "b", "a", "c"])
    text = format_conflicts(report, suggest_split(report))
    assert "WARNING: a is given more than once" in text and text.count("WARNING") == len(report.warnings) == 1
    assert [line for line in text.splitlines() if line.startswith("c: ") and "no low-rank form" in line] == report.notes


# --- command ---------------------------------------------------------------------------------------------------------


def test_the_command_prints_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(tmp_path / f"{name}.safetensors") for name in "ab"]
    for seed, path in enumerate(paths):
        save_lora_file(file_of("lora", seed), path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    picture = tmp_path / "map.png"
    assert cli.main(["conflicts", *paths, "--ratios", "1", "0.5", "--threshold", "0", "--picture", str(picture)]) == 0
    text = capsys.readouterr().out
    assert "a and b: " in text and "<lora:b:0.5:lbw=" in text and "leaves" in text
    assert Image.open(picture).width >= 640
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path != picture} == before
    assert cli.main(["conflicts", *paths, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["names"] == ["a", "b"] and len(found["pairs"]) == 1 and len(found["split"]) == 2
    assert cli.main(["conflicts", paths[0]]) == 2
    assert cli.main(["conflicts", *paths, "--picture", "map.jpg"]) == 2


def test_files_that_do_the_same_are_told() -> None:
    """Only the command told it; the page shows the notes of the report."""
    same = one_layer(random_low_rank(1, 3))
    report = measure_conflicts([same, same, one_layer(random_low_rank(2, 3))], names=["a", "b", "c"])
    assert report.notes == ["a and b do nearly the same: use one of them"]
    assert format_conflicts(report, suggest_split(report)).count("a and b do nearly the same: use one of them") == 1


def test_the_command_says_what_each_column_of_its_table_is() -> None:
    report = measure_conflicts([file_of("lora", 1), file_of("lora", 2)], names=["a", "b"])
    lines = format_conflicts(report, suggest_split(report)).splitlines()
    heading = next(line for line in lines if line.startswith("  block"))
    told = [line.strip().partition(": ")[0] for line in lines[lines.index("Columns:") + 1 :]]
    assert heading.split() == ["block", *" ".join(told[: told.index("")]).split()]
