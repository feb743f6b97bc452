"""A `Standalone` model as a `ports.Trainee`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ...errors import TrainError
from ...file.hashes import legacy_hash
from ...protocols import Borrowing, Context, Sample
from ..checkpoint_layout import SD1, SD2, SDXL, V
from ..training_context import attributes_kept, compiled, compute_dtype, frozen, in_dtype, mixed, unmixed
from .embeddings import NAMES, Embedding, Embeddings, standing_in
from .model import Standalone
from .prompt_encoding import ROOM, Chunk, Encoder, chunks, emphasise
from .rendering import CELL, Job, render
from .sampling import Plan, plan_of

SAMPLERS = {
    "ddim": "DDIM",
    "pndm": "PLMS",
    "lms": "LMS",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "dpm_2": "DPM2",
    "dpm_2_a": "DPM2 a",
    "dpmsolver": "DPM++ 2M",
    "dpmsolver++": "DPM++ 2M",
    "dpmsingle": "DPM++ 2S a",
}
"""kohya's sampler names (a leading `k_` aside) → the web UI's."""
_CHECKPOINTING = ("gradient_checkpointing", "_gradient_checkpointing_func")


@dataclass(frozen=True, eq=False)
class StandaloneTrainee:
    """A model in memory that training borrows."""

    model: Standalone
    words: list[Embedding] = field(default_factory=list)
    """Words that were added for a while."""
    faster: list[Callable[..., Tensor]] = field(default_factory=list)
    """The U-Net compiled, while a run wants it so."""

    def parts(self) -> Mapping[str, nn.Module]:
        """Part → network."""
        return self.model.parts()

    @property
    def family(self) -> str:
        """ "SD1", "SD2" or "SDXL"."""
        return self.model.family

    @property
    def prediction(self) -> str:
        """What the U-Net gives: "epsilon" or "v"."""
        return self.model.prediction

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.model.device

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ, (1000,) float32 on the CPU."""
        return self.model.levels.alphas_cumprod

    @property
    def native_size(self) -> int:
        """Pixels a side that the model was made for."""
        return self.model.native_side

    @contextmanager
    def prepared(self, wish: Borrowing) -> Iterator[None]:
        """Frozen and in the wished precision while it is open. Raises TrainError."""
        model = self.model
        if model.inpainting:
            raise TrainError(f"{model.name} is an inpainting model; a LoRA is trained on the model it was made from")
        texts = [encoder.module for encoder in model.texts]
        networks = [model.unet, *texts]
        with ExitStack() as stack:
            stack.enter_context(frozen(networks, train=wish.gradient_checkpointing))
            stack.enter_context(frozen([model.vae], train=False))
            stack.enter_context(in_dtype(networks, compute_dtype(wish.precision)))
            stack.enter_context(in_dtype([model.vae] if wish.full_vae else [], torch.float32))
            stack.enter_context(attributes_kept(networks, _CHECKPOINTING))
            if wish.gradient_checkpointing:
                model.unet.enable_gradient_checkpointing()
                for text in texts if wish.text else ():
                    text.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            stack.enter_context(_attention(model.unet, wish.attention))
            stack.enter_context(mixed(self.device, wish.precision))
            if wish.compiled:
                self.faster.append(stack.enter_context(compiled(self._unet, self.device)))
                stack.callback(self.faster.pop)
            yield

    def stopping(self) -> bool:
        """Never: there is no button but the shell's."""
        return False

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pictures (n, 3, h, w) in −1..1 → scaled latents (n, 4, h/8, w/8), float32: the encoder's mean.

        A half-precision encoder that overflows is widened to float32 for good, as when pictures are decoded.
        """
        model = self.model
        with unmixed(self.device):
            latent = _latent(model, pixels.to(self.device))
            if not bool(latent.isfinite().all()) and next(model.vae.parameters()).dtype != torch.float32:
                model.vae.float()
                latent = _latent(model, pixels.to(self.device))
        return latent

    def text(
        self, captions: Sequence[str], *, clip_skip: int = 1, max_token_length: int = ROOM, weighted: bool = False
    ) -> Context:
        """Captions → states, all of them in as many chunks as the longest needs."""
        words = self.model.words
        known = self.known
        limit = max(1, max_token_length // ROOM)
        parts = [chunks(c if weighted else plain(c), words, known)[:limit] for c in captions]
        longest = max(map(len, parts))
        blank = Chunk.of((), words)
        parts = [[*chunk, *[blank] * (longest - len(chunk))] for chunk in parts]
        encoded = [_states(self.model, index, parts, clip_skip, known) for index in range(len(self.model.texts))]
        return Context(torch.cat([states for states, _ in encoded], dim=-1), encoded[-1][1])

    @property
    def known(self) -> Embeddings | None:
        """The added words, as prompts find them."""
        return self.model.embeddings(self.words) if self.words else None

    def token_count(self, caption: str) -> int:
        """Places that a caption takes, without start and end; a chunk that another follows counts as full."""
        *full, last = chunks(plain(caption), self.model.words, self.known)
        return ROOM * len(full) + last.tokens.index(self.model.words.end) - 1

    def predict(self, noisy: Tensor, timesteps: Tensor, context: Context, sizes: Tensor | None = None) -> Tensor:
        """The U-Net's output (n, 4, h, w), float32."""
        unet = self.model.unet
        dtype = next(unet.parameters()).dtype
        added: dict[str, Tensor] | None = None
        if context.pooled is not None and sizes is not None:
            added = {"text_embeds": context.pooled.to(dtype), "time_ids": sizes.to(noisy.device, dtype)}
        call = self.faster[-1] if self.faster else self._unet
        return call(noisy.to(dtype), timesteps, context.states.to(dtype), added).float()

    def _unet(self, noisy: Tensor, timesteps: Tensor, states: Tensor, added: dict[str, Tensor] | None) -> Tensor:
        out: Tensor = self.model.unet(noisy, timesteps, encoder_hidden_states=states, added_cond_kwargs=added).sample
        return out

    def sample(self, wish: Sample) -> Image.Image:
        """A picture of the model as it is now. Raises LoraError."""
        seed = torch.seed() % 2**32 if wish.seed is None else wish.seed
        job = Job(
            prompt=wish.prompt,
            negative=wish.negative,
            seeds=[seed],
            plan=plan_for(wish),
            width=max(CELL, wish.width // CELL * CELL),
            height=max(CELL, wish.height // CELL * CELL),
            cfg=wish.cfg,
            embeddings=self.known,
        )
        image = render(self.model, job)[0]
        image.info["seed"] = str(seed)
        return image

    def check_sample(self, wish: Sample) -> None:
        """Raises LoraError for a sampler that is not there."""
        plan_for(wish)

    def word_vectors(self, text: str, count: int) -> tuple[Tensor, ...]:
        """The text encoders' own vectors of a text's first tokens."""
        ids = self.model.words.encode(text)
        if not ids:
            raise TrainError(f"{text!r} has no token to begin with")
        ids = [*ids, *[ids[-1]] * count][:count]
        layers = [encoder.module.get_input_embeddings() for encoder in self.model.texts]
        return tuple(layer.weight[torch.tensor(ids, device=layer.weight.device)].detach().float() for layer in layers)

    def word_places(self, word: str, caption: str, max_token_length: int) -> int:
        """How often an added word is read in a caption."""
        read = chunks(plain(caption), self.model.words, self.known)[: max(1, max_token_length // ROOM)]
        return sum(embedding.name == word and row == 0 for chunk in read for _, embedding, row in chunk.learned)

    @contextmanager
    def new_word(self, word: str, vectors: Sequence[Tensor]) -> Iterator[None]:
        """A word for a while. Raises TrainError where its tokens are none."""
        if not self.model.words.encode(word):
            raise TrainError(f"{word!r} has no token, so it cannot stand in a prompt")
        added = Embedding(word, lambda: dict(zip(NAMES, vectors, strict=False)))
        self.words.append(added)
        try:
            yield
        finally:
            self.words.remove(added)

    def metadata(self) -> Mapping[str, str]:
        """The base model in kohya's words."""
        model = self.model
        version = {SD1: "sd_v1", SD2: "sd_v2", SDXL: "sdxl_base_v1-0"}[model.family]
        if model.family == SD2 and model.prediction == V:
            version = "sd_v2_v"
        known = {"ss_base_model_version": version, "ss_v2": str(model.family == SD2)}
        if model.path is not None:
            known["ss_sd_model_name"] = model.path.name
        if model.path is not None and model.path.is_file():
            known["ss_sd_model_hash"] = legacy_hash(model.path)
            known["ss_new_sd_model_hash"] = model.sha256 or ""
        return known


def plan_for(wish: Sample) -> Plan:
    """The sampler that a prompt's line asks for, by kohya's or the web UI's name. Raises LoraError."""
    name = wish.sampler.strip().lower().removeprefix("k_")
    return plan_of(SAMPLERS.get(name, wish.sampler), steps=wish.steps)


def plain(caption: str) -> str:
    """A caption whose brackets are letters, in the words of a prompt."""
    return "".join("\\" + letter if letter in "\\()[]" else letter for letter in caption)


def _latent(model: Standalone, pixels: Tensor) -> Tensor:
    dtype = next(model.vae.parameters()).dtype
    mean: Tensor = model.vae.encode(pixels.to(dtype)).latent_dist.mode()
    return mean.float() * model.scale


def _states(
    model: Standalone, index: int, parts: Sequence[Sequence[Chunk]], clip_skip: int, known: Embeddings | None
) -> tuple[Tensor, Tensor | None]:
    """Chunks (n captions, k each) through one encoder, all at once → (n, 77·k, width), first chunks' pooled."""
    encoder = model.texts[index]
    device = next(encoder.module.parameters()).device
    count, each = len(parts), len(parts[0])
    flat = [chunk for part in parts for chunk in part]
    tokens = torch.tensor([_padded(encoder, chunk.tokens, model.words.end) for chunk in flat])
    learned = {
        (row, at): _vectors(embedding, known, index)[place]
        for row, chunk in enumerate(flat)
        for at, embedding, place in chunk.learned
    }
    with standing_in(encoder.module, learned):
        states, pooled = encoder.states(tokens.to(device), clip_skip)
    weights = torch.tensor([chunk.weights for chunk in flat])
    if bool((weights != 1).any()):
        rows = [emphasise(s[None], w[None]) for s, w in zip(states, weights.to(device), strict=True)]
        states = torch.cat(rows)
    states = states.reshape(count, each * states.shape[1], states.shape[2])
    return states, None if pooled is None else pooled.reshape(count, each, -1)[:, 0]


def _vectors(embedding: Embedding, known: Embeddings | None, index: int) -> Tensor:
    rows = embedding.rows(known.widths) if known else None
    assert rows is not None, "chunks take only embeddings that fit"
    return rows[index]


def _padded(encoder: Encoder, tokens: Sequence[int], end: int) -> list[int]:
    """A chunk's tokens with what this encoder wants after the end."""
    if encoder.pad is None:
        return list(tokens)
    after = tokens.index(end) + 1
    return [*tokens[:after], *[encoder.pad] * (len(tokens) - after)]


@contextmanager
def _attention(unet: Any, kind: str) -> Iterator[None]:
    """The U-Net's attention for a while: "" leaves it. Raises TrainError where xformers is missing."""
    if kind != "xformers":  # torch's own is what diffusers takes by itself
        yield
        return
    before = dict(unet.attn_processors)
    try:
        unet.enable_xformers_memory_efficient_attention()
    except (ImportError, ModuleNotFoundError, ValueError) as error:
        raise TrainError(
            f"xformers cannot be used here ({error}); leave it out: torch's own attention is taken"
        ) from None
    try:
        yield
    finally:
        unet.set_attn_processor(before)
