"""The file tools against what kohya's scripts computed: every recorded command line of the LoRA → LoRA scripts.

ΔW per layer is compared, never factors. What differs on purpose is said where it is checked.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lora_ext.cli import main
from lora_ext.file.loading import load_lora_file
from lora_ext.lowrank import concat
from lora_ext.rank_reduction import RankRule, reduce_rank
from lora_ext.tools.merge import merge_loras
from lora_ext.tools.merge_layer import MergeOptions

DATA = Path(__file__).parent / "data" / "kohya"
GOLDEN = Path(os.environ.get("LORA_EXT_GOLDEN", Path(__file__).parents[1] / ".." / "shared" / "golden")) / "kohya"
CASES = {row["case"]: row for row in json.loads((DATA / "index.json").read_text(encoding="utf-8"))}
VERBS = {
    "resize_lora.py": "resize",
    "svd_merge_lora.py": "svd-merge",
    "merge_lora.py": "merge",
    "extract_lora_from_dylora.py": "split-dylora",
}
WORKS_HERE = {  # recorded failures of the scripts that are no failures here
    "resize_up_r20",  # rank above the matrix: capped
    "svdmerge_fp16_precision",  # SVD of fp16 on a CPU: made in float32
    "svdmerge_device_noalpha",  # --device with a missing alpha
    "merge_plain_diffrank",  # different ranks: concat takes them
    "merge_dora",  # a DoRA layer: named, the others merged
    "dylora_nometa",  # no metadata
}


def find(name: str) -> Path:
    """A file of the reference data, in the repository or beside it."""
    folder, _, file = name.rpartition("/")
    for path in (DATA / folder / file, DATA / file, GOLDEN / folder / file):
        if path.exists():
            return path
    pytest.skip(f"{name} is not in {GOLDEN} (LORA_EXT_GOLDEN names it)")


def command(case: str, tmp_path: Path, *extra: str) -> list[str]:
    """The recorded command line as ours: the same words behind the verb."""
    _, script, *words = CASES[case]["command"].split()
    words = [str(find(word)) if word.startswith("in/") else word for word in words]
    words[words.index("--save_to") + 1] = str(tmp_path / f"{case}.safetensors")
    return [VERBS[Path(script).name], *words, *extra, "--json"]


def deltas(path: Path) -> dict[str, Tensor]:
    """Layer → ΔW, of the layers that are plain LoRA."""
    lows = {str(layer_id): adapter.low_rank() for layer_id, adapter in load_lora_file(path).adapters.items()}
    return {name: low.delta() for name, low in lows.items() if low is not None}


def compare(case: str, ours: Path, theirs: Path, tolerance: float) -> None:
    mine, reference = deltas(ours), deltas(theirs)
    assert mine.keys() == reference.keys()
    for name, delta in reference.items():
        error = float((mine[name] - delta).norm() / delta.norm().clamp(min=1e-9))
        assert error < tolerance, (case, name, error)


def run(case: str, tmp_path: Path, *extra: str) -> Path:
    assert main(command(case, tmp_path, *extra)) == 0
    return tmp_path / f"{case}.safetensors"


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith("resize") and CASES[c]["outputs"]])
def test_resize(case: str, tmp_path: Path) -> None:
    """Equal. DoRA's magnitude, which the script drops, stays here, so that layer is no plain LoRA."""
    ours, theirs = run(case, tmp_path), find(CASES[case]["outputs"][0])
    if case == "resize_dora_r4":
        dora = [
            layer_id for layer_id, adapter in load_lora_file(ours).adapters.items() if adapter.magnitude() is not None
        ]
        mine, reference = load_lora_file(ours), load_lora_file(theirs)
        assert len(dora) == 1
        for layer_id, adapter in reference.adapters.items():
            low, other = mine.adapters[layer_id], adapter
            assert low.scaling() == pytest.approx(other.scaling()) and low.rank == other.rank
            if layer_id not in dora:
                assert torch.allclose(low.low_rank().delta(), other.low_rank().delta(), atol=1e-5)  # type: ignore[union-attr]
        return
    compare(case, ours, theirs, 2e-3 if "fp16" in case else 1e-5)
    mine, reference = load_lora_file(ours).adapters, load_lora_file(theirs).adapters
    dynamic = "--dynamic_method" in CASES[case]["command"]
    for layer_id, adapter in reference.items():
        assert mine[layer_id].rank == adapter.rank
        # where ranks differ all layers have one alpha here, as diffusers needs
        alpha = 4.0 if dynamic else adapter.alpha
        assert mine[layer_id].alpha == pytest.approx(alpha, rel=1e-3)
    said, meant = load_lora_file(ours).metadata, load_lora_file(theirs).metadata
    for key in ("ss_network_dim", "ss_network_alpha"):
        if key in meant and case != "resize_some_zero_r4":  # zero layers have rank 1 there and here
            assert said[key] == meant[key]
    assert meant.get("ss_training_comment", "").rstrip("; ") in said["ss_training_comment"]


@pytest.mark.parametrize("case", sorted(WORKS_HERE))
def test_what_the_scripts_refuse_works(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert CASES[case]["returncode"] != 0
    assert main(command(case, tmp_path)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["layers"] and all(Path(path).exists() for path in report["outputs"])
    if case == "merge_dora":
        assert any("DoRA" in note or "need the base" in note for note in report["notes"])
    if case == "resize_up_r20":
        assert any("capped" in note for note in report["notes"])


@pytest.mark.parametrize("case", ["merge_plain", "merge_shuffle", "merge_noalpha"])
def test_merge_by_factors_is_theirs(case: str, tmp_path: Path) -> None:
    """(Σ|sᵢ|Uᵢ)(Σ sᵢDᵢ), cross terms and all; shuffled ranks are the same ΔW."""
    reference = "out/merge_plain.safetensors" if case == "merge_shuffle" else CASES[case]["outputs"][0]
    compare(case, run(case, tmp_path, "--method", "factors"), find(reference), 1e-6)


@pytest.mark.parametrize("case", ["merge_concat", "merge_concat_ones", "merge_concat_shuffle"])
def test_concat_is_the_weighted_sum(case: str, tmp_path: Path) -> None:
    """On purpose not theirs: Σ ratio·ΔW here, Σ ratio²·dim/Σdim·ΔW (at the first file's alpha) there."""
    words = CASES[case]["command"].split()
    ratios = [float(word) for word in words[words.index("--ratios") + 1 : words.index("--concat")]]
    sources = [load_lora_file(find(name)) for name in CASES[case]["inputs"]]
    ours = load_lora_file(run(case, tmp_path))
    theirs = load_lora_file(find("out/merge_concat.safetensors" if "shuffle" in case else CASES[case]["outputs"][0]))
    for layer_id, adapter in ours.adapters.items():
        lows = [source.adapters[layer_id].low_rank() for source in sources]
        meant = sum(ratio * low.delta() for ratio, low in zip(ratios, lows, strict=True))  # type: ignore[union-attr]
        assert torch.allclose(adapter.low_rank().delta(), meant, atol=1e-5)  # type: ignore[union-attr, arg-type]
        share = [ratio**2 * low.rank / sum(low.rank for low in lows) for ratio, low in zip(ratios, lows, strict=True)]
        script = sum(s * low.delta() for s, low in zip(share, lows, strict=True))
        assert torch.allclose(theirs.adapters[layer_id].low_rank().delta(), script, atol=1e-5)  # type: ignore[union-attr]


SVD = [c for c in CASES if c.startswith("svdmerge") and CASES[c]["outputs"]]


@pytest.mark.parametrize("case", SVD)
def test_svd_merge(case: str, tmp_path: Path) -> None:
    """Ours is the best approximation, theirs clips it; clipped at the same quantile they agree but for SVD's signs."""
    words = CASES[case]["command"].split()
    ratios = [float(word) for word in words[words.index("--ratios") + 1 :][: len(CASES[case]["inputs"])]]
    rank = int(words[words.index("--new_rank") + 1])
    sources = [load_lora_file(find(name)) for name in CASES[case]["inputs"]]
    ours = load_lora_file(run(case, tmp_path))
    theirs = load_lora_file(find(CASES[case]["outputs"][0]))
    clipped = load_lora_file(run(case, tmp_path, "--clamp_quantile", "0.99", "--overwrite"))
    assert ours.adapters.keys() == theirs.adapters.keys()
    lost, near = [], []
    for layer_id in ours.adapters:
        held = [
            (r, s.adapters[layer_id].low_rank()) for r, s in zip(ratios, sources, strict=True) if layer_id in s.adapters
        ]
        whole = sum(r * low.delta().double() for r, low in held).flatten(1)  # type: ignore[union-attr]
        mine, script, cut = (
            f.adapters[layer_id].low_rank().delta().double().flatten(1)  # type: ignore[union-attr]
            for f in (ours, theirs, clipped)
        )
        best = torch.linalg.svdvals(whole)[rank:].norm()
        error = (mine - whole).norm()
        assert error <= best * 1.001 + (1e-3 if "fp16" in case else 1e-5) * whole.norm()
        lost.append(bool((script - whole).norm() >= error * 0.999))
        near.append(float((cut - script).norm() / whole.norm()))
    assert all(lost), "clipping never gains"
    assert sorted(near)[len(near) // 2] < 0.1


@pytest.mark.parametrize("case", ["dylora_split_u4_lierla", "dylora_split_u4_c3"])
def test_split(case: str, tmp_path: Path) -> None:
    """Theirs, and the full rank, which they leave out and which is the file itself."""
    assert main(command(case, tmp_path)) == 0
    for name in CASES[case]["outputs"]:
        compare(case, tmp_path / Path(name).name, find(name), 1e-7)
        said = load_lora_file(tmp_path / Path(name).name).metadata
        assert said["ss_network_dim"] == load_lora_file(find(name)).metadata["ss_network_dim"]
        assert said["ss_network_alpha"] == load_lora_file(find(name)).metadata["ss_network_alpha"]
    source = find(CASES[case]["inputs"][0])
    full = max(tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == len(CASES[case]["outputs"]) + 1
    compare(case, full, source, 1e-9)


def test_every_case_is_here() -> None:
    tested = {*WORKS_HERE, *SVD, *(c for c in CASES if c.startswith(("resize", "merge_", "dylora")))}
    assert tested == set(CASES)


SPECTRA: dict[str, Any] = json.loads((DATA / "rank_selection.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SPECTRA)
def test_dynamic_ranks(name: str) -> None:
    values = torch.tensor(SPECTRA[name]["S"])
    for method, param, cap, rank, alpha in SPECTRA[name]["cases"]:
        # a single value is an error in the script; alpha follows the rank, as `test_resize` has it
        assert rank == "error" or alpha == rank / 2
        assert RankRule(cap, method, param).choose_rank(values) == (1 if rank == "error" else rank), (
            method,
            param,
            cap,
        )


def test_merging_twice_the_file_doubles_it() -> None:
    file = load_lora_file(find("in/lierla_r8a4.safetensors"))
    made, _ = merge_loras([file, file], options=MergeOptions(method="svd", new_rank=8))
    for layer_id, adapter in file.adapters.items():
        low = adapter.low_rank()
        assert low is not None
        assert torch.allclose(made.adapters[layer_id].low_rank().delta(), 2 * low.delta(), atol=1e-5)  # type: ignore[union-attr]
        assert reduce_rank(concat([low, low]), 8).kept > 0.99999
