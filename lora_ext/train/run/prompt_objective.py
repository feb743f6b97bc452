"""`PromptObjective`: learning from prompts alone, with the base model's own predictions as targets.

iLECO (hako-mikan's sd-webui-traintrain, after p1atdev's LECO) and concept sliders (Gandikota et al. 2023,
arXiv:2311.12092).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...protocols import TrainableModel
from ..config.prompt_tasks import PromptTask, prompt_tasks, task_guidance
from ..config.recipe import Recipe
from ..data.batch import Batch
from ..network.trainable_network import TrainableNetwork
from .concept_editing import start_at_edit
from .loss import batch_loss, sample_noise, sample_timesteps, signal_and_noise_scales
from .objective import TrainingObjective, send_to_device


class PromptObjective(TrainingObjective):
    """The loss between the network's prediction of a prompt and the base model's predictions that it should become.

    A slider is trained at weight 1 and −1 in turn, so that both directions are learned.

    Args:
        model: The model with the network attached.
        recipe: The settings.
        network: The network.
        trains_text: Whether gradients flow to the text encoders.
    """

    def __init__(self, model: TrainableModel, recipe: Recipe, network: TrainableNetwork, *, trains_text: bool) -> None:
        super().__init__(model, recipe, network, trains_text=trains_text)
        self.tasks = prompt_tasks(recipe)
        if recipe.uce_start:
            start_at_edit(
                network, self.tasks, task_guidance(recipe), lambda prompts: self.encode_captions(prompts).states
            )

    def __call__(self, batch: Batch) -> Tensor:
        """The mean of the losses times `batch.scale`, 0-dim float32."""
        assert batch.latents is not None
        recipe, sizes = self.recipe, self._sizes(batch)
        generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds]
        steps = torch.cat([sample_timesteps(recipe, 1, len(self.abar), g) for g in generators])
        noise = torch.cat([sample_noise(recipe, batch.latents[i : i + 1], g) for i, g in enumerate(generators)])
        weight = -1.0 if recipe.mode == "slider" and batch.step % 2 else 1.0
        self.network.set_weight(weight)
        x, steps = send_to_device(noise, self.device), send_to_device(steps, self.device)
        context = self.encode_captions(batch.captions)
        with torch.no_grad():
            x = self._denoised_to(x, steps, batch.captions, sizes)
            wanted = self._wanted(x, steps, [self.tasks[prompt] for prompt in batch.captions], sizes, weight)
        predicted = self.model.predict(x, steps, context, sizes)
        weights = None if bool((batch.weights == 1).all()) else send_to_device(batch.weights, self.device)
        value = batch_loss(recipe, predicted, wanted, steps, self.abar_on_device, weights, None, self.prediction)
        return value if batch.scale == 1 else value * batch.scale

    def _denoised_to(self, x: Tensor, steps: Tensor, prompts: list[str], sizes: Tensor | None) -> Tensor:
        """Denoises pure noise to each row's timestep by DDIM (arXiv:2010.02502) with the network, as LECO does."""
        count, last = self.recipe.denoise_steps, len(self.abar) - 1
        if not count:
            return x
        context = self.encode_captions(prompts)
        for number in range(count):
            now = last - (last - steps) * number // count
            after = last - (last - steps) * (number + 1) // count
            signal, noise = signal_and_noise_scales(self.abar_on_device, now, x)
            predicted = self.model.predict(x, now, context, sizes).to(x.dtype)
            if self.prediction == "v_prediction":
                start, rest = signal * x - noise * predicted, noise * x + signal * predicted
            else:
                start, rest = (x - noise * predicted) / signal, predicted
            signal, noise = signal_and_noise_scales(self.abar_on_device, after, x)
            x = signal * start + noise * rest
        return x

    def _wanted(self, x: Tensor, steps: Tensor, tasks: list[PromptTask], sizes: Tensor | None, weight: float) -> Tensor:
        """The base model's predictions that the rows should become, (n, c, h, w); all prompts in one forward pass."""
        moved = [row for row, task in enumerate(tasks) if task.plus is not None]
        rows = torch.tensor([*range(len(tasks)), *moved, *moved], device=self.device)
        prompts = [t.start for t in tasks]
        prompts += [str(tasks[row].plus) for row in moved] + [tasks[row].minus for row in moved]
        with self.network.detached():
            context = self.encode_captions(prompts)
            found = self.model.predict(x[rows], steps[rows], context, None if sizes is None else sizes[rows])
        start, plus, minus = found.split([len(tasks), len(moved), len(moved)])
        if not moved:
            return start
        difference = (plus - minus) * (weight * task_guidance(self.recipe))
        return start.index_add(0, rows[len(tasks) : len(tasks) + len(moved)], difference)
