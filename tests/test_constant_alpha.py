"""Results with several ranks are read at their strength by diffusers' own loader."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers_loading import file_with_ranks, linear_layers, loaded_by_diffusers, small_unet
from tiny import text_encoder

from lora_ext.block_weights import parse_block_weights
from lora_ext.file.lora_file import LoraFile
from lora_ext.file.saving import save_lora_file
from lora_ext.tools.constant_alpha import is_misread_by_diffusers, with_constant_alphas
from lora_ext.tools.convert import convert_lora
from lora_ext.tools.merge import merge_loras
from lora_ext.tools.report import ToolReport
from lora_ext.tools.resize import resize_lora
from lora_ext.tools.reweight import reweight_lora

pytest.importorskip("peft", reason="diffusers needs peft to load a LoRA")
LAYERS = linear_layers({"unet": small_unet(), "te": text_encoder()})


def error_in_diffusers(result: LoraFile, meant: LoraFile, tmp_path: Path) -> float:
    """The largest relative error of a layer of `result` as diffusers loads it."""
    loaded = loaded_by_diffusers(save_lora_file(result, tmp_path / "result.safetensors", overwrite=True))
    assert loaded.keys() == meant.adapters.keys()
    worst = 0.0
    for layer_id, adapter in meant.adapters.items():
        delta = adapter.delta(torch.zeros(LAYERS[layer_id]))
        worst = max(worst, float((loaded[layer_id] - delta).norm() / delta.norm()))
    return worst


def test_concat_of_several_ranks(tmp_path: Path) -> None:
    one, other = file_with_ranks(LAYERS, [4, 2, 3], 0.5, seed=1), file_with_ranks(LAYERS, [2, 2, 5], 1.0, seed=2)
    made, report = merge_loras([one, other], [0.7, 0.4])
    sums = {s: 0.7 * one.adapters[s].delta(torch.zeros(n)) + 0.4 * other.adapters[s].delta(torch.zeros(n))
            for s, n in LAYERS.items()}  # fmt: skip
    for layer_id, total in sums.items():
        assert torch.allclose(made.adapters[layer_id].delta(total * 0), total, atol=1e-6)
    assert error_in_diffusers(made, made, tmp_path) < 1e-6 and not report.notes


def test_resize_to_a_rank_for_each_layer(tmp_path: Path) -> None:
    source = file_with_ranks(LAYERS, [8], 0.5, seed=3)
    made, _ = resize_lora(source, 8, dynamic_method="sv_fro", dynamic_param=0.8)
    assert len({a.rank for a in made.adapters.values()}) > 1 and {a.alpha for a in made.adapters.values()} == {4.0}
    assert error_in_diffusers(made, made, tmp_path) < 1e-6
    again, _ = resize_lora(made, 3)
    assert error_in_diffusers(again, again, tmp_path) < 1e-6


def test_alphas_of_a_peft_file_in_kohyas_keys(tmp_path: Path) -> None:
    source = file_with_ranks(LAYERS, [4, 2], 0.5, seed=4)
    made, _ = convert_lora(source, "kohya")
    assert error_in_diffusers(made, source, tmp_path) < 1e-6


def test_in_16_bits_a_rank_is_padded_where_the_factors_stay_exact(tmp_path: Path) -> None:
    source = file_with_ranks(LAYERS, [12, 12, 8], 1.0, seed=5)
    half, _ = convert_lora(source, "kohya", dtype=torch.float16)
    assert {a.rank for a in half.adapters.values()} == {12} and {a.alpha for a in half.adapters.values()} == {12.0}
    assert error_in_diffusers(half, half, tmp_path) < 1e-6
    rounded = LoraFile({s: type(a)({n: t if n == "alpha" else t.half() for n, t in a.tensors.items()})
                        for s, a in source.adapters.items()})  # fmt: skip
    for layer_id, adapter in half.adapters.items():
        zero = torch.zeros(LAYERS[layer_id])
        assert torch.allclose(adapter.delta(zero), rounded.adapters[layer_id].delta(zero), atol=1e-6)


def test_what_cannot_be_had_without_loss_stays_and_is_said(tmp_path: Path) -> None:
    blocks = parse_block_weights(",".join(["0.7"] + ["1"] * 13 + ["0.3"] * 12))
    source, _ = convert_lora(file_with_ranks(LAYERS, [4], 1.0, seed=6), dtype=torch.float16)
    made, report = reweight_lora(source, blocks)
    assert any("convert --to diffusers" in note for note in report.notes)
    assert error_in_diffusers(made, made, tmp_path) > 0.1
    told = ToolReport("merge")
    assert with_constant_alphas(made.adapters, told) == made.adapters and told.notes
    there, _ = convert_lora(made, "diffusers", dtype=torch.float32)
    assert error_in_diffusers(there, made, tmp_path) < 1e-6


def test_files_that_diffusers_reads_right_stay_bit_for_bit() -> None:
    source = file_with_ranks(LAYERS, [4], 0.25, seed=7)
    assert not is_misread_by_diffusers(source.adapters, "unet")
    kept = with_constant_alphas(source.adapters, ToolReport("merge"))
    assert all(kept[layer_id] is adapter for layer_id, adapter in source.adapters.items())
