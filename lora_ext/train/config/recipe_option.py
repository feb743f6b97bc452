"""`RecipeOption`: what a field of `Recipe` carries besides its type and default; the choices and limits of fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RecipeOption:
    """How an option is shown and which values it accepts.

    Attributes:
        help: One line for the command line and the form.
        group: The heading it is shown under.
        choices: The accepted values; empty for any.
        low: The smallest accepted number; None for any.
        high: The largest accepted number; None for any.
        basic: Whether the form shows it among the basic options.
        kind: "file" or "folder" for a path, else "".
    """

    help: str
    group: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    basic: bool = False
    kind: str = ""


def recipe_option(default: Any, help: str, group: str, choices: tuple[str, ...] = (), **more: Any) -> Any:
    """A dataclass field that carries a `RecipeOption`; `more` are its further attributes."""
    return field(default=default, metadata={"option": RecipeOption(help, group, choices, **more)})


NETWORK_MODULES = ("lierla", "c3lier", "dylora")
ADAPTER_ALGOS = ("lora", "loha", "lokr", "glora", "ia3", "full", "diag-oft", "boft", "oft")
LORA_INITS = ("kaiming", "pissa", "olora")
NETWORK_TARGETS = (
    "transformer", "attention", "attention_ff", "cross_attention", "cross_attention_ff", "self_attention",
    "self_attention_ff", "resnet", "all",
)  # fmt: skip
TRAINING_MODES = ("pictures", "ileco", "slider", "addift", "multi-addift", "difference")
PRIOR_LOSS_TARGETS = ("picture", "model")
LR_SCHEDULERS = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "cosine_with_min_lr",
    "inverse_sqrt", "warmup_stable_decay", "rex", "piecewise_constant",
)  # fmt: skip
TORCH_SCHEDULES = (
    "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "ConstantLR", "CyclicLR", "ExponentialLR", "LinearLR",
    "MultiStepLR", "OneCycleLR", "PolynomialLR", "StepLR",
)  # fmt: skip
"""Classes of torch.optim.lr_scheduler that `lr_scheduler_type` may name."""
OPTION_GROUPS = (
    "network", "dylora", "blocks", "mode", "model", "learning", "optimizer", "validation", "loss", "data", "pictures",
    "captions", "cache", "machine", "pivotal", "saving", "metadata", "samples", "logging",
)  # fmt: skip
"""The headings of options, in the order of the command line's help and of the form."""
MAX_STEPS = 10_000_000
"""Largest number of steps or epochs, so that a typing error does not start an endless run."""
MAX_SIDE_PIXELS = 16384
"""Largest side of a training picture, in pixels."""
RESIZE_INTERPOLATIONS = ("lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area")
