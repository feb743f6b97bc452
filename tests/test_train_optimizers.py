"""Optimizers by name, and schedules: against transformers' formulas, and that every one at hand learns."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from inspect import signature
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_scheduler
from transformers.optimization import get_inverse_sqrt_schedule, get_wsd_schedule

from lora_ext.errors import TrainError
from lora_ext.train.config.lr_schedules import build_scheduler, learning_rate_factor
from lora_ext.train.config.optimizers import (
    OPTIMIZERS,
    OptimizerEntry,
    build_optimizer,
    clip_gradients,
    current_learning_rates,
    is_schedule_free,
    optimizer_advice,
    parse_optimizer_args,
)
from lora_ext.train.config.recipe import Recipe, UserOptimizerClass
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.config.recipe_option import LR_SCHEDULERS
from lora_ext.train.run.memory_plan import OPTIMIZER_BYTES_PER_PARAMETER
from lora_ext.train.run.training_step import TrainingStepper


def at_hand(name: str) -> bool:
    return importlib.util.find_spec(OPTIMIZERS[name].module.partition(".")[0]) is not None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_at_hand_learns(name: str) -> None:
    """‖Ax − b‖² falls to less than half; a Parameter without a gradient stays as it is."""
    recipe = Recipe(optimizer_type=name)
    torch.manual_seed(0)
    a, b, x, idle = (
        torch.randn(6, 4),
        torch.randn(6),
        torch.nn.Parameter(torch.zeros(4)),
        torch.nn.Parameter(torch.ones(3)),
    )
    x.data.normal_(std=0.1)
    rate = 1.0 if OPTIMIZERS[name].has_own_rate else 0.02
    groups = [{"params": [x, idle], "lr": rate, "name": "unet"}]
    if not at_hand(name):
        with pytest.raises(TrainError, match=f"pip install {OPTIMIZERS[name].package}"):
            build_optimizer(recipe, groups)
        return
    made = build_optimizer(recipe, groups)
    if is_schedule_free(made):
        made.train()  # type: ignore[attr-defined]
    first = last = float(((a @ x.detach() - b) ** 2).sum())
    best = float(((a @ torch.linalg.lstsq(a, b).solution - b) ** 2).sum())
    for _ in range(600):
        made.zero_grad()
        error = ((a @ x - b) ** 2).sum()
        error.backward()
        made.step()
        last = float(error.detach())
    assert last - best < (first - best) / 2
    assert torch.equal(idle, torch.ones(3))
    assert set(current_learning_rates(made)) == {"unet"}


def test_several_rates_where_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """D-Adaptation and Prodigy: the largest rate for all, and a part of rate 0 stays as it is."""
    entries = {"Own": OptimizerEntry("torch.optim", "SGD", has_own_rate=True)}
    monkeypatch.setattr("lora_ext.train.config.optimizers.OPTIMIZERS", entries)
    tensors = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    rows = [{"params": [p], "lr": lr, "name": str(lr)} for p, lr in zip(tensors, (0.5, 0.0, 1.0), strict=True)]
    recipe = Recipe(optimizer_type="Own", unet_lr=1.0, text_encoder_lr=0.5)
    made = build_optimizer(recipe, rows)
    assert [group["lr"] for group in made.param_groups] == [1.0] * 3
    assert [p.requires_grad for p in tensors] == [True, False, True]
    assert any("finds one learning rate for all" in text for text in optimizer_advice(recipe))
    alike = Recipe(optimizer_type="Own", unet_lr=1.0, text_encoder_lr=1.0)
    assert not optimizer_advice(alike)
    (told,) = optimizer_advice(replace(alike, token_string="sks", inversion_continue=True))
    assert "the new token is trained at it too, not at inversion_lr 0.0005" in told


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if at_hand(name)])
def test_an_optimizer_s_state_has_the_bytes_that_are_estimated(name: str) -> None:
    rate = 1.0 if OPTIMIZERS[name].has_own_rate else 1e-3
    p = torch.nn.Parameter(torch.randn(16, 640))
    made = build_optimizer(Recipe(optimizer_type=name), [{"params": [p], "lr": rate, "name": "unet"}])
    if is_schedule_free(made):
        made.train()  # type: ignore[attr-defined]
    for _ in range(2):
        p.grad = torch.randn_like(p)
        made.step()
    parts = [part for part in made.state[p].values() if isinstance(part, (torch.Tensor, list))]
    tensors = [tensor for part in parts for tensor in (part if isinstance(part, list) else [part])]
    # one storage may have two names; tables of 256 numbers do not grow with the parameter
    sizes = {tensor.data_ptr(): tensor.nbytes for tensor in tensors if tensor.numel() > 256}
    assert abs(sum(sizes.values()) / p.numel() - OPTIMIZER_BYTES_PER_PARAMETER.get(name.casefold(), 8)) < 1


OWN_SCHEDULES = ["rex", "piecewise_constant"]  # transformers has neither
if "num_training_steps" not in signature(get_wsd_schedule).parameters:  # before 4.47 (torch 2.1 has 4.44)
    OWN_SCHEDULES.append("warmup_stable_decay")


@settings(max_examples=60)
@given(
    st.sampled_from([name for name in LR_SCHEDULERS if name not in OWN_SCHEDULES]),
    st.integers(0, 20),
    st.integers(21, 60),
    st.integers(1, 4),
)
def test_schedules_are_transformers(name: str, warm: int, steps: int, cycles: int) -> None:
    least, falling = 0.125 * cycles, min(15, steps - warm)
    recipe = Recipe(
        lr_scheduler=name,
        lr_warmup_steps=float(warm),
        lr_scheduler_num_cycles=cycles,
        lr_scheduler_min_lr_ratio=least,
        lr_decay_steps=float(falling),
        lr_scheduler_timescale=30 * cycles,
    )
    rate = recipe.learning_rate
    ours, theirs = (torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate) for _ in range(2))
    mine = build_scheduler(recipe, ours, steps)
    special = {
        "cosine_with_restarts": {"num_cycles": cycles},
        "cosine_with_min_lr": {"num_cycles": cycles / 2, "min_lr_rate": least},
        "warmup_stable_decay": {"num_decay_steps": falling, "min_lr_ratio": least, "num_cycles": cycles / 2},
    }
    if name == "inverse_sqrt":  # get_scheduler does not pass its time scale on
        other = get_inverse_sqrt_schedule(theirs, warm, 30 * cycles)
    else:
        other = get_scheduler(name, theirs, warm, steps, scheduler_specific_kwargs=special.get(name, {}))
    for _ in range(steps + 3):
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=2e-7 * rate)
        for made in (ours, theirs):
            made.step()
        mine.step()
        other.step()


def test_other_schedules() -> None:
    rex = Recipe(lr_scheduler="rex", lr_scheduler_min_lr_ratio=0.1)
    assert [learning_rate_factor(rex, step, 10) for step in (0, 5, 10, 12)] == pytest.approx([1, 0.7, 0.1, 0.1])
    piecewise = recipe_from_settings({"lr_scheduler": "piecewise_constant", "lr_scheduler_args": "step_rules=1:3,0.1"})
    assert [learning_rate_factor(piecewise, step, 10) for step in (0, 2, 3, 9)] == [1, 1, 0.1, 0.1]
    waves = recipe_from_settings(
        {"lr_scheduler_type": "CosineAnnealingWarmRestarts", "lr_scheduler_args": ["T_0=4"], "learning_rate": 0.01}
    )
    made = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(made, 4)
    for step in range(9):
        assert 0.01 * learning_rate_factor(waves, step, 9) == pytest.approx(made.param_groups[0]["lr"])
        made.step()
        theirs.step()
    once = recipe_from_settings(
        {"lr_scheduler_type": "torch.optim.lr_scheduler.OneCycleLR", "lr_scheduler_args": "max_lr=0.1 total_steps=9"}
    )
    rates = (0.01, 0.5)
    two = [
        torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": r} for r in rates], momentum=0.9)
        for _ in range(2)
    ]
    plans = [build_scheduler(once, two[0], 9), torch.optim.lr_scheduler.OneCycleLR(two[1], 0.1, total_steps=9)]
    for _ in range(9):  # absolute rates, whatever a group's own is
        mine, other = ([group["lr"] for group in made.param_groups] for made in two)
        assert mine == pytest.approx(other)
        for made, plan in zip(two, plans, strict=True):
            made.step()
            plan.step()
    own = recipe_from_settings({"lr_scheduler": "adafactor", "optimizer_type": "Adafactor"})
    assert own.lr_scheduler == "constant" and own.optimizer_args == ("relative_step=True", "scale_parameter=True")
    named = recipe_from_settings({"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_args": ["min_lr_ratio=0.25"]})
    assert named.lr_scheduler_min_lr_ratio == 0.25 and named.lr_scheduler_args == ()


@pytest.mark.parametrize(
    ("given_settings", "told"),
    [
        ({"lr_scheduler_type": "CosineAnealingLR"}, "'CosineAnnealingLR'"),
        ({"lr_scheduler_type": "os.path"}, "must be Cosine"),
        ({"lr_scheduler_type": "StepLR", "lr_scheduler_args": ["step_sice=3"]}, "'step_size'"),
        ({"lr_scheduler_type": "StepLR"}, "step_size"),
        ({"lr_scheduler": "adafactor"}, "belongs to optimizer_type Adafactor"),
        ({"lr_scheduler_args": ["min_lr=1"]}, "no argument of a schedule"),
        ({"lr_scheduler": "piecewise_constant"}, "step_rules=1:10"),
    ],
)
def test_schedule_errors(given_settings: dict, told: str) -> None:
    with pytest.raises(TrainError, match=told):
        recipe_from_settings(given_settings)


def test_warmup_may_be_a_share() -> None:
    made = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    recipe = Recipe(lr_scheduler="constant_with_warmup", lr_warmup_steps=0.25)
    moving = build_scheduler(recipe, made, 40)
    seen = []
    for _ in range(12):
        seen.append(current_learning_rates(made)["0"])
        made.step()
        moving.step()
    assert seen == [min(1.0, i / 10) for i in range(12)]


def test_arguments() -> None:
    got = parse_optimizer_args(["weight_decay=0.01", "betas=0.9,0.99", "decouple=True", "mode=x y", "eps=None"])
    assert got == {"weight_decay": 0.01, "betas": (0.9, 0.99), "decouple": True, "mode": "x y", "eps": None}
    for bad in ("weight_decay", "=1", "a b=1"):
        with pytest.raises(TrainError, match="name=value"):
            parse_optimizer_args([bad])


class NeedsRate(torch.optim.SGD):
    """Needs a rate beside the groups' own, as SGD8bit of bitsandbytes does."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr)


class WithoutCode(torch.optim.SGD):
    """Fails in its first step, as bitsandbytes does on a device for which it has no code."""

    __module__ = "bitsandbytes.optim"

    def step(self, closure: Any = None) -> None:
        raise NameError("name 'str2optimizer32bit' is not defined")


def test_a_rate_that_must_be_given_and_a_library_without_code_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {cls.__name__: OptimizerEntry(__name__, cls.__name__) for cls in (NeedsRate, WithoutCode)}
    monkeypatch.setattr("lora_ext.train.config.optimizers.OPTIMIZERS", entries)
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(__version__="0.44"))
    assert build_optimizer(Recipe(optimizer_type="NeedsRate"), groups()).param_groups[0]["lr"] == 1e-3
    with pytest.raises(TrainError, match=r"bitsandbytes 0.44 does not work on cpu here .* set optimizer_type AdamW"):
        build_optimizer(Recipe(optimizer_type="WithoutCode"), groups())


def test_an_optimizer_that_divides_by_a_first_gradient_of_0_says_so() -> None:
    stepper = object.__new__(TrainingStepper)
    stepper.scaler, stepper.recipe = None, Recipe(optimizer_type="DAdaptSGD")
    stepper.optimizer = SimpleNamespace(step=lambda: 1 / 0)  # type: ignore[assignment]
    with pytest.raises(TrainError, match=r"DAdaptSGD cannot step .*division by zero.* AdamW"):
        stepper._step_optimizer()


def groups() -> list[dict[str, object]]:
    return [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": 1e-3, "name": "unet"}]


def test_wrong_names_and_settings_are_reported() -> None:
    for name, args, said in (
        ("AdamV", (), "did you mean"),
        ("AdamW", ("weight_decai=1",), "did you mean 'weight_decay'"),
        ("AdamW", ("betas=2",), "optimizer_args"),
        ("AdamW", ("lr=3",), "lr has no effect; set learning_rate"),
        ("torch.optim.Nothing", (), "no optimizer"),
        ("nowhere.Adam", (), "pip install nowhere"),
    ):
        with pytest.raises(TrainError, match=said):
            build_optimizer(Recipe(optimizer_type=UserOptimizerClass(name), optimizer_args=args), groups())


def test_any_class_by_its_path_and_any_case() -> None:
    assert (
        type(build_optimizer(Recipe(optimizer_type=UserOptimizerClass("torch.optim.NAdam")), groups()))
        is torch.optim.NAdam
    )
    made = build_optimizer(Recipe(optimizer_type="adamw", optimizer_args=("weight_decay=0.5",)), groups())
    assert type(made) is torch.optim.AdamW and made.param_groups[0]["weight_decay"] == 0.5
    own = Recipe(optimizer_type="Adafactor", optimizer_args=("relative_step=True", "scale_parameter=True"))
    made = build_optimizer(own, groups())
    made.param_groups[0]["params"][0].grad = torch.ones(2)
    plan = build_scheduler(own, made, 10)
    made.step()
    plan.step()
    assert made.param_groups[0]["lr"] == 0 and made.param_groups[0]["params"][0].abs().min() > 0


def test_gradients_are_clipped() -> None:
    p, idle = torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(4))
    p.grad = torch.full((4,), 3.0)
    assert float(clip_gradients([p, idle], 0)) == pytest.approx(6.0) and float(p.grad.norm()) == pytest.approx(6.0)
    assert float(clip_gradients([p, idle], 1.5)) == pytest.approx(6.0) and float(p.grad.norm()) == pytest.approx(
        1.5, rel=1e-4
    )
