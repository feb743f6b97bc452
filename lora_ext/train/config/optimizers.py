"""Optimizers by name from the libraries that have them, and learning-rate schedules by their formula."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ...errors import TrainError, did_you_mean
from .recipe import Recipe, UserOptimizerClass


@dataclass(frozen=True)
class OptimizerEntry:
    """Where an optimizer is: module, class, the package that pip knows, and settings other than the library's."""

    module: str
    name: str
    package: str = "torch"
    settings: tuple[tuple[str, Any], ...] = ()
    has_own_rate: bool = False
    """Whether it finds the learning rate by itself, and wants 1 as ours."""


_NESTEROV = (("nesterov", True), ("momentum", 0.9))
_BNB, _DADAPT, _FREE = "bitsandbytes", "dadaptation", "schedulefree"
OPTIMIZERS: Mapping[str, OptimizerEntry] = MappingProxyType(
    {
        "AdamW": OptimizerEntry("torch.optim", "AdamW"),
        "Adam": OptimizerEntry("torch.optim", "Adam"),
        "SGD": OptimizerEntry("torch.optim", "SGD"),
        "SGDNesterov": OptimizerEntry("torch.optim", "SGD", settings=_NESTEROV),
        "Adafactor": OptimizerEntry("transformers.optimization", "Adafactor", "transformers"),
        "AdamW8bit": OptimizerEntry("bitsandbytes.optim", "AdamW8bit", _BNB),
        "PagedAdamW8bit": OptimizerEntry("bitsandbytes.optim", "PagedAdamW8bit", _BNB),
        "PagedAdamW": OptimizerEntry("bitsandbytes.optim", "PagedAdamW", _BNB),
        "Lion8bit": OptimizerEntry("bitsandbytes.optim", "Lion8bit", _BNB),
        "PagedLion8bit": OptimizerEntry("bitsandbytes.optim", "PagedLion8bit", _BNB),
        "SGDNesterov8bit": OptimizerEntry("bitsandbytes.optim", "SGD8bit", _BNB, _NESTEROV),
        "Lion": OptimizerEntry("lion_pytorch", "Lion", "lion-pytorch"),
        "Prodigy": OptimizerEntry("prodigyopt", "Prodigy", "prodigyopt", has_own_rate=True),
        "DAdaptation": OptimizerEntry("dadaptation.experimental", "DAdaptAdamPreprint", _DADAPT, has_own_rate=True),
        "DAdaptAdam": OptimizerEntry("dadaptation", "DAdaptAdam", _DADAPT, has_own_rate=True),
        "DAdaptAdaGrad": OptimizerEntry("dadaptation", "DAdaptAdaGrad", _DADAPT, has_own_rate=True),
        "DAdaptAdan": OptimizerEntry("dadaptation", "DAdaptAdan", _DADAPT, has_own_rate=True),
        "DAdaptLion": OptimizerEntry("dadaptation", "DAdaptLion", _DADAPT, has_own_rate=True),
        "DAdaptSGD": OptimizerEntry("dadaptation", "DAdaptSGD", _DADAPT, has_own_rate=True),
        "AdamWScheduleFree": OptimizerEntry("schedulefree", "AdamWScheduleFree", _FREE),
        "RAdamScheduleFree": OptimizerEntry("schedulefree", "RAdamScheduleFree", _FREE),
        "SGDScheduleFree": OptimizerEntry("schedulefree", "SGDScheduleFree", _FREE),
    }
)
"""Name (kohya's `--optimizer_type`) → where it is."""
_LONGEST = 1000
"""Characters of one setting of an optimizer."""


def find_optimizer(name: str) -> OptimizerEntry:
    """The row of a name or of a `module.Class` in the table, whatever its case; of any class for a
    `UserOptimizerClass`.

    Nothing is imported here. Raises TrainError with the nearest name.
    """
    folded = {f"{found.module}.{found.name}".casefold(): found for found in OPTIMIZERS.values() if not found.settings}
    folded |= {known.casefold(): found for known, found in OPTIMIZERS.items()}
    if name.casefold() in folded:
        return folded[name.casefold()]
    module, dot, cls = name.rpartition(".")
    if dot and isinstance(name, UserOptimizerClass):
        return OptimizerEntry(module, cls, module.partition(".")[0])
    if dot:
        raise TrainError(
            f"optimizer_type {name[:200]!r} is not a known optimizer; a class by its module is taken only on your own "
            f"command line (--optimizer_type); known: {', '.join(OPTIMIZERS)}"
        )
    raise TrainError(f"unknown optimizer_type {name[:200]!r}{did_you_mean(name, OPTIMIZERS)}")


def parse_optimizer_args(texts: Sequence[str]) -> dict[str, Any]:
    """`name=value` → value: a number, True, False, None, a flat tuple or list of those, else its text.

    Raises TrainError: not name=value, another kind of value, or more than `_LONGEST` characters.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise TrainError(f"optimizer_args: {text[:80]!r} is not name=value, such as weight_decay=0.01")
        if len(text) > _LONGEST:
            raise TrainError(f"optimizer_args: {name.strip()} has {len(text)} characters, more than {_LONGEST}")
        found[name.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
    inside = value if isinstance(value, (tuple, list)) else (value,)
    if not all(item is None or isinstance(item, (bool, int, float, str)) for item in inside):
        raise TrainError(
            f"optimizer_args: {text[:80]!r} is not a value here; give a number, True, False, None, text, or several "
            "numbers such as 0.9,0.99"
        )
    return value


def optimizer_class_and_settings(recipe: Recipe) -> tuple[type[Any], dict[str, Any]]:
    """The recipe's optimizer as a class, and its settings.

    Raises TrainError: an unknown name, a library that is missing (with what to install), settings it does not take.
    """
    where = find_optimizer(recipe.optimizer_type)
    try:
        make = getattr(importlib.import_module(where.module), where.name)
    except ImportError as error:
        raise TrainError(
            f"{recipe.optimizer_type} needs the package {where.package}: pip install {where.package} ({error})"
        ) from None
    except AttributeError:
        raise TrainError(f"{where.module} has no optimizer {where.name!r}") from None
    given = parse_optimizer_args(recipe.optimizer_args)
    if "lr" in given:  # every group of parameters has its own, so this one would do nothing
        raise TrainError("optimizer_args: lr changes nothing here; give learning_rate, unet_lr or text_encoder_lr")
    settings = {**dict(where.settings), **given}
    if where.name == "Adafactor":
        # with relative_step (its default, and kohya's) it finds the rate by itself
        settings.setdefault("relative_step", False)
        settings.setdefault("scale_parameter", False)
        settings.setdefault("warmup_init", False)
    known = inspect.signature(make).parameters
    unknown = [name for name in settings if name not in known]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        raise TrainError(f"{recipe.optimizer_type} takes no {unknown[0]!r}{did_you_mean(unknown[0], known)}")
    return make, settings


def build_optimizer(recipe: Recipe, groups: list[dict[str, Any]]) -> Optimizer:
    """The recipe's optimizer on a network's `parameter_groups()`. Raises TrainError."""
    make, settings = optimizer_class_and_settings(recipe)
    if settings.get("relative_step"):  # it finds the rate by itself, and has none that a schedule could move
        groups = [{**group, "lr": 0.0} for group in groups]
    if make.__module__.startswith("torch.optim") and "fused" not in settings and "foreach" not in settings:
        settings |= _fast(make, groups)
    try:
        made: Optimizer = make(groups, **settings)
    except (TypeError, ValueError, AssertionError) as error:
        raise TrainError(f"{recipe.optimizer_type}: {error}; check optimizer_args") from None
    return made


def _fast(make: Callable[..., Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """One kernel for all parameters, where this torch has it for their device."""
    devices = {p.device.type for group in groups for p in group["params"]}
    named = inspect.signature(make).parameters
    if devices == {"cuda"} and "fused" in named:
        return {"fused": True}
    return {"foreach": True} if "foreach" in named and devices <= {"cpu", "cuda"} else {}


def is_schedule_free(optimizer: Optimizer) -> bool:
    """Whether it is to be told about training and evaluation (`.train()`, `.eval()`)."""
    return type(optimizer).__name__.endswith("ScheduleFree") and hasattr(optimizer, "eval")


def optimizer_advice(recipe: Recipe) -> list[str]:
    """What is odd about optimizer and rates, in sentences for the user."""
    said, where = [], find_optimizer(recipe.optimizer_type)
    rates = {recipe.rate(part) for part, on in (("unet", recipe.trains_unet), ("te", recipe.trains_text)) if on}
    if where.has_own_rate and max(rates) < 0.1:
        said.append(
            f"{recipe.optimizer_type} finds the learning rate itself; learning_rate is a factor on it: set 1, "
            f"not {max(rates):g}"
        )
    if where.has_own_rate and len(rates) > 1:
        said.append(f"{recipe.optimizer_type} uses one learning rate for all; unet_lr and text_encoder_lr differ")
    if "ScheduleFree" in where.name and recipe.lr_scheduler != "constant":
        said.append(f"{recipe.optimizer_type} needs no schedule; set lr_scheduler constant")
    return said


# --- schedules -------------------------------------------------------------------------------------------------------


def warmup_step_count(recipe: Recipe, steps: int) -> int:
    """Steps of rising rate: `lr_warmup_steps`, or that share of all steps where it is below 1."""
    given = recipe.lr_warmup_steps
    return int(given * steps) if given < 1 else int(given)


def learning_rate_factor(recipe: Recipe, step: int, steps: int) -> float:
    """What the learning rate is multiplied by at `step` of `steps` (transformers' schedules, ending at 0)."""
    name, rising = recipe.lr_scheduler, warmup_step_count(recipe, steps)
    if name == "constant":
        return 1.0
    if step < rising:
        return step / max(1, rising)
    if name == "constant_with_warmup":
        return 1.0
    done = (step - rising) / max(1, steps - rising)
    if name == "linear":
        return max(0.0, 1 - done)
    if name == "cosine":
        return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))
    if name == "cosine_with_restarts":
        cycles = recipe.lr_scheduler_num_cycles
        return 0.0 if done >= 1 else max(0.0, 0.5 * (1 + math.cos(math.pi * ((cycles * done) % 1.0))))
    return max(0.0, 1 - min(done, 1.0)) ** recipe.lr_scheduler_power


def build_scheduler(recipe: Recipe, optimizer: Optimizer, steps: int) -> LambdaLR:
    """A scheduler to step once after every optimizer step; `steps` is their number in the run."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(recipe, step, steps))


def current_learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """Group name → its learning rate now; for optimizers that find it themselves, times what they found (`d`)."""
    return {
        str(group.get("name", index)): float(group["lr"] or 0.0) * float(group.get("d", 1.0))
        for index, group in enumerate(optimizer.param_groups)
    }


def clip_gradients(parameters: Sequence[torch.Tensor], limit: float) -> torch.Tensor:
    """Shrinks the gradients to a total norm of `limit` (0: leaves them); returns their norm before, without waiting."""
    with_grad = [p for p in parameters if p.grad is not None]
    return torch.nn.utils.clip_grad_norm_(with_grad, limit if limit > 0 else math.inf)
