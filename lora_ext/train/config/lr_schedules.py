"""Learning-rate schedules: factors on each parameter group's rate, step by step."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch.optim import SGD, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LambdaLR

from ...errors import TrainError, did_you_mean
from .kohya_options import is_neutral
from .listed_texts import listed_texts
from .optimizers import parse_optimizer_args
from .recipe import Recipe
from .recipe_option import TORCH_SCHEDULES

_ARGUMENTS: Mapping[str, str] = {
    "min_lr_rate": "lr_scheduler_min_lr_ratio", "min_lr_ratio": "lr_scheduler_min_lr_ratio",
    "timescale": "lr_scheduler_timescale", "num_cycles": "lr_scheduler_num_cycles", "power": "lr_scheduler_power",
    "num_decay_steps": "lr_decay_steps", "num_warmup_steps": "lr_warmup_steps",
}  # fmt: skip
"""Arguments of transformers' schedules → the options that they are here."""
_TORCH_MODULE = "torch.optim.lr_scheduler."
_INVERSE_SQRT_TIMESCALE = 10_000
"""Transformers' default of a schedule without warm-up."""
_POLYNOMIAL_END = 1e-7
"""Learning rate at which transformers' polynomial schedule ends."""


def warmup_step_count(recipe: Recipe, steps: int) -> int:
    """Warm-up steps: `lr_warmup_steps`, or that share of all steps where it is below 1."""
    return _step_count(recipe.lr_warmup_steps, steps)


def _step_count(given: float, steps: int) -> int:
    return int(given * steps) if given < 1 else int(given)


def learning_rate_factor(recipe: Recipe, step: int, steps: int, rate: float | None = None) -> float:
    """Computes the schedule's factor on a learning rate, as transformers' schedules (`optimization.py`).

    "rex" is that of Chen et al. 2021 (arXiv:2107.04197).

    Args:
        recipe: Its `lr_scheduler` and the options beside it are used.
        step: The optimizer step, from 0.
        steps: Optimizer steps of the whole run.
        rate: The learning rate, which schedules of torch with absolute rates (`eta_min`, `max_lr`) ask for; else the
            recipe's `learning_rate`.

    Returns:
        The factor, in 0..1 (schedules of torch may go beyond).

    Raises:
        TrainError: Unknown arguments of the schedule, or values that it does not accept.

    Example:
        >>> from lora_ext.train.config.recipe import Recipe
        >>> learning_rate_factor(Recipe(lr_scheduler="linear", lr_warmup_steps=10), 5, 110)
        0.5
    """
    if recipe.lr_scheduler_type:
        own = recipe.learning_rate if rate is None else rate
        factors = _torch_factors(recipe.lr_scheduler_type, recipe.lr_scheduler_args, own, steps)
        return factors[min(step, steps)]
    name, rising = recipe.lr_scheduler, warmup_step_count(recipe, steps)
    if name == "constant":
        return 1.0
    if name == "piecewise_constant":
        return _piecewise(recipe.lr_scheduler_args, step)
    least = recipe.lr_scheduler_min_lr_ratio or 0.0
    if step < rising:
        start = least if name == "warmup_stable_decay" else 0.0
        return start + (1 - start) * step / max(1, rising)
    if name == "constant_with_warmup":
        return 1.0
    if name == "inverse_sqrt":
        scale = recipe.lr_scheduler_timescale or rising or _INVERSE_SQRT_TIMESCALE
        return math.sqrt(scale / (step + scale - rising))
    if name == "warmup_stable_decay":
        falling = _step_count(recipe.lr_decay_steps, steps)
        done = (step - (steps - falling)) / max(1, falling)
        return 1.0 if done < 0 else least if done >= 1 else least + (1 - least) * _cosine(recipe, done)
    done = (step - rising) / max(1, steps - rising)
    if name == "linear":
        return max(0.0, 1 - done)
    if name == "cosine":
        return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))
    if name == "cosine_with_min_lr":
        return max(0.0, least + (1 - least) * _cosine(recipe, done))
    if name == "rex":
        left = max(0.0, 1 - done)
        return least + (1 - least) * left / (0.5 + 0.5 * left)
    if name == "cosine_with_restarts":
        cycles = recipe.lr_scheduler_num_cycles
        return 0.0 if done >= 1 else max(0.0, 0.5 * (1 + math.cos(math.pi * ((cycles * done) % 1.0))))
    end = _POLYNOMIAL_END / max(recipe.learning_rate, _POLYNOMIAL_END)
    return end + (1 - end) * max(0.0, 1 - done) ** recipe.lr_scheduler_power


def _cosine(recipe: Recipe, done: float) -> float:
    """Half a wave, or as many halves as kohya's lr_scheduler_num_cycles says."""
    return 0.5 * (1 + math.cos(math.pi * recipe.lr_scheduler_num_cycles * done))


def _piecewise(arguments: tuple[str, ...], step: int) -> float:
    """Diffusers' piecewise_constant: step_rules=1:10,0.1:20,0.01 is 1 below step 10, 0.1 below 20, then 0.01."""
    rules = dict(argument.partition("=")[::2] for argument in arguments).get("step_rules", "").strip("'\"")
    *parts, last = rules.split(",")
    try:
        for part in parts:
            factor, _, end = part.partition(":")
            if step < int(end):
                return float(factor)
        return float(last)
    except ValueError:
        raise TrainError(
            f"lr_scheduler piecewise_constant needs lr_scheduler_args step_rules=1:10,0.1:20,0.01, not {rules[:80]!r}"
        ) from None


@lru_cache(maxsize=128)
def _torch_factors(name: str, arguments: tuple[str, ...], rate: float, steps: int) -> tuple[float, ...]:
    """The factors that a class of torch gives at every step, with `rate` as the learning rate; nothing is trained."""
    if name not in TORCH_SCHEDULES:
        raise TrainError(f"unknown lr_scheduler_type {name[:80]!r}{did_you_mean(name, TORCH_SCHEDULES)}")
    make, settings = getattr(lr_scheduler, name), parse_optimizer_args(arguments)
    known_names = inspect.signature(make).parameters
    for argument in settings:
        if argument not in known_names:
            raise TrainError(f"lr_scheduler_args: {name} has no {argument!r}{did_you_mean(argument, known_names)}")
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate or 1.0, momentum=0.9)
    try:
        schedule = make(optimizer, **settings)
        factors = [float(optimizer.param_groups[0]["lr"]) / (rate or 1.0)]
        for _ in range(steps):  # OneCycleLR refuses one more
            optimizer.step()
            schedule.step()
            factors.append(float(optimizer.param_groups[0]["lr"]) / (rate or 1.0))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise TrainError(f"lr_scheduler_type {name}: {error}; check lr_scheduler_args") from None
    return tuple(factors)


def name_schedule(given: dict[str, Any]) -> None:
    """Sets our options for the schedules that kohya's scripts accept by other names.

    `lr_scheduler_args` of transformers' schedules, the full name of a class of torch, and "adafactor", which is the
    rate that Adafactor finds by itself.

    Args:
        given: Option → value; changed.

    Raises:
        TrainError: An argument that no schedule has, or "adafactor" with another optimizer.
    """
    if isinstance(given.get("lr_scheduler_type"), str):
        given["lr_scheduler_type"] = given["lr_scheduler_type"].removeprefix(_TORCH_MODULE)
    if given.get("lr_scheduler") == "adafactor":
        if str(given.get("optimizer_type")).rpartition(".")[2].lower() != "adafactor":
            raise TrainError(
                "lr_scheduler adafactor belongs to optimizer_type Adafactor; set that, or another schedule"
            )
        own = listed_texts("optimizer_args", given.get("optimizer_args"))
        given["lr_scheduler"] = "constant"
        given["optimizer_args"] = ["relative_step=True", "scale_parameter=True", *own]
    arguments = given.get("lr_scheduler_args")
    if not is_neutral(given.get("lr_scheduler_type")) or is_neutral(arguments):
        return
    arguments = listed_texts("lr_scheduler_args", arguments)
    kept = [text for text in arguments if text.partition("=")[0] == "step_rules"]
    for name, value in parse_optimizer_args([text for text in arguments if text not in kept]).items():
        if name not in _ARGUMENTS:
            near = did_you_mean(name, [*_ARGUMENTS, "step_rules"])
            raise TrainError(f"lr_scheduler_args: {name!r} is no argument of a schedule{near}")
        given.setdefault(_ARGUMENTS[name], value)
    given["lr_scheduler_args"] = kept


def build_scheduler(recipe: Recipe, optimizer: Optimizer, steps: int) -> LambdaLR:
    """Builds the recipe's learning-rate schedule; it is stepped once after every optimizer step.

    Args:
        recipe: Its `lr_scheduler` and the options beside it are used.
        optimizer: The optimizer whose rates change.
        steps: Optimizer steps of the whole run.

    Returns:
        The scheduler.
    """

    def factor_of(rate: float) -> Callable[[int], float]:
        return lambda step: learning_rate_factor(recipe, step, steps, rate)

    return LambdaLR(optimizer, [factor_of(float(group["lr"] or 0.0)) for group in optimizer.param_groups])
