"""A damaged layer is skipped and counted; the rest of the file applies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import Tiny
from torch import Tensor

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.errors import FileError
from lora_ext.file.loading import load_lora_file
from lora_ext.file.lora_file import LoraFile
from lora_ext.file.saving import save_lora_file, save_safetensors
from lora_ext.inspect_file import format_inspection, inspect_lora_file
from lora_ext.tools.convert import convert_lora
from lora_ext.tools.merge import merge_loras
from lora_ext.tools.report import ToolReport
from lora_ext.tools.resize import resize_lora
from lora_ext.tools.reweight import reweight_lora
from lora_ext.tools.split_dylora import split_dylora

HEAD = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_"
SOUND = {f"{HEAD}v.lora_up.weight": torch.ones(32, 4), f"{HEAD}v.lora_down.weight": torch.ones(4, 32)}

DAMAGED: dict[str, tuple[dict[str, Tensor], str]] = {
    "rank 0": ({"lora_up.weight": torch.ones(32, 0), "lora_down.weight": torch.ones(0, 32)}, "one rank above 0"),
    "two ranks": (
        {"lora_up.weight": torch.ones(32, 3), "lora_down.weight": torch.ones(2, 32)},
        "do not share one rank",
    ),
    "half": ({"lora_up.weight": torch.ones(32, 3)}, "factors are missing"),
    "half with alpha": ({"lora_down.weight": torch.ones(3, 32), "alpha": torch.tensor(1.0)}, "factors are missing"),
    "two alphas": (
        {"lora_up.weight": torch.ones(32, 2), "lora_down.weight": torch.ones(2, 32), "alpha": torch.ones(2)},
        "must be one number",
    ),
    "vector": ({"lora_up.weight": torch.ones(32), "lora_down.weight": torch.ones(1, 32)}, "must be a matrix"),
    "LoHa of rank 0": (
        {f"hada_w{n}_{side}": torch.ones(32, 0) if side == "a" else torch.ones(0, 32) for n in "12" for side in "ab"},
        "must not be empty",
    ),
    "LoHa of two ranks": (
        {f"hada_w{n}_{side}": torch.ones(32, 4) if side == "a" else torch.ones(3, 32) for n in "12" for side in "ab"},
        "do not match",
    ),
    "LoKr of two ranks": (
        {"lokr_w1": torch.ones(4, 4), "lokr_w2_a": torch.ones(8, 2), "lokr_w2_b": torch.ones(3, 8)},
        "do not match",
    ),
    "LoHa of two shapes": (
        {
            **{f"hada_w1_{side}": torch.ones(32, 4) if side == "a" else torch.ones(4, 32) for side in "ab"},
            **{f"hada_w2_{side}": torch.ones(32, 4) if side == "a" else torch.ones(4, 16) for side in "ab"},
        },
        "do not match",
    ),
    "OFT of oblong blocks": ({"oft_blocks": torch.ones(4, 8, 4)}, "do not match"),
    "OFT without an axis": ({"oft_diag": torch.ones(8, 8)}, "do not match"),
    "OFT with half its outputs": ({"oft_blocks": torch.ones(4, 8, 8), "rescale": torch.ones(16, 1)}, "do not match"),
    "BOFT of odd blocks": ({"oft_blocks": torch.ones(2, 4, 3, 3)}, "do not match"),
    "bias of another size": ({"diff": torch.ones(32, 32), "diff_b": torch.ones(16)}, "do not match"),
    "residual without a size": (
        {
            "diff": torch.ones(32, 32),
            "bias_indices": torch.zeros(2, 1, dtype=torch.int16),
            "bias_values": torch.ones(1),
            "bias_size": torch.tensor(32.0),
        },
        "do not match",
    ),
    "three quarters of a LoHa": (
        {"hada_w1_a": torch.ones(32, 4), "hada_w1_b": torch.ones(4, 32), "hada_w2_a": torch.ones(32, 4)},
        "factors are missing",
    ),
    "NaN": (
        {"lora_up.weight": torch.full((32, 2), float("nan")), "lora_down.weight": torch.ones(2, 32)},
        "holds NaN or infinity",
    ),
    "infinite alpha": (
        {"lora_up.weight": torch.ones(32, 2), "lora_down.weight": torch.ones(2, 32), "alpha": torch.tensor(1e999)},
        "holds NaN or infinity",
    ),
}


def written(tmp_path: Path, name: str) -> tuple[LoraFile, LoraFile]:
    """The file with a damaged layer, and the one without."""
    bad = {f"{HEAD}q.{suffix}": tensor for suffix, tensor in DAMAGED[name][0].items()}
    return (
        load_lora_file(save_safetensors({**bad, **SOUND}, tmp_path / "bad.safetensors", metadata={})),
        load_lora_file(save_safetensors(SOUND, tmp_path / "good.safetensors", metadata={})),
    )


@pytest.mark.long
@pytest.mark.parametrize("name", DAMAGED)
def test_it_is_skipped_and_counted_and_the_rest_applies(name: str, tmp_path: Path) -> None:
    bad, good = written(tmp_path, name)
    model, why = Tiny(), DAMAGED[name][1]
    for mode in ("live", "baked"):
        with AppliedNetworks(model, mode) as applied:
            (fit,) = applied.apply([AdapterSpec(bad)])
            drawn = model.draw()
            assert (fit.matched, fit.damaged, fit.unrecognized, fit.ok) == (1, 1, 0, False)
            assert "1 of 2 layers applies; 1 damaged and skipped: " in str(fit) and why in str(fit)
            applied.apply([AdapterSpec(good)])
            assert all(map(torch.equal, model.draw(), drawn))
    found = inspect_lora_file(tmp_path / "bad.safetensors")
    assert "damaged" in format_inspection(found)


@pytest.mark.parametrize("name", [name for name in DAMAGED if "N" not in name and "infinite" not in name])
def test_tools_leave_it_out_and_say_so(name: str, tmp_path: Path) -> None:
    bad, good = written(tmp_path, name)
    done: list[tuple[LoraFile, ToolReport]] = [
        resize_lora(bad, 2),
        convert_lora(bad, "kohya"),
        convert_lora(bad, "diffusers"),
        reweight_lora(bad, unet=0.5),
        merge_loras([bad, good]),
    ]
    files, said = split_dylora(bad, 2)
    for result, report in (*done, (files[2], said)):
        assert len(result.adapters) == 1 and not result.damaged and not result.unrecognized
        assert any("1 damaged layer of bad left out: " in note and DAMAGED[name][1] in note for note in report.notes)
    same = save_lora_file(bad, tmp_path / "same.safetensors")
    assert same.read_bytes() == (tmp_path / "bad.safetensors").read_bytes()


def test_many_are_counted(tmp_path: Path) -> None:
    tensors = dict(SOUND)
    for leaf in "qk":
        tensors |= {f"{HEAD}{leaf}.{suffix}": tensor for suffix, tensor in DAMAGED["rank 0"][0].items()}
    file = load_lora_file(save_safetensors(tensors, tmp_path / "bad.safetensors", metadata={}))
    with AppliedNetworks(Tiny()) as applied:
        (fit,) = applied.apply([AdapterSpec(file)])
    assert "1 of 3 layers applies; 2 damaged and skipped: " in str(fit)


def test_a_missing_file_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "my_cat.safetensors").touch()
    (tmp_path / "link.safetensors").symlink_to("nowhere")
    for name, says in (
        ("mycat.safetensors", "did you mean '.*my_cat.safetensors'"),
        ("link.safetensors", r"cannot be read: it is a link that leads nowhere \(to nowhere\)$"),
    ):
        with pytest.raises(FileError, match=says):
            load_lora_file(tmp_path / name)
    with pytest.raises(FileError, match=r"No such file or directory$"):
        load_lora_file(tmp_path / "none" / "a.safetensors")
