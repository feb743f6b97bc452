"""`inspect`: what a file is, in words and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from makers import KINDS, SHAPES, make, suits

from lora_ext.file import hashes, load_lora_file
from lora_ext.file.saving import save_safetensors
from lora_ext.inspect_file import format_inspection, inspect_lora_file, main, top_tags
from lora_ext.json_text import dataclass_fields
from lora_ext.layer_keys import format_kohya_key
from lora_ext.layer_names import UNET, find_layer_id

DATA = Path(__file__).parent / "data" / "kohya"


def test_report() -> None:
    path = DATA / "c3_varied_ranks.safetensors"
    found = inspect_lora_file(path)
    assert found.variant == "LoRA-C3Lier"
    assert found.family == "SD1"
    assert found.parts == {"te": 12, "unet": 61}
    assert found.ranks == {"2": 15, "3": 15, "5": 15, "6": 14, "8": 14}
    assert [row.block for row in found.blocks] == ["BASE", "IN01", "IN03", "IN04", "MID", "OUT05", "OUT09"]
    adapters = [a.low_rank() for layer_id, a in load_lora_file(path).adapters.items() if layer_id.block == "MID"]
    expected = torch.stack([low.delta().norm() for low in adapters if low]).norm()
    assert found.blocks[4].norm == pytest.approx(float(expected), rel=1e-4)
    json.dumps(found, allow_nan=False, default=dataclass_fields)
    text = format_inspection(found)
    assert "LoRA-C3Lier for SD1" in text
    assert "MID    12 layers" in text


def test_every_kind_is_shown(tmp_path: Path) -> None:
    names = {2: "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", 4: "mid_block.resnets.0.conv1"}
    for kind in KINDS:
        shape = next(shape for shape in SHAPES.values() if suits(kind, shape))
        layer_id = find_layer_id(UNET, names.get(len(shape), "mid_block.resnets.0.norm1"))
        assert layer_id is not None
        tensors = {f"{format_kohya_key(layer_id)}.{suffix}": tensor for suffix, tensor in make(kind, shape).items()}
        found = inspect_lora_file(save_safetensors(tensors, tmp_path / "a.safetensors", metadata={}, overwrite=True))
        row = found.blocks[0]
        assert (row.norm is None) == (row.need_base == 1)
        assert ("needs the base model's weights" in format_inspection(found)) == (row.norm is None), kind


def test_odd_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{key}.lora_up.weight": torch.full((8, 2), float("nan")), f"{key}.lora_down.weight": torch.ones(2, 8)}
    tensors |= {"bundle_emb.cat.string_to_param.*": torch.ones(3, 768), "what\x1b[31m": torch.ones(1)}
    metadata = {
        "ss_output_name": "x\x1b[2J\n" + "y" * 9000,
        "ss_tag_frequency": '{"a":{"1girl":3,"sky":7},"b":{"sky":1}}',
    }
    path = save_safetensors(tensors, tmp_path / "a.safetensors", metadata=metadata)
    assert main([str(path)]) == 0
    out = capsys.readouterr().out
    assert "WARNING: it contains NaN" in out
    assert "not a number" in out
    assert "cat (3 vectors)" in out
    assert "most frequent tags: sky, 1girl" in out
    assert "1 entry was not understood" in out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) < 300
    assert main([str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["blocks"][0]["norm"] is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a":1}', '{"a":{"b":"x"}}', '{"a":{"b":null}}', "[" * 9999, '{"a":{"b":1e999}}']
)
def test_tags_that_are_none(text: str) -> None:
    assert top_tags({"ss_tag_frequency": text}) == {}


def test_checkpoint_and_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_safetensors({"model.weight": torch.ones(2)}, tmp_path / "model.safetensors", metadata={})
    bad = tmp_path / "bad\nname.safetensors"
    bad.write_bytes(b"x" * 100)
    assert main([str(path), str(bad)]) == 2
    captured = capsys.readouterr()
    assert "It has no LoRA layers" in captured.out
    assert captured.err.startswith("lora-ext: ")
    assert captured.err.count("\n") == 1
    assert main([str(path), str(path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_a_hash_that_is_not_the_file_s_own_is_reported(tmp_path: Path) -> None:
    key = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{key}.lora_up.weight": torch.ones(8, 2), f"{key}.lora_down.weight": torch.ones(2, 8)}
    own = hashes.model_hash(save_safetensors(tensors, tmp_path / "a.safetensors", metadata={}))
    for stored, wrong in ((own, None), ("ab" * 32, "ab" * 6), ("no hash", None)):
        path = save_safetensors(
            tensors, tmp_path / "a.safetensors", metadata={"sshs_model_hash": stored}, overwrite=True
        )
        found = inspect_lora_file(path)
        assert found.hash == own[:12] and found.wrong_hash == wrong
        assert ("a different hash" in format_inspection(found)) == (wrong is not None)
