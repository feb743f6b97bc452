"""A `Job` (prompt, seeds, size …) on a `Standalone` model → pictures: text, noise, sampling, hires pass, decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ...errors import LoraError
from ...inject.free_memory import is_out_of_memory
from ..checkpoint_layout import SDXL
from .embeddings import Embedding, Embeddings
from .model import Standalone
from .prompt_editing import Passes, phases, several
from .prompt_encoding import chunks
from .sampling import BeforeCall, Condition, Guide, ImageNoise, Phases, Plan, Told, Watch, from_latent, from_noise

CELL = 8
"""Pixels a latent cell, each way."""


@dataclass(frozen=True)
class Job:
    """One batch of pictures. `prompt` has no tags any more; one picture for each of `seeds`.

    init: a picture to change by `strength` (img2img). hr_scale > 1: a second pass at that many times the size, on the
    enlarged latent, changed by `strength`, in `hr_steps` steps (0: as many as the first pass). embeddings: what may
    stand in the prompts by name.
    told: what prompt and negative tell the U-Net, a row a picture, where it is worked out already (not for hires).
    """

    prompt: str
    negative: str
    seeds: Sequence[int]
    plan: Plan
    width: int = 512
    height: int = 512
    cfg: float = 7.0
    clip_skip: int = 1
    init: Image.Image | None = None
    strength: float = 0.75
    hr_scale: float = 1.0
    hr_steps: int = 0
    embeddings: Embeddings | None = None
    told: tuple[Condition, Condition] | None = None


def condition(
    model: Standalone,
    text: str,
    size: tuple[int, int],
    clip_skip: int,
    negative: bool = False,
    embeddings: Embeddings | None = None,
) -> Condition:
    """What a text tells the U-Net for pictures of `size` (width, height). SDXL takes an empty negative as zeros."""
    return condition_each(model, [text], size, clip_skip, negative, [embeddings])


@torch.no_grad()
def condition_each(
    model: Standalone,
    texts: Sequence[str],
    size: tuple[int, int],
    clip_skip: int,
    negative: bool = False,
    embeddings: Sequence[Embeddings | None] = (),
) -> Condition:
    """As `condition` for several texts of equally many chunks, a row each, each with embeddings of its own."""
    known = list(embeddings) or [None] * len(texts)
    parts = [chunks(text, model.words, own) for text, own in zip(texts, known, strict=True)]
    widths = next((own for own in known if own), None)
    encoded = [
        encoder.encode_each(parts, model.words.end, clip_skip, partial(_rows, widths, index))
        for index, encoder in enumerate(model.texts)
    ]
    states = torch.cat([state for state, _ in encoded], dim=-1)
    pooled = encoded[-1][1]
    if model.family != SDXL or pooled is None:
        return Condition(states)
    if negative:
        empty = torch.tensor([text == "" for text in texts], device=states.device)
        states, pooled = states.masked_fill(empty[:, None, None], 0), pooled.masked_fill(empty[:, None], 0)
    width, height = size
    sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=states.device)
    return Condition(states, pooled, sizes.expand(len(texts), -1))


def _rows(embeddings: Embeddings | None, encoder: int, embedding: Embedding) -> Tensor:
    """The embedding's vectors for one of the text encoders."""
    rows = embedding.rows(embeddings.widths) if embeddings else None
    assert rows is not None, "chunks take only embeddings that fit"
    return rows[encoder]


@torch.no_grad()
def latents(model: Standalone, job: Job, before_call: BeforeCall | None = None, watch: Watch | None = None) -> Tensor:
    """The job's latents (pictures, 4, h, w), float32. `before_call` is told each pass's steps from 0."""
    shape = (job.height // CELL, job.width // CELL)
    noise = ImageNoise(job.seeds, (model.vae.config.latent_channels, *shape), model.device)
    guide = _guide(model, job, before_call, watch)
    if job.init is not None:
        start = encode(model, job.init, (job.width, job.height)).expand(len(job.seeds), -1, -1, -1)
        return from_latent(job.plan, guide, noise, start, job.strength, whole=False)
    latent = from_noise(job.plan, guide, noise)
    if job.hr_scale <= 1:
        return latent
    width, height = (int(side * job.hr_scale) // CELL * CELL for side in (job.width, job.height))
    larger = replace(job, width=width, height=height)
    latent = functional.interpolate(latent, (height // CELL, width // CELL), mode="bilinear", antialias=False)
    noise = ImageNoise(job.seeds, latent.shape[1:], model.device)
    plan = replace(job.plan, steps=job.hr_steps or job.plan.steps)
    guide = _guide(model, replace(larger, plan=plan), before_call, watch, first=job.plan.steps)
    return from_latent(plan, guide, noise, latent, job.strength, whole=True)


def _guide(
    model: Standalone, job: Job, before_call: BeforeCall | None, watch: Watch | None, first: int | None = None
) -> Guide:
    """first: steps of the first pass, where this is the second."""
    positive, negative = job.told or (None, None)
    guesses = 1 + job.plan.second_order
    passes = Passes(job.plan.steps * guesses, None if first is None else first * guesses)
    texts = [(positive, 1.0)] if positive else _positive(model, job, passes)
    (cond, weight), *more = texts
    return Guide(
        model.unet,
        model.levels,
        model.prediction,
        cond,
        negative or _told(model, job, job.negative, passes, negative=True),
        job.cfg,
        blank_mask(model, job) if model.inpainting else None,
        before_call,
        watch,
        weight=weight,
        more=more,
    )


def _positive(model: Standalone, job: Job, passes: Passes) -> list[tuple[Told, float]]:
    """What each of the texts that `AND` joins tells, with its weight."""
    return [(_told(model, job, text, passes), weight) for text, weight in several(job.prompt)]


def _told(model: Standalone, job: Job, prompt: str, passes: Passes, negative: bool = False) -> Told:
    """What a text with prompt editing tells the U-Net. Each reading of it is encoded once."""
    size, seen = (job.width, job.height), dict[str, Condition]()
    rows = phases(prompt, passes)
    for _, text in rows:
        if text not in seen:
            seen[text] = condition(model, text, size, job.clip_skip, negative, job.embeddings)
    return seen[rows[0][1]] if len(rows) == 1 else Phases(tuple((last, seen[text]) for last, text in rows))


def blank_mask(model: Standalone, job: Job) -> Tensor:
    """(pictures, 5, h, w): an inpainting model is told that everything is masked: ones, and a grey picture's latent."""
    latent = _to_latent(model, torch.zeros((1, 3, job.height, job.width), device=model.device))
    return functional.pad(latent, (0, 0, 0, 0, 1, 0), value=1.0).expand(len(job.seeds), -1, -1, -1)


def encode(model: Standalone, picture: Image.Image, size: tuple[int, int]) -> Tensor:
    """A picture, resized to (width, height), as a latent (1, 4, h, w). The encoder's mean; the web UI draws from its
    narrow distribution without a seed."""
    flat = Image.new("RGB", picture.size, "white")
    flat.paste(picture, mask=picture.getchannel("A") if "A" in picture.getbands() else None)
    pixels = np.asarray(flat.resize(size, Image.Resampling.LANCZOS), dtype=np.float32) / 255 * 2 - 1
    return _to_latent(model, torch.from_numpy(pixels).permute(2, 0, 1)[None].to(model.device))


@torch.no_grad()
def _to_latent(model: Standalone, pixels: Tensor) -> Tensor:
    dtype = next(model.vae.parameters()).dtype
    mean: Tensor = model.vae.encode(pixels.to(dtype)).latent_dist.mode()
    return mean.float() * model.scale


@torch.no_grad()
def decode(model: Standalone, latent: Tensor) -> Tensor:
    """Latents (n, 4, h, w) → pictures (n, 3, H, W), float32 in 0..1, on the CPU, one at a time to spare memory.

    A half-precision autoencoder that overflows (SDXL's does) is widened to float32 for good, as the web UI does.
    """
    pictures = []
    for one in latent.split(1):
        if not bool(one.isfinite().all()):
            raise LoraError("the picture became NaN while sampling; try --precision fp32 or bf16, or smaller weights")
        image = _decoded(model.vae, one / model.scale)
        if not bool(image.isfinite().all()) and next(model.vae.parameters()).dtype != torch.float32:
            model.vae.float()
            image = _decoded(model.vae, one / model.scale)
        pictures.append(((image.float().cpu() + 1) / 2).clamp(0, 1))
    return torch.cat(pictures)


def _decoded(vae: Any, latent: Tensor) -> Tensor:
    out: Tensor = vae.decode(latent.to(next(vae.parameters()).dtype)).sample
    return out


def to_images(pictures: Tensor) -> list[Image.Image]:
    """(n, 3, H, W) in 0..1 → PIL, cut to 8 bits as the web UI does."""
    bytes_ = (255.0 * pictures.permute(0, 2, 3, 1).numpy()).astype(np.uint8)
    return [Image.fromarray(array) for array in bytes_]


def render(model: Standalone, job: Job, before_call: BeforeCall | None = None) -> list[Image.Image]:
    """The job's pictures. Raises LoraError when the device has not enough memory."""
    try:
        return to_images(decode(model, latents(model, job, before_call)))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        pixels = f"{len(job.seeds)} × {job.width}x{job.height}"
        raise LoraError(
            f"not enough memory on {model.device} for {pixels}; try --precision fp16, a smaller size or --batch 1"
        ) from error
