"""Renders a `RenderJob` (prompt, seeds, size …) with a `StandaloneModel`: encoding, sampling, hires pass, decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ...conditions import NEGATIVE, Condition
from ...errors import LoraError
from ...file.base_model import SDXL
from ...inject.batch_rows import batch_rows
from ...inject.free_memory import is_out_of_memory
from ...prompt_regions import RegionalPrompt
from ...protocols import VAE_SCALE_FACTOR
from .embeddings import EmbeddingTable
from .model import StandaloneModel
from .prompt_editing import PassSteps, parse_and_prompts, parse_prompt_editing
from .prompt_encoding import encoder_vectors, tokenize_prompt
from .regional_sampling import CoupledDenoiser, RegionalConditioning, RegionalDenoiser, RegionTexts
from .sampling import (
    BeforeUnetCall,
    CfgDenoiser,
    Conditioning,
    ConditioningSchedule,
    ImageNoise,
    OnDenoised,
    PromptConditioning,
    SamplingPlan,
    sample_from_latent,
    sample_from_noise,
)


@dataclass(frozen=True)
class ConditionCalls:
    """What is told to LoRA files that act on single conditions: parts joined by AND, or the negative prompt.

    Attributes:
        encode_as: called before the text of a condition is encoded.
        begin_rows: as for `CfgDenoiser`.
    """

    encode_as: Callable[[Condition], None]
    begin_rows: Callable[[Sequence[Condition]], None]


@dataclass(frozen=True)
class RenderJob:
    """One batch of images.

    Attributes:
        prompt: the prompt without `<lora:…>` tags.
        negative: the negative prompt.
        seeds: one for each image.
        plan: sampler, schedule and steps.
        width: in pixels, a multiple of 8.
        height: in pixels, a multiple of 8.
        cfg: guidance scale.
        clip_skip: text-encoder layer, counted from the end; 1 is the last.
        init_image: the image that img2img changes by `strength`.
        strength: denoising strength of img2img and of the hires pass, 0 to 1.
        hr_scale: above 1: a second pass on the latent enlarged by this factor (hires fix).
        hr_steps: steps of the second pass, 0 for as many as in the first.
        embeddings: embeddings that prompts use by name.
        conditionings: conditioning of prompt and negative prompt, one row for each image, where it is computed already;
            not for the hires pass.
        regions: the prompt's rows, in place of `prompt`, where the picture has regions; the LoRA files are applied with
            weights for each of these rows.
        region_texts: where texts of regions go that act by output masks; the text encoder has weights for each of them.
        conditions: where LoRA files act on single conditions.
    """

    prompt: str
    negative: str
    seeds: Sequence[int]
    plan: SamplingPlan
    width: int = 512
    height: int = 512
    cfg: float = 7.0
    clip_skip: int = 1
    init_image: Image.Image | None = None
    strength: float = 0.75
    hr_scale: float = 1.0
    hr_steps: int = 0
    embeddings: EmbeddingTable | None = None
    conditionings: tuple[Conditioning, Conditioning] | None = None
    regions: RegionalPrompt | None = None
    region_texts: RegionTexts | None = None
    conditions: ConditionCalls | None = None


def encode_prompt(
    model: StandaloneModel,
    text: str,
    size: tuple[int, int],
    clip_skip: int,
    negative: bool = False,
    embeddings: EmbeddingTable | None = None,
) -> Conditioning:
    """Encodes one prompt.

    Args:
        model: gives tokenizer and text encoders.
        text: the prompt without tags and without prompt editing.
        size: (width, height) in pixels, which SDXL is conditioned on.
        clip_skip: text-encoder layer, counted from the end.
        negative: whether it is a negative prompt: SDXL gets zeros for an empty one, as in the web UI.
        embeddings: embeddings that the prompt uses by name.
    """
    return encode_prompts(model, [text], size, clip_skip, negative, [embeddings])


@torch.no_grad()
def encode_prompts(
    model: StandaloneModel,
    texts: Sequence[str],
    size: tuple[int, int],
    clip_skip: int,
    negative: bool = False,
    embeddings: Sequence[EmbeddingTable | None] = (),
) -> Conditioning:
    """Encodes prompts of equally many chunks, one row each, each with embeddings of its own; see `encode_prompt`."""
    known = list(embeddings) or [None] * len(texts)
    parts = [tokenize_prompt(text, model.tokenizer, own) for text, own in zip(texts, known, strict=True)]
    widths = next((own for own in known if own), None)
    encoded = [
        encoder.encode_each_prompt(parts, model.tokenizer.end_id, clip_skip, partial(encoder_vectors, widths, index))
        for index, encoder in enumerate(model.text_encoders)
    ]
    states = torch.cat([state for state, _ in encoded], dim=-1)
    pooled = encoded[-1][1]
    if model.family != SDXL or pooled is None:
        return Conditioning(states)
    if negative:
        empty = torch.tensor([text == "" for text in texts], device=states.device)
        states, pooled = states.masked_fill(empty[:, None, None], 0), pooled.masked_fill(empty[:, None], 0)
    width, height = size
    sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=states.device)
    return Conditioning(states, pooled, sizes.expand(len(texts), -1))


@torch.no_grad()
def sample_latents(
    model: StandaloneModel,
    job: RenderJob,
    before_call: BeforeUnetCall | None = None,
    on_denoised: OnDenoised | None = None,
    before_hires: Callable[[], object] | None = None,
) -> Tensor:
    """Samples the latents of a job.

    Args:
        model: the model.
        job: what to sample.
        before_call: called before each U-Net call; it counts from 0 in each pass.
        on_denoised: called with the denoised latents of each call.
        before_hires: called between the first and the hires pass, before the prompt is encoded once more.

    Returns:
        Tensor (images, 4, h/8, w/8) float32.
    """
    shape = (job.height // VAE_SCALE_FACTOR, job.width // VAE_SCALE_FACTOR)
    noise = ImageNoise(job.seeds, (model.vae.config.latent_channels, *shape), model.device)
    guide = _build_denoiser(model, job, before_call, on_denoised)
    if job.init_image is not None:
        start = encode_image(model, job.init_image, (job.width, job.height)).expand(len(job.seeds), -1, -1, -1)
        return sample_from_latent(job.plan, guide, noise, start, job.strength, exact_steps=False)
    latent = sample_from_noise(job.plan, guide, noise)
    if job.hr_scale <= 1:
        return latent
    width, height = (
        int(side * job.hr_scale) // VAE_SCALE_FACTOR * VAE_SCALE_FACTOR for side in (job.width, job.height)
    )
    if before_hires is not None:
        before_hires()
    larger = replace(job, width=width, height=height)
    latent = functional.interpolate(
        latent, (height // VAE_SCALE_FACTOR, width // VAE_SCALE_FACTOR), mode="bilinear", antialias=False
    )
    noise = ImageNoise(job.seeds, latent.shape[1:], model.device)
    plan = replace(job.plan, steps=job.hr_steps or job.plan.steps)
    guide = _build_denoiser(
        model, replace(larger, plan=plan), before_call, on_denoised, first_pass_steps=job.plan.steps
    )
    return sample_from_latent(plan, guide, noise, latent, job.strength, exact_steps=True)


def _build_denoiser(
    model: StandaloneModel,
    job: RenderJob,
    before_call: BeforeUnetCall | None,
    on_denoised: OnDenoised | None,
    first_pass_steps: int | None = None,
) -> CfgDenoiser:
    """first: steps of the first pass, where this is the second."""
    positive, negative = job.conditionings or (None, None)
    negative_text: Any
    regions = job.regions if job.regions is not None and job.regions.has_regions else None
    calls_per_step = 1 + job.plan.second_order
    passes = PassSteps(
        job.plan.steps * calls_per_step, None if first_pass_steps is None else first_pass_steps * calls_per_step
    )
    texts: Sequence[tuple[Any, float]]
    if regions is not None:
        texts, negative_text = _encode_regions(model, job, [row.text for row in regions.rows], passes)
        denoiser: Callable[..., CfgDenoiser] = partial(RegionalDenoiser, row_weights=regions.weights)
    elif job.region_texts is not None:
        texts, negative_text = _encode_regions(model, job, [job.prompt] * job.region_texts.rows, passes)
        denoiser = partial(CoupledDenoiser, texts=job.region_texts)
    else:
        texts = [(positive, 1.0)] if positive else _encode_positive(model, job, passes)
        if job.conditions:
            job.conditions.encode_as(NEGATIVE)
        negative_text = negative or _encode_edited_prompt(model, job, job.negative, passes, negative=True)
        denoiser = CfgDenoiser
    (cond, weight), *more = texts
    return denoiser(
        model.unet,
        model.noise_schedule,
        model.prediction,
        cond,
        negative_text,
        job.cfg,
        blank_inpainting_mask(model, job) if model.is_inpainting else None,
        before_call,
        on_denoised,
        weight=weight,
        more_conds=more,
        begin_rows=job.conditions.begin_rows if job.conditions else None,
    )


def _encode_regions(
    model: StandaloneModel, job: RenderJob, rows: Sequence[str], passes: PassSteps
) -> tuple[list[tuple[RegionalConditioning, float]], RegionalConditioning]:
    """(prompt's texts with their weights, negative prompt) of all rows, each encoded with the row's own LoRA weights.

    Raises LoraError where rows have other numbers or weights of texts joined by AND.
    """
    positive, negative = [], []
    for index, text in enumerate(rows):
        with batch_rows([index], len(rows)):
            positive.append(_encode_positive(model, replace(job, prompt=text), passes, index))
            if job.conditions:
                job.conditions.encode_as(replace(NEGATIVE, region=index))
            negative.append(_encode_edited_prompt(model, job, job.negative, passes, negative=True))
    weights = [[weight for _, weight in texts] for texts in positive]
    if any(row != weights[0] for row in weights):
        raise LoraError("regions whose texts are joined by AND need equally many texts with equal weights in each")
    joined = [RegionalConditioning(tuple(text for text, _ in row)) for row in zip(*positive, strict=True)]
    return list(zip(joined, weights[0], strict=True)), RegionalConditioning(tuple(negative))


def _encode_positive(
    model: StandaloneModel, job: RenderJob, pass_steps: PassSteps, region: int | None = None
) -> list[tuple[PromptConditioning, float]]:
    """What each of the texts that `AND` joins tells, with its weight."""
    found = []
    for part, (text, weight) in enumerate(parse_and_prompts(job.prompt)):
        if job.conditions:
            job.conditions.encode_as(Condition(part, region=region))
        found.append((_encode_edited_prompt(model, job, text, pass_steps), weight))
    return found


def _encode_edited_prompt(
    model: StandaloneModel, job: RenderJob, prompt: str, pass_steps: PassSteps, negative: bool = False
) -> PromptConditioning:
    """What a text with prompt editing tells the U-Net. Each reading of it is encoded once."""
    size, seen = (job.width, job.height), dict[str, Conditioning]()
    rows = parse_prompt_editing(prompt, pass_steps)
    for _, text in rows:
        if text not in seen:
            seen[text] = encode_prompt(model, text, size, job.clip_skip, negative, job.embeddings)
    return (
        seen[rows[0][1]] if len(rows) == 1 else ConditioningSchedule(tuple((last, seen[text]) for last, text in rows))
    )


def blank_inpainting_mask(model: StandaloneModel, job: RenderJob) -> Tensor:
    """(pictures, 5, h, w): an inpainting model is told that everything is masked: ones, and a grey picture's latent."""
    latent = _encode_pixels(model, torch.zeros((1, 3, job.height, job.width), device=model.device))
    return functional.pad(latent, (0, 0, 0, 0, 1, 0), value=1.0).expand(len(job.seeds), -1, -1, -1)


def encode_image(model: StandaloneModel, image: Image.Image, size: tuple[int, int]) -> Tensor:
    """A picture, resized to (width, height), as a latent (1, 4, h, w). The encoder's mean; the web UI draws from its
    narrow distribution without a seed.
    """
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A") if "A" in image.getbands() else None)
    pixels = np.asarray(flat.resize(size, Image.Resampling.LANCZOS), dtype=np.float32) / 255 * 2 - 1
    return _encode_pixels(model, torch.from_numpy(pixels).permute(2, 0, 1)[None].to(model.device))


@torch.no_grad()
def _encode_pixels(model: StandaloneModel, pixels: Tensor) -> Tensor:
    dtype = next(model.vae.parameters()).dtype
    mean: Tensor = model.vae.encode(pixels.to(dtype)).latent_dist.mode()
    return mean.float() * model.scaling_factor


@torch.no_grad()
def decode_latents(model: StandaloneModel, latent: Tensor) -> Tensor:
    """Latents (n, 4, h, w) → pictures (n, 3, H, W), float32 in 0..1, on the CPU, one at a time to spare memory.

    A half-precision autoencoder that overflows (SDXL's does) is widened to float32 for good, as the web UI does.
    """
    pictures = []
    for one in latent.split(1):
        if not bool(one.isfinite().all()):
            raise LoraError("the picture became NaN while sampling; try --precision fp32 or bf16, or smaller weights")
        image = _decode(model.vae, one / model.scaling_factor)
        if not bool(image.isfinite().all()) and next(model.vae.parameters()).dtype != torch.float32:
            model.vae.float()
            image = _decode(model.vae, one / model.scaling_factor)
        pictures.append(((image.float().cpu() + 1) / 2).clamp(0, 1))
    return torch.cat(pictures)


def _decode(vae: Any, latent: Tensor) -> Tensor:
    out: Tensor = vae.decode(latent.to(next(vae.parameters()).dtype)).sample
    return out


def to_pil_images(pictures: Tensor) -> list[Image.Image]:
    """(n, 3, H, W) in 0..1 → PIL, cut to 8 bits as the web UI does."""
    bytes_ = (255.0 * pictures.permute(0, 2, 3, 1).numpy()).astype(np.uint8)
    return [Image.fromarray(array) for array in bytes_]


def generate_images(
    model: StandaloneModel,
    job: RenderJob,
    before_call: BeforeUnetCall | None = None,
    before_hires: Callable[[], object] | None = None,
) -> list[Image.Image]:
    """The job's pictures. Raises LoraError when the device has not enough memory."""
    try:
        return to_pil_images(decode_latents(model, sample_latents(model, job, before_call, before_hires=before_hires)))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        pixels = f"{len(job.seeds)} × {job.width}x{job.height}"
        raise LoraError(
            f"not enough memory on {model.device} for {pixels}; try --precision fp16, a smaller size or --batch 1"
        ) from error
