"""Optimizers by name, from the libraries that have them, and learning-rate schedules."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch.optim import Optimizer

from ...errors import TrainError, did_you_mean
from .recipe import Recipe, UserOptimizerClass


@dataclass(frozen=True)
class OptimizerEntry:
    """Where an optimizer is, and how it is built.

    Attributes:
        module: The module to import.
        name: The class in it.
        package: The package that pip installs it from.
        settings: Arguments other than the library's defaults.
        has_own_rate: Whether it finds the learning rate by itself; `learning_rate` is then a factor and should be 1.
        clips_all: Whether it divides gradients by the norm of all of them.
    """

    module: str
    name: str
    package: str = "torch"
    settings: tuple[tuple[str, Any], ...] = ()
    has_own_rate: bool = False
    clips_all: bool = False

    @property
    def has_one_rate(self) -> bool:
        """Whether it refuses several learning rates, or uses one of them for all."""
        return self.has_own_rate and self.package != _PLUS

    @property
    def couples_tensors(self) -> bool:
        """Whether the step of one tensor depends on the gradients of the others."""
        return self.has_own_rate or self.clips_all


_NESTEROV = (("nesterov", True), ("momentum", 0.9))
_PLUS = "prodigy-plus-schedule-free"
_BNB, _DADAPT, _FREE, _MORE = "bitsandbytes", "dadaptation", "schedulefree", "pytorch-optimizer"
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
        "PagedAdamW32bit": OptimizerEntry("bitsandbytes.optim", "PagedAdamW32bit", _BNB),
        "Lion8bit": OptimizerEntry("bitsandbytes.optim", "Lion8bit", _BNB),
        "PagedLion8bit": OptimizerEntry("bitsandbytes.optim", "PagedLion8bit", _BNB),
        "SGDNesterov8bit": OptimizerEntry("bitsandbytes.optim", "SGD8bit", _BNB, _NESTEROV),
        "Lion": OptimizerEntry("lion_pytorch", "Lion", "lion-pytorch"),
        "Prodigy": OptimizerEntry("prodigyopt", "Prodigy", "prodigyopt", has_own_rate=True),
        "DAdaptation": OptimizerEntry("dadaptation.experimental", "DAdaptAdamPreprint", _DADAPT, has_own_rate=True),
        "DAdaptAdamPreprint": OptimizerEntry(
            "dadaptation.experimental", "DAdaptAdamPreprint", _DADAPT, has_own_rate=True
        ),
        "DAdaptAdanIP": OptimizerEntry("dadaptation.experimental", "DAdaptAdanIP", _DADAPT, has_own_rate=True),
        "DAdaptAdam": OptimizerEntry("dadaptation", "DAdaptAdam", _DADAPT, has_own_rate=True),
        "DAdaptAdaGrad": OptimizerEntry("dadaptation", "DAdaptAdaGrad", _DADAPT, has_own_rate=True),
        "DAdaptAdan": OptimizerEntry("dadaptation", "DAdaptAdan", _DADAPT, has_own_rate=True),
        "DAdaptLion": OptimizerEntry("dadaptation", "DAdaptLion", _DADAPT, has_own_rate=True),
        "DAdaptSGD": OptimizerEntry("dadaptation", "DAdaptSGD", _DADAPT, has_own_rate=True),
        "AdamWScheduleFree": OptimizerEntry("schedulefree", "AdamWScheduleFree", _FREE),
        "RAdamScheduleFree": OptimizerEntry("schedulefree", "RAdamScheduleFree", _FREE),
        "SGDScheduleFree": OptimizerEntry("schedulefree", "SGDScheduleFree", _FREE),
        "ProdigyPlusScheduleFree": OptimizerEntry(
            "prodigyplus.prodigy_plus_schedulefree",
            "ProdigyPlusScheduleFree",
            _PLUS,
            has_own_rate=True,
        ),
        "CAME": OptimizerEntry("pytorch_optimizer", "CAME", _MORE),
        "Adan": OptimizerEntry("pytorch_optimizer", "Adan", _MORE),
        "Ranger": OptimizerEntry("pytorch_optimizer", "Ranger", _MORE),
        "AdEMAMix": OptimizerEntry("pytorch_optimizer", "AdEMAMix", _MORE),
        "Lamb": OptimizerEntry("pytorch_optimizer", "Lamb", _MORE, clips_all=True),
        "Tiger": OptimizerEntry("pytorch_optimizer", "Tiger", _MORE),
    }
)
"""Name (kohya's `--optimizer_type`) → its entry."""
_MAX_ARGUMENT_LENGTH = 1000
"""Characters of one optimizer argument."""


def find_optimizer(name: str) -> OptimizerEntry:
    """Looks up an optimizer without importing it.

    Args:
        name: A name or a `module.Class` of the table, in any case; a `UserOptimizerClass` may name any class.

    Returns:
        The entry.

    Raises:
        TrainError: An unknown name, with the nearest one.

    Example:
        >>> find_optimizer("adamw8bit").package
        'bitsandbytes'
    """
    folded = _folded_names()
    if name.casefold() in folded:
        return folded[name.casefold()]
    module, dot, cls = name.rpartition(".")
    if dot and isinstance(name, UserOptimizerClass):
        return OptimizerEntry(module, cls, module.partition(".")[0])
    if dot:
        raise TrainError(
            f"optimizer_type {name[:200]!r} is not a known optimizer; module.Class is accepted on the command line "
            f"only (--optimizer_type); known: {', '.join(OPTIMIZERS)}"
        )
    raise TrainError(f"unknown optimizer_type {name[:200]!r}{did_you_mean(name, OPTIMIZERS)}")


def _folded_names() -> dict[str, OptimizerEntry]:
    """Names and `module.Class` of the table in small letters → entry."""
    classes = {f"{found.module}.{found.name}".casefold(): found for found in OPTIMIZERS.values() if not found.settings}
    return classes | {known.casefold(): found for known, found in OPTIMIZERS.items()}


def is_known_optimizer(name: str) -> bool:
    """Whether the table has an optimizer, by its name or its `module.Class`."""
    return name.casefold() in _folded_names()


def parse_optimizer_args(texts: Sequence[str]) -> dict[str, Any]:
    """Parses `name=value` arguments of an optimizer.

    Args:
        texts: Arguments such as "weight_decay=0.01" and "betas=0.9,0.99".

    Returns:
        Name → a number, True, False, None, a flat tuple or list of those, or else the text.

    Raises:
        TrainError: Not name=value, a value of another kind, or one of more than 1,000 characters.

    Example:
        >>> parse_optimizer_args(["weight_decay=0.01", "betas=0.9,0.99"])
        {'weight_decay': 0.01, 'betas': (0.9, 0.99)}
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise TrainError(f"optimizer_args: {text[:80]!r} is not name=value, such as weight_decay=0.01")
        if len(text) > _MAX_ARGUMENT_LENGTH:
            raise TrainError(
                f"optimizer_args: {name.strip()} has {len(text)} characters, more than {_MAX_ARGUMENT_LENGTH}"
            )
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
            f"optimizer_args: {text[:80]!r} is not accepted; give a number, True, False, None, text or several "
            "numbers such as 0.9,0.99"
        )
    return value


def optimizer_class_and_settings(recipe: Recipe) -> tuple[type[Any], dict[str, Any]]:
    """Imports the recipe's optimizer.

    Args:
        recipe: The settings.

    Returns:
        (class, its keyword arguments).

    Raises:
        TrainError: An unknown name, a library that is not installed (with what to install), or an argument that the
            class does not have.
    """
    where = find_optimizer(recipe.optimizer_type)
    try:
        make = getattr(importlib.import_module(where.module), where.name)
    except (ImportError, OSError, RuntimeError) as error:  # a library without the CUDA that it looks for raises any
        raise TrainError(
            f"{recipe.optimizer_type} needs the package {where.package}: pip install {where.package} ({error})"
        ) from None
    except AttributeError:
        raise TrainError(f"{where.module} has no optimizer {where.name!r}") from None
    given = parse_optimizer_args(recipe.optimizer_args)
    if "lr" in given:  # every parameter group sets its own rate, so this one would have no effect
        raise TrainError("optimizer_args: lr has no effect; set learning_rate, unet_lr or text_encoder_lr")
    settings = {**dict(where.settings), **given}
    if where.name == "Adafactor":
        # with relative_step (its own default and kohya's) Adafactor finds the rate by itself and ignores ours
        settings.setdefault("relative_step", False)
        settings.setdefault("scale_parameter", False)
        settings.setdefault("warmup_init", False)
    known = inspect.signature(make).parameters
    unknown = [name for name in settings if name not in known]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        raise TrainError(f"{recipe.optimizer_type} has no argument {unknown[0]!r}{did_you_mean(unknown[0], known)}")
    return make, settings


def build_optimizer(recipe: Recipe, groups: list[dict[str, Any]]) -> Optimizer:
    """Builds the recipe's optimizer.

    Args:
        recipe: Its `optimizer_type` and the options beside it are used.
        groups: Parameter groups, as `TrainableNetwork.parameter_groups()` returns them.

    Returns:
        The optimizer.

    Raises:
        TrainError: An unknown optimizer, a missing package, or an argument that the optimizer does not accept.
    """
    optimizer_class, settings = optimizer_class_and_settings(recipe)
    if settings.get("relative_step"):  # it computes the rate by itself; a given one is an error
        groups = [{**group, "lr": 0.0} for group in groups]
    if find_optimizer(recipe.optimizer_type).has_one_rate:
        groups = _with_one_rate(groups)
    if optimizer_class.__module__.startswith("torch.optim") and "fused" not in settings and "foreach" not in settings:
        settings |= _fast(optimizer_class, groups)
    rate = inspect.signature(optimizer_class).parameters.get("lr")
    if rate is not None and rate.default is rate.empty:  # bitsandbytes' SGD8bit; the groups have their own
        settings["lr"] = groups[0]["lr"]
    try:
        optimizer: Optimizer = optimizer_class(groups, **settings)
    except (TypeError, ValueError, AssertionError) as error:
        raise TrainError(f"{recipe.optimizer_type}: {error}; check optimizer_args") from None
    if optimizer_class.__module__.startswith("bitsandbytes"):
        device = groups[0]["params"][0].device
        _check_bitsandbytes(recipe.optimizer_type, lambda tried: optimizer_class(tried, **settings), device)
    return optimizer


def _check_bitsandbytes(name: str, make: Callable[[list[torch.nn.Parameter]], Optimizer], device: torch.device) -> None:
    """Tries a step: without code for the device bitsandbytes fails there only, in its own words. Raises TrainError."""
    # bitsandbytes keeps states of fewer than 4,096 numbers in 32 bits
    tried = [torch.nn.Parameter(torch.zeros(count, device=device)) for count in (1, 4096)]
    for parameter in tried:
        parameter.grad = torch.ones_like(parameter)
    try:
        make(tried).step()
    except Exception as error:  # NameError, RuntimeError, AttributeError …, by its version
        found = sys.modules["bitsandbytes"].__version__
        raise TrainError(
            f"{name} cannot be used: bitsandbytes {found} does not work on {device.type} here ({error}); "
            "pip install -U bitsandbytes, or set optimizer_type AdamW or Lion"
        ) from None


def _with_one_rate(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups at their largest rate; those of rate 0 are fixed, since some optimizers would train them too."""
    for group in groups:
        if not group["lr"]:
            for parameter in group["params"]:
                parameter.requires_grad_(False)
    return [{**group, "lr": max(other["lr"] for other in groups)} for group in groups]


def _fast(make: Callable[..., Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs one kernel for all parameters, where this torch has it for their device."""
    devices = {p.device.type for group in groups for p in group["params"]}
    named = inspect.signature(make).parameters
    if devices == {"cuda"} and "fused" in named:
        return {"fused": True}
    return {"foreach": True} if "foreach" in named and devices <= {"cpu", "cuda"} else {}


def is_schedule_free(optimizer: Optimizer) -> bool:
    """Whether an optimizer must be switched between training and evaluation (`.train()`, `.eval()`).

    Args:
        optimizer: The optimizer.

    Returns:
        True for the schedule-free ones.
    """
    return type(optimizer).__name__.endswith("ScheduleFree") and hasattr(optimizer, "eval")


def optimizer_advice(recipe: Recipe) -> list[str]:
    """A sentence for each unusual combination of optimizer, learning rates and schedule."""
    advice, where = [], find_optimizer(recipe.optimizer_type)
    parts = [part for part, on in (("unet", recipe.trains_unet), ("te", recipe.trains_text)) if on]
    rates = {recipe.rate(part) for part in parts}
    if where.has_own_rate and max(rates) < 0.1:
        advice.append(
            f"{recipe.optimizer_type} finds the learning rate itself; learning_rate is a factor on it: set 1, "
            f"not {max(rates):g}"
        )
    if where.has_one_rate and (len(rates) > 1 or _has_rates_by_layer(recipe)):
        advice.append(
            f"{recipe.optimizer_type} finds one learning rate for all: the largest is used wherever another than 0 is "
            "set"
        )
    if where.has_one_rate and recipe.inversion_continue and recipe.inversion_lr:
        advice.append(
            f"{recipe.optimizer_type} finds one learning rate for all: the new token is trained at it too, not at "
            f"inversion_lr {recipe.inversion_lr:g}"
        )
    if where.name == "Adafactor" and not any(text.startswith("relative_step") for text in recipe.optimizer_args):
        advice.append(
            "Adafactor uses learning_rate here; optimizer_args relative_step=True lets it find the rate by itself, as "
            "kohya's scripts do"
        )
    if (
        recipe.lr_scheduler_type in ("OneCycleLR", "CyclicLR")
        and "cycle_momentum=False" not in recipe.lr_scheduler_args
    ):
        advice.append(f"{recipe.lr_scheduler_type} changes the learning rate alone, not the momentum")
    if "ScheduleFree" in where.name and recipe.lr_scheduler != "constant":
        advice.append(f"{recipe.optimizer_type} needs no schedule; set lr_scheduler constant")
    return advice


def _has_rates_by_layer(recipe: Recipe) -> bool:
    """Whether some layers or factors have a learning rate of their own."""
    names = "loraplus_lr_ratio loraplus_unet_lr_ratio loraplus_text_encoder_lr_ratio network_reg_lrs"
    names += " down_lr_weight mid_lr_weight up_lr_weight text_encoder_2_lr"
    return any(getattr(recipe, name) for name in names.split())


def current_learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """The learning rates now.

    Args:
        optimizer: The optimizer.

    Returns:
        Group name → learning rate; for Prodigy and D-Adaptation times their own estimate `d`.
    """
    return {
        str(group.get("name", index)): float(group["lr"] or 0.0) * float(group.get("d", 1.0))
        for index, group in enumerate(optimizer.param_groups)
    }


def clip_gradients(parameters: Sequence[torch.Tensor], limit: float) -> torch.Tensor:
    """Scales gradients down to a total norm.

    Args:
        parameters: The parameters; those without a gradient are left out.
        limit: The largest total norm; 0 leaves all as they are.

    Returns:
        The norm before, 0-dim, on the device (nothing waits for it).
    """
    with_grad = [p for p in parameters if p.grad is not None]
    return torch.nn.utils.clip_grad_norm_(with_grad, limit if limit > 0 else math.inf)
