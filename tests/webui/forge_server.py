"""A Forge for tests: started on a throw-away data folder, with files of random numbers that fit its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from makers import make
from safetensors import safe_open
from safetensors.torch import save_file
from server import WebUI, copy_extension, dataset, launch
from torch import Tensor

from lora_ext.layer_keys import format_kohya_key
from lora_ext.layer_names import TE, UNET, LayerId, find_layer_id

FLAGS = (
    "--skip-prepare-environment --skip-torch-cuda-test --skip-version-check --skip-python-version-check "
    "--no-download-sd-model --always-cpu --cpu --attention-pytorch --api"
).split()
"""Options of Forge and its kin for a test on the CPU; `known_flags` are those that a web UI has."""
FP8_FLAGS = ("--unet-in-fp8-e4m3fn", "--fp8_e4m3fn-unet")
"""Options that store the U-Net in fp8: of Forge, reForge and Classic, and of Neo."""
KINDS = {"noise": "lora", "conv": "lora", "loha": "loha", "lokr": "lokr-thin", "dora": "lora-dora-in"}
"""File → kind of adapter; `conv` has 3x3 convolutions too. DoRA with one magnitude for each input, as older LyCORIS
writes it: with one for each output Forge divides by the norm of W, where the paper has that of W + ΔW."""


CONVOLUTIONS = ("conv", "c3lier")
SUITE_FILES = {"lierla": "lora", "c3lier": "lora"}
"""What the tests of AUTOMATIC1111's web UI call their files."""


def defined_flags(folder: Path, flags: Sequence[str]) -> list[str]:
    """Those of `flags` that the web UI in this folder defines."""
    sources = ("modules/cmd_args.py", "backend/args.py", "ldm_patched/modules/args_parser.py")
    text = "".join((folder / name).read_text("utf-8") for name in sources if (folder / name).is_file())
    return [flag for flag in flags if f'"{flag}"' in text or f"'{flag}'" in text]


def known_flags(folder: Path) -> list[str]:
    """The options in `FLAGS` that the web UI in this folder defines, and one for its page."""
    # gradio 4 refuses the page's scripts where the data is elsewhere
    return [*defined_flags(folder, FLAGS), "--gradio-allowed-path", str(folder)]


def sites_of(checkpoint: Path) -> dict[LayerId, tuple[int, ...]]:
    """Every layer of the checkpoint's U-Net and text encoder that a LoRA can change, with its weight's shape."""
    roots, found = {"model.diffusion_model.": UNET, "cond_stage_model.transformer.": TE}, {}
    with safe_open(str(checkpoint), "pt") as file:
        for key in file.keys():  # noqa: SIM118
            root = next((root for root in roots if key.startswith(root)), None)
            if root and key.endswith(".weight") and any(word in key for word in ("attn", "mlp", "layers.2.")):
                site = find_layer_id(roots[root], key.removeprefix(root).removesuffix(".weight"))
                shape = tuple(file.get_slice(key).get_shape())
                if site is not None and len(shape) in (2, 4):
                    found[site] = shape
    return found


def column_norms(checkpoint: Path, sites: dict[LayerId, tuple[int, ...]]) -> dict[LayerId, Tensor]:
    """(1, in) of each layer: the norms of its weight's columns."""
    roots, found = {"model.diffusion_model.": UNET, "cond_stage_model.transformer.": TE}, {}
    with safe_open(str(checkpoint), "pt") as file:
        for key in file.keys():  # noqa: SIM118
            root = next((root for root in roots if key.startswith(root)), None)
            site = find_layer_id(roots[root], key.removeprefix(root).removesuffix(".weight")) if root else None
            if site in sites and key.endswith(".weight"):
                found[site] = file.get_tensor(key).float().norm(dim=0, keepdim=True)
    return found


def write_file(
    target: Path, sites: dict[LayerId, tuple[int, ...]], kind: str, scale: float, norms: dict[LayerId, Tensor]
) -> None:
    """A file of this kind of adapter on these layers, of random numbers, its alpha times `scale`.

    norms: the norms of the columns of each layer's weight, of which DoRA's magnitudes are 0.9 to 1.1 times.
    """
    rng, tensors = np.random.default_rng(0), {}
    for site, shape in sites.items():
        for suffix, tensor in make(kind, shape, rank=4, rng=rng).items():
            if suffix == "dora_scale":
                tensor = norms[site] * torch.from_numpy(rng.uniform(0.9, 1.1, tuple(norms[site].shape))).float()
            tensors[f"{format_kohya_key(site)}.{suffix}"] = tensor * scale if suffix == "alpha" else tensor
    assert len(tensors) > 100
    save_file(tensors, target)


def start(
    folder: Path,
    data: Path,
    *more: str,
    files: Mapping[str, str] = KINDS,
    strength: float = 1.0,
    checkpoint: Path | None = None,
) -> WebUI:
    """Forge with this extension, the probe, and these files.

    Args:
        folder: Forge's folder.
        data: an empty folder for its data.
        more: further options of Forge.
        files: name → kind of adapter; those named in `CONVOLUTIONS` have 3x3 convolutions too.
        strength: what their alphas are multiplied by.
        checkpoint: the checkpoint; by default the one in Forge's models folder.
    """
    checkpoint = checkpoint or next((folder / "models" / "Stable-diffusion").glob("*.safetensors"))
    copy_extension(data)
    for kind in ("Stable-diffusion", "Lora"):
        (data / "models" / kind).mkdir(parents=True)
    dataset(data)
    (data / "config.json").write_text('{"live_previews_enable": false}')  # needs a file that web UIs would fetch
    os.link(checkpoint, data / "models" / "Stable-diffusion" / checkpoint.name)
    sites = sites_of(checkpoint)
    linear = {site: shape for site, shape in sites.items() if len(shape) == 2}
    for name, kind in files.items():
        scale = strength * (0.05 if kind == "lora" else 0.3)
        target = data / "models" / "Lora" / f"{name}.safetensors"
        norms = column_norms(checkpoint, linear) if name == "dora" else {}
        write_file(target, sites if name in CONVOLUTIONS else linear, kind, scale, norms)
    return launch(folder, data, *more, base=known_flags(folder))
