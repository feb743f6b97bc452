"""A small model of SDXL's build, whose second text encoder's attention reads its parameters itself (OpenCLIP)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from server import CAT, WebUI, apart, dataset, launch, prepare, python_of
from test_region_pictures import HIRES, NEGATIVE, check_halves_are_the_whole
from test_training import file_of, train

from lora_ext.layer_keys import format_kohya_key
from lora_ext.layer_names import TE, TE2, UNET, LayerId, find_layer_id

ROOTS = {
    "model.diffusion_model.": UNET,
    "conditioner.embedders.0.transformer.": TE,
    "conditioner.embedders.1.model.": TE2,
}


def _sites(checkpoint: Path) -> dict[LayerId, tuple[int, ...]]:
    """Every Linear and Conv2d of a checkpoint by its site, with its weight's shape."""
    found: dict[LayerId, tuple[int, ...]] = {}
    with safe_open(checkpoint, "pt") as file:
        for key in file.keys():  # noqa: SIM118
            shape = tuple(file.get_slice(key).get_shape())
            for root, part in ROOTS.items():
                name = key.removeprefix(root)
                if name == key or len(shape) < 2:
                    continue
                if name.endswith(".in_proj_weight"):
                    stem, shape = name.removesuffix(".in_proj_weight"), (shape[0] // 3, shape[1])
                    found |= {find_layer_id(part, f"{stem}.{leaf}_proj"): shape for leaf in "qkv"}  # type: ignore[misc]
                elif find_layer_id(part, name.removesuffix(".weight")) is not None:
                    found[find_layer_id(part, name.removesuffix(".weight"))] = shape  # type: ignore[index]
    return found


def _lora(path: Path, sites: dict[LayerId, tuple[int, ...]], scale: float) -> None:
    """A kohya file of rank 4 for these layers."""
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for site, shape in sites.items():
        key = format_kohya_key(site, sdxl=True)
        up = torch.randn(shape[0], 4, *[1] * (len(shape) - 2), generator=generator)
        tensors[f"{key}.lora_up.weight"] = up * scale
        tensors[f"{key}.lora_down.weight"] = torch.randn(4, *shape[1:], generator=generator) * scale
        tensors[f"{key}.alpha"] = torch.tensor(2.0)
    save_file(tensors, path)


@pytest.fixture(scope="module")
def sdxl(folder: Path, tmp_path_factory: Any) -> Iterator[WebUI]:
    """A web UI with the small SDXL model, and files for all of it and for each text encoder."""
    data = tmp_path_factory.mktemp("sdxl")
    prepare(data)
    dataset(data)
    checkpoints, loras = data / "models" / "Stable-diffusion", data / "models" / "Lora"
    for name in ("tiny-sd15.safetensors", "tiny-sd15.yaml"):
        (checkpoints / name).unlink()
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = Path(__file__).parent / "tiny_sdxl.py"
    subprocess.run(
        [python_of(folder), str(script), str(checkpoints), "tiny-sdxl"], cwd=folder, env=env, check=True, timeout=1200
    )
    sites = _sites(checkpoints / "tiny-sdxl.safetensors")
    sites = {site: shape for site, shape in sites.items() if site.layer not in ("text_projection",)}
    _lora(loras / "xl.safetensors", sites, 0.08)
    for part in (TE, TE2):
        _lora(loras / f"{part}only.safetensors", {s: shape for s, shape in sites.items() if s.part == part}, 0.2)
    (data / "config.json").write_text('{"live_previews_enable": false}')  # needs a file that the web UI would fetch
    webui = launch(folder, data)
    yield webui
    webui.stop()


@pytest.mark.parametrize(
    "prompt",
    ["", "<lora:xl:0.8>", "<lora:xl:0.8:0>", "<lora:teonly:1>", "<lora:te2only:1>", "<lora:xl:0.5> <lora:te2only:-1>"],
)
def test_as_with_the_builtin(sdxl: WebUI, prompt: str) -> None:
    ours, none = sdxl.make(prompt), sdxl.make("")
    sdxl.options(lora_ext_in_charge="built-in")
    theirs = sdxl.make(prompt)
    sdxl.options(lora_ext_in_charge="LoRA ext")
    assert apart(ours, theirs) <= 2
    assert bool(prompt) == (apart(ours, none) > 2)
    assert ours.comments == ""


@pytest.mark.parametrize("mode", ["live", "baked"])
def test_comes_off_bit_for_bit(sdxl: WebUI, mode: str) -> None:
    none, before = sdxl.make(""), sdxl.weights()
    auto = sdxl.make("<lora:xl:0.8>")
    sdxl.options(lora_ext_mode=mode)
    assert apart(sdxl.make("<lora:xl:0.8>"), auto) <= 2
    assert apart(sdxl.make(""), none) == 0
    assert sdxl.weights() == before
    sdxl.options(lora_ext_mode="auto")


def test_sdxl_block_weights(sdxl: WebUI) -> None:
    ones = ",".join(["1"] * 20)
    assert apart(sdxl.make(f"<lora:xl:0.8:lbw={ones}>"), sdxl.make("<lora:xl:0.8>")) == 0
    base = ",".join(["1"] + ["0"] * 11)
    outside = ":lbwe=:time_embed label_emb out_2:0"
    assert apart(sdxl.make(f"<lora:xl:0.8:lbw={base}{outside}>"), sdxl.make("<lora:xl:0.8:0>")) <= 1
    assert "not in the given block weights" in sdxl.make(f"<lora:xl:0.7:lbw={base}>").comments


def test_it_is_trained_with_cached_captions(sdxl: WebUI) -> None:
    """With its size conditions, in an attention and a precision of the VAE of the run's own; all put back."""
    none, before = sdxl.make(""), sdxl.weights()  # a LoRA stays baked until the next picture
    more = {"cache_text_encoder_outputs": True, "sdpa": True, "no_half_vae": True, "gradient_checkpointing": True}
    job = train(sdxl, "learned", network_train_unet_only=True, **more)
    assert job["result"]["steps"] == 4
    assert apart(sdxl.make(""), none) == 0 and sdxl.weights() == before
    with safe_open(file_of(sdxl, "learned"), "pt") as file:
        assert all(key.startswith("lora_unet_") for key in file.keys())  # noqa: SIM118
        assert any("input_blocks_4_1_transformer_blocks" in key for key in file.keys())  # noqa: SIM118
        assert file.metadata()["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    learned = sdxl.make("<lora:learned:1>")
    assert apart(learned, none) > 2 and "layer" not in learned.comments


def test_regions_of_sdxl(sdxl: WebUI) -> None:
    """Two conditionings of different text widths, pooled vector and sizes, each for its region."""
    none, before = sdxl.make("", **NEGATIVE), sdxl.weights()
    tag, left, right = (f"<lora:xl:0.8{end}>" for end in ("", ":at=left", ":at=right"))
    for more in (NEGATIVE, {**NEGATIVE, **HIRES}, {**NEGATIVE, "batch_size": 2}):
        check_halves_are_the_whole(sdxl, tag, left + right, more)
    half = sdxl.make(left, **NEGATIVE)
    assert apart(half, sdxl.make(right, **NEGATIVE)) > 2 and apart(half, none) > 2
    assert apart(sdxl.make(f"{CAT} {tag} ADDCOL {CAT}", **NEGATIVE), half) <= 1
    assert apart(sdxl.make(f"{CAT} ADDCOL a dog in the snow", **NEGATIVE), none) > 2
    assert apart(sdxl.make("", **NEGATIVE), none) == 0 and sdxl.weights() == before
