"""One training step: noise, prediction, loss, gradients over all processes, and the optimizer's step.

Nothing here waits for the device: random numbers are drawn on the CPU and copied, and results stay on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import TrainError
from ...protocols import TrainableModel
from ..config.lr_schedules import build_scheduler, learning_rate_factor
from ..config.optimizers import build_optimizer, clip_gradients, current_learning_rates, is_schedule_free
from ..config.recipe import Recipe
from ..data.batch import Batch
from ..data.sample_order import keyed_random_number
from ..network.trainable_network import TrainableNetwork
from .averaged_weights import AveragedWeights
from .fused_backward import FusedBackward
from .objectives import build_objective
from .process_group import ProcessGroup

STEPS_BETWEEN_NORMS = 10
"""‖ΔW‖ is logged every so many steps, if scale_weight_norms does not compute it anyway."""


def keyed_generator(*key: object) -> torch.Generator:
    """A CPU generator that depends only on the key, so that a resumed step draws the same."""
    return torch.Generator().manual_seed(keyed_random_number(*key))


class TrainingStepper:
    """The network with its optimizer and schedule.

    Args:
        model: The model.
        network: The network.
        recipe: The settings.
        process_group: The processes that train together.
        steps: Optimizer steps of the whole run, for the schedule.
        extra_groups: Parameter groups that are trained beside the network's.

    Attributes:
        parameters: All trained Parameters, in the order of the groups.
        names: Their names, as saved states store them.
        learning_rates: Part → learning rate now.
        rate_factor: A factor on the recipe's learning rates; the schedule's is another one.
    """

    def __init__(
        self,
        model: TrainableModel,
        network: TrainableNetwork,
        recipe: Recipe,
        process_group: ProcessGroup,
        steps: int,
        extra_groups: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.network, self.recipe, self.process_group, self.steps = network, recipe, process_group, steps
        self.extra_groups = extra_groups
        groups = [*network.parameter_groups(), *extra_groups]
        self.parameters: list[nn.Parameter] = [p for group in groups for p in group["params"]]
        named = {id(p): name for name, p in network.named_parameters()}
        for group in extra_groups:
            named |= {id(p): f"{group['name']}.{n}" for n, p in enumerate(group["params"])}
        self.names = [named[id(p)] for p in self.parameters]
        self.optimizer = build_optimizer(recipe, groups)
        self.scheduler = build_scheduler(recipe, self.optimizer, steps)
        self.rate_factor, self._recipe_rates = 1.0, list(self.scheduler.base_lrs)
        self.objective = build_objective(model, recipe, network, trains_text=recipe.trains_text or bool(extra_groups))
        self.fused = FusedBackward(self.optimizer, recipe.max_grad_norm) if recipe.fused_backward_pass else None
        self.scaler = _scaler(model.device, recipe.full_fp16) if recipe.mixed_precision == "fp16" else None
        # a list of its own order: groups may change when a run is resumed
        decay = recipe.ema_decay
        self.average = None if decay is None else AveragedWeights(list(network.parameters()), decay)
        self._losses: list[Tensor] = []
        self.set_inference(False)

    def backward(self, batch: Batch, accumulation: int, epoch: int, batch_index: int) -> None:
        """Adds the gradients of a batch.

        Args:
            batch: The batch.
            accumulation: Batches that make a step.
            epoch: The epoch, from 0.
            batch_index: The batch's number in the epoch; with the epoch it keys the random numbers.
        """
        self.network.begin_step(
            keyed_generator(self.recipe.seed, "step", epoch, batch_index), process=self.process_group.rank
        )
        loss = self.objective(batch)
        self._losses.append(loss.detach() / accumulation)
        share = loss / accumulation
        (share if self.scaler is None else self.scaler.scale(share)).backward()

    def optimizer_step(self) -> tuple[Tensor, Tensor, Tensor]:
        """Steps the optimizer on the mean gradients of all processes.

        Returns:
            (loss, gradient norm, mean ‖ΔW‖ or NaN), 0-dim on the device.
        """
        total = torch.stack(self._losses).sum()
        self._losses.clear()
        if self.process_group.world_size > 1:  # a batch without the new token gives it no gradient in this process
            fill_missing_gradients([p for group in self.extra_groups for p in group["params"]])
        self.process_group.average_in_place([total, *(p.grad for p in self.parameters if p.grad is not None)])
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.fused is not None:
            norm = self.fused.end_step()
            self.scheduler.step()
        else:
            norm = clip_gradients(self.parameters, self.recipe.max_grad_norm)
            if self._step_optimizer():
                self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        mean = self.network.limit_delta_norms(limit).mean if (limit := self.recipe.scale_weight_norms) else None
        if self.average is not None:
            self.average.update(self.scheduler.last_epoch)
        if mean is not None:
            return total, norm, mean
        is_logged = self.scheduler.last_epoch % STEPS_BETWEEN_NORMS == 1
        return total, norm, self.network.delta_norms().mean() if is_logged else total.new_full((), float("nan"))

    def _step_optimizer(self) -> bool:
        """Steps the optimizer; False if half-precision gradients overflowed, which leaves everything as it was."""
        try:
            if self.scaler is None:
                self.optimizer.step()
                return True
            before = self.scaler.get_scale()
            self.scaler.step(self.optimizer)
        except ArithmeticError as error:  # DAdaptSGD, where the first gradient is 0
            raise TrainError(
                f"{self.recipe.optimizer_type} cannot step from these gradients ({error}); set another optimizer_type, "
                "such as AdamW"
            ) from None
        self.scaler.update()
        return bool(self.scaler.get_scale() >= before)

    @property
    def learning_rates(self) -> dict[str, float]:
        """Part → learning rate of its first group now."""
        found: dict[str, float] = {}
        for name, rate in current_learning_rates(self.optimizer).items():
            found.setdefault(name.split(" ")[0], rate)
        return found

    def set_inference(self, inference: bool) -> None:
        """Switches between inference (all ranks, averaged weights) and training."""
        if is_schedule_free(self.optimizer):
            (self.optimizer.eval if inference else self.optimizer.train)()  # type: ignore[attr-defined]
        if self.average is not None:
            self.average.swap(inference)
        self.network.train(not inference)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Inside, `set_inference(True)` holds."""
        self.set_inference(True)
        try:
            yield
        finally:
            self.set_inference(False)

    # --- saved states

    def state_tensors(self) -> dict[str, Any]:
        """Everything that changes from step to step, on the CPU."""
        return {
            "parameters": [p.detach().cpu().clone() for p in self.parameters],
            "names": list(self.names),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "average": None if self.average is None else [t.cpu().clone() for t in self.average.tensors],
        }

    def continue_schedule(self, saved: dict[str, Any]) -> None:
        """Continues the schedule at a saved position, with this recipe's rates."""
        self.scheduler.last_epoch = saved["last_epoch"]
        self.scheduler._step_count = saved.get("_step_count", saved["last_epoch"] + 1)
        self._set_scheduled_rates()

    def set_rate_factor(self, factor: float) -> None:
        """Multiplies the recipe's rates from the next step on; the schedule stays."""
        self.rate_factor = factor
        self.scheduler.base_lrs = [rate * factor for rate in self._recipe_rates]
        self._set_scheduled_rates()

    def _set_scheduled_rates(self) -> None:
        """Gives the optimizer the rates of the schedule's position."""
        at = self.scheduler.last_epoch
        rates = [
            base * learning_rate_factor(self.recipe, at, self.steps, float(own))
            for base, own in zip(self.scheduler.base_lrs, self._recipe_rates, strict=True)
        ]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.scheduler._last_lr = rates


def fill_missing_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sets missing gradients to zeros, so that all processes average the same tensors."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _scaler(device: torch.device, half_gradients: bool) -> Any:
    """A gradient scaler, so that small fp16 gradients are not lost (Micikevicius et al. 2017, arXiv:1710.03740)."""
    if hasattr(torch.amp, "GradScaler"):
        scaler: Any = torch.amp.GradScaler(device.type)
    else:
        scaler = torch.cuda.amp.GradScaler(enabled=device.type == "cuda")  # torch before 2.3
    if (
        half_gradients
    ):  # torch refuses gradients in fp16, which it can unscale; kohya's scripts allow them in the same way
        unscale = scaler._unscale_grads_
        scaler._unscale_grads_ = lambda optimizer, inverse, found, _: unscale(optimizer, inverse, found, True)
    return scaler
