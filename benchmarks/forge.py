"""Changing the weight of a file in a running Forge: its built-in extension against ours, baked and live.

    python benchmarks/forge.py --forge FOLDER [--checkpoint FILE] [--files lierla] [--repeat 9]

Forge is started on a throw-away data folder, on the CPU, with the checkpoint that is in its models folder or another
one on the same disk (it is linked). Measured are
processor seconds from the tags of an image until its weights are ready: applying tags, loading the patched models, and
making the factors of hooks. Each arm draws the same images; the weight is another one in each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "webui"))
from forge_server import sites_of, start
from makers import make
from server import WebUI

from lora_ext.layer_keys import format_kohya_key
from lora_ext.layer_names import LayerId

RANK = 32
SMALL = {"width": 64, "height": 64, "steps": 1}
ARMS = {
    "built-in": ("built-in", "auto"),
    "LoRA ext, baked": ("LoRA ext", "baked"),
    "LoRA ext, live": ("LoRA ext", "live"),
}


def write_lora(target: Path, sites: dict[LayerId, tuple[int, ...]]) -> None:
    """A LoRA of rank 32 on these layers, of small random numbers in fp16."""
    rng, tensors = np.random.default_rng(0), {}
    for site, shape in sites.items():
        for suffix, tensor in make("lora", shape, rank=RANK, rng=rng).items():
            tensors[f"{format_kohya_key(site)}.{suffix}"] = (tensor * 0.02 if "up" in suffix else tensor).half()
    save_file(tensors, target)


def seconds_per_change(webui: WebUI, name: str, arm: str, repeat: int) -> float:
    """Processor seconds of one change of weight (median), without what an image with an unchanged weight takes."""
    owner, mode = ARMS[arm]
    webui.options(lora_ext_in_charge=owner, lora_ext_mode=mode)
    webui.make("", **SMALL)
    webui.make(f"<lora:{name}:0.5>", **SMALL)

    def measured(weight: float) -> float:
        webui.call("/probe/times")
        webui.make(f"<lora:{name}:{weight}>", **SMALL)
        return float(sum(webui.call("/probe/times").values()))

    changing = [measured(round(0.51 + number / 100, 2)) for number in range(repeat)]
    same = [measured(round(0.5 + repeat / 100, 2)) for _ in range(repeat)]
    return median(changing) - median(same)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forge", type=Path, required=True, help="Forge's folder")
    parser.add_argument("--checkpoint", type=Path, help="another checkpoint that it accepts")
    parser.add_argument("--files", nargs="+", choices=("lierla", "c3lier"), default=["lierla", "c3lier"])
    parser.add_argument("--repeat", type=int, default=9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as data:
        webui = start(given.forge, Path(data), files={}, checkpoint=given.checkpoint)
        try:
            checkpoint = next((Path(data) / "models" / "Stable-diffusion").glob("*.safetensors"))
            sites = sites_of(checkpoint)
            linear = {site: shape for site, shape in sites.items() if len(shape) == 2}
            for name in given.files:
                layers = linear if name == "lierla" else sites
                write_lora(Path(data) / "models" / "Lora" / f"{name}.safetensors", layers)
                found = {arm: seconds_per_change(webui, name, arm, given.repeat) for arm in ARMS}
                print(f"{name}, rank {RANK}, {len(layers)} layers; one change of its weight:")
                for arm, took in found.items():
                    print(f"  {arm:<16}{took:8.3f} s of the processor  {found['built-in'] / took:7.1f}x")
        finally:
            webui.stop()


if __name__ == "__main__":
    main()
