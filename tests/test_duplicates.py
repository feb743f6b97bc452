"""Files of one network are found by their ΔW: in other formats, precisions and ranks; other networks are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_ext.cli import main
from lora_ext.tools import duplicates
from lora_ext.tools.duplicates import find_duplicates
from lora_ext.tools.weight_sketch import sketch_file, sketch_from_json

LAYER = "lora_unet_down_blocks_{}_attentions_0_transformer_blocks_0_attn1_to_{}"
LAYERS = [LAYER.format(block, name) for block in range(3) for name in ("q", "k", "v")]


def network(path: Path, seed: int, rank: int = 8, change: float = 0.0) -> Path:
    """A file of nine layers; change: how far its numbers are from those of the seed."""
    torch.manual_seed(seed)
    tensors = {}
    for name in LAYERS:
        up, down = torch.randn(48, rank) * torch.linspace(2, 0.2, rank), torch.randn(rank, 32)
        tensors[f"{name}.lora_up.weight"] = up + change * torch.randn(48, rank)
        tensors[f"{name}.lora_down.weight"] = down + change * torch.randn(rank, 32)
        tensors[f"{name}.alpha"] = torch.tensor(4.0)
    save_file(tensors, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    first = network(tmp_path / "cat.safetensors", 1)
    network(tmp_path / "other.safetensors", 2)
    network(tmp_path / "epoch2.safetensors", 1, change=0.05)  # the same training, a little later
    made = {
        "peft": ("convert", "--to", "diffusers"),
        "half": ("convert", "--to", "diffusers", "--save_precision", "fp16"),
        "bf16": ("convert", "--to", "kohya", "--save_precision", "bf16"),
        "small": ("resize", "--new_rank", "4"),
        "dynamic": ("resize", "--new_rank", "8", "--dynamic_method", "sv_fro", "--dynamic_param", "0.9"),
        "weaker": ("reweight", "--unet", "0.5"),
    }
    for name, (command, *more) in made.items():
        to = tmp_path / f"{name}.safetensors"
        assert main([command, "--model", str(first), "--save_to", str(to), *more]) == 0
    (tmp_path / "copy.safetensors").write_bytes(first.read_bytes())
    folded = load_file(first)  # alpha in the factors, as some programs write it
    for name in LAYERS:
        folded[f"{name}.lora_up.weight"] *= float(folded.pop(f"{name}.alpha")) / 8
    save_file(folded, tmp_path / "folded.safetensors")
    return tmp_path


def test_a_link_to_a_file_is_no_copy_of_it(tmp_path: Path) -> None:
    file, link = network(tmp_path / "b.safetensors", 1), tmp_path / "a.safetensors"
    link.symlink_to(file.name)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    report = find_duplicates([link, file, file, copy])
    assert report.files == 2 and [[one.path for one in group] for group in report.groups] == [[file, copy]]


def test_one_network_in_all_its_forms(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["duplicates", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (group,) = report["groups"]
    kinds = {Path(file["path"]).stem: file["relation"]["kind"] for file in group}
    first = next(iter(kinds))
    assert kinds.pop(first) == "kept" and first in ("cat", "copy", "peft", "folded")
    exact = {name: kinds.pop(name) for name in ("cat", "copy", "peft", "folded") if name != first}
    assert set(exact.values()) <= {"same", "identical"}
    assert kinds == {"half": "precision", "bf16": "precision", "small": "resize", "dynamic": "resize"}
    assert report["files"] == 11 and report["by_content_alone"] == 0
    shares = {Path(file["path"]).stem: file["relation"]["share"] for file in group}
    assert shares["half"] == pytest.approx(1, abs=1e-3) and 0.7 < shares["small"] < 0.99
    assert main(["duplicates", str(folder)]) == 0
    assert "small.safetensors  (float32, the same network at a lower rank: " in capsys.readouterr().out


def test_a_sketch_reads_few_layers_and_survives_its_json(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sketch = sketch_file(folder / "cat.safetensors")
    assert sketch is not None
    again = sketch_from_json(json.loads(json.dumps(sketch.to_json())))
    assert float(again.values @ sketch.values) == pytest.approx(1, abs=1e-3)
    assert (again.layers, again.rank, again.bits) == (sketch.layers, 72.0, 32)
    for row in (None, [], ["x", 1, 32, 1.0, "?"], [1, 2, 3, 4, 5]):
        with pytest.raises(ValueError, match="not a sketch"):
            sketch_from_json(row)


def test_other_networks_are_not_compared_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [network(tmp_path / f"{seed}.safetensors", seed, rank=4 + seed % 3) for seed in range(40)]
    whole: list[Path] = []
    monkeypatch.setattr(duplicates, "_loaded", lambda path: whole.append(path))
    assert find_duplicates(paths).groups == []
    assert whole == []


def test_files_that_cannot_be_sketched_are_compared_by_their_bytes(tmp_path: Path) -> None:
    for name in ("dora", "dora copy"):
        save_file({f"{LAYERS[0]}.{key}": value for key, value in DORA.items()}, tmp_path / f"{name}.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    report = find_duplicates(sorted(tmp_path.iterdir()))
    assert [sorted(file.path.stem for file in group) for group in report.groups] == [["dora", "dora copy"]]
    assert report.by_content_alone == 1
    assert (report.files, [file.path for file in report.unreadable]) == (2, [tmp_path / "bad.safetensors"])
    text = duplicates.format_duplicates(report)
    assert f"not compared: {tmp_path / 'bad.safetensors'} is not a valid safetensors file: 2 bytes" in text
    assert "1 file was compared by its bytes alone." in text


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_an_empty_file_is_compared_with_nothing(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path := tmp_path / f"a{suffix}").touch()
    assert duplicates.main([str(path)]) == 2
    assert capsys.readouterr().out == f"not compared: {path} is empty (0 bytes); download it again\n"


DORA = {
    "lora_up.weight": torch.ones(8, 2),
    "lora_down.weight": torch.ones(2, 8),
    "dora_scale": torch.ones(8, 1),
}
