"""Files in every key format become adapters of the right layers, and nothing is lost."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lora_ext.errors import FileError
from lora_ext.file.containers import load_tensors
from lora_ext.file.loading import assemble_lora_file, load_lora_file
from lora_ext.file.safetensors_file import iterate_safetensors, load_safetensors_header
from lora_ext.file.saving import save_safetensors
from lora_ext.layer_keys import format_kohya_key, format_peft_key
from lora_ext.layer_names import TE, TE2, UNET, LayerId, layer_name_table

DATA = Path(__file__).parent / "data" / "kohya"
GOLDEN = Path(os.environ.get("LORA_EXT_GOLDEN", Path(__file__).parents[1] / ".." / "shared" / "golden")) / "kohya"

TO_K = LayerId(UNET, "IN04", "attention.transformer_blocks.0.attn2.to_k")
TO_Q = LayerId(UNET, "IN04", "attention.transformer_blocks.0.attn1.to_q")
FC1 = LayerId(TE, "BASE", "layers.3.mlp.fc1")


def pair(out: int, into: int, rank: int = 4, **more: Tensor) -> dict[str, Tensor]:
    return {"lora_up.weight": torch.randn(out, rank), "lora_down.weight": torch.randn(rank, into), **more}


def under(head: str, tensors: dict[str, Tensor], **key_format: str) -> dict[str, Tensor]:
    return {f"{head}.{key_format.get(suffix.split('.')[0], suffix)}": tensor for suffix, tensor in tensors.items()}


def inputs() -> list[Path]:
    if not (GOLDEN / "in").is_dir():
        return []
    return sorted(path for path in (GOLDEN / "in").glob("*.safetensors") if not path.name.startswith("tiny_"))


FILES = [path for path in sorted(DATA.glob("*.safetensors")) if not re.search("ckpt|tiny_", path.name)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_kohya_files_are_understood_whole(path: Path) -> None:
    file = load_lora_file(path)
    assert not file.unrecognized
    assert file.kinds == ("LoRA",)
    assert file.key_format == "kohya"
    assert len(file.adapters) in (60, 73)
    contents = load_tensors(path)
    assert dict(file.keyed_tensors()).keys() == contents.tensors.keys()
    assert file.metadata == contents.metadata


def test_every_reference_file_is_understood_whole() -> None:
    if not inputs():
        pytest.skip("LORA_EXT_GOLDEN has no kohya/in")
    for path in inputs():
        file = load_lora_file(path)
        assert file.adapters, path
        assert not file.unrecognized, path


def test_what_people_call_it() -> None:
    assert load_lora_file(DATA / "lierla_r8a4_fp16.safetensors").variant == "LoRA-LierLa"
    assert load_lora_file(DATA / "c3_r8_fp16.safetensors").variant == "LoRA-C3Lier"
    assert load_lora_file(DATA / "lierla_r8_with_dora_key.safetensors").variant == "LoRA-LierLa with DoRA"
    file = assemble_lora_file(
        under("lora_unet_mid_block_attentions_0_proj_in", pair(8, 8)), {"ss_network_module": "networks.dylora"}
    )
    assert file.variant == "DyLoRA"
    assert file.dylora_unit == 1
    file = assemble_lora_file({}, {"ss_network_args": '{"unit": "4", "conv_dim": "8"}'})
    assert file.dylora_unit == 4
    assert assemble_lora_file({}, {}).variant == "none"


def test_length_that_begins_like_a_pickle_is_still_safetensors() -> None:
    path = DATA / "c3_varied_ranks.safetensors"
    assert path.read_bytes()[:1] == b"\x80"
    assert load_lora_file(path).metadata["ss_network_dim"] == "Dynamic"


KEYS_OF_FORMATS = {
    "kohya": lambda layer_id: under(format_kohya_key(layer_id), pair(8, 8)),
    "kohya SDXL": lambda layer_id: under(format_kohya_key(layer_id, sdxl=True), pair(8, 8)),
    "PEFT": lambda layer_id: under(
        format_peft_key(layer_id), pair(8, 8), lora_up="lora_B.weight", lora_down="lora_A.weight"
    ),
    "PEFT, named adapter": lambda layer_id: under(
        format_peft_key(layer_id), pair(8, 8), lora_up="lora_B.default.weight", lora_down="lora_A.default.weight"
    ),
    "diffusers 0.2x": lambda layer_id: under(
        format_peft_key(layer_id), pair(8, 8), lora_up="lora.up.weight", lora_down="lora.down.weight"
    ),
    "bare diffusers": lambda layer_id: under(layer_name_table(layer_id.part).diffusers[layer_id], pair(8, 8)),
}


@pytest.mark.parametrize("key_format", KEYS_OF_FORMATS)
@pytest.mark.parametrize("layer_id", [TO_K, TO_Q, FC1], ids=str)
def test_key_formats_lead_to_the_same_layer_id(key_format: str, layer_id: LayerId) -> None:
    file = assemble_lora_file(KEYS_OF_FORMATS[key_format](layer_id), {})
    assert set(file.adapters) == {layer_id}
    assert not file.unrecognized
    assert file.key_format == ("kohya" if key_format.startswith("kohya") else "diffusers")


def test_attention_processor_files() -> None:
    base = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor"
    tensors = {
        f"{base}.to_{projection}_lora.{end}.weight": torch.randn(4, 4)
        for projection in ("q", "k", "v", "out")
        for end in ("up", "down")
    }
    file = assemble_lora_file(tensors, {})
    found = {layer_id.layer.rpartition("attn2.")[2]: adapter for layer_id, adapter in file.adapters.items()}
    assert found.keys() == {"to_q", "to_k", "to_v", "to_out.0"}
    for projection, adapter in found.items():
        for end in ("up", "down"):
            stored = tensors[f"{base}.{projection.removesuffix('.0')}_lora.{end}.weight"]
            assert torch.equal(adapter.tensors[f"lora_{end}.weight"], stored), projection
    assert file.key_format == "processor"
    assert not file.unrecognized


@pytest.mark.parametrize("projection", ["q", "k", "v", "out"])
def test_text_encoders_of_processor_files(projection: str) -> None:
    """diffusers 0.15 and 0.16 name their projections as the U-Net's."""
    key = f"text_encoder.text_model.encoder.layers.3.self_attn.to_{projection}_lora"
    file = assemble_lora_file({f"{key}.{end}.weight": torch.randn(4, 4) for end in ("up", "down")}, {})
    assert set(file.adapters) == {LayerId("te", "BASE", f"layers.3.self_attn.{projection}_proj")}


def test_embeddings_inside() -> None:
    tensors = {
        "bundle_emb.cat.string_to_param.*": torch.randn(2, 768),
        "bundle_emb.dog.clip_l": torch.randn(2, 768),
        "bundle_emb.dog.clip_g": torch.randn(2, 1280),
        "bundle_emb.broken": torch.randn(1),
    }
    file = assemble_lora_file(tensors, {})
    assert {name: set(vectors) for name, vectors in file.embeddings.items()} == {
        "cat": {"string_to_param.*"},
        "dog": {"clip_l", "clip_g"},
    }
    assert list(file.unrecognized) == ["bundle_emb.broken"]


def test_unknown_keys_are_kept() -> None:
    tensors = {
        **under("lora_unet_mid_block_attentions_0_proj_in", pair(8, 8)),
        "lora_unet_mid_block_attentions_0_proj_in.wonder": torch.ones(1),
        "lora_unet_mid_block_attentions_0_proj_out.lora_up.weight": torch.ones(8, 4),
        "lora_unet_no_such_layer.lora_up.weight": torch.ones(8, 4),
        "lora_transformer_single_blocks_0.lora_up.weight": torch.ones(8, 4),
    }
    file = assemble_lora_file(tensors, {})
    assert len(file.adapters) == 1
    assert set(file.unrecognized) == set(tensors) - set(list(tensors)[:2])


def test_alpha_of_any_shape_and_dtype() -> None:
    for alpha in (
        torch.tensor(2.0),
        torch.tensor([2.0]),
        torch.tensor(2.0).bfloat16(),
        torch.tensor(2),
        torch.tensor([[2]]),
    ):
        file = assemble_lora_file(under(format_kohya_key(TO_Q), pair(8, 8, alpha=alpha)), {})
        assert file.adapters[TO_Q].alpha == 2.0


def test_same_layer_under_two_names() -> None:
    tensors = {
        **under("lora_te_text_model_encoder_layers_3_mlp_fc1", pair(8, 8)),
        **under("lora_te1_text_model_encoder_layers_3_mlp_fc1", pair(8, 8)),
    }
    with pytest.raises(FileError, match=r"same layer .* under two names"):
        assemble_lora_file(tensors, {})


def family(tensors: dict[str, Tensor], **metadata: str) -> str:
    return assemble_lora_file(tensors, {key.replace("__", "."): value for key, value in metadata.items()}).family


def test_family() -> None:
    for width, expected in ((768, "SD1"), (1024, "SD2"), (2048, "SDXL")):
        assert family(under(format_kohya_key(TO_K), pair(640, width)), ss_base_model_version="sd_v1") == expected
    loha = {"hada_w1_a": (640, 4), "hada_w1_b": (4, 1024), "hada_w2_a": (640, 4), "hada_w2_b": (4, 1024)}
    assert family(under(format_kohya_key(TO_K), {name: torch.ones(size) for name, size in loha.items()})) == "SD2"
    assert family(under(format_kohya_key(FC1), pair(4096, 1024))) == "SD2"
    assert family(under(format_kohya_key(LayerId(TE2, "BASE", "layers.30.mlp.fc1")), pair(8, 8))) == "SDXL"
    assert family(under(format_kohya_key(FC1, sdxl=True), pair(3072, 768))) == "SDXL"
    deep = LayerId(UNET, "IN07", "attention.transformer_blocks.9.attn1.to_q")
    assert family(under(format_kohya_key(deep), pair(8, 8))) == "SDXL"
    assert family(under(format_kohya_key(TO_Q), pair(8, 8))) == "unknown"
    assert family(under(format_kohya_key(TO_Q), pair(8, 8)), ss_v2="True") == "SD2"
    assert (
        family(under(format_kohya_key(TO_Q), pair(8, 8)), modelspec__architecture="stable-diffusion-xl-v1-base/lora")
        == "SDXL"
    )


def test_torch_files(tmp_path: Path) -> None:
    tensors = under(format_kohya_key(TO_K), pair(640, 768))
    for number, content in enumerate(
        (
            tensors,
            {"state_dict": tensors, "epoch": 3},
            {**tensors, f"{format_kohya_key(TO_K)}.alpha": 2.0, "note": "hello"},
        )
    ):
        for legacy in (False, True):
            path = tmp_path / f"{number}{legacy}.pt"
            torch.save(content, path, _use_new_zipfile_serialization=not legacy)
            file = load_lora_file(path)
            assert set(file.adapters) == {TO_K}
            assert torch.equal(
                file.adapters[TO_K].tensors["lora_up.weight"], tensors[f"{format_kohya_key(TO_K)}.lora_up.weight"]
            )
    assert file.adapters[TO_K].alpha == 2.0
    assert file.metadata == {"note": "hello"}


def test_renamed_files_are_read_by_content(tmp_path: Path) -> None:
    renamed = tmp_path / "a.pt"
    renamed.write_bytes((DATA / "lierla_r8a4_fp16.safetensors").read_bytes())
    assert len(load_lora_file(renamed).adapters) == 60
    other = tmp_path / "b.safetensors"
    torch.save(under(format_kohya_key(TO_K), pair(640, 768)), other)
    assert set(load_lora_file(other).adapters) == {TO_K}


def test_metadata_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_safetensors(under(format_kohya_key(TO_K), pair(640, 768)), path, metadata={"a": "KEEP"})
    data = path.read_bytes()
    for value, text in (
        ('{"x":[1,2.5,null]}', '{"x": [1, 2.5, null]}'),
        ("17", "17"),
        ("null", "null"),
        ('"KEEP"', "KEEP"),
    ):
        length = int.from_bytes(data[:8], "little")
        head = data[8 : 8 + length].replace(b'"KEEP"', value.encode())
        path.write_bytes(len(head).to_bytes(8, "little") + head + data[8 + length :])
        assert load_lora_file(path).metadata == {"a": text}


def test_finite(tmp_path: Path) -> None:
    tensors = under(format_kohya_key(TO_K), pair(640, 768))
    assert assemble_lora_file(tensors, {}).first_non_finite_key is None
    huge = {key: torch.full_like(tensor, 3e38) for key, tensor in tensors.items()}
    assemble_lora_file(huge, {}).check_finite()
    for bad in (float("nan"), float("inf")):
        tensors[f"{format_kohya_key(TO_K)}.lora_down.weight"][1, 5] = bad
        file = assemble_lora_file(tensors, {}, tmp_path / "x.safetensors")
        with pytest.raises(FileError, match=r"x\.safetensors contains NaN or infinity .*attn2_to_k\.lora_down"):
            file.check_finite()


def test_one_tensor_at_a_time() -> None:
    path = DATA / "lierla_r8a4_bf16.safetensors"
    whole, header = load_tensors(path).tensors, load_safetensors_header(path)
    for name, tensor in iterate_safetensors(path, header, reversed(list(header.entries))):
        assert torch.equal(tensor, whole[name])
        assert tensor.dtype == whole[name].dtype
