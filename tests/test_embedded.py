"""The embedded model's files, its vocabulary, and the checker of its pictures."""

from __future__ import annotations

import importlib
import json
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import lora_ext
from lora_ext.embedded import CHECKPOINT, CONFIG, LORA_DIR, TEXT_TARGET, TOKENIZER
from lora_ext.embedded.export import save_ldm_config
from lora_ext.embedded.shapes import (
    ALL_SHAPES,
    SCENE_PROMPTS,
    SHAPE_COLOURS,
    SHAPES,
    Scene,
    caption,
    draw_scene,
    obeys,
    parse_scene_caption,
    random_scene,
    share_obeyed,
)
from lora_ext.generate import Settings, generate


def header(path: Path) -> dict[str, dict]:
    """A safetensors file's header: tensor name to dtype, shape and offsets."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length))


def tensors(path: Path) -> dict[str, list[int]]:
    """A safetensors file's tensor shapes by name."""
    return {name: entry["shape"] for name, entry in header(path).items() if name != "__metadata__"}


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_checker_accepts_what_is_drawn(shape: str) -> None:
    rng = np.random.default_rng(7)
    for _ in range(6):
        scene = random_scene(rng, shape=shape)
        assert obeys(draw_scene(scene), caption(scene, rng)), scene


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_checker_rejects_other_shapes_and_colours(shape: str) -> None:
    rng = np.random.default_rng(8)
    for _ in range(3):
        scene = random_scene(rng, shape=shape)
        picture = draw_scene(scene)
        wrong = [replace(scene, shape=other) for other in ALL_SHAPES if other != shape]
        free = [name for name in SHAPE_COLOURS if name not in (scene.colour, scene.ground)]
        wrong += [replace(scene, colour=str(rng.choice(free))), replace(scene, ground=str(rng.choice(free)))]
        wrong += [replace(scene, colour=scene.ground, ground=scene.colour)]
        assert [other for other in wrong if obeys(picture, caption(other))] == []


def test_checker_rejects_empty_and_noise() -> None:
    text = "a red circle on a blue background"
    assert not obeys(np.full((64, 64, 3), SHAPE_COLOURS["blue"], np.uint8), text)
    assert not obeys(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), text)


def test_checker_sees_stripes() -> None:
    scene = Scene("square", "red", "blue", style="striped")
    assert obeys(draw_scene(scene), "a striped red square on a blue background")
    assert not obeys(draw_scene(replace(scene, style="plain")), "a striped red square on a blue background")
    assert not obeys(draw_scene(scene), "a red square on a blue background")


def test_checker_sees_a_warning_sign() -> None:
    rng = np.random.default_rng(9)
    for shape in SHAPES:
        scene = random_scene(rng, shape=shape, style="sign")
        text, picture = caption(scene, rng), draw_scene(scene)
        assert obeys(picture, text) and "sign" in text, scene
        plain = replace(scene, style="plain")
        assert not obeys(draw_scene(plain), text)  # no frame
        assert not obeys(draw_scene(replace(scene, style="framed")), text)  # a white one
        assert not obeys(draw_scene(replace(scene, ground="green")), text)
        others = [other for other in SHAPES if other != shape]
        assert [other for other in others if obeys(picture, caption(replace(scene, shape=other)))] == []


def test_prompts_are_sixty_and_cover_shapes_and_colours() -> None:
    scenes = [parse_scene_caption(text) for text in SCENE_PROMPTS]
    assert len(scenes) == 60
    assert {scene.shape for scene in scenes} == set(SHAPES)
    assert {scene.colour for scene in scenes} == {scene.ground for scene in scenes} == set(SHAPE_COLOURS)
    assert share_obeyed([draw_scene(scene) for scene in scenes], SCENE_PROMPTS) == 1.0


def test_captions_parse_back() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        scene = random_scene(rng)
        found = parse_scene_caption(caption(scene, rng))
        assert (found.shape, found.colour, found.ground, found.size) == (
            scene.shape,
            scene.colour,
            scene.ground,
            scene.size,
        )
    with pytest.raises(ValueError):
        parse_scene_caption("a red circle")


def test_tokenizer_round_trip() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(TOKENIZER))
    for text in (*SCENE_PROMPTS[:6], "a zebra, 42 café ☃"):
        ids = tokenizer(text).input_ids
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        assert decoded.replace(" ", "") == text.replace(" ", "")
    # SD1 takes a caption's pooled state from its highest id, the end token's.
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (len(tokenizer) - 2, len(tokenizer) - 1)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    for word in (*SHAPE_COLOURS, *ALL_SHAPES, "striped", "background"):
        assert len(tokenizer.tokenize(word)) == 1, word


def test_checkpoint_has_the_topology_of_sd1() -> None:
    shapes = tensors(CHECKPOINT)
    unet = {k.removeprefix("model.diffusion_model."): v for k, v in shapes.items() if k.startswith("model.")}
    assert len(unet) == 686
    with_attention = {k.split(".transformer_blocks")[0] for k in unet if ".transformer_blocks.0.attn2.to_q." in k}
    levels = [f"input_blocks.{i}.1" for i in (1, 2, 4, 5, 7, 8)]
    levels += [f"output_blocks.{i}.1" for i in range(3, 12)]
    assert with_attention == {*levels, "middle_block.1"}
    assert len(unet["input_blocks.1.1.proj_in.weight"]) == 4
    assert "output_blocks.2.1.conv.weight" in unet and "output_blocks.8.2.conv.weight" in unet
    text = "cond_stage_model.transformer.text_model."
    width = shapes[text + "final_layer_norm.weight"][0]
    assert unet["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1] == width
    assert shapes[text + "embeddings.position_ids"] == [1, 77]
    vocabulary = json.loads((TOKENIZER / "vocab.json").read_text(encoding="utf-8"))
    assert shapes[text + "embeddings.token_embedding.weight"] == [len(vocabulary), width]
    query = shapes["first_stage_model.encoder.mid.attn_1.q.weight"]
    assert query[2:] == [1, 1] and query[0] == query[1]
    assert shapes["first_stage_model.quant_conv.weight"] == [8, 8, 1, 1]
    assert shapes["alphas_cumprod"] == [1000]


def test_checkpoint_is_small_and_half_precision() -> None:
    assert CHECKPOINT.stat().st_size <= 20e6
    kinds = {entry["dtype"] for name, entry in header(CHECKPOINT).items() if name.startswith("model.")}
    assert kinds == {"F16"}


def test_the_configuration_is_the_one_that_export_writes(tmp_path: Path) -> None:
    save_ldm_config(tmp_path / "made.yaml")
    assert (tmp_path / "made.yaml").read_text(encoding="utf-8") == CONFIG.read_text(encoding="utf-8")
    assert f"target: {TEXT_TARGET}" in CONFIG.read_text(encoding="utf-8")


def test_the_web_ui_finds_the_text_encoder_that_the_configuration_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """LDM's `instantiate_from_config`: import the module, get the attribute, call it."""
    made: list[str] = []
    encoders = ModuleType("ldm.modules.encoders.modules")
    encoders.FrozenCLIPEmbedder = lambda version: made.append(version)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ldm.modules.encoders.modules", encoders)
    for name in ("ldm", "ldm.modules", "ldm.modules.encoders"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    entry = (Path(lora_ext.__file__).parent.parent / "scripts" / "lora_ext_entry.py").read_text(encoding="utf-8")
    name = TEXT_TARGET.partition(".")[0]
    assert f'PACKAGE = "{name}"' in entry, "the package's name in the web UI"
    module, _, function = TEXT_TARGET.removeprefix(name).rpartition(".")
    getattr(importlib.import_module(f"lora_ext{module}"), function)()
    assert made == [str(TOKENIZER)] and TOKENIZER.is_absolute()


@pytest.mark.long
def test_a_copy_loads_wherever_it_lies(tmp_path: Path) -> None:
    """The checkpoint and its yaml alone, under another name."""
    shutil.copy(CHECKPOINT, tmp_path / "small.safetensors")
    shutil.copy(CONFIG, tmp_path / "small.yaml")
    settings = Settings(prompt="a red circle", steps=2, seed=1, device="cpu")
    (own,) = generate(settings)
    (copied,) = generate(replace(settings, ckpt=tmp_path / "small.safetensors"))
    assert own.size == copied.size == (64, 64) and own.tobytes() == copied.tobytes()


@pytest.mark.parametrize("path", sorted(LORA_DIR.glob("*.safetensors")), ids=lambda path: path.stem)
def test_loras_name_layers_of_the_checkpoint(path: Path) -> None:
    shapes = tensors(path)
    parts = {name: {k.split(".", 1)[1] for k in shapes if k.startswith(name + ".")} for name in modules(shapes)}
    assert all(found == {"lora_down.weight", "lora_up.weight", "alpha"} for found in parts.values())
    for name in parts:
        assert name.startswith(("lora_unet_", "lora_te_text_model_encoder_layers_"))
        assert shapes[f"{name}.lora_down.weight"][0] == shapes[f"{name}.lora_up.weight"][1]
    metadata = header(path)["__metadata__"]
    assert metadata["ss_network_module"] == "networks.lora"
    assert metadata["ss_base_model_version"] == "sd_v1"
    assert metadata["ss_output_name"] == path.stem
    assert path.stat().st_size <= 1.3e6


def test_sample_loras_are_of_both_kinds() -> None:
    three_by_three = {
        path.stem: any(shape[2:] == [3, 3] for shape in tensors(path).values())
        for path in LORA_DIR.glob("*.safetensors")
    }
    assert set(three_by_three.values()) == {True, False}


def modules(shapes: dict[str, list[int]]) -> set[str]:
    """The layers a LoRA's tensors belong to."""
    return {name.split(".", 1)[0] for name in shapes}
