"""Resuming a run, possibly with other settings: what fits, where the run continues, what is restored.

New settings apply. Those that cannot apply are refused, or a sentence says what stays (`EFFECT_ON_RESUME` in
`training_state` has every option).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...counted_words import counted
from ...errors import TrainError
from ..config.optimizers import find_optimizer, optimizer_class_and_settings
from ..config.recipe import Recipe, recipe_options
from ..data.dataset import Dataset
from ..network.trainable_network import TrainableNetwork
from . import training_state
from .training_state import (
    CHANGES_NETWORK,
    EFFECT_ON_RESUME,
    TrainingState,
    changed_settings,
    describe_changed_settings,
)
from .training_step import TrainingStepper

_Notify = Callable[[str], None]
_LAYERS = ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "pretrained_model_name_or_path", "network_weights")
"""Further options that decide which layers are trained."""
_STATE_ARGUMENTS = frozenset({"d0", "slice_p"})
"""Arguments of Prodigy and D-Adaptation that their state is initialised with, so a new value needs a new state."""
EMBEDDING_GROUP = "word"
"""Name of the token embedding's parameter group, also in saved states."""


# --- what fits -------------------------------------------------------------------------------------------------------


def load_resumed_state(recipe: Recipe, notify: _Notify) -> TrainingState | None:
    """Loads the state that `resume` names; None without it. Raises TrainError."""
    if not recipe.resume:
        return None
    folder = training_state.find_training_state(Path(recipe.resume), recipe.output_name)
    found = training_state.load_training_state(folder)
    notify(f"resuming from {folder} at step {found.step}")
    return found


def fit_state_to_run(
    saved: TrainingState, recipe: Recipe, network: TrainableNetwork, data: Dataset, world_size: int, notify: _Notify
) -> None:
    """Checks that a state fits, and sets the position at which it continues.

    Args:
        saved: The state; its epoch and batch are set.
        recipe: The settings now.
        network: The network now.
        data: The data now.
        world_size: Number of processes.
        notify: Called with a sentence for each setting that differs.

    Raises:
        TrainError: The state's tensors do not fit the network (`check_state_fits`).
    """
    check_state_fits(saved, recipe, network)
    for sentence in describe_changed_settings(saved, recipe):
        notify(f"resuming with another recipe: {sentence}")
    saved.epoch, saved.batch = resume_position(saved, data, world_size, notify)
    _, steps = data.run_length(world_size, epoch=saved.epoch, batch=saved.batch, step=saved.step)
    if saved.step >= steps:
        more = "max_train_epochs" if recipe.max_train_epochs else "max_train_steps"
        notify(f"resuming: the state is at step {saved.step} of {steps}, so no step is left; raise {more} to continue")


def alphas_by_layer(network: TrainableNetwork) -> dict[str, float]:
    """Layer's key → alpha, as a state stores it."""
    return {network.layer_key(layer_id): float(module.alpha) for layer_id, module in network.factors_by_layer.items()}


def check_state_fits(saved: TrainingState, recipe: Recipe, network: TrainableNetwork) -> None:
    """Raises TrainError if the state's tensors are not those that the recipe trains, and says what differs."""
    _check_tensors(saved)
    if any(name in changed_settings(saved, recipe) for name in ("token_string", "num_vectors_per_token")):
        raise TrainError(_refused(saved, recipe, "the new token is another one"))
    names, shapes = _named(network)
    mine = dict(zip(names, shapes, strict=True))
    theirs = [(name, p) for name, p in _parameters(saved) if not name.startswith(EMBEDDING_GROUP)]
    if "names" not in saved.tensors:  # saved by a version that did not name them
        same_groups = _groups(saved.tensors["optimizer"]) == _groups({"param_groups": network.parameter_groups()})
        if not same_groups or any(
            EFFECT_ON_RESUME[name] == CHANGES_NETWORK for name in changed_settings(saved, recipe)
        ):
            raise TrainError(_refused(saved, recipe, _counted(len(mine), len(theirs))))
        theirs = [(name, p) for name, (_, p) in zip(names, theirs, strict=False)]
    have = {name: tuple(p.shape) for name, p in theirs}
    if have != mine:
        odd = next((name for name in mine if name in have and have[name] != mine[name]), None)
        shape = f"{_layer_of_parameter(odd)} has {have[odd]} in the state and {mine[odd]} in the network" if odd else ""
        raise TrainError(_refused(saved, recipe, shape or _counted(len(mine), len(have))))
    wrong = [
        key for key, value in saved.tensors.get("alphas", {}).items() if alphas_by_layer(network).get(key) != value
    ]
    if wrong:
        raise TrainError(_refused(saved, recipe, f"{wrong[0]} has alpha {saved.tensors['alphas'][wrong[0]]:g}"))


def _named(network: TrainableNetwork) -> tuple[list[str], list[tuple[int, ...]]]:
    """Names and shapes of a network's parameters, in the order of its groups."""
    names = {id(p): name for name, p in network.named_parameters()}
    listed = [p for group in network.parameter_groups() for p in group["params"]]
    return [names[id(p)] for p in listed], [tuple(p.shape) for p in listed]


def _parameters(saved: TrainingState) -> list[tuple[str, Tensor]]:
    tensors: Sequence[Tensor] = saved.tensors["parameters"]
    return list(zip(saved.tensors.get("names") or map(str, range(len(tensors))), tensors, strict=True))


def _groups(optimizer: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(name, number of parameters) of the groups that are the network's."""
    rows = [(str(group.get("name")), len(group["params"])) for group in optimizer["param_groups"]]
    return [group for group in rows if group[0] != EMBEDDING_GROUP]


def _layer_of_parameter(name: str) -> str:
    return name.removeprefix("factors.").partition(".")[0]


def _counted(mine: int, theirs: int) -> str:
    return f"the state has {counted(theirs, 'tensor')} and the network {mine}"


def _refused(saved: TrainingState, recipe: Recipe, why: str) -> str:
    """The message for a state that does not fit: what was changed, what is wrong, what to do."""
    parts = [
        f"{name} was {then!r} and is {now!r}"
        for name, (then, now) in changed_settings(saved, recipe).items()
        if EFFECT_ON_RESUME[name] == CHANGES_NETWORK or name in _LAYERS
    ]
    what = ", ".join(parts) or "the model or network_weights is another one"
    word = any(part.startswith(("token_string", "num_vectors")) for part in parts)
    other = "leave resume out" if word else "leave resume out and give the file saved with the state as network_weights"
    return f"--resume {recipe.resume} has another network: {what} ({why}). Set it as before, or {other}"


def _check_tensors(saved: TrainingState) -> None:
    """Raises TrainError if the tensors are not what `TrainingStepper.state_tensors` returns."""
    have = saved.tensors
    parameters, optimizer, scheduler = (have.get(name) for name in ("parameters", "optimizer", "scheduler"))
    fits = (
        isinstance(parameters, list)
        and all(isinstance(p, Tensor) for p in parameters)
        and len(have.get("names") or parameters) == len(parameters)
        and isinstance(optimizer, dict)
        and isinstance(optimizer.get("state"), dict)
        and isinstance(optimizer.get("param_groups"), list)
        and sum(len(group["params"]) for group in optimizer["param_groups"]) == len(parameters)
        and isinstance(scheduler, dict)
        and isinstance(scheduler.get("last_epoch"), int)
        and isinstance(have.get("word", []), list)
    )
    if not fits:
        raise TrainError("the saved state is damaged or incomplete; give another one to --resume")


# --- the position ---------------------------------------------------------------------------------------------------


def resume_position(saved: TrainingState, data: Dataset, world_size: int, notify: _Notify) -> tuple[int, int]:
    """(epoch, batch) that come next: the state's, or the epoch's start if its batches have changed."""
    epoch, batch = saved.epoch, saved.batch
    if not batch or not _reordered(saved, data, world_size):
        return epoch, batch
    if saved.batches and batch >= saved.batches:
        return epoch, data.batch_count(epoch, world_size)
    notify(f"resuming: the batches of epoch {epoch + 1} are not those of the state, so this epoch starts again")
    return epoch, 0


def _reordered(saved: TrainingState, data: Dataset, world_size: int) -> bool:
    if saved.order:
        return saved.order != batch_count_and_fingerprint(data, saved.epoch, world_size)[1]
    apart = {"seed", "train_batch_size", "gradient_accumulation_steps"}
    return any(
        name in apart or recipe_options()[name][1].group in ("data", "pictures")
        for name in changed_settings(saved, data.recipe)
        if name != "max_data_loader_n_workers"
    )


def batch_count_and_fingerprint(data: Dataset, epoch: int, world_size: int) -> tuple[int, str]:
    """The number of batches of an epoch, and a text that changes with its batches and with accumulation."""
    steps = data.recipe.gradient_accumulation_steps
    return data.batch_count(epoch, world_size), f"{steps} {data.sample_order.fingerprint(epoch, world_size)}"


def files_of_this_run(saved: TrainingState, folder: Path, name: str) -> dict[str, list[tuple[int, str]]]:
    """Of the files that a state lists, those of this run in its folder; only they may be pruned."""

    def own(path: Path) -> bool:
        return path.name.startswith(f"{name}-") and path.parent.resolve() == folder.resolve()

    return {kind: [item for item in items if own(Path(item[1]))] for kind, items in saved.kept.items()}


# --- what is restored ------------------------------------------------------------------------------------------------


@torch.no_grad()
def restore_stepper(saved: TrainingState, stepper: TrainingStepper, notify: _Notify) -> None:
    """Restores parameters, the optimizer's state and the schedule's position; rates and options are the recipe's.

    Groups that are only trained now (the token embedding) start without history.

    Args:
        saved: A state that passed `check_state_fits`.
        stepper: The stepper to restore.
        notify: Called with a sentence if the optimizer starts anew.
    """
    names = [name for name, _ in _parameters(saved)] if "names" in saved.tensors else stepper.names
    theirs = dict(zip(names, saved.tensors["parameters"], strict=False))
    if not _can_continue(saved, stepper):
        notify(f"resuming: {stepper.recipe.optimizer_type} starts anew with these settings; the network is kept")
        theirs |= dict(zip(names, _mean_weights(saved), strict=False))
    else:
        _load_optimizer(stepper, _merged(saved.tensors["optimizer"], names, stepper), theirs)
    for name, parameter in zip(stepper.names, stepper.parameters, strict=True):
        if name in theirs and not name.startswith(EMBEDDING_GROUP):  # the embedding has been loaded
            parameter.copy_(theirs[name])
    if stepper.average is not None:
        stepper.average.load(saved.tensors.get("average"))
    if saved.rate_changes:
        _continue_rate_changes(saved, stepper, notify)
    stepper.continue_schedule(saved.tensors["scheduler"])
    if stepper.scaler is not None and saved.tensors.get("scaler"):
        stepper.scaler.load_state_dict(saved.tensors["scaler"])


def _load_optimizer(stepper: TrainingStepper, state: dict[str, Any], saved_parameters: Mapping[str, Tensor]) -> None:
    """Loads an optimizer's state. Its tensors keep their dtypes where those of the Parameters are the state's.

    torch casts them to the Parameters' dtype, which would round what Adafactor keeps in float32 beside bf16.
    """
    stepper.optimizer.load_state_dict(state)
    for index, (name, parameter) in enumerate(zip(stepper.names, stepper.parameters, strict=True)):
        if index in state["state"] and saved_parameters[name].dtype == parameter.dtype:
            now = stepper.optimizer.state[parameter]
            for key, value in state["state"][index].items():
                if isinstance(value, Tensor) and now[key].dtype != value.dtype:
                    now[key] = value.to(now[key].device)


_RATES = frozenset("learning_rate unet_lr text_encoder_lr text_encoder_2_lr network_reg_lrs".split())


def _continue_rate_changes(saved: TrainingState, stepper: TrainingStepper, notify: _Notify) -> None:
    """Continues the factor on the rates that was set during the run; rates that are set anew have none."""
    factor = saved.rate_changes[-1][1]
    if _RATES & changed_settings(saved, stepper.recipe).keys():
        notify(f"resuming with other learning rates: the factor {factor:g} that was set during the run is left out")
        saved.rate_changes.append((saved.step, 1.0))
        return
    stepper.set_rate_factor(factor)
    notify(f"resuming: learning rates x {factor:g}, as set during the run")


def _can_continue(saved: TrainingState, stepper: TrainingStepper) -> bool:
    """Whether the state's optimizer is the recipe's, with differences in plain numbers at most.

    A flag such as amsgrad, or a value instead of None, makes an optimizer keep other tensors for each parameter.
    """
    recipe, then = stepper.recipe, saved.recipe
    if not _same_optimizer(str(then.get("optimizer_type", recipe.optimizer_type)), recipe.optimizer_type):
        return False
    old = replace(recipe, optimizer_args=tuple(map(str, then.get("optimizer_args", recipe.optimizer_args))))
    if old.optimizer_args == recipe.optimizer_args:
        return True
    now, before = _arguments(recipe), _arguments(old)
    group = stepper.optimizer.param_groups[0]
    differ = [name for name in {**now, **before} if now.get(name) != before.get(name)]
    return all(
        name not in _STATE_ARGUMENTS and name in group and _number(now.get(name)) and _number(before.get(name))
        for name in differ
    )


def _same_optimizer(then: str, now: str) -> bool:
    if then.casefold() == now.casefold():
        return True
    try:
        a, b = find_optimizer(then), find_optimizer(now)
    except TrainError:
        return False
    return (a.module, a.name, a.settings) == (b.module, b.name, b.settings)


def _arguments(recipe: Recipe) -> dict[str, Any]:
    """All arguments of the recipe's optimizer with its own defaults, without the rate, which groups have."""
    make, given = optimizer_class_and_settings(recipe)
    known = inspect.signature(make).parameters.values()
    return {**{p.name: p.default for p in known if p.default is not p.empty and p.name != "lr"}, **given}


def _number(value: Any) -> bool:
    """Whether a value is a number or a tuple of numbers (betas)."""
    if isinstance(value, (tuple, list)):
        return all(map(_number, value))
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _merged(saved: Mapping[str, Any], names: Sequence[str], stepper: TrainingStepper) -> dict[str, Any]:
    """An optimizer's state_dict: the groups' options of now, their running values (k, d …) as saved."""
    now = stepper.optimizer.state_dict()["param_groups"]
    settings = set(inspect.signature(type(stepper.optimizer)).parameters) | {"params", "name", "initial_lr"}
    by_name = {str(group.get("name")): group for group in saved["param_groups"]}
    groups = []
    for group in now:
        then = by_name.get(str(group.get("name")), saved["param_groups"][0])
        groups.append({**group, **{key: value for key, value in then.items() if key not in settings}})
    places = [place for group in saved["param_groups"] for place in group["params"]]
    kept = {name: saved["state"][place] for name, place in zip(names, places, strict=False) if place in saved["state"]}
    indices = [index for group in now for index in group["params"]]
    state = {index: kept[name] for index, name in zip(indices, stepper.names, strict=True) if name in kept}
    return {"state": state, "param_groups": groups}


def _mean_weights(saved: TrainingState) -> list[Tensor]:
    """The parameters as in files: of a schedule-free optimizer the mean, not where gradients are computed.

    Defazio et al. 2024 (arXiv:2405.15682): y = (1 − β)·z + β·x, so x = y + (1 − 1/β)·(z − y).
    """
    optimizer = saved.tensors["optimizer"]
    found = list(saved.tensors["parameters"])
    for group in optimizer["param_groups"]:
        beta = group["betas"][0] if "betas" in group else group.get("momentum", 0.0)
        for place in group["params"] if "weight_sum" in group and beta else ():
            z = optimizer["state"].get(place, {}).get("z")
            if z is not None:
                found[place] = found[place].lerp(z.to(found[place]), 1 - 1 / beta)
    return found
