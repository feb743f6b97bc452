"""Random damage to sound files: a LoraError or a file, never another exception, never long."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lora_ext.errors import LoraError
from lora_ext.file import load_lora_file
from lora_ext.file.folder_listing import load_metadata_quickly
from lora_ext.file.saving import save_lora_file, save_safetensors
from lora_ext.inspect_file import format_inspection, inspect_lora_file

HEAD = "lora_unet_mid_block_attentions_0_proj_in"
TENSORS = {
    f"{HEAD}.lora_up.weight": torch.ones(4, 2),
    f"{HEAD}.lora_down.weight": torch.ones(2, 4).half(),
    f"{HEAD}.alpha": torch.tensor(1.0),
    "bundle_emb.a.string_to_param.*": torch.ones(1, 2),
}

Flips = Sequence[tuple[float, int]]
FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4)
FRAME = settings(max_examples=300)


def sound_safetensors() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = save_safetensors(
            TENSORS, Path(folder, "a.safetensors"), metadata={"ss_output_name": "x", "ss_v2": "False"}
        )
        return path.read_bytes()


def sound_torch() -> bytes:
    out = io.BytesIO()
    torch.save(TENSORS, out)
    return out.getvalue()


SAFE, TORCH = sound_safetensors(), sound_torch()


def attempt(data: bytes, suffix: str) -> None:
    """Reads, describes and writes again; only LoraErrors that name the file may come."""
    handle, name = tempfile.mkstemp(suffix=suffix)
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        for job in (load_metadata_quickly, lambda path: format_inspection(inspect_lora_file(path))):
            try:
                job(path)
            except LoraError as error:
                assert name in str(error)
        try:
            found = load_lora_file(path)
        except LoraError:
            return
        out = path.with_suffix(".out.safetensors")
        try:
            save_lora_file(found, out)
            assert load_lora_file(out).adapters.keys() == found.adapters.keys()
        finally:
            out.unlink(missing_ok=True)
    finally:
        path.unlink()


def damaged(data: bytes, flips: Flips, cut: float, extra: bytes) -> bytes:
    changed = bytearray(data)
    for place, value in flips:
        changed[int(place * len(changed))] = value
    return bytes(changed[: int(cut * len(changed)) or None]) + extra


@FRAME
@given(FLIPS, st.one_of(st.just(0.0), st.floats(0, 1)), st.binary(max_size=8))
@example([], 0.0, b"")
def test_damaged_safetensors(flips: Flips, cut: float, extra: bytes) -> None:
    attempt(damaged(SAFE, flips, cut, extra), ".safetensors")


@settings(FRAME, max_examples=200)
@given(FLIPS, st.one_of(st.just(0.0), st.floats(0, 1)), st.binary(max_size=8))
@example([], 0.0, b"")
@example([(0.986328125, 1)], 0.0, b"")  # an archive that claims to span several disks
def test_damaged_torch_files(flips: Flips, cut: float, extra: bytes) -> None:
    attempt(damaged(TORCH, flips, cut, extra), ".pt")


@FRAME
@given(st.binary(max_size=300), st.sampled_from([".safetensors", ".pt"]))
def test_random_bytes(data: bytes, suffix: str) -> None:
    attempt(data, suffix)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "U8", "F8_E4M3", "X"]) | JSON,
        "shape": st.lists(st.integers(-1, 9), max_size=4) | JSON,
        "data_offsets": st.tuples(st.integers(0, 40), st.integers(0, 40)).map(list) | JSON,
    }
)
NAMES = st.sampled_from([*TENSORS, "unet:0:up", "unet:0:down", "text_encoder:3:up", "__metadata__"]) | st.text(
    max_size=5
)


@FRAME
@given(st.dictionaries(NAMES, ENTRY | JSON, max_size=4), st.binary(max_size=40))
def test_random_headers(header: dict[str, object], data: bytes) -> None:
    text = json.dumps(header).encode()
    attempt(len(text).to_bytes(8, "little") + text + data, ".safetensors")


SIZES = st.lists(st.integers(0, 5), max_size=5)
SUFFIXES = (
    "lora_up.weight",
    "lora_down.weight",
    "lora_mid.weight",
    "alpha",
    "dora_scale",
    "diff",
    "scale",
    "hada_w1_a",
)


@settings(FRAME, max_examples=150)
@given(st.dictionaries(st.sampled_from(SUFFIXES), SIZES, max_size=5))
def test_random_shapes(shapes: dict[str, list[int]]) -> None:
    tensors = {f"{HEAD}.{suffix}": torch.ones(size) for suffix, size in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = save_safetensors(tensors, Path(folder, "a.safetensors"), metadata={})
        attempt(path.read_bytes(), ".safetensors")
