"""Torch files that want to run code, or to unpack to more than they are: refused, and nothing has run."""

from __future__ import annotations

import io
import os
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_ext.errors import FileError
from lora_ext.file import load_lora_file
from lora_ext.file.lora_library import LoraLibrary


class Call:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.function, self.arguments


def archive(data: bytes, name: str = "archive/data.pkl", **more: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(name, data)
        file.writestr("archive/version", b"3\n")
        for path, content in more.items():
            file.writestr(path, content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def saved(content: object, *, legacy: bool = False) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


KINDS: dict[str, Callable[[object], bytes]] = {
    "torch": saved,
    "torch, old format": lambda content: saved(content, legacy=True),
    "bare pickle": lambda content: pickle.dumps(content),
    "bare pickle, protocol 0": lambda content: pickle.dumps(content, 0),
    "bare pickle, protocol 2": lambda content: pickle.dumps(content, 2),
    "bare pickle, protocol 5": lambda content: pickle.dumps(content, 5),
    "zip of a pickle": lambda content: archive(pickle.dumps(content, 2)),
}


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_code_is_not_run(kind: str, suffix: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    calls = {
        "system": Call(os.system, f"touch '{canary}'"),
        "eval": Call(eval, f"open({str(canary)!r}, 'w')"),
        "mkdir": Call(os.mkdir, str(canary)),
    }
    for name, call in calls.items():
        for content in (call, {"a": torch.ones(2), "b": call}, [torch.ones(2), call], {"state_dict": {"x": call}}):
            path = tmp_path / f"a{suffix}"
            path.write_bytes(KINDS[kind](content))
            with pytest.raises(FileError) as caught:
                load_lora_file(path)
            assert not canary.exists()
            assert str(path) in str(caught.value)
            if not (suffix == ".safetensors" and "protocol 0" in kind):
                assert f".{name}'" in str(caught.value), str(caught.value)
            LoraLibrary([tmp_path])
            assert not canary.exists()


def test_siblings_are_not_run_either(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    from lora_ext.file.cloneofsimo import DEFAULT_TARGET_CLASSES, unet_layer_order

    tensors = []
    for layer_id in unet_layer_order(DEFAULT_TARGET_CLASSES):
        wide = 64 if layer_id.layer.endswith("ff.net.0.proj") else 8
        tensors += [torch.ones(wide, 1), torch.ones(1, 8)]
    torch.save(tensors, tmp_path / "a.pt")
    assert len(load_lora_file(tmp_path / "a.pt").adapters) == 144
    for name in ("text_encoder", "ti"):
        path = tmp_path / f"a.{name}.pt"
        torch.save([Call(os.system, f"touch '{canary}'")], path)
        with pytest.raises(FileError, match=r"wants to run '\w+\.system'") as caught:
            load_lora_file(tmp_path / "a.pt")
        assert str(path) in str(caught.value)
        assert not canary.exists()
        path.unlink()


def test_what_is_no_lora(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for content, match in (
        (torch.ones(3), "holds a single tensor"),
        ({}, "holds no tensors by name"),
        ({768: (torch.ones(2), torch.ones(2))}, "is a hypernetwork, not a LoRA"),
        ({"state_dict": 5}, "holds no tensors by name"),
        ("text", "holds a str"),
        (None, "holds a NoneType"),
        ({"string_to_param": {"*": torch.ones(2, 8)}, "name": "x"}, "textual-inversion embedding"),
    ):
        torch.save(content, path)
        with pytest.raises(FileError, match=match) as caught:
            load_lora_file(path)
        assert str(path) in str(caught.value)


def test_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for data, match in (
        (archive(b"x", "lora.safetensors"), "is a zip archive .holding lora.safetensors"),
        (archive(b"", **{"archive/data/0": b"\0" * 50_000_000}), "claims to unpack to"),
        (saved({"a": torch.ones(9)})[:-30], "a.pt is"),
        (saved({"a": torch.ones(9)})[:200], "a.pt is"),
        (b"PK\3\4" + b"\0" * 200, "a.pt is"),
    ):
        path.write_bytes(data)
        with pytest.raises(FileError, match=match):
            load_lora_file(path)


def test_a_small_file_of_vast_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(1).expand(1 << 40)}, path)
    with pytest.raises(FileError, match="claims tensors of"):
        load_lora_file(path)


@pytest.mark.parametrize(
    "name", [b"os\n" + b"a" * 8000, b"a." * 4000 + b"\nb", b"a" * 8000 + b"\nb"], ids=["name", "dots", "module"]
)
def test_a_class_with_a_name_of_thousands_of_letters(tmp_path: Path, name: bytes) -> None:
    """torch searches its own message for the name in quadratic time: 3 s for 7,000 letters with dots."""
    path = tmp_path / "a.pt"
    path.write_bytes(b"\x80\x02c" + name + b"\n.")
    begun = time.process_time()
    with pytest.raises(FileError, match="a name of more than 2000 letters"):
        load_lora_file(path)
    assert time.process_time() - begun < 0.5


def test_a_name_without_an_end(tmp_path: Path) -> None:
    """torch reads such a name to the end of the file, and searches that in quadratic time: 6 s for 20,000 bytes."""
    path = tmp_path / "a.pt"
    path.write_bytes(b"\x80\x02]q\x00ctorch.ls\n_rebuild_th" + bytes(20_000))
    begun = time.process_time()
    with pytest.raises(FileError, match="a name of more than 2000 letters"):
        load_lora_file(path)
    assert time.process_time() - begun < 0.5


def test_long_text_that_is_no_name(tmp_path: Path) -> None:
    path, key = tmp_path / "a.pt", "lora_unet_mid_block_attentions_0_proj_in.lora_{}.weight"
    torch.save({key.format("up"): torch.ones(4, 2), key.format("down"): torch.ones(2, 4), "note": "c" * 9000}, path)
    assert len(load_lora_file(path).adapters) == 1
