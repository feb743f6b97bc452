"""Training the U-Net and the text encoder together, on the latents of drawn images and their captions."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from .models import SCALE_FACTOR, new_scheduler, new_text_encoder, new_unet
from .sampling import EmbeddedNetworks, sample_images, tokenize_captions
from .shapes import SCENE_PROMPTS, Scene, caption, image_grid, share_obeyed
from .train_vae import draw_scenes, latent_means, learning_rate, to_tensor

UNET_BATCH_SIZE = 48
# Captions are short: three steps in four see only so many of the 77 tokens, which halves their cost. The
# rest, and the last ones, see all, so that what is learned holds for the padded length samplers use.
SHORT_TOKENS = 16
FULL_LENGTH_EVERY, FULL_LENGTH_AFTER = 4, 0.85
# A little noise that is the same all over a channel: SD's schedule alone leaves the images' mean
# colours too visible in the noisiest latents (see LATENT_STD), and the model would rely on them.
NOISE_OFFSET = 0.2
EMPTY_CAPTIONS = 0.1
MAX_LOSS_WEIGHT = 12
SYNC_STEPS = 8
CHECKPOINT_SECONDS = 120
CAPTIONS_PER_IMAGE = 3


@dataclass
class LatentExamples:
    """Scaled latents (n, 4, 8, 8), and captions' token ids (n, CAPTIONS_PER_IMAGE, 77) of the same images."""

    latents: torch.Tensor
    ids: torch.Tensor
    empty: torch.Tensor

    def sample_batch(self, size: int, length: int = 77) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (size, 4, 8, 8) and token ids (size, length) of random images, some captions left empty."""
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
) -> LatentExamples:
    """Draw and encode the scenes and caption them, or rather the `named` ones in their place."""
    rng = np.random.default_rng(seed)
    images = draw_scenes(scenes)
    chunks = [latent_means(vae, to_tensor(images[i : i + 200])) for i in range(0, len(images), 200)]
    texts = [caption(scene, rng) for scene in named or scenes for _ in range(CAPTIONS_PER_IMAGE)]
    ids = tokenize_captions(tokenizer, texts).reshape(len(scenes), CAPTIONS_PER_IMAGE, 77)
    return LatentExamples(torch.cat(chunks) * SCALE_FACTOR, ids.short(), tokenize_captions(tokenizer, [""])[0])


class NoiseLoss:
    """The squared error of predicted noise, weighed as that of v (Salimans & Ho 2022, arXiv 2202.00512).

    Plain errors of noise hardly count where almost all is noise, and there a caption decides the shape.
    Part of the weight goes into how often a time step is drawn, part into its loss. Half of the steps are drawn
    evenly: with v's weight alone those with little noise, which draw the edges, are hardly ever seen.
    """

    def __init__(self) -> None:
        self.alphas = new_scheduler().alphas_cumprod
        # The latents' spread is one half, so their signal-to-noise ratio is a quarter of the schedule's.
        ratio = 0.25 * self.alphas / (1 - self.alphas)
        weight = ((1 + ratio) / ratio).sqrt()
        self.share = 0.5 * weight / weight.sum() + 0.5 / len(weight)
        self.weight = weight.clamp(max=MAX_LOSS_WEIGHT)

    def __call__(self, nets: EmbeddedNetworks, latents: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The loss of a batch: latents (n, 4, h, w), ids (n, tokens)."""
        size = len(latents)
        t = torch.multinomial(self.share, size, replacement=True)
        noise = torch.randn_like(latents) + NOISE_OFFSET * torch.randn(size, 4, 1, 1)
        alpha = self.alphas[t][:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        predicted = nets.unet(noisy, t, nets.text_encoder(ids)[0]).sample
        return (self.weight[t] * (predicted - noise).square().mean((1, 2, 3))).mean()


class ParameterAverage:
    """A running average of parameters, which samples better than the parameters themselves."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.live: list[torch.Tensor] = [p for module in modules for p in module.parameters()]
        self.kept: list[torch.Tensor] = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the parameters, faster the first times; every SYNC steps."""
        torch._foreach_lerp_(self.kept, self.live, 1 - min(0.985, (1 + step) / (10 + step)))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the parameters and their average."""
        for live, kept in zip(self.live, self.kept, strict=True):
            live.data, kept.data = kept.data, live.data


@dataclass
class LocalSgdProcess:
    """Processes that train one network: each goes its own way for SYNC steps, then all take the mean of their
    parameters (local SGD, Stich 2019, arXiv 1805.09767). On few cores four times faster than threads of one process.
    """

    rank: int = 0
    world_size: int = 1

    def join(self, folder: Path) -> None:
        """Find the others through a file in `folder`."""
        if self.world_size > 1:
            store = (folder / "peers").resolve().as_uri()
            torch.distributed.init_process_group("gloo", init_method=store, rank=self.rank, world_size=self.world_size)

    @torch.no_grad()
    def average_parameters(self, parameters: list[nn.Parameter], spent: float) -> float:
        """Average the parameters, and the seconds spent."""
        if self.world_size == 1:
            return spent
        flat = torch.cat([*(p.flatten() for p in parameters), torch.tensor([spent])])
        torch.distributed.all_reduce(flat)
        flat /= self.world_size
        for p, mean in zip(parameters, flat[:-1].split([p.numel() for p in parameters]), strict=True):
            p.copy_(mean.view_as(p))
        return float(flat[-1])


def train_unet(
    nets: EmbeddedNetworks,
    examples: LatentExamples,
    out: Path,
    minutes: float,
    peak: float = 8e-4,
    process: LocalSgdProcess | None = None,
) -> None:
    """Train `nets` for so many minutes in all, going on from `out`/unet.pt; leaves the average in `nets`."""
    process = process or LocalSgdProcess()
    modules: list[nn.Module] = [nets.unet, nets.text_encoder]
    parameters = [p for module in modules for p in module.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    average, path, loss_of = ParameterAverage(modules), out / "unet.pt", NoiseLoss()
    spent, step = load_unet_training(path, average, optimiser) if path.exists() else (0.0, 0)
    mean = float("nan")
    total, first = round(60 * minutes), process.rank == 0
    bar = tqdm(total=total, initial=int(spent), desc="U-Net", unit="s", mininterval=10, disable=not first)
    last, kept_at = time.monotonic(), spent
    # The end is told by the time that all agreed on: by its own, one would leave while others wait for it.
    agreed = spent
    while step % SYNC_STEPS or agreed < 60 * minutes:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(spent / (60 * minutes), peak, hold=0.55)
        full = step % FULL_LENGTH_EVERY == 0 or spent > FULL_LENGTH_AFTER * 60 * minutes
        loss = loss_of(nets, *examples.sample_batch(UNET_BATCH_SIZE, 77 if full else SHORT_TOKENS))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step, error = step + 1, loss.item()
        mean = error if mean != mean else 0.99 * mean + 0.01 * error
        if step % SYNC_STEPS == 0:
            spent = agreed = process.average_parameters(parameters, spent)
            average.update(step // SYNC_STEPS)
        now = time.monotonic()
        spent, last = spent + now - last, now
        bar.set_postfix(step=step, loss=f"{mean:.4f}", refresh=False)
        bar.update(int(spent) - bar.n)
        if first and spent - kept_at > CHECKPOINT_SECONDS:
            kept_at = spent
            save_unet_training(path, average, optimiser, spent, step)
            save_progress_sheet(nets, average, out, step)
    if first:
        save_unet_training(path, average, optimiser, spent, step)
    average.swap()


def save_unet_training(
    path: Path, average: ParameterAverage, optimiser: torch.optim.Optimizer, spent: float, step: int
) -> None:
    """Write what `load_unet_training` needs to go on: parameters, their average, the optimiser, seconds spent,
    steps.
    """
    values = [p.detach() for p in [*average.live, *average.kept]]
    state = {"values": values, "optimiser": optimiser.state_dict(), "spent": spent, "step": step}
    # Written aside first: a run stopped while writing leaves the previous checkpoint whole.
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def load_unet_training(path: Path, average: ParameterAverage, optimiser: torch.optim.Optimizer) -> tuple[float, int]:
    """Take up what `save_unet_training` wrote; return the seconds spent and the steps done."""
    saved = torch.load(path, weights_only=True)
    optimiser.load_state_dict(saved["optimiser"])
    for target, stored in zip([*average.live, *average.kept], saved["values"], strict=True):
        target.data.copy_(stored)
    return saved["spent"], saved["step"]


def load_averaged_parameters(nets: EmbeddedNetworks, path: Path) -> None:
    """Give the networks the averaged parameters that `save_unet_training` wrote."""
    parameters = [*nets.unet.parameters(), *nets.text_encoder.parameters()]
    for target, stored in zip(
        parameters, torch.load(path, weights_only=True)["values"][len(parameters) :], strict=True
    ):
        target.data.copy_(stored)


def save_progress_sheet(nets: EmbeddedNetworks, average: ParameterAverage, out: Path, step: int) -> None:
    """Sample some prompts with the averaged parameters, save the sheet, print the share that obeys."""
    average.swap()
    prompts = SCENE_PROMPTS[::7]  # the shapes take turns in them
    images = sample_images(nets, prompts)
    average.swap()
    image_grid(images).save(out / "look.png")
    tqdm.write(f"step {step}: {share_obeyed(images, prompts):.0%} of {len(prompts)} prompts obeyed")


def new_networks(
    tokenizer_folder: Path, vae: AutoencoderKL, earlier: Path | None = None, seed: int = 2
) -> EmbeddedNetworks:
    """The trained autoencoder with a fresh U-Net and text encoder, or with those of an earlier model's folder."""
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(str(tokenizer_folder))
    nets = EmbeddedNetworks(tokenizer, new_text_encoder(len(tokenizer)), new_unet(), vae)
    if earlier is not None:
        nets.unet.load_state_dict(UNet2DConditionModel.from_pretrained(earlier, subfolder="unet").state_dict())
        nets.text_encoder.load_state_dict(CLIPTextModel.from_pretrained(earlier, subfolder="text_encoder").state_dict())
    return nets
