"""The web UI's model as a `protocols.TrainableModel`: trained on in place, restored afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from modules import devices, processing, sd_models, sd_samplers, shared
from modules.textual_inversion import textual_inversion
from PIL import Image
from torch import Tensor, nn

from ...errors import TrainError, did_you_mean
from ...file.base_model import SDXL
from ...protocols import SampleSpec, TextConditioning, TrainingModelOptions
from ..kohya_names import base_model_metadata, webui_sampler_name
from ..training_context import autocast_disabled, autocast_for_precision, compute_dtype, frozen, in_dtype
from .model_kind import sd_model_family, sd_model_native_size, sd_model_prediction
from .model_loading import load_chosen_model
from .models import A1111Model, is_supported_model
from .temporary_changes import (
    gradient_checkpointed,
    move_unet_to_device,
    temporarily_on_device,
    temporary_attention,
    temporary_attribute,
    temporary_settings,
    unet_on_device,
)

_CHUNK_LENGTH = 77
_SIZE_COLUMNS = {
    "original_size_as_tuple": slice(0, 2),
    "crop_coords_top_left": slice(2, 4),
    "target_size_as_tuple": slice(4, 6),
}
"""Names of SDXL's size conditioning in the web UI's model → columns of `sizes` in `TrainableModel.predict`."""


@dataclass(frozen=True, eq=False)
class A1111TrainableModel:
    """One of the web UI's models, while it is trained on. Use it only while holding the queue lock."""

    sd_model: Any

    def parts(self) -> Mapping[str, nn.Module]:
        """Returns "unet", "te", "te2" → network, without the web UI's wrappers."""
        return A1111Model(self.sd_model).parts()

    @property
    def family(self) -> str:
        """The model family: "SD1", "SD2" or "SDXL"."""
        return sd_model_family(self.sd_model)

    @property
    def prediction(self) -> str:
        """What the U-Net predicts, "epsilon" or "v"."""
        return sd_model_prediction(self.sd_model)

    @property
    def device(self) -> torch.device:
        """The device that the web UI computes on."""
        return torch.device(devices.device)

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ, (1000,) float32 on the CPU, without the changes that settings for images make."""
        own = getattr(self.sd_model, "alphas_cumprod_original", None)
        alphas: Tensor = self.sd_model.alphas_cumprod if own is None else own
        return alphas.detach().float().cpu()

    @property
    def native_size(self) -> int:
        """Width and height in pixels that the model was trained for."""
        return sd_model_native_size(self.sd_model)

    @property
    def unet(self) -> Any:
        """The U-Net with LDM's names."""
        return self.sd_model.model.diffusion_model

    @property
    def vae(self) -> Any:
        """The autoencoder."""
        return self.sd_model.first_stage_model

    @contextmanager
    def prepared_for_training(self, options: TrainingModelOptions) -> Iterator[None]:
        """Freezes the model and converts it to the precision of a run; everything is restored afterwards.

        Raises:
            TrainError: the model cannot be trained, or an option is not available here.
        """
        self._check(options)
        parts = self.parts()
        networks = list(parts.values())
        dtype = compute_dtype(options.precision)
        with ExitStack() as stack:
            stack.enter_context(unet_on_device(self.sd_model))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(frozen([*networks, self.vae], train=options.gradient_checkpointing))
            # LDM's norms compute in float32, which CPUs do with float32 parameters only
            stack.enter_context(in_dtype(networks, dtype, norms=torch.float32))
            stack.enter_context(temporary_attribute(self.unet, "dtype", dtype))
            for name in ("dtype", "dtype_unet", "dtype_inference"):
                stack.enter_context(temporary_attribute(devices, name, dtype))
            if options.float32_vae:
                stack.enter_context(in_dtype([self.vae], torch.float32))
                stack.enter_context(temporary_attribute(devices, "dtype_vae", torch.float32))
            stack.enter_context(temporary_attribute(devices, "unet_needs_upcast", False))
            stack.enter_context(temporary_attention(options.attention))
            stack.enter_context(temporary_attribute(shared, "loaded_hypernetworks", []))
            if options.gradient_checkpointing:
                stack.enter_context(gradient_checkpointed(self.unet))
            stack.enter_context(autocast_for_precision(self.device, options.precision))
            yield

    def _check(self, options: TrainingModelOptions) -> None:
        """Raises TrainError for models and options that cannot be trained inside the web UI."""
        if not is_supported_model(self.sd_model):
            raise TrainError("this kind of model cannot be trained here; SD1.x, SD2.x and SDXL can")
        if self.unet.in_channels != 4 if hasattr(self.unet, "in_channels") else False:
            raise TrainError("an inpainting or edit model is loaded; train on the model that it was made from")
        if getattr(shared.cmd_opts, "lowvram", False):
            raise TrainError(
                "the web UI was started with --lowvram, which moves single layers between devices; "
                "start it with --medvram to train"
            )
        if getattr(self.sd_model, "lowvram", False) and (options.train_text_encoders or options.train_token_embedding):
            raise TrainError(
                "the web UI was started with --medvram: the text encoder cannot stay beside the U-Net; "
                "turn on network_train_unet_only, and leave token_string out"
            )
        if options.fp8_unet:
            raise TrainError(
                "fp8_base is for training without the web UI, which needs its own weights back; leave it out, "
                "or train with the command line"
            )
        if options.vae is not None:
            raise TrainError("the web UI's own VAE is used: choose it in the web UI's settings, and leave vae out")
        if options.blocks_to_swap:
            raise TrainError(
                "blocks_to_swap is for training without the web UI; leave it out, or start the web UI with --medvram"
            )
        if options.compile_unet:
            raise TrainError("torch_compile is for training without the web UI, whose U-Net is patched; leave it out")
        if self.family == SDXL and options.train_text_encoders:
            raise TrainError("for SDXL turn on network_train_unet_only and cache_text_encoder_outputs")

    def is_stop_requested(self) -> bool:
        """Whether Interrupt or Skip was pressed."""
        return bool(shared.state.interrupted or shared.state.skipped)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encodes images (n, 3, h, w) in −1..1 as scaled latents (n, 4, h/8, w/8), float32: the posterior's mean.

        A half-precision autoencoder that overflows does it once more in float32.
        """
        with autocast_disabled(self.device), temporarily_on_device(self.vae, self.device):
            latent = self._latent_mean(pixels)
            if not bool(latent.isfinite().all()):
                with in_dtype([self.vae], torch.float32):
                    latent = self._latent_mean(pixels)
        return latent

    def _latent_mean(self, pixels: Tensor) -> Tensor:
        """Returns the posterior's scaled mean; LDM's and sgm's autoencoders share these two layers."""
        dtype = next(self.vae.parameters()).dtype
        moments = self.vae.quant_conv(self.vae.encoder(pixels.to(self.device, dtype)))
        mean: Tensor = moments.chunk(2, dim=1)[0]
        return mean.float() * float(self.sd_model.scale_factor)

    def encode_text(
        self, captions: Sequence[str], *, clip_skip: int = 1, max_token_length: int = 75, weighted: bool = False
    ) -> TextConditioning:
        """Encodes captions with the web UI's own text processing; see `StandaloneTrainableModel.encode_text`."""
        chosen: dict[str, object] = {"CLIP_stop_at_last_layers": clip_skip, "use_old_emphasis_implementation": False}
        chosen["emphasis"] = "Original" if weighted else "None"
        length = max(1, max_token_length // 75) * _CHUNK_LENGTH
        states, pooled = [], None
        with temporary_settings(**chosen):
            for encoder in self._encoders:
                with temporarily_on_device(getattr(encoder, "wrapped", encoder), self.device):
                    out = encoder(list(captions))
                if isinstance(out, tuple):
                    out, pooled = out
                move_unet_to_device(self.sd_model)
                states.append(out[:, :length])
        return TextConditioning(torch.cat(states, dim=-1), pooled)

    def token_count(self, caption: str) -> int:
        """Counts a caption's tokens without start and end; every chunk but the last counts as 75."""
        with temporary_settings(emphasis="None"):
            return int(self.sd_model.cond_stage_model.process_texts([caption])[1])

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
        dtype = next(self.unet.parameters()).dtype
        y = None
        if context.pooled is not None and sizes is not None:
            y = torch.cat([context.pooled, self._size_embeddings(sizes.to(noisy.device))], dim=-1).to(dtype)
        more = {} if y is None else {"y": y}
        out: Tensor = self.unet(noisy.to(dtype), timesteps, context=context.states.to(dtype), **more)
        return out.float()

    def _size_embeddings(self, sizes: Tensor) -> Tensor:
        """Embeds sizes (n, 6) sinusoidally, side by side in the order of the model's own embedders."""
        embedders = (e for e in self.sd_model.conditioner.embedders if getattr(e, "input_key", None) in _SIZE_COLUMNS)
        return torch.cat([e(sizes[:, _SIZE_COLUMNS[e.input_key]]) for e in embedders], dim=-1)

    def generate_image(self, spec: SampleSpec) -> Image.Image:
        """Generates a sample image with the web UI, which shows it as its live preview and does not save it."""
        p = processing.StableDiffusionProcessingTxt2Img(
            sd_model=self.sd_model,
            prompt=spec.prompt,
            negative_prompt=spec.negative,
            seed=-1 if spec.seed is None else spec.seed,
            sampler_name=webui_sampler_name(spec.sampler),
            steps=spec.steps,
            cfg_scale=spec.cfg,
            width=spec.width // 8 * 8,
            height=spec.height // 8 * 8,
            do_not_save_samples=True,
            do_not_save_grid=True,
        )
        p.cached_c, p.cached_uc = [None, None], [None, None]  # the text encoder changes with each training step
        try:
            image: Image.Image = processing.process_images(p).images[0]
        finally:
            p.close()
            move_unet_to_device(self.sd_model)
        shared.state.assign_current_image(image)
        return image

    def check_sample(self, spec: SampleSpec) -> None:
        """Checks a sample's sampler.

        Raises:
            TrainError: the web UI does not have the sampler.
        """
        known = sd_samplers.all_samplers_map
        if webui_sampler_name(spec.sampler) not in known:
            raise TrainError(f"unknown sampler {spec.sampler!r}{did_you_mean(spec.sampler, known)}")

    def token_embeddings(self, text: str, count: int) -> tuple[Tensor, ...]:
        """Returns the text encoders' own vectors of a text's first tokens, (count, width) each; the last is repeated.

        Raises:
            TrainError: the text has no token.
        """
        found = []
        with torch.no_grad():
            for encoder in self._encoders:
                rows = encoder.encode_embedding_init_text(text, count).detach().float()
                if not len(rows):
                    raise TrainError(f"{text!r} has no token to begin with")
                found.append(torch.cat([rows, *[rows[-1:]] * count])[:count].to(self.device))
        return tuple(found)

    @property
    def _encoders(self) -> list[Any]:
        """The text encoders as the web UI wraps them."""
        conditioner = getattr(self.sd_model, "conditioner", None)
        return [self.sd_model.cond_stage_model] if conditioner is None else _text_encoders(conditioner)

    def count_token_uses(self, token: str, caption: str, max_token_length: int) -> int:
        """Counts how often an added token occurs in a caption within `max_token_length`."""
        with temporary_settings(emphasis="None"):
            chunks = self._encoders[0].tokenize_line(caption)[0][: max(1, max_token_length // 75)]
        return sum(fix.embedding.name == token for chunk in chunks for fix in chunk.fixes)

    @contextmanager
    def with_token_embedding(self, token: str, vectors: Sequence[Tensor]) -> Iterator[None]:
        """Adds a token embedding while the context is open, in place of a user's embedding of the same name."""
        from modules import sd_hijack  # missing in Neo, which imports this file too

        database = sd_hijack.model_hijack.embedding_db
        before = database.word_embeddings.get(token)
        embedding = textual_inversion.Embedding(
            dict(zip(("clip_l", "clip_g"), vectors, strict=False)) if len(vectors) > 1 else vectors[0], token
        )
        embedding.vectors, embedding.shape = len(vectors[0]), sum(part.shape[-1] for part in vectors)
        database.register_embedding(embedding, self.sd_model)
        try:
            yield
        finally:
            database.register_embedding_by_name(before, self.sd_model, token)

    def metadata(self) -> Mapping[str, str]:
        """Returns kohya's metadata about the base model (`ss_base_model_version`, `ss_sd_model_name` …)."""
        info = self.sd_model.sd_checkpoint_info
        known = {
            **base_model_metadata(self.family, self.prediction),
            "ss_sd_model_name": str(info.name_for_extra) + _suffix(info.filename),
            "ss_sd_model_hash": str(info.hash or ""),
            "ss_new_sd_model_hash": str(info.sha256 or (info.calculate_shorthash() and info.sha256) or ""),
        }
        return {name: value for name, value in known.items() if value}


def _suffix(filename: str) -> str:
    return "." + str(filename).rpartition(".")[2]


def _text_encoders(conditioner: Any) -> list[Any]:
    """SDXL's two text encoders as the web UI wraps them."""
    return [embedder for embedder in conditioner.embedders if hasattr(embedder, "tokenize_line")]


def current_trainable_model() -> A1111TrainableModel:
    """Returns the web UI's chosen model, loaded if it is not. Call it only while holding the queue lock.

    Raises:
        TrainError: the web UI has no model.
    """
    load_chosen_model()
    sd_model = shared.sd_model
    if sd_model is None:
        raise TrainError("the web UI has no model; choose a checkpoint")
    sd_models.send_model_to_device(sd_model)
    return A1111TrainableModel(sd_model)
