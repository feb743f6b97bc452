"""Changing one file's weight on SD1.5-shaped layers in the patcher of a Forge checkout: its own patches against ours.

    FORGE/venv/bin/python benchmarks/forge_patcher.py FORGE [repeat]

Forge is not started: its patcher and memory manager are imported, with the 192 Linear and 1x1 Conv2d layers of SD1.5's
transformers and a LoRA of rank 32 in fp16. Printed are the medians of processor seconds from the new weight until the
layers are ready.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = {320: ("input_blocks.1", "input_blocks.2", "output_blocks.9", "output_blocks.10", "output_blocks.11"),
          640: ("input_blocks.4", "input_blocks.5", "output_blocks.6", "output_blocks.7", "output_blocks.8"),
          1280: ("input_blocks.7", "input_blocks.8", "middle_block", "output_blocks.3", "output_blocks.4",
                 "output_blocks.5")}  # fmt: skip


def layers(ops: object) -> Iterator[tuple[str, nn.Module]]:
    """Yields (name, layer) of each layer that a LierLa file changes; `ops` has the classes."""
    for width, blocks in WIDTHS.items():
        for block in blocks:
            name = f"diffusion_model.{block}.1"
            yield f"{name}.proj_in", ops.Conv2d(width, width, 1)  # type: ignore[attr-defined]
            yield f"{name}.proj_out", ops.Conv2d(width, width, 1)  # type: ignore[attr-defined]
            name += ".transformer_blocks.0"
            for attention, source in (("attn1", width), ("attn2", 768)):
                for last, columns in (("to_q", width), ("to_k", source), ("to_v", source), ("to_out.0", width)):
                    yield f"{name}.{attention}.{last}", ops.Linear(columns, width)  # type: ignore[attr-defined]
            yield f"{name}.ff.net.0.proj", ops.Linear(width, 8 * width)  # type: ignore[attr-defined]
            yield f"{name}.ff.net.2", ops.Linear(4 * width, width)  # type: ignore[attr-defined]


def main() -> None:
    folder, repeat = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 5
    sys.argv = [sys.argv[0], "--always-cpu"]
    os.chdir(folder)
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT), str(folder), str(folder / "packages_3rdparty")]
    from patched_laws import small_clip, tree
    from real_patchers import RealHost

    from lora_ext.adapter_spec import AdapterSpec
    from lora_ext.adapters import Lora
    from lora_ext.applied_networks import AppliedNetworks
    from lora_ext.file import LoraFile
    from lora_ext.host.patched.model import PatchedModel
    from lora_ext.inject import find_layer_targets
    from lora_ext.inject.forward_hook import ForwardHook
    from lora_ext.inject.live_layer import LIVE_LAYERS

    host = RealHost(folder, lambda ops=nn: tree(dict(layers(ops))), small_clip)
    model, sd_model = PatchedModel(host.sd_model), host.sd_model
    unet = model.parts()["unet"]
    adapters, own_patches = {}, {}
    names = {id(module): name for name, module in unet.named_modules()}
    for site, target in find_layer_targets("unet", unet).items():
        out, columns, *kernel = target.shape
        up = (torch.randn(out, 32, *kernel) * 0.01).half()
        down = (torch.randn(32, columns, *kernel) * 0.01).half()
        adapters[site] = Lora({"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(16.0)})
        own_patches[f"diffusion_model.{names[id(target.module)]}.weight"] = ("lora", (up, down, 16.0, None, None))
    file = LoraFile(adapters)

    def built_in(weight: float) -> None:
        patcher = sd_model.forge_objects_original.unet.clone()
        patcher.add_patches(filename="file", patches=own_patches, strength_patch=weight)
        host.load(patcher)

    baked, live = AppliedNetworks(model, "baked"), AppliedNetworks(model, "live")

    def ours(weight: float) -> None:
        baked.apply([AdapterSpec(file, unet=weight)])
        host.load(sd_model.forge_objects_after_applying_lora.unet)

    def hooks(weight: float) -> None:
        live.apply([AdapterSpec(file, unet=weight)])
        for layer in LIVE_LAYERS.values():
            if isinstance(layer.hook, ForwardHook) and layer.hook.factors is not None:
                layer.hook.factors.groups((torch.device("cpu"), torch.float32), None)

    arms: dict[str, Callable[[float], None]] = {"built-in": built_in, "LoRA ext, baked": ours, "LoRA ext, live": hooks}
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    for arm, change in arms.items():
        for turn in range(repeat + 2):
            begun = time.process_time()
            change(0.5 + turn / 100)
            times[arm].append(time.process_time() - begun)
        baked.apply([])
        host.load(sd_model.forge_objects_original.unet)
    threads = torch.get_num_threads()
    print(f"{len(adapters)} layers of SD1.5's shapes, rank 32, {threads} threads; one change of the weight:")
    first = median(times["built-in"][2:])
    for arm, took in times.items():
        print(f"  {arm:<16}{median(took[2:]):8.3f} s of the processor  {first / median(took[2:]):7.1f}x")


if __name__ == "__main__":
    main()
