"""`PairObjective`: learning the difference of two pictures (ADDifT of hako-mikan's sd-webui-traintrain)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config.recipe import Recipe
from ..data.batch import Batch
from .loss import add_noise, batch_loss, loss_target, sample_noise, signal_and_noise_scales
from .objective import TrainingObjective, send_to_device

RANGE_PARTS = 5
"""The timesteps are the middles of this many equal parts of the range, in turn."""


def pair_timestep(recipe: Recipe, step: int, total: int) -> int:
    """The timestep of a step: two steps, forth and back, have the same one.

    Args:
        recipe: Its `min_timestep` and `max_timestep` are the range; with `diff_alt_ratio` 0 there are no steps back.
        step: Optimizer steps before this one.
        total: Timesteps of the model.

    Example:
        >>> [pair_timestep(Recipe(), step, 1000) for step in range(0, 12, 2)]
        [100, 300, 500, 700, 900, 100]
    """
    turn = step // 2 if recipe.diff_alt_ratio else step
    low, high = recipe.min_timestep or 0, min(recipe.max_timestep or total, total)
    return min(int(low + (high - low) / (2 * RANGE_PARTS) * (turn % RANGE_PARTS * 2 + 1)), total - 1)


def pair_prompts(text: str | None, step: int, count: int) -> list[str]:
    """The prompts of a step's rows: those between `|` take turns, and two steps, forth and back, have the same.

    Args:
        text: `original_prompt` or `target_prompt`.
        step: Optimizer steps before this one.
        count: Rows of a batch.

    Example:
        >>> pair_prompts("a cat | a dog |", 2, 2)
        ['', 'a cat']
    """
    prompts = [part.strip() for part in (text or "").split("|")]
    return [prompts[(step // 2 * count + row) % len(prompts)] for row in range(count)]


class PairObjective(TrainingObjective):
    """The loss between the network's prediction of one noised picture and the base model's of the other.

    In even steps the network, at weight `pair_weight`, finds the noise in the target that the base model finds in the
    original. In odd steps the pictures change places, at −`pair_weight` · `diff_alt_ratio`; 0 leaves these steps out.
    What `paste_data_dir` pastes is learned as pictures are: there the target is the noise itself.
    """

    def __call__(self, batch: Batch) -> Tensor:
        """The mean of the losses times `batch.scale`, 0-dim float32."""
        recipe, sizes, forth = self.recipe, self._sizes(batch), batch.step % 2 == 0 or not self.recipe.diff_alt_ratio
        generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds]
        before, after = self._latents(batch)
        steps = torch.full((len(batch),), pair_timestep(recipe, batch.step, len(self.abar)), device=self.device)
        rows = [before[i : i + 1].cpu() for i in range(len(before))]
        noise = torch.cat([sample_noise(recipe, row, g) for row, g in zip(rows, generators, strict=True)])
        noise = send_to_device(noise, self.device)
        start, end = (before, after) if forth else (after, before)
        with torch.no_grad():
            with self.network.detached():
                context = self.encode_captions(self._prompts(recipe.original_prompt, batch))
                x = add_noise(recipe, start, noise, steps, self.abar_on_device, generators[0])
                wanted = self.model.predict(x, steps, context, sizes)
            if self.prediction == "v_prediction":  # the same noise in another picture is another velocity
                _, scale = signal_and_noise_scales(self.abar_on_device, steps, wanted)
                wanted = wanted - scale * (end - start).to(wanted.dtype)
        mask = None if batch.mask is None else send_to_device(batch.mask, self.device)
        if recipe.paste_data_dir and mask is not None:
            # what was pasted is known; the base model's guess of what it covers would only blur it
            known = loss_target(self.prediction, end, noise, steps, self.abar_on_device)
            wanted = torch.lerp(wanted, known.to(wanted.dtype), mask.to(wanted.dtype))
            mask = mask if recipe.diff_use_diff_mask else None
        self.network.set_weight(recipe.pair_weight if forth else -recipe.pair_weight * recipe.diff_alt_ratio)
        x = add_noise(recipe, end, noise, steps, self.abar_on_device, generators[0])
        context = self.encode_captions(self._prompts(recipe.target_prompt, batch))
        predicted = self.model.predict(x, steps, context, sizes)
        weights = None if bool((batch.weights == 1).all()) else send_to_device(batch.weights, self.device)
        value = batch_loss(recipe, predicted, wanted, steps, self.abar_on_device, weights, mask, self.prediction)
        return value if batch.scale == 1 else value * batch.scale

    def _prompts(self, text: str | None, batch: Batch) -> list[str]:
        """The rows' prompts: of pictures that a change is pasted into their captions, of pairs the recipe's `text`."""
        return batch.captions if self.recipe.paste_data_dir else pair_prompts(text, batch.step, len(batch))

    def _latents(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The scaled latents of originals and targets, (n, 4, h/8, w/8) each."""
        if batch.latents is not None:
            before, after = send_to_device(batch.latents, self.device).chunk(2, 1)
        else:
            assert batch.pixels is not None
            before, after = (self.model.encode_images(pixels) for pixels in batch.pixels.chunk(2, 1))
        return before, after
