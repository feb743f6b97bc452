"""Trainable modules: against recorded outputs and gradients of kohya's, and what hooking must leave alone."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lora_ext.train.config.block_settings import RankAndAlpha
from lora_ext.train.config.dylora import select_all_ranks, select_drawn_ranks
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.network.autograd import forward_with_dropout
from lora_ext.train.network.trainable_factors import TrainableFactors

DATA = Path(__file__).parent / "data" / "training"
FORWARD = load_file(DATA / "module_forward.safetensors")
ROWS = json.loads((DATA / "module_forward.json").read_text(encoding="utf-8"))
CASES = sorted({key.rpartition(".")[0] for key in FORWARD})


class Case:
    """One recorded forward and backward pass: layer, factors by rank, input, and what came out."""

    def __init__(self, name: str) -> None:
        self.t = {key.rpartition(".")[2]: value for key, value in FORWARD.items() if key.startswith(name + ".")}
        weight = self.t["W"]
        self.layer: nn.Module
        if weight.dim() == 2:
            self.layer = nn.Linear(weight.shape[1], weight.shape[0])
        else:
            self.layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding=weight.shape[2] // 2)
        with torch.no_grad():
            self.layer.weight.copy_(weight)  # type: ignore[operator]
            self.layer.bias.copy_(self.t["b"])  # type: ignore[operator]
        self.layer.requires_grad_(False)
        self.down = self.t["down"].reshape(-1, *weight.shape[1:])
        self.up = self.t["up"].flatten(1).t()

    def factors(self, alpha: float, unit: int | None = None) -> TrainableFactors:
        made = TrainableFactors(tuple(self.t["W"].shape), RankAndAlpha(len(self.down), alpha), unit, None)
        made.down.copy_(self.down)
        made.up.copy_(self.up)
        return made

    def agree(self, y: Tensor, made: TrainableFactors) -> None:
        """Output and gradients of Σy² are the recorded ones, where rows learned."""
        torch.testing.assert_close(y, self.t["y"], rtol=1e-5, atol=1e-5)
        y.square().sum().backward()
        for parameters, key in ((made.downs, "gdown"), (made.ups, "gup")):
            want = self.t[key].flatten(1) if key == "gdown" else self.t[key].flatten(1).t()
            for rows, parameter in zip(want.split(made.unit), parameters, strict=True):
                if rows.isnan().all():
                    assert parameter.grad is None
                else:
                    torch.testing.assert_close(parameter.grad.flatten(1), rows, rtol=1e-4, atol=1e-4)


def alpha_of(case: Case) -> float:
    """The recorded alpha: what best explains the output at scale alpha/rank."""
    made = case.factors(float(len(case.down)))
    made.select_ranks(select_all_ranks(made.rank, float(made.rank)))
    with torch.no_grad():
        plain = case.layer(case.t["x"])
        added = made.after_forward(case.layer, (case.t["x"],), plain) - plain
        return float((added * (case.t["y"] - plain)).sum() / added.square().sum()) * made.rank


LORA_ALPHA = round(alpha_of(Case("lora.lin.plain")), 3)


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("plain")])
def test_lora_is_kohyas(name: str) -> None:
    case = Case(name)
    assert int(LORA_ALPHA) == LORA_ALPHA
    made = case.factors(LORA_ALPHA)
    case.agree(made.after_forward(case.layer, (case.t["x"],), case.layer(case.t["x"])), made)


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("module_dropout")])
def test_module_dropout_is_kohyas(name: str) -> None:
    case = Case(name)
    made = case.factors(LORA_ALPHA)
    made.skipped = torch.allclose(case.layer(case.t["x"]), case.t["y"], atol=1e-5)
    y = case.layer(case.t["x"])
    added = made.after_forward(case.layer, (case.t["x"],), y)
    torch.testing.assert_close(y if added is None else added, case.t["y"])
    assert (added is None) == made.skipped


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith((".dropout", "rank_dropout"))])
def test_dropouts_are_kohyas(name: str) -> None:
    """The recorded mask is found among all masks (of a picture's ranks, or of one place's values)."""
    case, x = Case(name), None
    made = case.factors(LORA_ALPHA)
    x, plain = case.t["x"], case.layer(case.t["x"])
    shares = [share for share in (0.1, 0.2, 0.25, 0.3, 0.5) if _mask(case, made, x, plain, share) is not None]
    assert len(shares) == 1
    mask = _mask(case, made, x, plain, shares[0])
    y = forward_with_dropout(
        case.layer, x, plain, *made.active_factors(), made.selection.scale, (lambda thin: mask, None)
    )
    case.agree(y, made)


def _mask(case: Case, made: TrainableFactors, x: Tensor, plain: Tensor, drop: float) -> Tensor | None:
    """The mask (in the thin shape) under which the recorded output is U·(mask ∘ D·x)/(1 − drop), or None."""
    image = isinstance(case.layer, nn.Conv2d)
    with torch.no_grad():
        if image:
            thin = nn.functional.conv2d(x, made.down, padding=case.layer.padding).movedim(1, -1)
        else:
            thin = x @ made.down.t()
    wanted = (case.t["y"] - plain).detach()
    wanted = wanted.movedim(1, -1) if image else wanted
    masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4))) / (1 - drop)
    tried = (thin.unsqueeze(-2) * masks) @ made.up.detach() * made.selection.scale
    errors = (tried - wanted.unsqueeze(-2)).abs().amax(-1)
    if errors.amin(-1).max() > 1e-4:
        return None
    best = masks[errors.argmin(-1)]
    return best.movedim(-1, 1) if image else best


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("dylora")])
def test_dylora_variant_is_kohyas(name: str) -> None:
    """All ranks act at alpha/R·√(R/b); only the drawn rows learn."""
    case, rows = Case(name), ROWS[name]["trainable_rows"]
    recipe = Recipe(network_module="dylora", network_dim=16, unit=4, dylora_variant="kohya")
    drawn = rows[-1] + 1
    free = case.factors(16.0, 4)
    free.select_ranks(select_drawn_ranks(recipe, drawn, 16, 16.0))
    with torch.no_grad():
        plain = case.layer(case.t["x"])
        added = free.after_forward(case.layer, (case.t["x"],), plain) - plain
        alpha = float((added * (case.t["y"] - plain)).sum() / added.square().sum()) * 16
    made = case.factors(round(alpha, 3), 4)
    assert made.alpha == int(made.alpha)
    made.select_ranks(select_drawn_ranks(recipe, drawn, 16, made.alpha))
    assert list(range(made.selection.first, made.selection.last)) == rows
    case.agree(made.after_forward(case.layer, (case.t["x"],), case.layer(case.t["x"])), made)
