"""iLECO's and ADDifT's steps beside sd-webui-traintrain's own loops, as ratios within one run, on one U-Net.

    python benchmarks/train_modes.py --traintrain FOLDER [--width 160] [--latent 32] [--steps 6] [--rounds 3]
                                     [--modes ileco,addift]

FOLDER is a clone of hako-mikan/sd-webui-traintrain, which imports LyCORIS (pip install lycoris-lora). Its training
functions, network and data loader run as they are; stand-ins are for its form, its loading of checkpoints, its table of
optimizers (AdamW and a constant rate, as ours) and CUDA's calls. Ours is a whole run of `train` (rank 16, alpha 16, the
same 192 layers, batch 1). The U-Net is SD1's with random weights, --width channels in its first blocks (SD1.5: 320).
Both take turns; seconds are the processor's, of one step: the median without the first two.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from PIL import Image
from torch import nn

from lora_ext.generate import Settings, load_settings_model
from lora_ext.host.standalone.model import StandaloneModel
from lora_ext.host.standalone.trainable_model import StandaloneTrainableModel
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.training.standalone_run import train

RANK, WARM = 16, 2
BLOCKS = ["IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00", *(f"OUT{n:02}" for n in range(3, 12))]


class StepClock:
    """Notes the processor's time at the end of each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def tick(self, *_: object) -> None:
        """A step has ended."""
        self.times.append(time.process_time())

    def step(self) -> float:
        """Seconds of a step."""
        spans = [b - a for a, b in zip(self.times, self.times[1:], strict=False)]
        return statistics.median(spans[WARM - 1 :])


def sd1_model(width: int) -> StandaloneModel:
    """The embedded model with a U-Net of SD1's shape, random weights, and a small autoencoder for pictures' latents."""
    torch.manual_seed(0)
    small = load_settings_model(Settings(device="cpu"))
    text = small.text_encoders[0].module.config.hidden_size
    channels = (width, 2 * width, 4 * width, 4 * width)
    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=text, attention_head_dim=8, block_out_channels=channels
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
    )  # fmt: skip
    for part in (unet, vae):
        part.requires_grad_(False).eval()
    return StandaloneModel(
        "SD1", unet, vae, small.text_encoders, small.tokenizer, small.noise_schedule, "epsilon", 0.18215
    )


def ours(model: StandaloneModel, mode: str, steps: int, latent: int, pictures: list[Path], out: Path) -> float:
    """Seconds of a step of a run."""
    recipe = recipe_from_settings({
        "mode": mode, "max_train_steps": steps, "resolution": str(8 * latent), "network_dim": RANK,
        "network_alpha": RANK, "network_train_unet_only": True, "train_batch_size": 1, "learning_rate": 1e-4,
        "max_grad_norm": 0, "optimizer_type": "AdamW", "output_dir": str(out), "output_name": mode,
        "save_last_n_epochs": None, "original_prompt": "a red circle", "target_prompt": "a blue circle",
        **({} if mode == "ileco" else {"original_image": str(pictures[0]), "target_image": str(pictures[1]),
           "cache_latents": True}),
    })  # fmt: skip
    clock = StepClock()
    train(recipe, model=StandaloneTrainableModel(model), on_progress=clock.tick)
    return clock.step()


def traintrain(folder: Path) -> Any:
    """Its module `trainer.train`, on the CPU."""

    def stand_in(name: str, **attributes: Any) -> types.ModuleType:
        module = sys.modules[name] = types.ModuleType(name)
        module.__dict__.update(attributes)
        return module

    stand_in("modules", checkpoint_pickle=None)
    stand_in("traintrain", __path__=[str(folder)])
    form = stand_in(
        "traintrain.trainer.trainer", jsonspath="", logspath="", presetspath="",
        all_configs=[["network_type", "DD", ["lierla", "c3lier", "loha"]]],
        get_optimizer=lambda name, groups, lr, *_: torch.optim.AdamW(groups, lr=lr),
        load_lr_scheduler=lambda t, optimizer: get_scheduler("constant", optimizer),
    )  # fmt: skip
    torch.cuda.ipc_collect = lambda: None
    import traintrain.trainer as package  # type: ignore[import-not-found]

    package.trainer = form
    from traintrain.trainer import train as loops

    loops.CUDA = torch.device("cpu")
    loops.savecount = lambda *_, **__: "done"
    return loops


def its_settings(model: StandaloneModel, mode: str, steps: int, latent: int) -> types.SimpleNamespace:
    """What its form and its loader would hand to a loop."""
    width = model.unet.config.cross_attention_dim
    return types.SimpleNamespace(
        mode=mode, vae=nn.Identity(), text_model=None, unet=model.unet, a=Accelerator(cpu=True), images=[0, 1],
        noise_scheduler=DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        train_model_precision=torch.float32, train_lora_precision=torch.float32, network_blocks=BLOCKS,
        network_type="lierla", network_rank=RANK, network_alpha=RANK, network_conv_rank=0, network_conv_alpha=0,
        network_element="Full", network_resume="", train_learning_rate=1e-4, train_textencoder_learning_rate=None,
        train_optimizer="adamw", train_optimizer_settings={}, train_batch_size=1, train_iterations=steps,
        train_min_timesteps=0, train_max_timesteps=1000, train_fixed_timsteps_in_batch=False,
        train_loss_function="MSE", train_snr_gamma=0, image_size=[8 * latent, 8 * latent], image_num_multiply=1,
        diff_alt_ratio=1, diff_use_diff_mask=False, diff_revert_original_target=False, save_list=[],
        orig_cond=torch.randn(1, 77, width), targ_cond=torch.randn(1, 77, width), orig_vector=None, targ_vector=None,
        logging_save_csv=False, is_zimage=False, is_dit=False, is_sd2=False, is_te2=False, model_v_pred=False,
        db=lambda *_: None,
    )  # fmt: skip


def theirs(loops: Any, model: StandaloneModel, mode: str, steps: int, latent: int) -> float:
    """Seconds of a step of its loop. Its network stays in the layers' `forward`, which is taken off afterwards."""
    clock, finisher = StepClock(), loops.finisher

    def ended(*args: Any, **kwargs: Any) -> Any:
        clock.tick()
        return finisher(*args, **kwargs)

    loops.finisher = ended
    latents = torch.randn(2, 1, 4, latent, latent)
    loops.image2latent = lambda t, image: latents[image]
    loop = loops.train_leco if mode == "ileco" else loops.train_diff2
    settings = its_settings(model, "iLECO" if mode == "ileco" else "ADDifT", steps, latent)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            loop(settings)
    finally:
        loops.finisher = finisher
        for module in model.unet.modules():
            module.__dict__.pop("forward", None)
    return clock.step()


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traintrain", type=Path, required=True)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--latent", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modes", default="ileco,addift")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, loops = sd1_model(args.width), traintrain(args.traintrain)
    numbers = sum(p.numel() for p in model.unet.parameters())
    print(f"U-Net of {numbers / 1e6:.0f} million numbers, latent {args.latent}, batch 1, rank {RANK}, 1 thread\n")
    print("| mode | traintrain | ours | ratio (each round) |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as place:
        pictures = [Path(place) / f"{number}.png" for number in range(2)]
        for picture in pictures:
            noise = np.random.default_rng(1).integers(0, 255, (8 * args.latent, 8 * args.latent, 3), np.uint8)
            Image.fromarray(noise).save(picture)
        for mode in args.modes.split(","):
            runs: list[Callable[[], float]] = [
                lambda mode=mode: theirs(loops, model, mode, args.steps, args.latent),  # type: ignore[misc]
                lambda mode=mode: ours(model, mode, args.steps, args.latent, pictures, Path(place) / mode),  # type: ignore[misc]
            ]
            pairs = [[run() for run in runs] for _ in range(args.rounds)]
            ratios = [a / b for a, b in pairs]
            its, own = (statistics.median(side) for side in zip(*pairs, strict=True))
            each = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} … {max(ratios):.2f})"
            print(f"| {mode} | {its:.2f} s | {own:.2f} s | {each} |", flush=True)


if __name__ == "__main__":
    main()
