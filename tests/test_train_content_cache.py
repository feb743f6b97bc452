"""What is kept is what was computed, also in the next run; damage is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_ext.errors import TrainError
from lora_ext.train.data.content_cache import TensorCache, content_key, tensor_fingerprint


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_fingerprints_know_changes_that_matter(values: list[float]) -> None:
    tensor = torch.tensor(values)
    assert tensor_fingerprint(tensor) == tensor_fingerprint(tensor.clone())
    assert tensor_fingerprint(tensor) != tensor_fingerprint(tensor + 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_damage_is_noticed(tmp_path: Path, dtype: torch.dtype) -> None:
    store = TensorCache(tmp_path)
    store.add("k", {"a": torch.arange(6, dtype=dtype).view(2, 3), "empty": torch.zeros(0)})
    kept = TensorCache(tmp_path).get("k")
    assert kept is not None and torch.equal(kept["a"], torch.arange(6, dtype=dtype).view(2, 3)) and "k" in store
    path = tmp_path / "k.safetensors"
    data = path.read_bytes()
    for spoilt in (data[:-1], data[:-1] + bytes([data[-1] ^ 1]), b"", b"x" * 100):
        path.write_bytes(spoilt)
        assert store.get("k") is None
    assert store.get("none") is None and "none" not in store


def test_a_folder_that_is_gone_or_cannot_be_is_reported(tmp_path: Path) -> None:
    store = TensorCache(tmp_path / "c")
    (tmp_path / "c").rmdir()
    with pytest.raises(TrainError, match="cannot be written to"):
        store.add("k", {"a": torch.zeros(1)})
    (tmp_path / "f").write_text("x", encoding="utf-8")
    with pytest.raises(TrainError, match="cannot be created"):
        TensorCache(tmp_path / "f" / "c")


def test_keys_depend_on_every_part() -> None:
    assert len({content_key("a", "b"), content_key("ab", ""), content_key("a", "c"), content_key("a")}) == 4
