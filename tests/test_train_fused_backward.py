"""The optimizer's step within the backward pass: the same bits as after it; what cannot be stepped so is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_optimizers import at_hand
from test_train_run import one_thread, rows  # noqa: F401
from tiny_trainable_model import pictures, recipe, tiny_model

from lora_ext.errors import TrainError
from lora_ext.train.config.memory_check import check_process_count
from lora_ext.train.config.optimizers import OPTIMIZERS, build_optimizer, is_schedule_free
from lora_ext.train.config.recipe import Recipe, UserOptimizerClass
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.run import training_state
from lora_ext.train.run.fused_backward import FusedBackward
from lora_ext.training.standalone_run import train

ALONE = [name for name, entry in OPTIMIZERS.items() if not entry.couples_tensors]


@pytest.mark.parametrize("name", ALONE)
def test_the_steps_are_those_after_the_backward_pass(name: str) -> None:
    """Two groups of two tensors, one of them used twice and one without a gradient in every other step."""
    if not at_hand(name) or "8bit" in name or name.startswith("Paged"):
        pytest.skip(f"{OPTIMIZERS[name].package} is not installed, or needs a GPU")
    results = []
    for fused in (False, True):
        torch.manual_seed(0)
        tensors = [torch.nn.Parameter(torch.randn(4, 3)) for _ in range(4)]
        groups = [{"params": tensors[:2], "lr": 0.02}, {"params": tensors[2:], "lr": 0.01}]
        optimizer = build_optimizer(Recipe(optimizer_type=name), groups)
        if is_schedule_free(optimizer):
            optimizer.train()  # type: ignore[attr-defined]
        stepper = FusedBackward(optimizer, 0.0) if fused else None
        norms = []
        for step in range(5):
            x = torch.randn(2, 3)
            product = (x @ tensors[0].t() @ tensors[1] @ tensors[0].t()) * tensors[2].mean()
            (product if step % 2 else product * tensors[3].square().mean()).square().mean().backward()
            if stepper is not None:
                assert all(p.grad is None for p in tensors)
                norms.append(stepper.end_step())
                continue
            norms.append(torch.nn.utils.clip_grad_norm_(tensors, float("inf")))
            optimizer.step()
            optimizer.zero_grad()
        results.append([*tensors, torch.stack(norms)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_each_gradient_is_clipped_by_itself() -> None:
    tensors = [torch.nn.Parameter(torch.zeros(4)) for _ in range(2)]
    stepper = FusedBackward(torch.optim.SGD(tensors, lr=1.0), 1.0)
    (tensors[0].sum() * 3 + tensors[1].sum() * 0.25).backward()
    assert float(stepper.end_step()) == pytest.approx((36 + 0.25) ** 0.5)
    assert [float(p.detach().norm()) for p in tensors] == pytest.approx([1.0, 0.5], rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize(
    "more",
    [
        {"network_module": "dylora", "unit": 2, "ema_decay": 0.9, "loraplus_lr_ratio": 4.0},
        {"algo": "lokr", "dora_wd": True, "gradient_checkpointing": True, "token_string": "<t1>",
         "inversion_steps": 1, "inversion_continue": True},
    ],
)  # fmt: skip
def test_a_run_has_the_same_bits_also_when_it_is_resumed(more: dict[str, Any], tmp_path: Path) -> None:
    """File, table and saved state; the resumed run continues an ordinary run's state."""
    data = pictures(tmp_path / "data")
    both = {"max_grad_norm": 0.0, "save_state_on_train_end": True, "lr_scheduler": "cosine", **more}
    train(recipe(data, tmp_path / "plain", save_every_n_steps=3, save_state=True, **both), model=tiny_model())
    train(recipe(data, tmp_path / "fused", fused_backward_pass=True, **both), model=tiny_model())
    state = tmp_path / "plain" / "last-step00000003-state"
    train(recipe(data, tmp_path / "resumed", fused_backward_pass=True, resume=str(state), **both), model=tiny_model())
    names = ("plain", "fused", "resumed")
    found = [training_state.load_training_state(tmp_path / n / "last-state").tensors for n in names]
    for other in found[1:]:
        for name in ("parameters", "word"):
            assert all(torch.equal(a, b) for a, b in zip(found[0][name], other[name], strict=True))
        states = [f["optimizer"]["state"] for f in (found[0], other)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(t, states[1][at][n]) for at, one in states[0].items() for n, t in one.items())
    told = [[(row["loss"], row["grad_norm"]) for row in rows(tmp_path / n)] for n in names]
    assert told[0] == told[1] and told[0][3:] == told[2]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"optimizer_type": "Prodigy", "learning_rate": 1.0}, "Prodigy steps all together: set optimizer_type AdamW"),
        ({"optimizer_type": "lamb"}, "lamb steps all together"),
        ({"optimizer_type": UserOptimizerClass("torch.optim.LBFGS")}, "LBFGS steps all together"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps 4 adds several up: set 1"),
        ({"mixed_precision": "fp16"}, "set mixed_precision bf16 or no"),
    ],
)
def test_what_cannot_be_stepped_so(more: dict[str, Any], told: str) -> None:
    with pytest.raises(TrainError, match=told):
        recipe_from_settings({"fused_backward_pass": True, **more})


def test_several_processes() -> None:
    check_process_count(Recipe(fused_backward_pass=True), 1)
    with pytest.raises(TrainError, match="gradients of 2 processes are averaged; leave it out"):
        check_process_count(Recipe(fused_backward_pass=True), 2)
