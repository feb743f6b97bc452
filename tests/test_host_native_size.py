"""The side in pixels that a model was made for: one answer in generate, sheets, training and both hosts."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_host_checkpoint import WordTokenizer, read, small_unet, state_of
from tiny_trainable_model import pictures, recipe, tiny_model

import lora_ext
from lora_ext.generate import Settings
from lora_ext.generate.pipeline import with_size_and_seed
from lora_ext.host.a1111.model_kind import sd_model_family, sd_model_native_size, sd_model_prediction
from lora_ext.host.native_size import latent_size_of, native_size_for
from lora_ext.host.standalone.trainable_model import StandaloneTrainableModel
from lora_ext.host.standalone.unloaded_checkpoint import cross_attention_dim_of_file, native_size_of_file
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.run import setup

V_YAML = """model:
  params:
    parameterization: v
    image_size: {size}
    cond_stage_config: {{target: ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder}}
"""


@pytest.mark.parametrize(
    ("family", "prediction", "latent", "side"),
    [
        ("SD1", "epsilon", None, 512),
        ("SD1", "v", None, 512),
        ("SD2", "epsilon", None, 512),
        ("SD2", "v", None, 768),
        ("SDXL", "epsilon", None, 1024),
        ("SDXL", "v", None, 1024),
        ("SD2", "v", 64, 512),
        ("SD2", "epsilon", 96, 768),
        ("SDXL", "epsilon", 64, 512),
        ("SD1", "epsilon", 8, 64),
    ],
)
def test_the_native_side(family: str, prediction: str, latent: int | None, side: int) -> None:
    assert native_size_for(family, prediction, latent) == side


@pytest.mark.parametrize(
    ("image_size", "latent"), [(64, None), (32, None), (256, None), (None, None), ("x", None), (96, 96), (8, 8)]
)
def test_what_an_ldm_configuration_tells(image_size: object, latent: int | None) -> None:
    """Stability's own v2-inference-v.yaml, for 768 pixels, says 64."""
    assert latent_size_of(image_size) == latent


@pytest.mark.parametrize(("size", "side"), [(64, 768), (96, 768), (8, 64)])
def test_an_sd2_v_checkpoint_gets_its_side_everywhere(tmp_path: Path, size: int, side: int) -> None:
    """It got 512 in `generate` and in sheets, and 768 in training."""
    path = tmp_path / "v.safetensors"
    save_file(state_of("SD2"), path)
    path.with_suffix(".yaml").write_text(V_YAML.format(size=size), encoding="utf-8")
    model = read(path)
    assert (model.family, model.prediction) == ("SD2", "v")
    settings = with_size_and_seed(Settings(prompt="a cat"), model, None)
    assert (settings.width, settings.height) == (side, side)
    assert StandaloneTrainableModel(model).native_size == model.native_size == native_size_of_file(path) == side
    given = with_size_and_seed(replace(Settings(prompt="a cat"), width=256), model, None)
    assert (given.width, given.height) == (256, side), "what is asked for stays"


def test_an_sd2_epsilon_checkpoint_has_512(tmp_path: Path) -> None:
    path = tmp_path / "base.safetensors"
    save_file(state_of("SD2"), path)
    assert read(path, prediction="epsilon").native_size == 512
    assert native_size_of_file(path) == 0, "only running the U-Net tells what it predicts"


@pytest.mark.parametrize("family", ["SD1", "SD2", "SDXL"])
def test_the_width_by_which_lora_files_fit(family: str, tmp_path: Path) -> None:
    """SD2 too, which does not say what it predicts; nothing of what is no checkpoint."""
    path = tmp_path / "model.safetensors"
    assert cross_attention_dim_of_file(path) == cross_attention_dim_of_file(tmp_path) == 0
    state = state_of(family)
    save_file(state, path)
    key = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    assert cross_attention_dim_of_file(path) == state[key].shape[1]
    small_unet(family).save_config(tmp_path / "unet")
    assert cross_attention_dim_of_file(tmp_path) == small_unet(family).config.cross_attention_dim
    path.write_bytes(b"none")
    assert cross_attention_dim_of_file(path) == 0


@pytest.mark.parametrize("sample_size", [8, (8, 12)])
def test_a_diffusers_folders_sample_size_counts(sample_size: Any, tmp_path: Path) -> None:
    host = tiny_model()
    host.model.unet.register_to_config(sample_size=sample_size)
    assert host.native_size == (64 if sample_size == 8 else 96)
    assert native_size_of_file(tmp_path) == 0
    host.model.unet.save_config(tmp_path / "unet")
    assert native_size_of_file(tmp_path) == host.native_size
    assert small_unet("SD1").config.sample_size == 8 and WordTokenizer.size == 64


@pytest.mark.parametrize(
    ("attributes", "side"),
    [
        ({"is_sd2": True, "parameterization": "v", "image_size": 64}, 768),
        ({"is_sd2": True, "parameterization": "eps", "image_size": 64}, 512),
        ({"is_sd1": True, "image_size": 64, "parameterization": "eps"}, 512),
        ({"is_sd1": True, "image_size": 8, "parameterization": "eps"}, 64),
        ({"is_sdxl": True}, 1024),
        ({"is_sd3": True}, 1024),
        ({}, 512),
    ],
)
def test_the_web_uis_model(attributes: dict[str, Any], side: int) -> None:
    """What `shared.sd_model` of 1.10.1 has for each kind; nothing while none is loaded."""
    assert sd_model_native_size(SimpleNamespace(**attributes)) == side
    assert sd_model_native_size(None) == 512 and (sd_model_family(None), sd_model_prediction(None)) == (
        "SD1",
        "epsilon",
    )


def test_no_other_file_decides_on_a_side() -> None:
    """768 and 1024 as sides of pictures stand in one file of the hosts and of `generate`."""
    root = Path(lora_ext.__file__).parent
    found = {
        path.relative_to(root).as_posix()
        for room in ("host", "generate", "compare", "training")
        for path in (root / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in (768, 1024)
    }
    assert found <= {"host/native_size.py", "host/a1111/model_kind.py"}


def test_the_default_resolution_is_reported_where_the_model_has_another(tmp_path: Path, monkeypatch: Any) -> None:
    host, said = tiny_model(), list[str]()
    monkeypatch.setattr(StandaloneTrainableModel, "native_size", 768)
    made = recipe(pictures(tmp_path / "data"), tmp_path / "out")
    setup.check_model(replace(made, resolution="512"), host, said.append)
    assert said == ["resolution is 512, but this model was trained at 768; set resolution 768"]
    monkeypatch.setattr(StandaloneTrainableModel, "native_size", 64)
    setup.check_model(replace(made, resolution="512"), host, said.append)
    assert said.pop() == "resolution is 512, but this model was trained at 64; set resolution 64"
    monkeypatch.setattr(StandaloneTrainableModel, "native_size", 768)
    for other in (made, replace(made, resolution="640"), replace(made, resolution="512", dataset_config="x.toml")):
        setup.check_model(other, host, said.append)
    assert len(said) == 1 and Recipe().resolution == "512" and torch.is_tensor(host.alphas_cumprod)
