"""A `StandaloneModel` as a `protocols.TrainableModel`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ...errors import TrainError
from ...file.hashes import legacy_hash
from ...protocols import VAE_SCALE_FACTOR, SampleSpec, TextConditioning, TrainingModelOptions
from ...train.network.stored_weights import weights_in_fp8
from ..kohya_names import base_model_metadata, webui_sampler_name
from ..training_context import (
    autocast_disabled,
    autocast_for_precision,
    compiled_for_device,
    compute_dtype,
    convolutions_channels_last,
    frozen,
    in_dtype,
    restored_attributes,
)
from .block_swap import swap_of_unet
from .embeddings import EMBEDDING_VECTOR_NAMES, Embedding, EmbeddingTable
from .model import StandaloneModel
from .prompt_encoding import CHUNK_TOKENS, PromptChunk, encoder_vectors, tokenize_prompt
from .rendering import RenderJob, generate_images
from .sampling import SamplingPlan, parse_sampling_plan
from .vae_file import vae_weights_from

_CHECKPOINTING = ("gradient_checkpointing", "_gradient_checkpointing_func")


@dataclass(frozen=True, eq=False)
class StandaloneTrainableModel:
    """A model in memory, while it is trained on.

    Attributes:
        model: the model.
        added_embeddings: token embeddings that are being trained.
        compiled_unets: the compiled U-Net, where a run asked for it.
        is_disposable: whether a run may give up the original weights: it is the only one that uses the model.
    """

    model: StandaloneModel
    added_embeddings: list[Embedding] = field(default_factory=list)
    compiled_unets: list[Callable[..., Tensor]] = field(default_factory=list)
    is_disposable: bool = False

    def parts(self) -> Mapping[str, nn.Module]:
        """Returns "unet", "te" and "te2" → network."""
        return self.model.parts()

    @property
    def family(self) -> str:
        """The model family: "SD1", "SD2" or "SDXL"."""
        return self.model.family

    @property
    def prediction(self) -> str:
        """What the U-Net predicts, "epsilon" or "v"."""
        return self.model.prediction

    @property
    def device(self) -> torch.device:
        """The device that holds the networks."""
        return self.model.device

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ, (1000,) float32 on the CPU."""
        return self.model.noise_schedule.alphas_cumprod

    @property
    def native_size(self) -> int:
        """Width and height in pixels that the model was trained for."""
        return self.model.native_size

    @contextmanager
    def prepared_for_training(self, options: TrainingModelOptions) -> Iterator[None]:
        """Freezes the model and converts it to the precision of a run; everything is restored afterwards.

        Raises:
            TrainError: the model cannot be trained, or an option is not available here.
        """
        model = self.model
        if model.is_inpainting:
            raise TrainError(f"{model.name} is an inpainting model; a LoRA is trained on the model it was made from")
        if options.fp8_unet and self.device.type == "mps":
            raise TrainError("fp8_base: torch has no 8-bit floating point on mps; leave it out")
        texts = [encoder.module for encoder in model.text_encoders]
        networks = [model.unet, *texts]
        with ExitStack() as stack:
            stack.enter_context(frozen(networks, train=options.gradient_checkpointing))
            stack.enter_context(frozen([model.vae], train=False))
            stack.enter_context(vae_weights_from(model.vae, options.vae))
            stack.enter_context(in_dtype(networks, compute_dtype(options.precision)))
            stack.enter_context(convolutions_channels_last(model.unet))
            small = [*([model.unet] if options.fp8_unet else []), *(texts if options.fp8_text_encoders else [])]
            stack.enter_context(weights_in_fp8(small, restore=not self.is_disposable))
            if options.blocks_to_swap:
                stack.enter_context(swap_of_unet(model.unet, options.blocks_to_swap, self.device).attached())
            stack.enter_context(in_dtype([model.vae] if options.float32_vae else [], torch.float32))
            stack.enter_context(restored_attributes(networks, _CHECKPOINTING))
            if options.gradient_checkpointing:
                model.unet.enable_gradient_checkpointing()
                for text in texts if options.train_text_encoders else ():
                    text.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            stack.enter_context(_attention(model.unet, options.attention))
            stack.enter_context(autocast_for_precision(self.device, options.precision))
            if options.compile_unet:
                self.compiled_unets.append(stack.enter_context(compiled_for_device(self._call_unet, self.device)))
                stack.callback(self.compiled_unets.pop)
            yield

    def is_stop_requested(self) -> bool:
        """Always False: the command line is stopped with Ctrl+C."""
        return False

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encodes images (n, 3, h, w) in −1..1 as scaled latents (n, 4, h/8, w/8), float32: the posterior's mean.

        A half-precision autoencoder that overflows is converted to float32 for good, as when images are decoded.
        """
        model = self.model
        with autocast_disabled(self.device):
            latent = _encode_pixels(model, pixels.to(self.device))
            if not bool(latent.isfinite().all()) and next(model.vae.parameters()).dtype != torch.float32:
                model.vae.float()
                latent = _encode_pixels(model, pixels.to(self.device))
        return latent

    def encode_text(
        self,
        captions: Sequence[str],
        *,
        clip_skip: int = 1,
        max_token_length: int = CHUNK_TOKENS,
        weighted: bool = False,
    ) -> TextConditioning:
        """Encodes captions; all get as many chunks as the longest needs.

        Args:
            captions: n captions.
            clip_skip: text-encoder layer, counted from the end; 1 is the last.
            max_token_length: 75, 150 or 225; tokens beyond it are dropped.
            weighted: whether brackets are emphasis as in prompts, not text.
        """
        words = self.model.tokenizer
        known = self.embedding_table
        limit = max(1, max_token_length // CHUNK_TOKENS)
        parts = [tokenize_prompt(c if weighted else escape_brackets(c), words, known)[:limit] for c in captions]
        longest = max(map(len, parts))
        blank = PromptChunk.from_tokens((), words)
        parts = [[*chunk, *[blank] * (longest - len(chunk))] for chunk in parts]
        encoded = [
            _encode_captions(self.model, index, parts, clip_skip, known)
            for index in range(len(self.model.text_encoders))
        ]
        return TextConditioning(torch.cat([states for states, _ in encoded], dim=-1), encoded[-1][1])

    @property
    def embedding_table(self) -> EmbeddingTable | None:
        """The embeddings that are being trained, as prompts find them."""
        return self.model.embedding_table(self.added_embeddings) if self.added_embeddings else None

    def token_count(self, caption: str) -> int:
        """Counts a caption's tokens without start and end; every chunk but the last counts as 75."""
        *full, last = tokenize_prompt(escape_brackets(caption), self.model.tokenizer, self.embedding_table)
        return CHUNK_TOKENS * len(full) + last.tokens.index(self.model.tokenizer.end_id) - 1

    def predict(
        self, noisy: Tensor, timesteps: Tensor, context: TextConditioning, sizes: Tensor | None = None
    ) -> Tensor:
        """Calls the U-Net.

        Args:
            noisy: noisy latents (n, 4, h, w).
            timesteps: (n,).
            context: the captions' conditioning.
            sizes: SDXL's size conditioning, (n, 6).

        Returns:
            Its output (n, 4, h, w), float32.
        """
        unet = self.model.unet
        dtype = next(unet.parameters()).dtype
        added: dict[str, Tensor] | None = None
        if context.pooled is not None and sizes is not None:
            added = {"text_embeds": context.pooled.to(dtype), "time_ids": sizes.to(noisy.device, dtype)}
        call = self.compiled_unets[-1] if self.compiled_unets else self._call_unet
        return call(noisy.to(dtype), timesteps, context.states.to(dtype), added).float()

    def _call_unet(self, noisy: Tensor, timesteps: Tensor, states: Tensor, added: dict[str, Tensor] | None) -> Tensor:
        out: Tensor = self.model.unet(noisy, timesteps, encoder_hidden_states=states, added_cond_kwargs=added).sample
        return out

    def generate_image(self, spec: SampleSpec) -> Image.Image:
        """Generates a sample image with the model in its present state.

        Raises:
            LoraError: the sampler is unknown.
        """
        seed = torch.seed() % 2**32 if spec.seed is None else spec.seed
        job = RenderJob(
            prompt=spec.prompt,
            negative=spec.negative,
            seeds=[seed],
            plan=sample_sampling_plan(spec),
            width=max(VAE_SCALE_FACTOR, spec.width // VAE_SCALE_FACTOR * VAE_SCALE_FACTOR),
            height=max(VAE_SCALE_FACTOR, spec.height // VAE_SCALE_FACTOR * VAE_SCALE_FACTOR),
            cfg=spec.cfg,
            embeddings=self.embedding_table,
        )
        image = generate_images(self.model, job)[0]
        image.info["seed"] = str(seed)
        return image

    def check_sample(self, spec: SampleSpec) -> None:
        """Checks a sample's sampler.

        Raises:
            LoraError: the sampler is unknown.
        """
        sample_sampling_plan(spec)

    def token_embeddings(self, text: str, count: int) -> tuple[Tensor, ...]:
        """Returns the text encoders' own vectors of a text's first tokens, (count, width) each; the last is repeated.

        Raises:
            TrainError: the text has no token.
        """
        ids = self.model.tokenizer.encode(text)
        if not ids:
            raise TrainError(f"{text!r} has no token to begin with")
        ids = [*ids, *[ids[-1]] * count][:count]
        layers = [encoder.module.get_input_embeddings() for encoder in self.model.text_encoders]
        return tuple(layer.weight[torch.tensor(ids, device=layer.weight.device)].detach().float() for layer in layers)

    def count_token_uses(self, token: str, caption: str, max_token_length: int) -> int:
        """Counts how often an added token occurs in a caption within `max_token_length`."""
        read = tokenize_prompt(escape_brackets(caption), self.model.tokenizer, self.embedding_table)[
            : max(1, max_token_length // CHUNK_TOKENS)
        ]
        return sum(embedding.name == token and row == 0 for chunk in read for _, embedding, row in chunk.embedding_rows)

    @contextmanager
    def with_token_embedding(self, token: str, vectors: Sequence[Tensor]) -> Iterator[None]:
        """Adds a token embedding while the context is open.

        Args:
            token: its text in captions.
            vectors: (n, width) for each text encoder.

        Raises:
            TrainError: the text has no token.
        """
        if not self.model.tokenizer.encode(token):
            raise TrainError(f"{token!r} has no token, so it cannot stand in a prompt")
        added = Embedding(token, lambda: dict(zip(EMBEDDING_VECTOR_NAMES, vectors, strict=False)))
        self.added_embeddings.append(added)
        try:
            yield
        finally:
            self.added_embeddings.remove(added)

    def metadata(self) -> Mapping[str, str]:
        """Returns kohya's metadata about the base model (`ss_base_model_version`, `ss_sd_model_name` …)."""
        model = self.model
        known = base_model_metadata(model.family, model.prediction)
        if model.path is not None:
            known["ss_sd_model_name"] = model.path.name
        if model.path is not None and model.path.is_file():
            known["ss_sd_model_hash"] = legacy_hash(model.path)
            known["ss_new_sd_model_hash"] = model.sha256 or ""
        return known


def sample_sampling_plan(spec: SampleSpec) -> SamplingPlan:
    """Returns the sampling plan of a sample, whose sampler has kohya's or the web UI's name.

    Raises:
        LoraError: the sampler is unknown.
    """
    return parse_sampling_plan(webui_sampler_name(spec.sampler), steps=spec.steps)


def escape_brackets(caption: str) -> str:
    """Escapes brackets and backslashes of a caption, so that they are no emphasis."""
    return "".join("\\" + letter if letter in "\\()[]" else letter for letter in caption)


def _encode_pixels(model: StandaloneModel, pixels: Tensor) -> Tensor:
    dtype = next(model.vae.parameters()).dtype
    mean: Tensor = model.vae.encode(pixels.to(dtype)).latent_dist.mode()
    return mean.float() * model.scaling_factor


def _encode_captions(
    model: StandaloneModel,
    index: int,
    captions: Sequence[Sequence[PromptChunk]],
    clip_skip: int,
    embeddings: EmbeddingTable | None,
) -> tuple[Tensor, Tensor | None]:
    """Captions of k chunks each through text encoder `index` as one batch: (n, 77·k, width), first chunks' pooled."""
    each = len(captions[0])
    states, pooled = model.text_encoders[index].encode_chunk_batch(
        [chunk for chunks in captions for chunk in chunks],
        model.tokenizer.end_id,
        clip_skip,
        partial(encoder_vectors, embeddings, index),
    )
    states = states.reshape(len(captions), each * states.shape[1], states.shape[2])
    return states, None if pooled is None else pooled.reshape(len(captions), each, -1)[:, 0]


@contextmanager
def _attention(unet: Any, kind: str) -> Iterator[None]:
    """Sets the U-Net's attention while the context is open; "" leaves it.

    Raises:
        TrainError: xformers is not available.
    """
    if kind != "xformers":  # torch's own is what diffusers takes by itself
        yield
        return
    before = dict(unet.attn_processors)
    try:
        unet.enable_xformers_memory_efficient_attention()
    except (ImportError, ModuleNotFoundError, ValueError) as error:
        raise TrainError(f"xformers cannot be used here ({error}); leave it out to use torch's own attention") from None
    try:
        yield
    finally:
        unet.set_attn_processor(before)
