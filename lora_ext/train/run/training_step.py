"""One step of training: noise, prediction, loss, gradients over all processes, and the optimizer's move.

Nothing in here waits for the device: what is drawn is drawn on the CPU and sent on its way, what comes out stays there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...protocols import Context, Trainee
from ..config.optimizers import clip, factor, is_schedule_free, optimizer, rates, scheduler
from ..config.recipe import Recipe
from ..data.batch import Batch
from ..data.content_cache import Store, key_of
from ..data.sample_order import draw
from ..network.trainable_network import Network
from .loss import loss, noise_for, noisy, schedule, target, timesteps
from .process_group import Processes

KEPT_CAPTIONS = 2**29
"""Bytes of text-encoder outputs that are kept, where the text encoder does not learn."""


NORMS_EVERY = 10
"""Steps from one look at ‖ΔW‖ to the next, where nothing limits it."""


def generator(*key: object) -> torch.Generator:
    """A CPU generator that depends on the key alone, so that a step draws the same whenever it is made."""
    return torch.Generator().manual_seed(draw(*key))


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device without waiting for what it is doing (copies from pageable memory would)."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Captions:
    """Captions → contexts. Where no gradient is wanted each caption is read once and kept, the latest used longest."""

    def __init__(self, trainee: Trainee, recipe: Recipe, *, learns: bool) -> None:
        self.trainee, self.recipe, self.learns = trainee, recipe, learns
        self._kept: OrderedDict[str, Context] = OrderedDict()
        self._bytes = 0
        self._store: Store | None = None
        self._about: tuple[object, ...] = ()

    def keep_in(self, store: Store, *about: object) -> None:
        """Keeps on disk too what is read; about: all that it depends on besides the caption."""
        self._store, self._about = store, about

    def __call__(self, captions: Sequence[str]) -> Context:
        """One context for the batch, (n, 77·chunks, width)."""
        if self.learns:
            return self._read(captions)
        with torch.no_grad():
            for caption in dict.fromkeys(captions):
                if caption not in self._kept:
                    self._keep(caption, self._once(caption))
        found = [self._kept[caption] for caption in captions]
        for caption in captions:
            self._kept.move_to_end(caption)
        longest = max(context.states.shape[1] for context in found)
        states = torch.cat([self._filled(context.states, longest) for context in found])
        pooled = [context.pooled for context in found if context.pooled is not None]
        while self._bytes > KEPT_CAPTIONS and len(self._kept) > len(found):
            self._bytes -= self._kept.popitem(last=False)[1].states.nbytes
        return Context(states, torch.cat(pooled) if pooled else None)

    def _read(self, captions: Sequence[str]) -> Context:
        recipe = self.recipe
        return self.trainee.text(captions, clip_skip=recipe.clip_skip or 1, max_token_length=recipe.max_token_length)

    def _once(self, caption: str) -> Context:
        """A caption's context from disk if it is there."""
        key = key_of("caption", *self._about, caption)
        stored = self._store.get(key) if self._store is not None else None
        if stored is not None:
            device = self.trainee.device
            pooled = stored.get("pooled")
            return Context(stored["states"].to(device), None if pooled is None else pooled.to(device))
        context = self._read([caption])
        if self._store is not None:
            found = {"states": context.states, "pooled": context.pooled}
            self._store.put(key, {name: tensor for name, tensor in found.items() if tensor is not None})
        return context

    def _keep(self, caption: str, context: Context) -> None:
        self._kept[caption] = context
        self._bytes += context.states.nbytes

    def _filled(self, states: Tensor, length: int) -> Tensor:
        """States with empty chunks behind them, as the text encoder gives for a shorter caption in a batch."""
        missing = length - states.shape[1]
        if not missing:
            return states
        if "" not in self._kept:
            with torch.no_grad():
                self._keep("", self._read([""]))
        blank = self._kept[""].states
        return torch.cat([states, *[blank] * (missing // blank.shape[1])], dim=1)


class Objective:
    """A batch → its loss under a recipe, on a model as it is then; network: what changes it."""

    def __init__(self, trainee: Trainee, recipe: Recipe, network: Network, *, learns_text: bool) -> None:
        self.trainee, self.recipe, self.device = trainee, recipe, trainee.device
        self.network = network
        self.abar = schedule(recipe, trainee.alphas_cumprod)
        self.abar_there = self.abar.to(self.device)
        velocity = trainee.prediction == "v" or recipe.v_parameterization
        self.prediction = "v_prediction" if velocity else "epsilon"
        self.captions = Captions(trainee, recipe, learns=learns_text)
        self.plain_captions = Captions(trainee, recipe, learns=False) if learns_text else self.captions

    def __call__(self, batch: Batch) -> Tensor:
        """0-dim float32: the mean of the rows' weighted losses, times `batch.scale`."""
        device, recipe = self.device, self.recipe
        latents = self.trainee.encode(batch.pixels) if batch.latents is None and batch.pixels is not None else None
        start = batch.latents if latents is None else latents
        assert start is not None
        generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds]
        steps = torch.cat([timesteps(recipe, 1, len(self.abar), g) for g in generators])
        here = start.cpu() if latents is None or recipe.adaptive_noise_scale else torch.empty(start.shape)
        noise = torch.cat([noise_for(recipe, here[i : i + 1], g) for i, g in enumerate(generators)])
        if latents is None:
            mixed = send(self._noisy(here, noise, steps, self.abar, generators), device)
            start, noise, steps = send(here, device), send(noise, device), send(steps, device)
        else:
            noise, steps = send(noise, device), send(steps, device)
            mixed = self._noisy(start, noise, steps, self.abar_there, generators)
        context, sizes = self.captions(batch.captions), self._sizes(batch)
        predicted = self.trainee.predict(mixed, steps, context, sizes)
        wanted = target(self.prediction, start, noise, steps, self.abar_there)
        if recipe.prior_loss_target == "model":
            wanted = self._kept(wanted, batch, mixed, steps, sizes)
        weights = None if bool((batch.weights == 1).all()) else send(batch.weights, device)
        mask = send(batch.mask, device) if batch.mask is not None else None
        value = loss(recipe, predicted, wanted, steps, self.abar_there, weights, mask, self.prediction)
        return value if batch.scale == 1 else value * batch.scale

    def _kept(self, wanted: Tensor, batch: Batch, mixed: Tensor, steps: Tensor, sizes: Tensor | None) -> Tensor:
        """`wanted`, but of regularisation pictures what the model says without the network.

        That is no noise to be learned from: nothing pulls at a network that has not changed these pictures.
        """
        rows = [row for row, keeps in enumerate(batch.regularisation) if keeps]
        if not rows:
            return wanted
        at = send(torch.tensor(rows), self.device)
        with torch.no_grad(), self.network.resting():
            context = self.plain_captions([batch.captions[row] for row in rows])
            said = self.trainee.predict(mixed[at], steps[at], context, None if sizes is None else sizes[at])
        return wanted.to(said.dtype).index_copy(0, at, said)

    def _noisy(
        self, latents: Tensor, noise: Tensor, steps: Tensor, abar: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Each picture by its own generator where more is drawn, else all at once."""
        if not self.recipe.ip_noise_gamma:
            return noisy(self.recipe, latents, noise, steps, abar)
        rows = [slice(i, i + 1) for i in range(len(latents))]
        return torch.cat(
            [noisy(self.recipe, latents[r], noise[r], steps[r], abar, g) for r, g in zip(rows, generators, strict=True)]
        )

    def _sizes(self, batch: Batch) -> Tensor | None:
        """SDXL's (n, 6): original height and width, crop's top and left, the bucket's height and width."""
        if self.trainee.family != "SDXL":
            return None
        wide, high = batch.bucket
        rows = [
            [h, w, top, left, high, wide] for (w, h), (left, top) in zip(batch.original_sizes, batch.crops, strict=True)
        ]
        return send(torch.tensor(rows, dtype=torch.float32), self.device)


class Stepper:
    """The network, its optimizer and its schedule, and what they do with batches.

    steps: of the whole run, for the schedule. extra: parameter groups that learn beside the network.
    """

    def __init__(
        self,
        trainee: Trainee,
        network: Network,
        recipe: Recipe,
        team: Processes,
        steps: int,
        extra: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.network, self.recipe, self.team, self.steps = network, recipe, team, steps
        self.beside = extra
        groups = [*network.parameter_groups(), *extra]
        self.parameters: list[nn.Parameter] = [p for group in groups for p in group["params"]]
        named = {id(p): name for name, p in network.named_parameters()}
        for group in extra:
            named |= {id(p): f"{group['name']}.{n}" for n, p in enumerate(group["params"])}
        self.names = [named[id(p)] for p in self.parameters]
        self.optimizer = optimizer(recipe, groups)
        self.scheduler = scheduler(recipe, self.optimizer, steps)
        self.objective = Objective(trainee, recipe, network, learns_text=recipe.trains_text or bool(extra))
        self.scaler = _scaler(trainee.device) if recipe.mixed_precision == "fp16" else None
        self._losses: list[Tensor] = []
        self.whole(False)

    def backward(self, batch: Batch, group: int, epoch: int, place: int) -> None:
        """Adds the gradients of an epoch's batch number `place`; `group` batches make a step."""
        self.network.begin_step(generator(self.recipe.seed, "step", epoch, place), process=self.team.rank)
        loss = self.objective(batch)
        self._losses.append(loss.detach() / group)
        share = loss / group
        (share if self.scaler is None else self.scaler.scale(share)).backward()

    def move(self) -> tuple[Tensor, Tensor, Tensor]:
        """The optimizer's step on the mean gradients of all processes; returns (loss, gradient norm, mean ‖ΔW‖)."""
        total = torch.stack(self._losses).sum()
        self._losses.clear()
        if self.team.world > 1:  # a batch without the new word gives it no gradient in this process
            fill_gradients([p for group in self.beside for p in group["params"]])
        self.team.mean([total, *(p.grad for p in self.parameters if p.grad is not None)])
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = clip(self.parameters, self.recipe.max_grad_norm)
        if self._moved():
            self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.recipe.scale_weight_norms:
            return total, norm, self.network.max_norm(self.recipe.scale_weight_norms).mean
        taken = self.scheduler.last_epoch % NORMS_EVERY == 1
        return total, norm, self.network.norms().mean() if taken else total.new_full((), float("nan"))

    def _moved(self) -> bool:
        """The optimizer's step; False where gradients in half precision overflowed, which leaves all as it was."""
        if self.scaler is None:
            self.optimizer.step()
            return True
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return bool(self.scaler.get_scale() >= before)

    @property
    def rates(self) -> dict[str, float]:
        """Part → its learning rate now (of its first group)."""
        found: dict[str, float] = {}
        for name, rate in rates(self.optimizer).items():
            found.setdefault(name.split(" ")[0], rate)
        return found

    def whole(self, whole: bool) -> None:
        """For pictures and files the network acts whole, and schedule-free optimizers give their mean weights."""
        if is_schedule_free(self.optimizer):
            (self.optimizer.eval if whole else self.optimizer.train)()  # type: ignore[attr-defined]
        self.network.train(not whole)

    # --- to go on later

    def tensors(self) -> dict[str, Any]:
        """All that changes from step to step, on the CPU."""
        return {
            "parameters": [p.detach().cpu().clone() for p in self.parameters],
            "names": list(self.names),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def continue_schedule(self, saved: dict[str, Any]) -> None:
        """Goes on at the saved place of the schedule; the rates are this recipe's."""
        self.scheduler.last_epoch = saved["last_epoch"]
        self.scheduler._step_count = saved.get("_step_count", saved["last_epoch"] + 1)
        rates = [base * factor(self.recipe, saved["last_epoch"], self.steps) for base in self.scheduler.base_lrs]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.scheduler._last_lr = rates


def fill_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Zeros where there is no gradient, so that all processes sum the same tensors."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _scaler(device: torch.device) -> Any:
    """Gradients in half precision are scaled up so that small ones are not lost (arXiv 1710.03740)."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device.type)
    return torch.cuda.amp.GradScaler(enabled=device.type == "cuda")  # torch before 2.3
