"""Files that lie about themselves: one clear error that names the file, and no other exception."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lora_ext.errors import FileError
from lora_ext.file import hashes, load_lora_file
from lora_ext.file.saving import save_safetensors

HEAD = "lora_unet_mid_block_attentions_0_proj_in"
GOOD = {f"{HEAD}.lora_up.weight": torch.ones(8, 2), f"{HEAD}.lora_down.weight": torch.ones(2, 8)}


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4), name: str = "a") -> dict[str, Any]:
    return {name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


DATA = b"\0" * 4
SOUND = raw(entry(), DATA)

BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "a few bytes": (b"\1\0\0", "too few for a header"),
    "length and nothing": (b"\x10\0\0\0\0\0\0\0", "too few for a header"),
    "no header": (raw(b"{}", b"", 0) + b"x" * 9, "its header is empty"),
    "cut in the header": (SOUND[:30], "cut off while downloading"),
    "cut in the data": (SOUND[:-1], "cut off while downloading"),
    "too long": (SOUND + b"\0", "the last 1 byte belongs to no tensor"),
    "huge header": (raw(entry(), DATA, 2**63), "more than the format's limit"),
    "largest header": (raw(entry(), DATA, 2**64 - 1), "more than the format's limit"),
    "header larger than the file": (raw(entry(), DATA, 99_000_000), "cut off while downloading"),
    "not UTF-8": (raw(b'{"\xff":1}'), "not UTF-8"),
    "not JSON": (raw(b'{"a":}      '), "not JSON"),
    "a JSON list": (raw(b"[1,2,3,4]"), "not a JSON object"),
    "deep": (raw(b'{"a":' + b"[" * 200_000), "nested too deeply"),
    "deep objects": (raw(b'{"a":' * 200_000), "nested too deeply"),
    "deep metadata": (raw(b'{"__metadata__":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"), "nested too deeply"),
    "long number": (raw(b'{"a":' + b"9" * 10_000 + b"}"), "a number of thousands of digits"),
    "NaN": (raw(b'{"a":NaN}    '), "NaN in its header"),
    "a name twice": (raw(json.dumps(entry()).encode()[:-1] + b"," + json.dumps(entry()).encode()[1:], DATA), "twice"),
    "half a character": (raw(b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', DATA), "not valid text"),
    "entry is a number": (raw({"a": 7}), "lacks dtype"),
    "entry without shape": (raw({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, DATA), "lacks dtype"),
    "unknown dtype": (raw(entry("F4"), DATA), "unknown dtype 'F4'"),
    "dtype is a list": (raw(entry(["F32"]), DATA), "unknown dtype"),
    "negative shape": (raw(entry(shape=[-1]), DATA), "no valid shape"),
    "shape of text": (raw(entry(shape="1"), DATA), "no valid shape"),
    "shape of truth": (raw(entry(shape=[True]), DATA), "no valid shape"),
    "shape of fractions": (raw(entry(shape=[1.0]), DATA), "no valid shape"),
    "vast shape": (raw(entry(shape=[2**62, 2**62]), DATA), "takes"),
    "vast empty shape": (raw(entry(shape=[2**64, 0], offsets=[0, 0]), b""), "no valid shape"),
    "a thousand dimensions": (raw(entry(shape=[1] * 1000), DATA), "no valid shape"),
    "negative offsets": (raw(entry(offsets=[-4, 0]), DATA), "no valid shape or data_offsets"),
    "three offsets": (raw(entry(offsets=[0, 4, 8]), DATA), "no valid shape or data_offsets"),
    "backward offsets": (raw(entry(shape=[0], offsets=[4, 0]), DATA), "takes 0 bytes, its data_offsets span -4"),
    "offsets outside": (raw(entry(offsets=[4, 8]), DATA), "belong to no tensor"),
    "span and shape differ": (raw(entry(shape=[2]), DATA), "takes 8 bytes, its data_offsets span 4"),
    "overlap": (raw(entry() | entry(name="b", offsets=[0, 4]), DATA), "overlap"),
    "half an overlap": (raw(entry() | entry("U8", [4], [2, 6], "b"), DATA * 2), "overlap"),
    "gap": (raw(entry() | entry(name="b", offsets=[8, 12]), DATA * 3), "4 bytes before 'b' belong to no tensor"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs pointer"),
    "web page": (b"\n <!DOCTYPE html><html><body>404</body></html>", "web page"),
    "JSON answer": (b'{"error":"Unauthorized"}', "JSON text"),
    "gzip": (b"\x1f\x8b" + b"\0" * 60, "gzip"),
    "picture": (b"\x89PNG\r\n\x1a\n" + b"\0" * 60, "PNG image"),
    "plain text": (b"hello, this is not a model at all", "is not a valid safetensors file"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("name", BYTES)
def test_bad_bytes(name: str, suffix: str, tmp_path: Path) -> None:
    data, match = BYTES[name]
    path = tmp_path / f"some file{suffix}"
    path.write_bytes(data)
    with pytest.raises(FileError) as caught:
        load_lora_file(path)
    assert str(path) in str(caught.value)
    if suffix == ".safetensors":
        assert match in str(caught.value)
        assert len(str(caught.value)) < 1000
    if data:
        with pytest.raises(FileError):
            hashes.model_hash(path) if suffix == ".safetensors" else load_lora_file(path)


def test_the_sound_ones_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for data in (
        SOUND,
        raw({}),
        raw(b"{}" + b" " * 40),
        raw({"__metadata__": {}}),
        raw(entry(shape=[0, 7], offsets=[0, 0])),
    ):
        path.write_bytes(data)
        assert not load_lora_file(path).adapters


@pytest.mark.parametrize("value", [None, 7, "text", [1, [2]], {"a": {"b": [1, None, 1.5]}}, {"": ""}, {"x": "\ud83d"}])
def test_absurd_metadata(value: object, tmp_path: Path) -> None:
    path, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    path.write_bytes(raw({"__metadata__": value, **entry()}, DATA))
    file = load_lora_file(path)
    assert all(isinstance(text, str) for pair in file.metadata.items() for text in pair)
    save_safetensors(file.unrecognized, out, metadata=file.metadata)
    assert load_lora_file(out).metadata == file.metadata


def test_large_metadata(tmp_path: Path) -> None:
    path = save_safetensors(GOOD, tmp_path / "a.safetensors", metadata={"x" * 1000: "y" * 5_000_000})
    assert len(load_lora_file(path).metadata["x" * 1000]) == 5_000_000


WRONG: dict[str, tuple[dict[str, Tensor], str]] = {
    "ranks differ": (
        {"lora_up.weight": torch.ones(8, 3), "lora_down.weight": torch.ones(2, 8)},
        "do not share one rank",
    ),
    "no rank": ({"lora_up.weight": torch.ones(8, 0), "lora_down.weight": torch.ones(0, 8)}, "do not share one rank"),
    "wrong way round": (
        {"lora_up.weight": torch.ones(2, 8), "lora_down.weight": torch.ones(8, 2).T[:1]},
        "share one rank",
    ),
    "up with a kernel": ({"lora_up.weight": torch.ones(8, 2, 3, 3), "lora_down.weight": torch.ones(2, 8)}, "one rank"),
    "core of another rank": (
        {
            "lora_up.weight": torch.ones(8, 2),
            "lora_down.weight": torch.ones(2, 8),
            "lora_mid.weight": torch.ones(2, 3, 3, 3),
        },
        "do not share one rank",
    ),
    "flat core": (
        {"lora_up.weight": torch.ones(8, 2), "lora_down.weight": torch.ones(2, 8), "lora_mid.weight": torch.ones(2)},
        "must be a matrix",
    ),
    "scalar for a matrix": (
        {"lora_up.weight": torch.tensor(1.0), "lora_down.weight": torch.ones(2, 8)},
        "must be a matrix",
    ),
    "vector for a matrix": (
        {"lora_up.weight": torch.ones(8), "lora_down.weight": torch.ones(1, 8)},
        "must be a matrix",
    ),
    "two alphas": (
        {"lora_up.weight": torch.ones(8, 2), "lora_down.weight": torch.ones(2, 8), "alpha": torch.ones(2)},
        "must be one number",
    ),
    "no alpha inside": (
        {"lora_up.weight": torch.ones(8, 2), "lora_down.weight": torch.ones(2, 8), "alpha": torch.ones(0)},
        "must be one number",
    ),
    "LoHa of scalars": ({f"hada_w{n}_{x}": torch.tensor(1.0) for n in "12" for x in "ab"}, "must be a matrix"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes(name: str, tmp_path: Path) -> None:
    tensors, match = WRONG[name]
    path = save_safetensors(
        {f"{HEAD}.{suffix}": t for suffix, t in tensors.items()}, tmp_path / "a.safetensors", metadata={}
    )
    with pytest.raises(FileError, match=match) as caught:
        load_lora_file(path)
    assert str(path) in str(caught.value)
    assert "unet.MID.attention.proj_in" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none(value: float, tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        tensors = {key: tensor.to(dtype).clone() for key, tensor in GOOD.items()}
        tensors[f"{HEAD}.lora_down.weight"][1, 3] = value
        file = load_lora_file(save_safetensors(tensors, tmp_path / "a.safetensors", metadata={}, overwrite=True))
        assert file.first_non_finite_key == f"{HEAD}.lora_down.weight"
        with pytest.raises(FileError, match=r"a\.safetensors contains NaN or infinity"):
            file.check_finite()


def unreadable(path: Path) -> None:
    path.mkdir()


def missing(path: Path) -> None:
    pass


def loop(path: Path) -> None:
    path.symlink_to(path)


def nowhere(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize("make", [unreadable, missing, loop, nowhere])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_no_file_at_all(make: Callable[[Path], None], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    make(path)
    for job in (load_lora_file, hashes.model_hash):
        with pytest.raises(FileError) as caught:
            job(path)
        assert str(path) in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = save_safetensors(GOOD, tmp_path / "a.safetensors", metadata={})
    path.chmod(0)
    with pytest.raises(FileError, match="cannot be read"):
        load_lora_file(path)
