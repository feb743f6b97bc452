"""What is written is what was read; nothing is overwritten or left half-written by accident."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from makers import KINDS, SHAPES, make, suits
from safetensors import safe_open
from safetensors.torch import save_file

from lora_ext.adapters import Lora
from lora_ext.errors import FileError
from lora_ext.file import hashes, load_lora_file, save_lora_file
from lora_ext.file.key_formats import format_keys
from lora_ext.file.loading import assemble_lora_file
from lora_ext.file.safetensors_file import TORCH_DTYPES
from lora_ext.file.safetensors_file import load_safetensors as read_safetensors
from lora_ext.file.saving import replacing_file, save_safetensors
from lora_ext.layer_keys import format_kohya_key
from lora_ext.layer_names import UNET, LayerId, find_layer_id, layer_name_table

DATA = Path(__file__).parent / "data" / "kohya"
FILES = [path for path in sorted(DATA.glob("*.safetensors")) if not re.search("ckpt|tiny_", path.name)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_unchanged_files_come_out_the_same(path: Path, tmp_path: Path) -> None:
    out = save_lora_file(load_lora_file(path), tmp_path / "out.safetensors")
    before, after = read_safetensors(path), read_safetensors(out)
    assert before[1] == after[1]
    assert before[0].keys() == after[0].keys()
    for key, tensor in before[0].items():
        assert tensor.dtype == after[0][key].dtype
        assert torch.equal(tensor, after[0][key])
    assert hashes.model_hash(path) == hashes.model_hash(out)
    assert list(tmp_path.iterdir()) == [out]


def test_every_kind_comes_out_the_same(tmp_path: Path) -> None:
    layer_ids = {2: "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", 4: "mid_block.resnets.0.conv1"}
    for kind in KINDS:
        for shape in (shape for shape in SHAPES.values() if suits(kind, shape)):
            name = layer_ids.get(len(shape), "mid_block.resnets.0.norm1")
            layer_id = find_layer_id(UNET, name)
            assert layer_id is not None
            tensors = {f"{format_kohya_key(layer_id)}.{suffix}": tensor for suffix, tensor in make(kind, shape).items()}
            path = save_safetensors(tensors, tmp_path / "in.safetensors", metadata={}, overwrite=True)
            file = load_lora_file(path)
            assert set(file.adapters) == {layer_id}, kind
            assert not file.unrecognized, kind
            out, _ = read_safetensors(save_lora_file(file, tmp_path / "out.safetensors", overwrite=True))
            assert out.keys() == tensors.keys()
            assert all(torch.equal(out[key], tensors[key]) and out[key].dtype == tensors[key].dtype for key in out)


def test_the_library_reads_and_writes_the_same_bytes(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    tensors = {
        f"{name}.{size}": torch.randint(0, 2, size, generator=rng).to(dtype)
        for name, dtype in TORCH_DTYPES.items()
        for size in ((), (0,), (3,), (2, 0, 5), (2, 3))
    }
    metadata = {"name": 'quote " and ü, \\ and \n'}
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    save_safetensors(tensors, ours, metadata=metadata)
    save_file(tensors, theirs, metadata=metadata)
    assert ours.read_bytes() == theirs.read_bytes()
    with safe_open(ours, "pt") as opened:
        assert opened.metadata() == metadata
    again, meta = read_safetensors(theirs)
    assert meta == metadata
    assert all(again[key].dtype == t.dtype and torch.equal(again[key].float(), t.float()) for key, t in tensors.items())


def test_unaligned_data_is_read(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    head = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}'
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"\1" + np.array([1.5, -2], "<f4").tobytes())
    assert read_safetensors(path)[0]["b"].tolist() == [1.5, -2.0]


def test_nothing_is_overwritten_by_accident(tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    source.write_bytes(FILES[0].read_bytes())
    file = load_lora_file(source)
    with pytest.raises(FileError, match=r"a\.safetensors exists"):
        save_lora_file(file, source)
    save_lora_file(dataclasses.replace(file, metadata={}), source, overwrite=True)
    assert not load_lora_file(source).metadata
    (tmp_path / "sub.safetensors").mkdir()
    with pytest.raises(FileError, match="is a folder"):
        save_lora_file(file, tmp_path / "sub.safetensors", overwrite=True)
    with pytest.raises(FileError, match=r"suffix must be \.safetensors"):
        save_lora_file(file, tmp_path / "a.pt")
    with pytest.raises(FileError, match="cannot be written"):
        save_lora_file(file, tmp_path / "nowhere" / "a.safetensors")


@pytest.mark.parametrize("failing", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file(
    failing: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(FILES[0].read_bytes())
    file = load_lora_file(path)

    def fail(_: int) -> None:
        raise failing

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((FileError, KeyboardInterrupt)):
        save_lora_file(dataclasses.replace(file, metadata={}), path, overwrite=True)
    assert path.read_bytes() == FILES[0].read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_hashes_are_those_of_the_trainer() -> None:
    path = DATA / "resize_fixed_r4_conv2_fp16save.safetensors"
    file = load_lora_file(path)
    assert file.metadata["sshs_model_hash"] == hashes.model_hash(path)
    tensors = format_keys(file)
    bare = {key: value for key, value in file.metadata.items() if not key.startswith("sshs_")}
    assert hashes.with_kohya_hashes(tensors, bare) == file.metadata


def test_legacy_hash_of_a_large_file(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(700_000, dtype=torch.float32), "b": torch.ones(3, dtype=torch.float16)}
    metadata = {"ss_a": "1"}
    path = save_safetensors(tensors, tmp_path / "a.safetensors", metadata=metadata)
    assert hashes.kohya_hashes(tensors, {**metadata, "other": "x"}) == (
        hashes.model_hash(path),
        hashes.legacy_hash(path),
    )


def test_rehash(tmp_path: Path) -> None:
    out = save_lora_file(
        load_lora_file(FILES[0]),
        tmp_path / "a.safetensors",
        metadata={"ss_x": "1", "sshs_model_hash": "old"},
        rehash=True,
    )
    assert load_lora_file(out).metadata["sshs_model_hash"] == hashes.model_hash(out)


def test_new_adapters_are_spelled_as_kohya_does(tmp_path: Path) -> None:
    file = load_lora_file(DATA / "lierla_r8_noalpha_nometa.safetensors")
    bare = dataclasses.replace(file, keys={})
    assert format_keys(bare).keys() == format_keys(file).keys()
    alpha = torch.tensor(4.0)
    changed = {layer_id: type(a)({**a.tensors, "alpha": alpha}) for layer_id, a in file.adapters.items()}
    assert format_keys(dataclasses.replace(file, adapters=changed)).keys() == format_keys(file).keys() | {
        key.removesuffix("lora_up.weight") + "alpha" for key in format_keys(file) if key.endswith("lora_up.weight")
    }
    layer_id = LayerId(UNET, "IN04", "attention.transformer_blocks.0.attn2.to_k")
    native = assemble_lora_file({f"{format_kohya_key(layer_id)}.diff": torch.ones(640, 2048)}, {})
    key = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.diff"
    assert list(format_keys(dataclasses.replace(native, keys={}))) == [key]
    with pytest.raises(FileError, match="unknown key format 'peft'"):
        format_keys(file, "peft")


def test_diffusers_key_format_means_the_same(tmp_path: Path) -> None:
    for path in FILES:
        if "dora" in path.stem:
            continue
        file = load_lora_file(path)
        other = load_lora_file(save_lora_file(file, tmp_path / path.name, key_format="diffusers"))
        assert other.key_format == "diffusers"
        assert other.adapters.keys() == file.adapters.keys()
        for layer_id, adapter in file.adapters.items():
            one, two = adapter.low_rank(), other.adapters[layer_id].low_rank()
            assert one is not None
            assert two is not None
            tolerance = 1e-2 if two.up.dtype == torch.bfloat16 else 2e-3
            assert torch.allclose(two.delta(), one.delta(), rtol=tolerance, atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 8), (12, 8, 3, 3)])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("lora")])
def test_diffusers_key_format_of_every_lora(kind: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    if not suits(kind, shape):
        return
    layer_id = find_layer_id(UNET, "mid_block.resnets.0.conv1")
    assert layer_id is not None
    file = assemble_lora_file(
        {f"{format_kohya_key(layer_id)}.{suffix}": t for suffix, t in make(kind, shape).items()}, {}
    )
    try:
        tensors = format_keys(file, "diffusers")
    except FileError as error:
        assert "diffusers' key format cannot hold" in str(error)
        assert "bias" in kind or "sparse" in kind or "dora" in kind
        return
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    delta = assemble_lora_file(tensors, {}).adapters[layer_id].delta(weight)
    assert torch.allclose(delta, file.adapters[layer_id].delta(weight), atol=1e-5)


def test_diffusers_key_format_refuses_what_it_cannot_hold() -> None:
    layer_id = LayerId(UNET, "IN04", "attention.transformer_blocks.0.attn2.to_k")
    full = assemble_lora_file({f"{format_kohya_key(layer_id)}.diff": torch.ones(8, 8)}, {})
    with pytest.raises(FileError, match="cannot hold the full"):
        format_keys(full, "diffusers")
    mixed = assemble_lora_file(
        {f"{format_kohya_key(layer_id)}.{suffix}": t for suffix, t in make("lora", (8, 8)).items()}, {}
    )
    other = {LayerId(UNET, "MID", layer_id.layer): Lora(make("lora-dora-out", (8, 8)))}
    with pytest.raises(FileError, match="DoRA in some of its layers"):
        format_keys(dataclasses.replace(mixed, adapters={**mixed.adapters, **other}), "diffusers")
    with pytest.raises(FileError, match="cannot hold 'what'"):
        format_keys(assemble_lora_file({"what": torch.ones(1)}, {}), "diffusers")


def small_unet(diffusers: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16), norm_num_groups=4, cross_attention_dim=12, attention_head_dim=4, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip


@pytest.mark.parametrize("kinds", [("lora-tucker", "lora"), ("lora-dora-out", "lora-dora-out")], ids=" ".join)
def test_diffusers_loads_its_key_format(kinds: tuple[str, str]) -> None:
    diffusers, _ = pytest.importorskip("diffusers"), pytest.importorskip("peft")
    unet = small_unet(diffusers)
    tensors = {}
    for rank, name in enumerate(
        ("mid_block.resnets.0.conv1", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"), 2
    ):
        layer_id, shape = find_layer_id(UNET, name), unet.get_parameter(f"{name}.weight").shape
        assert layer_id is not None
        made = make(kinds[rank - 2], tuple(shape), rank)
        tensors |= {f"{format_kohya_key(layer_id)}.{suffix}": tensor for suffix, tensor in made.items()}
    file = assemble_lora_file(tensors, {})
    before = {name: parameter.clone() for name, parameter in unet.named_parameters()}
    unet.load_lora_adapter(format_keys(file, "diffusers"), prefix="unet")
    unet.fuse_lora()
    after = {name.replace(".base_layer", ""): parameter for name, parameter in unet.named_parameters()}
    for layer_id, adapter in file.adapters.items():
        name = layer_name_table(UNET).diffusers[layer_id] + ".weight"
        delta = (after[name] - before[name]).detach()
        assert torch.allclose(delta, adapter.delta(before[name]), atol=1e-5), name
        assert float(delta.abs().max()) > 1e-3


def test_alphas_in_diffusers_metadata(tmp_path: Path) -> None:
    """A file as diffusers saves it: alpha is in the metadata alone, and it is what PEFT multiplies with."""
    diffusers, peft = pytest.importorskip("diffusers"), pytest.importorskip("peft")
    unet = small_unet(diffusers)
    unet.add_adapter(
        peft.LoraConfig(
            r=4,
            lora_alpha=16,
            target_modules=["to_q", "to_k"],
            rank_pattern={"attn1.to_k": 2},
            alpha_pattern={"attn1.to_q": 1, r"down_blocks.*attn2\.(to_q|to_k)": 3},
            init_lora_weights=False,
        )
    )
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=peft.get_peft_model_state_dict(unet),
        unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
    )
    path = tmp_path / "pytorch_lora_weights.safetensors"
    file = load_lora_file(path)
    assert len(file.adapters) == 16
    layers = dict(unet.named_modules())
    for layer_id, adapter in file.adapters.items():
        low = adapter.low_rank()
        assert low is not None
        expected = layers[layer_name_table(UNET).diffusers[layer_id]].get_delta_weight("default")
        assert torch.allclose(low.delta(), expected, atol=1e-6), layer_id
    same = save_lora_file(file, tmp_path / "same.safetensors")
    assert read_safetensors(same)[1] == read_safetensors(path)[1]
    assert read_safetensors(same)[0].keys() == read_safetensors(path)[0].keys()
    for changed in (
        save_lora_file(file, tmp_path / "kohya.safetensors", key_format="kohya"),
        save_lora_file(file, tmp_path / "bare.safetensors", metadata={}),
        save_lora_file(
            dataclasses.replace(file, adapters=dict(list(file.adapters.items())[:5])), tmp_path / "few.safetensors"
        ),
        save_lora_file(
            dataclasses.replace(file, unrecognized={"x": torch.ones(1)}), tmp_path / "more.safetensors", metadata={}
        ),
    ):
        again = load_lora_file(changed)
        assert "lora_adapter_metadata" not in again.metadata
        assert again.adapters
        for layer_id, adapter in again.adapters.items():
            one, two = adapter.low_rank(), file.adapters[layer_id].low_rank()
            assert one is not None
            assert two is not None
            assert torch.allclose(one.delta(), two.delta(), atol=1e-6)


def test_each_part_has_its_own_alpha_in_diffusers_metadata() -> None:
    alphas = {"unet": 16, "text_encoder": 4, "text_encoder_2": 8}
    layers = dict.fromkeys(alphas, "text_model.encoder.layers.0.mlp.fc1")
    layers["unet"] = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {f"{part}.{layer}.lora_{side}.weight": torch.ones(*((2, 8) if side == "A" else (8, 2)))
               for part, layer in layers.items() for side in "AB"}  # fmt: skip
    packed = {f"{part}.{name}": value for part, alpha in alphas.items()
              for name, value in (("r", 2), ("lora_alpha", alpha))}  # fmt: skip
    file = assemble_lora_file(tensors, {"lora_adapter_metadata": json.dumps(packed)})
    found = {layer_id.part: adapter.scaling() for layer_id, adapter in file.adapters.items()}
    assert found == {"unet": 8, "te": 2, "te2": 4}


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "1", "[" * 9999, '{"unet.lora_alpha": "x"}', '{"unet.lora_alpha": NaN}', '{"unet.alpha_pattern": 3}'],
)
def test_damaged_diffusers_metadata_means_none(text: str) -> None:
    layer_id = LayerId(UNET, "IN04", "attention.transformer_blocks.0.attn2.to_k")
    key = layer_name_table(UNET).diffusers[layer_id]
    tensors = {f"unet.{key}.lora_A.weight": torch.ones(2, 8), f"unet.{key}.lora_B.weight": torch.ones(8, 2)}
    assert assemble_lora_file(tensors, {"lora_adapter_metadata": text}).adapters[layer_id].scaling() == 1


def test_temporary_files_of_killed_programs_are_removed_after_a_day(tmp_path: Path) -> None:
    names = {".big-a1b2c3d_.part": 2, ".big-new45678.part": 0, "film.part": 2, ".film.part": 2}
    for name, days in names.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - days * 86_400 - 60,) * 2)
    with replacing_file(tmp_path / "a.txt", overwrite=False) as part:
        part.write_text("a")
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", ".big-new45678.part", "film.part", ".film.part"}
