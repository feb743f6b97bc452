"""How much of ΔW is left when W + ΔW is stored in few bits: measured in merges, in the LoRA tools and in baking."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import make
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lora_ext
from lora_ext.adapter_spec import AdapterSpec
from lora_ext.adapters import Lora, adapter_from_tensors
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.cli import main
from lora_ext.file.lora_file import LoraFile
from lora_ext.file.saving import save_lora_file
from lora_ext.inject import BAKED, LIVE, AppliedAdapter, Injection, LayerTarget
from lora_ext.inject.baking import add_delta
from lora_ext.inject.rounding import Rounding, is_lossy_dtype, measuring_stride
from lora_ext.layer_names import UNET, LayerId
from lora_ext.tools.convert import convert_lora
from lora_ext.tools.merge import merge_loras
from lora_ext.tools.reweight import reweight_lora

CHECKPOINT = Path(lora_ext.__file__).parent / "embedded" / "embedded-sd1.safetensors"
LAYER = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
KEY, NAME = (
    f"model.diffusion_model.{LAYER}.weight",
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
)
LAYER_ID = LayerId(UNET, "IN01", "attention.transformer_blocks.0.attn1.to_q")
FLOATS = [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16, torch.float32]


def lora(up: Tensor, down: Tensor) -> Lora:
    return Lora({"lora_up.weight": up, "lora_down.weight": down})


def share_of(before: Tensor, after: Tensor, delta: Tensor) -> float:
    """1 − |⟨W' − W, ΔW⟩ / ⟨ΔW, ΔW⟩ − 1| in float64, at least 0."""
    moved, delta = after.double() - before.double(), delta.double()
    return max(0.0, 1 - abs(float((moved * delta).sum() / (delta * delta).sum()) - 1))


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from(FLOATS), st.floats(-4, 0))
def test_the_measure_is_what_a_comparison_of_before_and_after_tells(
    seed: int, dtype: torch.dtype, power: float
) -> None:
    """For every dtype, and for a ΔW of 0.01 % to 100 % of W."""
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(48, 40, generator=generator) * 0.1).to(dtype)
    up, down = torch.randn(48, 3, generator=generator), torch.randn(3, 40, generator=generator)
    up *= 10**power * float(weight.float().norm() / (up @ down).norm())
    rounding = Rounding()
    out = add_delta(weight, (AppliedAdapter(lora(up, down), 1.0),), rounding=rounding)
    assert rounding.share == pytest.approx(share_of(weight, out, up @ down) if is_lossy_dtype(dtype) else 1.0, abs=2e-3)
    if is_lossy_dtype(dtype):
        assert rounding.squared_norm == pytest.approx(float((up @ down).norm()) ** 2, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16])
@pytest.mark.parametrize("kind", ["lora", "loha"])
def test_a_sample_of_rows_tells_what_the_whole_does(dtype: torch.dtype, kind: str) -> None:
    weight = (torch.randn(1280, 1280, generator=torch.Generator().manual_seed(0)) * 0.02).to(dtype)
    adapter = adapter_from_tensors(
        make(kind, torch.Size((1280, 1280)), rank=8, dtype=torch.float32, rng=np.random.default_rng(0))
    )
    assert adapter is not None
    delta = adapter.delta(weight.float())
    scale = 0.01 * float(weight.float().norm() / delta.norm())
    rounding = Rounding()
    out = add_delta(weight, (AppliedAdapter(adapter, scale),), rounding=rounding)
    assert measuring_stride(weight.numel()) > 10
    assert rounding.share == pytest.approx(share_of(weight, out, delta * scale), abs=0.02)
    assert rounding.squared_norm == pytest.approx(float((delta * scale).norm()) ** 2, rel=0.15)


def test_what_acts_too_strongly_is_no_success() -> None:
    """Every number rounded up to twice its change."""
    rounding = Rounding()
    rounding.add_measured(torch.ones(4, 4), torch.ones(4, 4), 16)
    assert rounding.share == 0.0
    rounding.add_measured(torch.ones(4, 4), torch.full((4, 4), float("nan")), 16)
    assert rounding.share == 0.0
    assert Rounding().share == 1.0 and Rounding().squared_norm == 0.0


# --- merging into a checkpoint ---------------------------------------------------------------------------------------


def fp8_checkpoint(folder: Path) -> Path:
    base = load_file(CHECKPOINT)
    path = folder / "fp8.safetensors"
    save_file(
        {k: v.to(torch.float8_e4m3fn) if v.is_floating_point() and v.ndim > 1 else v for k, v in base.items()}, path
    )
    return path


def small_lora(folder: Path) -> tuple[Path, Tensor]:
    """A file of 1 % of its layer's weight, as usual, and its ΔW."""
    generator = torch.Generator().manual_seed(0)
    up, down = (torch.randn(*size, generator=generator) * 0.1 for size in ((32, 4), (4, 32)))
    up *= 0.01 * float(load_file(CHECKPOINT)[KEY].float().norm() / (up @ down).norm())
    save_file({f"{NAME}.lora_up.weight": up, f"{NAME}.lora_down.weight": down}, folder / "small.safetensors")
    return folder / "small.safetensors", up @ down


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_merging_into_an_fp8_checkpoint_tells_what_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    """A third of ΔW was left, and the report said that all layers matched and changed."""
    base, (file, delta), out = fp8_checkpoint(tmp_path), small_lora(tmp_path), tmp_path / f"m{suffix}"
    words = ["merge", "--sd_model", str(base), "--models", str(file), "--save_to", str(out), "--overwrite"]
    assert main(words) == 0
    said = capsys.readouterr().out
    after = load_file(out) if suffix == ".safetensors" else torch.load(out, weights_only=True)["state_dict"]
    share = share_of(load_file(base)[KEY], after[KEY], delta)
    assert share < 0.5
    assert f"WARNING: only {100 * share:.2f}% of the change is in the result" in said
    assert "float8_e4m3fn" in said and "--save_precision fp16" in said and str(LAYER_ID) in said
    assert main([*words, "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["totals"]["survived"] == pytest.approx(share, abs=1e-3)
    assert output["layers"][0]["survived"] == pytest.approx(share, abs=1e-3) and "WARNING" in output["notes"][-1]
    for precision, dtype in (("fp16", "float16"), ("float", "float32")):
        assert main([*words, "--save_precision", precision]) == 0
        said = capsys.readouterr().out
        assert "WARNING" not in said and f"of the change survived rounding to {dtype}" in said
        assert float(said.split("% of the change")[0].split()[-1]) > 99


def test_biases_and_a_folder_are_measured_too(tmp_path: Path) -> None:
    """A diffusers folder, whose files each have a dtype of their own."""
    from diffusers import UNet2DConditionModel

    from lora_ext.embedded import models
    from lora_ext.tools.merge_into_checkpoint import merge_into_checkpoint

    unet: UNet2DConditionModel = models.new_unet()
    unet.to(torch.bfloat16).save_pretrained(tmp_path / "model" / "unet")
    (tmp_path / "model" / "model_index.json").write_text("{}")
    shape = unet.get_submodule("down_blocks.0.attentions.0.proj_in").weight.shape
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "diff": torch.randn(shape, generator=generator) * 1e-5,
        "diff_b": torch.randn(shape[0], generator=generator) * 1e-6,
    }
    layer_id = LayerId(UNET, "IN01", "attention.proj_in")
    report = merge_into_checkpoint(
        tmp_path / "model", [AdapterSpec(LoraFile({layer_id: adapter_from_tensors(tensors)}))], tmp_path / "out"
    )  # type: ignore[dict-item]
    assert len(report.rounding) == 2 and report.survived < 0.9
    assert all(found.dtype == torch.bfloat16 for found in report.rounding.values())
    assert "save as float: --save_precision float" in report.text()


# --- LoRA to LoRA ----------------------------------------------------------------------------------------------------


def barely_trained(std: float) -> LoraFile:
    """Factors near the smallest number that fp16 holds (6e-8)."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *size: torch.randn(*size, generator=generator)  # noqa: E731
    return LoraFile({LAYER_ID: lora(draw(32, 4) * std, draw(4, 32))}, path=Path("new.safetensors"))


def test_factors_that_fp16_cannot_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_lora_file(barely_trained(1e-9), tmp_path / "a.safetensors")
    words = ["--save_to", str(tmp_path / "o.safetensors"), "--overwrite", "--save_precision"]
    file = str(tmp_path / "a.safetensors")
    for verb in (
        ["merge", "--models", file],
        ["resize", "--model", file, "--new_rank", "4"],
        ["reweight", "--model", file],
        ["convert", "--model", file],
        ["split-dylora", "--model", file, "--unit", "2"],
    ):
        assert main([*verb, *words, "fp16"]) == 0
        said = capsys.readouterr().out
        assert "WARNING: only 0.00% of the change" in said and "--save_precision float" in said, verb
        for precision in ("bf16", "float"):
            assert main([*verb, *words, precision]) == 0
            assert "WARNING" not in capsys.readouterr().out, (verb, precision)


def test_the_share_of_a_lora_is_that_of_its_product() -> None:
    file = barely_trained(6e-8)
    made, report = merge_loras([file], options=None)
    assert not report.rounding and report.survived == 1.0
    made, report = reweight_lora(file, dtype=torch.float16)
    (before,), (after,) = file.adapters.values(), made.adapters.values()
    like = torch.zeros(32, 32)
    share = share_of(like, after.delta(like), before.delta(like))
    assert 0.1 < share < 0.99 and report.survived == pytest.approx(share, abs=1e-3)


def test_alpha_that_goes_into_a_factor_in_diffusers_key_format() -> None:
    """alpha 1 at rank 128 is a factor of 1/128, which takes small fp16 numbers to 0."""
    (adapter,) = barely_trained(2e-6).adapters.values()
    tensors = {name: t.half() for name, t in adapter.tensors.items()}
    file = LoraFile({LAYER_ID: Lora({**tensors, "alpha": torch.tensor(1 / 64)})})
    _, report = convert_lora(file, "diffusers")
    assert report.survived < 0.9 and "WARNING" in report.text()
    _, report = convert_lora(file, "diffusers", dtype=torch.float32)
    assert report.survived == 1.0 and "WARNING" not in report.text()


# --- a live model ----------------------------------------------------------------------------------------------------


class Net:
    """One attention layer."""

    def __init__(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.net = nn.ModuleDict({"down_blocks": nn.ModuleList([nn.Module()])})
        block = nn.Module()
        block.attentions = nn.ModuleList([nn.Module()])
        block.attentions[0].proj_in = nn.Linear(64, 64).to(dtype)
        self.net.down_blocks = nn.ModuleList([block])

    def parts(self) -> dict[str, nn.Module]:
        return {UNET: self.net}


def weak(share: float) -> LoraFile:
    """A file of this share of `Net`'s weight."""
    generator = torch.Generator().manual_seed(3)
    up, down = torch.randn(64, 4, generator=generator), torch.randn(4, 64, generator=generator)
    weight = Net(torch.float32).net.down_blocks[0].attentions[0].proj_in.weight
    up *= share * float(weight.detach().norm() / (up @ down).norm())
    return LoraFile({LayerId(UNET, "IN01", "attention.proj_in"): lora(up, down)}, path=Path("weak.safetensors"))


@pytest.mark.parametrize(
    ("dtype", "share", "lost"),
    [
        (torch.float8_e4m3fn, 0.01, True),
        (torch.bfloat16, 0.001, True),
        (torch.bfloat16, 0.01, False),
        (torch.float16, 0.001, False),
        (torch.float32, 1e-6, False),
    ],
)
def test_baking_into_few_bits_is_reported(dtype: torch.dtype, share: float, lost: bool) -> None:
    file = weak(share)
    with AppliedNetworks(Net(dtype), BAKED) as applied:
        (fit,) = applied.apply([AdapterSpec(file)])
        assert fit.ok != lost
        if lost:
            name = str(dtype).removeprefix("torch.")
            assert f"baked into {name}" in str(fit) and "mode live keeps all of it" in str(fit)
        fits = applied.apply([AdapterSpec(file), AdapterSpec(file, name="again")])
        assert len([fit for fit in fits if "all files" in str(fit)]) == lost
        assert applied.apply([AdapterSpec(file, unet=0.0)])[0].ok  # nothing is baked then
    with AppliedNetworks(Net(dtype), LIVE) as applied:
        assert applied.apply([AdapterSpec(file)])[0].ok


def test_a_switched_off_schedule_keeps_its_figure() -> None:
    module = nn.Linear(64, 64).to(torch.bfloat16)
    target = LayerTarget(module, "weight", module.weight.shape)
    (adapter,) = weak(0.001).adapters.values()
    with Injection(BAKED) as injection:
        injection.apply({target: (AppliedAdapter(adapter, 1.0, is_scheduled=True),)})
        share = injection.surviving_share()
        assert share[0] < 0.9
        injection.apply({target: (AppliedAdapter(adapter, 0.0, is_scheduled=True),)})
        assert injection.surviving_share() == (1.0, "")
        injection.apply({target: (AppliedAdapter(adapter, 1.0, is_scheduled=True),)})
        assert injection.surviving_share() == share
