"""Settings suggested from what is taught, the pictures, the model and the memory, each with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

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
_UNKNOWN_MEMORY = "the GPU's free memory is not known"
_GIB = 2**30


@dataclass(frozen=True)
class TrainingSituation:
    """What suggestions depend on.

    Attributes:
        kind: One of `KINDS_OF_CONCEPT`.
        picture_count: Training pictures that can be read.
        aspect_ratio_count: Different aspect ratios among them.
        family: "SD1", "SD2" or "SDXL".
        native_size: Pixels a side that the model was made for.
        gpu_bytes: Free memory of the GPU; 0 without one, or where it is not known.
        on_gpu: Whether a CUDA device trains.
    """

    kind: str
    picture_count: int
    aspect_ratio_count: int
    family: str
    native_size: int
    gpu_bytes: float = 0.0
    on_gpu: bool = False


@dataclass(frozen=True)
class SuggestedSetting:
    """A value of a recipe's option, and one sentence that says why.

    Attributes:
        value: The value.
        template: The sentence with {0}, {1} … for values, as the page translates it.
        values: What stands there; text is translated too.
    """

    value: Any
    template: str
    values: tuple[str | int, ...] = ()

    @property
    def reason(self) -> str:
        """The sentence."""
        return self.template.format(*self.values)


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
        found["text_encoder_lr"] = SuggestedSetting(5e-5, "the text encoder learns faster than the U-Net")
    if situation.native_size < 256:
        reason = "a model of {0} pixels has few parameters"
        found["learning_rate"] = SuggestedSetting(1e-3, reason, (situation.native_size,))
    elif kind == "object":
        found["learning_rate"] = SuggestedSetting(2e-4, "a small rank bears a higher rate")
    else:
        found["learning_rate"] = SuggestedSetting(1e-4, "usual with AdamW")
    return found


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
    if situation.aspect_ratio_count > 1:
        reason = "the pictures have {0} aspect ratios, and nothing is cut off"
        found["enable_bucket"] = SuggestedSetting(True, reason, (situation.aspect_ratio_count,))
        found["min_bucket_reso"] = SuggestedSetting(max(64, side // 2), "half of {0}", (side,))
        found["max_bucket_reso"] = SuggestedSetting(max(64, side * 2), "twice {0}", (side,))
    return found


def _memory(situation: TrainingSituation) -> dict[str, SuggestedSetting]:
    """Batch size, precision and caches."""
    found = {"cache_latents": SuggestedSetting(True, "every picture is encoded once")}
    if situation.native_size < 256:
        size = min(4, situation.picture_count)
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
