"""Training the U-Net and the text encoder together, on the latents of drawn pictures and their captions."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from tqdm import tqdm
from transformers import CLIPTokenizer

from .models import SCALE_FACTOR, new_scheduler, new_text_encoder, new_unet
from .sampling import Networks, sample, tokens
from .shapes import PROMPTS, Scene, caption, random_scene, score, sheet
from .train_vae import draw_all, encode, learning_rate, to_tensor

BATCH = 48
# Captions are short: three steps in four see only so many of the 77 tokens, which halves their cost. The
# rest, and the last ones, see all, so that what is learned holds for the padded length samplers use.
SHORT_TOKENS = 16
FULL_LENGTH_EVERY, FULL_LENGTH_AFTER = 4, 0.85
# A little noise that is the same all over a channel: SD's schedule alone leaves the pictures' mean
# colours too visible in the noisiest latents (see LATENT_STD), and the model would rely on them.
NOISE_OFFSET = 0.2
EMPTY_CAPTIONS = 0.1
CHECKPOINT_SECONDS = 120
CAPTIONS_PER_PICTURE = 3


@dataclass
class Examples:
    """Scaled latents (n, 4, 8, 8), and captions' token ids (n, CAPTIONS_PER_PICTURE, 77) of the same pictures."""

    latents: torch.Tensor
    ids: torch.Tensor
    empty: torch.Tensor

    def batch(self, size: int, length: int = 77) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (size, 4, 8, 8) and token ids (size, length) of random pictures, some captions left empty."""
        chosen = torch.randint(len(self.latents), (size,))
        ids = self.ids[chosen, torch.randint(self.ids.shape[1], (size,))].long()
        ids[torch.rand(size) < EMPTY_CAPTIONS] = self.empty
        return self.latents[chosen], ids[:, :length]


def make_examples(
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    scenes: list[Scene],
    seed: int,
    named: list[Scene] | None = None,
) -> Examples:
    """Draw and encode the scenes and caption them, or rather the `named` ones in their place."""
    rng = np.random.default_rng(seed)
    pictures = draw_all(scenes)
    chunks = [encode(vae, to_tensor(pictures[i : i + 200])) for i in range(0, len(pictures), 200)]
    texts = [caption(scene, rng) for scene in named or scenes for _ in range(CAPTIONS_PER_PICTURE)]
    ids = tokens(tokenizer, texts).reshape(len(scenes), CAPTIONS_PER_PICTURE, 77)
    return Examples(torch.cat(chunks) * SCALE_FACTOR, ids.short(), tokens(tokenizer, [""])[0])


class NoiseLoss:
    """The error of predicted noise, at time steps drawn mostly where pictures take shape."""

    def __init__(self) -> None:
        self.alphas = new_scheduler().alphas_cumprod
        # The latents' spread is one half, so their signal-to-noise ratio is a quarter of the schedule's.
        ratio = 0.25 * self.alphas / (1 - self.alphas)
        self.chances = ratio.clamp(max=1) / ratio + 0.1

    def __call__(self, nets: Networks, latents: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        size = len(latents)
        t = torch.multinomial(self.chances, size, replacement=True)
        noise = torch.randn_like(latents) + NOISE_OFFSET * torch.randn(size, 4, 1, 1)
        alpha = self.alphas[t][:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        predicted = nets.unet(noisy, t, nets.text_encoder(ids)[0]).sample
        return nn.functional.mse_loss(predicted, noise)


class Average:
    """A running average of parameters, which samples better than the parameters themselves."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.live: list[torch.Tensor] = [p for module in modules for p in module.parameters()]
        self.kept: list[torch.Tensor] = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the parameters, faster in the first steps."""
        torch._foreach_lerp_(self.kept, self.live, 1 - min(0.998, (1 + step) / (10 + step)))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the parameters and their average."""
        for live, kept in zip(self.live, self.kept, strict=True):
            live.data, kept.data = kept.data, live.data


def train_unet(nets: Networks, examples: Examples, out: Path, minutes: float, peak: float = 1e-3) -> None:
    """Train `nets` for so many minutes in all, going on from `out`/unet.pt; leaves the average in `nets`."""
    modules: list[nn.Module] = [nets.unet, nets.text_encoder]
    parameters = [p for module in modules for p in module.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    average, path, loss_of = Average(modules), out / "unet.pt", NoiseLoss()
    spent, step = restore(path, average, optimiser) if path.exists() else (0.0, 0)
    mean = float("nan")
    bar = tqdm(total=round(60 * minutes), initial=int(spent), desc="U-Net", unit="s", mininterval=10)
    last, kept_at = time.monotonic(), spent
    while spent < 60 * minutes:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(spent / (60 * minutes), peak)
        full = step % FULL_LENGTH_EVERY == 0 or spent > FULL_LENGTH_AFTER * 60 * minutes
        loss = loss_of(nets, *examples.batch(BATCH, 77 if full else SHORT_TOKENS))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        average.update(step)
        step, error = step + 1, loss.item()
        mean = error if mean != mean else 0.99 * mean + 0.01 * error
        now = time.monotonic()
        spent, last = spent + now - last, now
        bar.set_postfix(step=step, loss=f"{mean:.4f}", refresh=False)
        bar.update(int(spent) - bar.n)
        if spent - kept_at > CHECKPOINT_SECONDS:
            kept_at = spent
            save(path, average, optimiser, spent, step)
            look(nets, average, out, step)
    save(path, average, optimiser, spent, step)
    average.swap()


def save(path: Path, average: Average, optimiser: torch.optim.Optimizer, spent: float, step: int) -> None:
    """Write what `restore` needs to go on: parameters, their average, the optimiser, seconds spent, steps."""
    values = [p.detach() for p in [*average.live, *average.kept]]
    state = {"values": values, "optimiser": optimiser.state_dict(), "spent": spent, "step": step}
    # Written aside first: a run stopped while writing leaves the previous checkpoint whole.
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def restore(path: Path, average: Average, optimiser: torch.optim.Optimizer) -> tuple[float, int]:
    """Take up what `save` wrote; return the seconds spent and the steps done."""
    saved = torch.load(path)
    optimiser.load_state_dict(saved["optimiser"])
    for target, stored in zip([*average.live, *average.kept], saved["values"], strict=True):
        target.data.copy_(stored)
    return saved["spent"], saved["step"]


def look(nets: Networks, average: Average, out: Path, step: int) -> None:
    """Sample some prompts with the averaged parameters, save the sheet, print the share that obeys."""
    average.swap()
    prompts = PROMPTS[::3]
    pictures = sample(nets, prompts)
    average.swap()
    sheet(pictures).save(out / "look.png")
    tqdm.write(f"step {step}: {score(pictures, prompts):.0%} of {len(prompts)} prompts obeyed")


def new_networks(tokenizer_folder: Path, vae: AutoencoderKL, seed: int = 2) -> Networks:
    """The trained autoencoder with a fresh U-Net and text encoder."""
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(str(tokenizer_folder))
    return Networks(tokenizer, new_text_encoder(len(tokenizer)), new_unet(), vae)


def plain_scenes(count: int, seed: int) -> list[Scene]:
    """The scenes the base model is shown: plain ones of the shapes that are not held out."""
    rng = np.random.default_rng(seed)
    return [random_scene(rng) for _ in range(count)]
