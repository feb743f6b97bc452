"""A layer whose change is 0 has rank 1 in the result of `resize`: what tells of a file's rank does not count it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_tools_laws import LAYERS, file_of, layer_id

import lora_ext.embedded
from lora_ext.file.lora_file import LoraFile
from lora_ext.file.saving import save_lora_file
from lora_ext.inspect_file import format_inspection, inspect_lora_file
from lora_ext.rank_reduction import RankRule
from lora_ext.tools.resize import resize_lora
from lora_ext.tools.result_metadata import with_network_dims
from lora_ext.web.file_catalogue import summarise_file
from lora_ext.web.rank_energy import measure_rank_energy

ZERO = layer_id(next(iter(LAYERS)))


def without_change(file: LoraFile, *layer_ids: object) -> LoraFile:
    """The file with zeros in these layers."""
    adapters = dict(file.adapters)
    for where in file.adapters.keys() & set(layer_ids):
        tensors = adapters[where].tensors
        up = torch.zeros_like(tensors["lora_up.weight"])
        adapters[where] = type(adapters[where])({**tensors, "lora_up.weight": up})
    return replace(file, adapters=adapters)


def test_a_zero_layer_is_not_a_rank_of_the_file(tmp_path: Path) -> None:
    made, report = resize_lora(without_change(file_of("lora", 1, rank=4), ZERO), 3)
    assert made.adapters[ZERO].rank == 1, "as kohya's script writes it"
    assert with_network_dims(made, {})["ss_network_dim"] == "3"
    assert "changes nothing" in report.text() and report.text().count("changes nothing") == 1
    path = save_lora_file(made, tmp_path / "a.safetensors") or tmp_path / "a.safetensors"
    summary, found = summarise_file(path), inspect_lora_file(path)
    assert (summary["rank"], summary["mixed"], summary["layers"]) == (3, False, 5)
    assert found.ranks == {"3": 4} and found.layers == 5 and "rank 3; alpha" in format_inspection(found)


def test_what_a_resize_would_make() -> None:
    energy = measure_rank_energy(without_change(file_of("lora", 1, rank=4), ZERO))
    preview = energy.preview((RankRule(3), RankRule(3)))
    assert (preview.least, preview.most, preview.mean) == (3, 3, 3)
    nothing = file_of("lora", 1, rank=4)
    preview = measure_rank_energy(without_change(nothing, *nothing.adapters)).preview((RankRule(3), RankRule(3)))
    assert (preview.least, preview.most, preview.mean) == (1, 1, 1)


@pytest.mark.parametrize("zeros", [0, 5])
def test_other_files_tell_the_ranks_of_all_layers(tmp_path: Path, zeros: int) -> None:
    file = file_of("lora", 1, rank=4)
    adapters = {**file.adapters, ZERO: file_of("lora", 2, rank=1).adapters[ZERO]}
    mixed = without_change(replace(file, adapters=adapters), *list(adapters)[:zeros])
    save_lora_file(mixed, tmp_path / "a.safetensors")
    summary = summarise_file(tmp_path / "a.safetensors")
    assert summary["rank"] == 4 and summary["mixed"] is not bool(zeros)
    assert inspect_lora_file(tmp_path / "a.safetensors").ranks == {"4": 4, "1": 1}


def test_the_sample_loras_have_one_rank() -> None:
    for path in (Path(lora_ext.embedded.__file__).parent / "loras").glob("*.safetensors"):
        assert not summarise_file(path)["mixed"] and len(inspect_lora_file(path).ranks) == 1, path.name
