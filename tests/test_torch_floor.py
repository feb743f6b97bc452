"""torch 2.1, the oldest that is supported, computes less in float16 on the CPU than later ones: no tool may need it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_host_checkpoint as small
import torch
from safetensors.torch import load_file, save_file
from test_tools_checkpoint_merge import full_file, of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from lora_ext.cli import main
from lora_ext.errors import FileError
from lora_ext.file.saving import save_lora_file
from lora_ext.tools.merge_into_checkpoint import merge_into_checkpoint

MISSING = {  # tried with 2.1.2
    "aminmax", "mm", "addmm", "bmm", "baddbmm", "convolution", "quantile", "cumsum", "nextafter", "_softmax",
    "native_group_norm", "native_layer_norm",
}  # fmt: skip


class OldTorch(TorchDispatchMode):
    """Refuses what torch 2.1 has no float16 for on the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        values, _ = tree_flatten((args, kwargs))
        if name in MISSING and any(isinstance(t, torch.Tensor) and t.dtype == torch.float16 for t in values):
            raise RuntimeError(f"{name!r} not implemented for 'Half'")
        return func(*args, **(kwargs or {}))


def test_the_mode_refuses() -> None:
    with OldTorch(), pytest.raises(RuntimeError, match="aminmax"):
        torch.aminmax(torch.ones(2).half())


def _halved(path: Path) -> Path:
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in load_file(path).items()}
    save_file(tensors, path)
    return path


@pytest.mark.long
def test_merging_into_a_float16_checkpoint(tmp_path: Path) -> None:
    path = small.write(tmp_path, "SD1")
    file = full_file(path, std=0.2)
    with OldTorch():
        report = merge_into_checkpoint(_halved(path), [of(file, 0.7)], tmp_path / "out.safetensors")
    assert len(report.layers) > 50
    assert {t.dtype for t in load_file(tmp_path / "out.safetensors").values() if t.is_floating_point()} == {
        torch.float16
    }


@pytest.mark.long
@pytest.mark.parametrize(
    "command",
    [
        lambda d: ["merge", "--models", f"{d}/a.safetensors", f"{d}/b.safetensors", "--ratios", "0.5", "0.5"],
        lambda d: ["svd-merge", "--models", f"{d}/a.safetensors", f"{d}/b.safetensors", "--new_rank", "2"],
        lambda d: ["resize", "--model", f"{d}/a.safetensors", "--new_rank", "2"],
        lambda d: (
            ["resize", "--model", f"{d}/a.safetensors", "--new_rank", "4", "--dynamic_method", "sv_fro"]
            + ["--dynamic_param", "0.9"]
        ),
        lambda d: (
            ["extract", "--model_org", f"{d}/base.safetensors", "--model_tuned", f"{d}/tuned.safetensors"]
            + ["--dim", "2", "--conv_dim", "2"]
        ),
        lambda d: ["reweight", "--model", f"{d}/a.safetensors", "--lbw", "OUTALL"],
        lambda d: ["convert", "--model", f"{d}/loha.safetensors", "--rank", "4"],
    ],
    ids=["merge", "svd-merge", "resize", "resize-dynamic", "extract", "reweight", "convert"],
)
def test_tools_on_float16_files(tmp_path: Path, command: Callable[[Path], list[str]]) -> None:
    base = small.write(tmp_path, "SD1").rename(tmp_path / "base.safetensors")
    for name, kind in (("a", "lora"), ("b", "lora"), ("loha", "loha")):
        _halved(save_lora_file(full_file(base, kind, std=0.2), tmp_path / f"{name}.safetensors"))
    merge_into_checkpoint(_halved(base), [of(full_file(base, std=0.2))], tmp_path / "tuned.safetensors")
    with OldTorch():
        assert main([*command(tmp_path), "--save_to", str(tmp_path / "out.safetensors")]) == 0
    assert (tmp_path / "out.safetensors").stat().st_size > 1000


def test_float8_in_a_ckpt_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small.write(tmp_path, "SD1")

    def save(content: object, file: object) -> None:
        raise KeyError("dtype torch.float8_e4m3fn is not recognized")  # torch 2.1's own words

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(FileError, match=r"float8_e4m3fn is not recognized.*save as \.safetensors"):
        merge_into_checkpoint(path, [of(full_file(path, std=0.2))], tmp_path / "out.ckpt")
    assert not list(tmp_path.glob("out*"))
