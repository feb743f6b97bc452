"""Speed of a sheet: 84 cells (6 files × 7 weights × 2 seeds) in batches whose pictures have LoRA weights of their own,
against the same cells one by one with switching; as ratios within one run.

    python benchmarks/compare.py [--model embedded|sd15] [--batch 8] [--steps 10] [--threads 2] [--cells 84]
    python benchmarks/compare.py --model sd15 --device cuda --dtype fp16 --side 512 --steps 20

Seconds are of the clock on a GPU, of the processor (`time.process_time`) without one, so that other programs do not
count. sd15: SD1.5's U-Net, text encoder and autoencoder with random weights. One by one goes in the sheet's order, as
a plot script does: each picture with its LoRA baked in, or (as the built-in Lora of the web UI does it) with every
touched layer put back from a copy and the file's whole ΔW added to it in place. `compare_webui.py` has the real thing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from figures import print_table
from PIL import Image
from torch import Tensor

from lora_ext.adapters import Lora
from lora_ext.compare.generate_cells import DenoisingCallback
from lora_ext.compare.image_spec import ImageSpec
from lora_ext.compare.sheet_plan import batch_image_specs, plan_sheet
from lora_ext.file.lora_file import LoraFile
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.file.saving import save_lora_file
from lora_ext.generate import Settings, load_settings_model
from lora_ext.generate.image_renderer import StandaloneImageRenderer
from lora_ext.host.standalone.loader import StandaloneModel
from lora_ext.host.standalone.prompt_encoding import TextEncoder
from lora_ext.inject import find_layer_targets
from lora_ext.lora_tags import LoraTag

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def sd15(small: StandaloneModel, device: str, dtype: torch.dtype) -> StandaloneModel:
    """A model of SD1.5's sizes with random weights; words and noise levels are the embedded model's."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    blocks = (128, 256, 512, 512)
    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=blocks,
        layers_per_block=2,
        latent_channels=4,
    )
    config = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    nets = [net.to(device, dtype).eval().requires_grad_(False) for net in (unet, vae, CLIPTextModel(config))]
    return replace(small, unet=nets[0], vae=nets[1], text_encoders=(TextEncoder(nets[2]),), path=None)


def files(model: StandaloneModel, folder: Path, count: int, rank: int) -> None:
    """`run-000001` … : LierLa files of a rank for this model, small enough to leave a picture."""
    for number in range(1, count + 1):
        torch.manual_seed(number)
        adapters = {}
        for part, root in model.parts().items():
            for layer_id, target in find_layer_targets(part, root).items():
                if len(target.shape) == 2 and (part != "unet" or "attn" in layer_id.layer or "ff" in layer_id.layer):
                    up, down = torch.randn(target.shape[0], rank), torch.randn(rank, target.shape[1])
                    tensors = {"lora_up.weight": (up * 0.01).half(), "lora_down.weight": (down * 0.01).half()}
                    adapters[layer_id] = Lora({**tensors, "alpha": torch.tensor(float(rank))})
        save_lora_file(LoraFile(adapters), folder / f"run-{number:06}.safetensors")


class PlotScript:
    """Draws one by one; whenever the tag changes, touched weights are put back from copies and the change is added."""

    def __init__(self, own: StandaloneImageRenderer) -> None:
        self.own, self.model = own, own.model
        rows = (find_layer_targets(part, root).items() for part, root in own.model.parts().items())
        self.targets = {layer_id: target for found in rows for layer_id, target in found}
        self.kept: dict[Tensor, Tensor] = {}
        self.tags: list[LoraTag] = []

    @torch.no_grad()
    def generate(self, image_specs: Sequence[ImageSpec], on_step: DenoisingCallback) -> list[Image.Image]:
        (image_spec,) = image_specs
        if image_spec.tags() != self.tags:
            self.put_back()
            self.tags = image_spec.tags()
            for tag in self.tags:
                for layer_id, adapter in self.own.library.load(tag.name).adapters.items():
                    target = self.targets[layer_id]
                    weight = target.module.get_parameter(target.slot)
                    self.kept.setdefault(weight, weight.detach().clone())
                    weight.add_((tag.unet if layer_id.part == "unet" else tag.te) * adapter.delta(weight))
        return self.own.generate([image_spec.without_loras()], on_step)

    @torch.no_grad()
    def put_back(self) -> None:
        for weight, copy in self.kept.items():
            weight.copy_(copy)


@contextmanager
def opened_renderer(model: StandaloneModel, library: LoraLibrary, mode: str) -> Iterator[StandaloneImageRenderer]:
    """A renderer for one way of drawing."""
    with StandaloneImageRenderer(Settings(mode="auto" if mode == "plot" else mode), model, library) as renderer:
        yield renderer


def timed(
    renderer: StandaloneImageRenderer | PlotScript, groups: Sequence[Sequence[ImageSpec]]
) -> tuple[float, dict[ImageSpec, Image.Image]]:
    """Seconds for all groups, and the pictures."""
    clock = time.perf_counter if renderer.model.device.type == "cuda" else time.process_time
    start = clock()
    found: dict[ImageSpec, Image.Image] = {}
    for group in groups:
        found.update(zip(group, renderer.generate(group, lambda *_: None), strict=True))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start, found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["embedded", "sd15"], default="embedded")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--cells", type=int, default=84, help="the first so many cells of the sheet only")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = load_settings_model(Settings(device=given.device, precision=given.dtype))
    if given.model == "sd15":
        model = sd15(model, given.device, DTYPES[given.dtype])
    with tempfile.TemporaryDirectory() as folder:
        files(model, Path(folder), 6, given.rank)
        library = LoraLibrary([folder], max_loaded=8)
        base = ImageSpec(prompt="a red circle on a blue background", steps=given.steps, cfg=3, sampler="Euler")
        base = replace(base, width=given.side, height=given.side)
        plan = plan_sheet(base, "epoch:all", "weight:0.2-1.4(+0.2)", "seed:1,2", library)
        image_specs = [cell.image_spec for cell in plan.cells][: given.cells]
        arms = {
            "one by one, sheet's order, added": ("plot", [[spec] for spec in image_specs]),
            "one by one, sheet's order, baked": ("baked", [[spec] for spec in image_specs]),
            "one by one, least switching": ("auto", batch_image_specs(image_specs, 1)),
            f"batches of {given.batch}": ("auto", batch_image_specs(image_specs, given.batch)),
        }
        results = {}
        for name, (mode, groups) in arms.items():
            with opened_renderer(model, library, mode) as own:
                drawing = PlotScript(own) if mode == "plot" else own
                timed(drawing, groups[:1])
                results[name] = timed(drawing, groups)
                if isinstance(drawing, PlotScript):
                    drawing.put_back()
    first = next(iter(results))
    slowest, reference = results[first]
    rows = []
    for name, (seconds, pictures) in results.items():
        apart = max(int(np.abs(np.asarray(pictures[s], int) - np.asarray(reference[s], int)).max()) for s in reference)
        speed = len(image_specs) / seconds
        rows.append((name, f"{slowest / seconds:.2f}x", f"{speed:.2f}", f"{apart} of 255"))
    title = (f"{given.model}, {given.device}, {given.dtype}, {given.side}x{given.side}, {given.steps} steps, rank "
             f"{given.rank}, {len(image_specs)} pictures, {given.threads} threads")  # fmt: skip
    print_table(("what", "speed, of the first row's", "pictures/s", "apart"), rows, title, peer=first)


if __name__ == "__main__":
    main()
