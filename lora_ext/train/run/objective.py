"""`TrainingObjective`: the loss of a batch of pictures. Other modes of training derive from it (`objectives.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...protocols import TrainableModel
from ..config.recipe import Recipe
from ..data.batch import Batch
from ..network.trainable_network import TrainableNetwork
from .caption_encoder import CaptionEncoder
from .loss import add_noise, batch_loss, loss_target, sample_noise, sample_timesteps, training_alphas_cumprod


def send_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor without waiting for the device, as copies from pageable memory would."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class TrainingObjective:
    """Computes the loss of a batch under a recipe.

    Args:
        model: The model with the network attached.
        recipe: The settings.
        network: The network, which `prior_loss_target` "model" detaches for the base model's predictions.
        trains_text: Whether gradients flow to the text encoders.
    """

    def __init__(self, model: TrainableModel, recipe: Recipe, network: TrainableNetwork, *, trains_text: bool) -> None:
        self.model, self.recipe, self.device = model, recipe, model.device
        self.network = network
        self.abar = training_alphas_cumprod(recipe, model.alphas_cumprod)
        self.abar_on_device = self.abar.to(self.device)
        velocity = model.prediction == "v" or recipe.v_parameterization
        self.prediction = "v_prediction" if velocity else "epsilon"
        self.encode_captions = CaptionEncoder(model, recipe, with_gradients=trains_text)
        self.encode_captions_without_gradients = (
            CaptionEncoder(model, recipe, with_gradients=False) if trains_text else self.encode_captions
        )

    def __call__(self, batch: Batch) -> Tensor:
        """The mean of the weighted losses times `batch.scale`, 0-dim float32."""
        device, recipe = self.device, self.recipe
        latents = self.model.encode_images(batch.pixels) if batch.latents is None and batch.pixels is not None else None
        start = batch.latents if latents is None else latents
        assert start is not None
        generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds]
        steps = torch.cat([sample_timesteps(recipe, 1, len(self.abar), g) for g in generators])
        here = start.cpu() if latents is None or recipe.adaptive_noise_scale else torch.empty(start.shape)
        noise = torch.cat([sample_noise(recipe, here[i : i + 1], g) for i, g in enumerate(generators)])
        if latents is None:
            mixed = send_to_device(self._noisy(here, noise, steps, self.abar, generators), device)
            start, noise, steps = (
                send_to_device(here, device),
                send_to_device(noise, device),
                send_to_device(steps, device),
            )
        else:
            noise, steps = send_to_device(noise, device), send_to_device(steps, device)
            mixed = self._noisy(start, noise, steps, self.abar_on_device, generators)
        context, sizes = self.encode_captions(batch.captions), self._sizes(batch)
        predicted = self.model.predict(mixed, steps, context, sizes)
        wanted = loss_target(self.prediction, start, noise, steps, self.abar_on_device)
        if recipe.prior_loss_target == "model":
            wanted = self._with_base_predictions(wanted, batch, mixed, steps, sizes)
        weights = None if bool((batch.weights == 1).all()) else send_to_device(batch.weights, device)
        mask = send_to_device(batch.mask, device) if batch.mask is not None else None
        value = batch_loss(recipe, predicted, wanted, steps, self.abar_on_device, weights, mask, self.prediction)
        return value if batch.scale == 1 else value * batch.scale

    def _with_base_predictions(
        self, target: Tensor, batch: Batch, mixed: Tensor, steps: Tensor, sizes: Tensor | None
    ) -> Tensor:
        """`target` with the base model's own predictions as targets of regularisation images.

        Noise is not their target: a network that does not change these images then has no gradient from them.
        """
        rows = [row for row, keeps in enumerate(batch.regularisation) if keeps]
        if not rows:
            return target
        at = send_to_device(torch.tensor(rows), self.device)
        with torch.no_grad(), self.network.detached():
            context = self.encode_captions_without_gradients([batch.captions[row] for row in rows])
            base_prediction = self.model.predict(mixed[at], steps[at], context, None if sizes is None else sizes[at])
        return target.to(base_prediction.dtype).index_copy(0, at, base_prediction)

    def _noisy(
        self, latents: Tensor, noise: Tensor, steps: Tensor, abar: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Adds noise: with input perturbation by each image's own generator, else at once."""
        if not self.recipe.ip_noise_gamma:
            return add_noise(self.recipe, latents, noise, steps, abar)
        rows = [slice(i, i + 1) for i in range(len(latents))]
        return torch.cat(
            [
                add_noise(self.recipe, latents[r], noise[r], steps[r], abar, g)
                for r, g in zip(rows, generators, strict=True)
            ]
        )

    def _sizes(self, batch: Batch) -> Tensor | None:
        """SDXL's sizes, (n, 6): original height and width, crop's top and left, bucket's height and width."""
        if self.model.family != "SDXL":
            return None
        wide, high = batch.bucket
        rows = [
            [h, w, top, left, high, wide] for (w, h), (left, top) in zip(batch.original_sizes, batch.crops, strict=True)
        ]
        return send_to_device(torch.tensor(rows, dtype=torch.float32), self.device)
