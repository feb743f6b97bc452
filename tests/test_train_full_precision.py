"""The LoRA itself in half precision: factors, gradients, the optimizer's state; the file, and a run that is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_run import losses, one_thread, weights  # noqa: F401
from tiny_trainable_model import pictures, recipe, tiny_model

from lora_ext.errors import TrainError
from lora_ext.file.loading import load_lora_file
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.run import training_state
from lora_ext.train.run.averaged_weights import AveragedWeights
from lora_ext.training.standalone_run import train

NO_SCALER = pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="torch before 2.3 scales on CUDA only")


@pytest.mark.long
@pytest.mark.parametrize(
    ("precision", "more"),
    [
        (
            "bf16",
            {
                "optimizer_type": "Adafactor",
                "ema_decay": 0.9,
                "fused_backward_pass": True,
                "network_train_unet_only": True,
            },
        ),
        ("bf16", {"algo": "loha", "dora_wd": True}),
        pytest.param("fp16", {"network_module": "dylora", "unit": 2, "optimizer_args": "eps=1e-4"}, marks=NO_SCALER),
    ],
)
def test_a_lora_in_half_precision_is_nearly_that_in_float32(
    precision: str, more: dict[str, Any], tmp_path: Path
) -> None:
    """The file is as trained, or as save_precision says; the resumed run has the bits of the whole one."""
    data, dtype = pictures(tmp_path / "data"), {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    both = {
        "mixed_precision": precision,
        "learning_rate": 1e-3,
        "max_train_epochs": 1,
        "save_state_on_train_end": True,
        **more,
    }
    half = {f"full_{precision}": True, **both}
    train(recipe(data, tmp_path / "wide", **{**both, "fused_backward_pass": False}), model=tiny_model())
    train(recipe(data, tmp_path / "half", save_every_n_steps=2, save_state=True, **half), model=tiny_model())
    state = tmp_path / "half" / "last-step00000002-state"
    again = recipe(data, tmp_path / "again", resume=str(state), save_precision="float", **half)
    train(again, model=tiny_model())
    saved = [training_state.load_training_state(tmp_path / n / "last-state").tensors for n in ("half", "again")]
    assert {p.dtype for p in saved[0]["parameters"]} == {dtype}
    for name in ("parameters", *(("average",) if "ema_decay" in more else ())):
        assert all(torch.equal(a, b) for a, b in zip(saved[0][name], saved[1][name], strict=True))
    states = [s["optimizer"]["state"] for s in saved]
    moments = {name: value.dtype for name, value in states[0][0].items() if getattr(value, "dim", int)()}
    wanted = torch.float32 if more.get("optimizer_type") == "Adafactor" else dtype
    assert set(moments.values()) == {wanted}
    assert all(
        torch.equal(v, states[1][at][n]) for at, one in states[0].items() for n, v in one.items() if n in moments
    )
    assert losses(tmp_path / "half")[2:] == losses(tmp_path / "again")
    files = {name: load_lora_file(tmp_path / name / "last.safetensors") for name in ("half", "again")}
    kinds = {name: {a.dtype for a in file.adapters.values()} for name, file in files.items()}
    assert kinds == {"half": {dtype}, "again": {torch.float32}}
    assert files["half"].metadata["ss_full_fp16"] == str(precision == "fp16")
    for (_, _, a), (_, _, b) in zip(losses(tmp_path / "wide"), losses(tmp_path / "half"), strict=True):
        # gradients of fp16 overflow at the scale that a run begins with, so that the first steps are skipped
        assert float(b) == pytest.approx(float(a), rel=2e-2 if precision == "bf16" else 8e-2)
    if "algo" not in more and precision == "bf16":
        wide, narrow = (weights(tmp_path / name / "last.safetensors") for name in ("wide", "half"))
        apart = torch.stack([(wide[x] - narrow[x]).norm() for x in wide]).norm()
        assert apart < 0.15 * torch.stack([t.norm() for t in wide.values()]).norm()


def test_an_average_of_half_precision_is_kept_in_float32() -> None:
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    average = AveragedWeights([parameter], 0.999)
    with torch.no_grad():
        parameter.fill_(2.0)
    for step in range(1000, 1010):
        average.update(step + 10**6)
    kept = average.tensors[0].clone()
    assert 1.009 < float(kept[0]) < 1.011
    for _ in range(2):
        average.swap(True)
        assert parameter.detach().eq(kept.to(torch.bfloat16)).all()
    average.swap(False)
    assert parameter.detach().eq(2).all() and torch.equal(average.tensors[0], kept)


@pytest.mark.parametrize("name", ["full_bf16", "full_fp16"])
def test_it_needs_its_mixed_precision(name: str) -> None:
    with pytest.raises(TrainError, match=f"{name} needs mixed_precision {name[5:]}, not no"):
        recipe_from_settings({name: True})
    adam = {"full_fp16": True, "mixed_precision": "fp16"}
    with pytest.raises(TrainError, match=r"AdamW divides by squares that fp16 rounds to 0; .* eps=1e-4, or Adafactor"):
        recipe_from_settings(adam)
    assert recipe_from_settings({**adam, "optimizer_type": "Lion"}).full_fp16
    with pytest.raises(TrainError, match="needs mixed_precision"):
        recipe_from_settings({"full_bf16": True, "full_fp16": True, "mixed_precision": "bf16"})
