"""Settings suggested from what is taught, the pictures, the model and the memory, each with its reason."""

from __future__ import annotations

import math

from ...protocols import VAE_SCALE_FACTOR
from .suggested_setting import SMALL_MODEL_PIXELS, SuggestedSetting, TrainingSituation

KINDS_OF_CONCEPT = ("person", "character", "style", "object", "concept")
SAVES_OF_A_RUN = 10
"""Epochs of a run, each saved and sampled: enough to see where learning turns into copying."""
_SAMPLES = {"person": 1500, "character": 1500, "style": 2500, "object": 1000, "concept": 1500}
"""Pictures that a run shows in all, as in the Train panel's starting points."""
_NOUNS = {
    "person": "a person",
    "character": "a character",
    "style": "a style",
    "object": "an object",
    "concept": "a concept",
}
_SMALL_MODEL_RATE = 2e-3
_USUAL_BUCKET_STEPS = 64
_UNKNOWN_MEMORY = "the GPU's free memory is not known"
_GIB = 2**30


def suggest_settings(situation: TrainingSituation) -> dict[str, SuggestedSetting]:
    """Suggests a recipe.

    Args:
        situation: What is known.

    Returns:
        Option → value and reason; other options keep their defaults.

    Raises:
        ValueError: The kind is unknown, or there are no pictures.
    """
    if situation.kind not in KINDS_OF_CONCEPT or situation.picture_count < 1:
        raise ValueError(f"kind {situation.kind!r} with {situation.picture_count} pictures")
    return {
        **_network(situation),
        **_loss(situation),
        **_length(situation),
        **_pictures(situation),
        **_memory(situation),
        "lr_scheduler": SuggestedSetting("cosine", "the last epochs change less, so that they differ in little"),
        "save_every_n_epochs": SuggestedSetting(1, "every epoch can be compared and kept"),
        "sample_every_n_epochs": SuggestedSetting(1, "a picture of the trigger word shows each epoch"),
    }


def _network(situation: TrainingSituation) -> dict[str, SuggestedSetting]:
    """Network, ranks, learning rates."""
    kind = situation.kind
    rank = 8 if kind == "object" else 16
    found = {
        "network_dim": SuggestedSetting(rank, "enough detail for {0} in a small file", (_NOUNS[kind],)),
        "network_alpha": SuggestedSetting(rank / 2, "half of the rank"),
    }
    if kind == "style":
        found["network_module"] = SuggestedSetting("c3lier", "a style is in textures, which 3x3 layers draw")
        found["conv_dim"] = SuggestedSetting(8, "half of the rank, for 3x3 layers")
        found["conv_alpha"] = SuggestedSetting(4.0, "half of the rank of 3x3 layers")
        found["network_train_unet_only"] = SuggestedSetting(True, "a style needs no new meaning of a word")
    else:
        found["network_module"] = SuggestedSetting("lierla", "{0} is learned without 3x3 layers", (_NOUNS[kind],))
        rate = _SMALL_MODEL_RATE / 2 if situation.native_size < SMALL_MODEL_PIXELS else 5e-5
        found["text_encoder_lr"] = SuggestedSetting(
            rate, "the text encoder learns faster than the U-Net, so its rate is lower"
        )
    if situation.native_size < SMALL_MODEL_PIXELS:
        reason = "a model of {0} pixels has few parameters"
        found["learning_rate"] = SuggestedSetting(_SMALL_MODEL_RATE, reason, (situation.native_size,))
    elif kind == "object":
        found["learning_rate"] = SuggestedSetting(2e-4, "a small rank bears a higher rate")
    else:
        found["learning_rate"] = SuggestedSetting(1e-4, "usual with AdamW")
    return found


def _loss(situation: TrainingSituation) -> dict[str, SuggestedSetting]:
    """Weights of the timesteps.

    The fewer pixels, the less noise hides a picture (Hoogeboom et al. 2023, arXiv:2301.11093): a small model decides
    what is shown at timesteps whose plain loss is next to nothing. 1/SNR and 1/√SNR beside it make all of them count.
    """
    if situation.native_size >= SMALL_MODEL_PIXELS:
        return {}
    side = (situation.native_size,)
    return {
        "v_pred_like_loss": SuggestedSetting(
            1.0, "at {0} pixels the noisiest steps decide what is shown, and the plain loss hardly counts them", side
        ),
        "debiased_estimation_loss": SuggestedSetting(True, "as well, for the noisiest of all"),
    }


def _length(situation: TrainingSituation) -> dict[str, SuggestedSetting]:
    """Repeats and epochs, so that a run shows about `_SAMPLES` pictures and is saved about ten times."""
    count, wanted = situation.picture_count, _SAMPLES[situation.kind]
    repeats = max(1, round(wanted / (SAVES_OF_A_RUN * count)))
    epochs = SAVES_OF_A_RUN if repeats > 1 else max(2, min(SAVES_OF_A_RUN, math.ceil(wanted / count)))
    shown = count * repeats * epochs
    reason = "{0} pictures × {1} repeats × {2} epochs = {3} samples; {4} suit {5}"
    numbers = (count, repeats, epochs, shown, wanted, _NOUNS[situation.kind])
    return {
        "dataset_repeats": SuggestedSetting(repeats, reason, numbers),
        "max_train_epochs": SuggestedSetting(epochs, reason, numbers),
    }


def _pictures(situation: TrainingSituation) -> dict[str, SuggestedSetting]:
    """Resolution and buckets."""
    side = situation.native_size
    reason = "this {0} model was made for {1} pixels"
    found = {"resolution": SuggestedSetting(str(side), reason, (situation.family, side))}
    if situation.aspect_ratio_count > 1 or not situation.all_square:
        found["enable_bucket"] = SuggestedSetting(True, "not all pictures are square")
        steps = _bucket_steps(side)
        if steps < _USUAL_BUCKET_STEPS:
            reason = "larger steps would make most pictures of {0} pixels squares"
            found["bucket_reso_steps"] = SuggestedSetting(steps, reason, (side,))
        # widths count up from it, so that one off the steps would give sizes that no latent has
        found["min_bucket_reso"] = SuggestedSetting(max(steps, side // 2 // steps * steps), "half of {0}", (side,))
        found["max_bucket_reso"] = SuggestedSetting(max(64, side * 2), "twice {0}", (side,))
    return found


def _bucket_steps(side: int) -> int:
    """An eighth of the resolution, as 64 is of 512, in whole pixels of the latent; 64 where that is more."""
    eighth = side // 8 // VAE_SCALE_FACTOR * VAE_SCALE_FACTOR
    return min(_USUAL_BUCKET_STEPS, max(VAE_SCALE_FACTOR, eighth))


def _memory(situation: TrainingSituation) -> dict[str, SuggestedSetting]:
    """Batch size, precision and caches."""
    found = {"cache_latents": SuggestedSetting(True, "every picture is encoded once")}
    if situation.native_size < SMALL_MODEL_PIXELS:
        size = min(8, situation.picture_count)
        return {**found, "train_batch_size": SuggestedSetting(size, "small pictures need little memory")}
    if not situation.on_gpu:
        return {**found, "train_batch_size": SuggestedSetting(1, "larger batches are no faster without a GPU")}
    free = situation.gpu_bytes / _GIB
    known, numbers = ("{0} GiB of the GPU are free", (round(free),)) if free else (_UNKNOWN_MEMORY, ())
    needed = 20 if situation.family == "SDXL" else 10
    large = free >= 2 * needed
    found["mixed_precision"] = SuggestedSetting("fp16", "half the memory, and faster on a GPU")
    found["train_batch_size"] = SuggestedSetting(min(2, situation.picture_count) if large else 1, known, numbers)
    if free < needed:
        reason = "{0} needs about {1} GiB of free memory of the GPU without it"
        found["gradient_checkpointing"] = SuggestedSetting(True, reason, (situation.family, needed))
    return found
