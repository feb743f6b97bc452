"""`OptimizerOptions`: the options of `Recipe` that choose the optimizer and the learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass

from .recipe_option import LR_SCHEDULERS, TORCH_SCHEDULES, recipe_option


@dataclass(frozen=True)
class OptimizerOptions:
    """The optimizer and the schedule; each option's help says what it does."""

    # --- optimizer
    optimizer_type: str = recipe_option(
        "AdamW", "AdamW, AdamW8bit, Lion, Adafactor, Prodigy, SGD …", "optimizer", basic=True
    )
    optimizer_args: tuple[str, ...] = recipe_option((), "name=value, such as weight_decay=0.01", "optimizer")
    lr_scheduler: str = recipe_option(
        "constant", "how the learning rate changes during the run", "optimizer", LR_SCHEDULERS, basic=True
    )
    lr_warmup_steps: float = recipe_option(0.0, "warm-up steps; below 1 a share of all steps", "optimizer", low=0)
    lr_scheduler_num_cycles: int = recipe_option(1, "restarts of cosine_with_restarts", "optimizer", low=1)
    lr_scheduler_power: float = recipe_option(1.0, "power of polynomial", "optimizer", low=0)
    lr_scheduler_min_lr_ratio: float | None = recipe_option(
        None, "least rate of cosine_with_min_lr, warmup_stable_decay and rex, as a share", "optimizer", low=0, high=1
    )
    lr_scheduler_timescale: int | None = recipe_option(
        None, "steps after which inverse_sqrt has fallen to 1 / √2; else the warm-up's, or 10000", "optimizer", low=1
    )
    lr_decay_steps: float = recipe_option(
        0.0, "last steps, in which warmup_stable_decay falls; below 1 a share of all steps", "optimizer", low=0
    )
    lr_scheduler_type: str | None = recipe_option(
        None,
        "a schedule of torch.optim.lr_scheduler instead, such as CosineAnnealingWarmRestarts",
        "optimizer",
        TORCH_SCHEDULES,
    )
    lr_scheduler_args: tuple[str, ...] = recipe_option(
        (), "name=value of the schedule, such as T_0=100 or step_rules=1:100,0.1", "optimizer"
    )
