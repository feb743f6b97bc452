"""Files that hold anything at all: every loader raises its own error, with a sentence, or goes on without the file."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from lora_ext.adapter_spec import Presets, resolve_block_weights
from lora_ext.compare.cell_store import load_manifest
from lora_ext.errors import FileError, PromptError, TrainError
from lora_ext.file.loading import load_lora_file
from lora_ext.file.peft_config import load_adapter_config
from lora_ext.host.checkpoint_layout import check_is_supported
from lora_ext.host.ldm_config import load_ldm_config
from lora_ext.host.network_arguments import clip_arguments
from lora_ext.inspect_file import top_tags
from lora_ext.json_text import parse_json
from lora_ext.kohya_prompt_line import convert_option_values
from lora_ext.lora_tags import LoraTag
from lora_ext.regions.region import parse_region
from lora_ext.train.config.kohya_gui_file import load_gui_file
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.config.recipe_metadata import settings_from_metadata
from lora_ext.train.config.toml_file import load_toml
from lora_ext.train.data.caption_lists import load_caption_list
from lora_ext.train.data.image_files import check_image_data
from lora_ext.train.run.sample_images import SampleSpec, load_sample_prompts
from lora_ext.train.run.training_state import STATE_FOLDER_SUFFIX, STATE_NUMBERS_NAME, load_training_state

DEEP, DIGITS = "[" * 100_000, "1" * 5000
KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q."


def beginning(value: object) -> str | None:
    return value[:16] if isinstance(value, str) else None


@pytest.mark.parametrize("text", [DEEP, DIGITS], ids=beginning)
def test_json(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nested too deeply|digits"):
        parse_json(text)
    settings_from_metadata({"ss_datasets": text, "ss_network_args": text})
    assert top_tags({"ss_tag_frequency": text}) == {}
    state = tmp_path / f"run{STATE_FOLDER_SUFFIX}"
    state.mkdir()
    (state / STATE_NUMBERS_NAME).write_text(text)
    with pytest.raises(TrainError, match="damaged"):
        load_training_state(tmp_path)


def test_resumed_step_is_infinite(tmp_path: Path) -> None:
    state = tmp_path / f"run{STATE_FOLDER_SUFFIX}"
    state.mkdir()
    (state / STATE_NUMBERS_NAME).write_text('{"step": 1e999}')
    with pytest.raises(TrainError, match="damaged"):
        load_training_state(tmp_path)


@pytest.mark.parametrize("text", [f"a={DEEP}", f"a={DIGITS}"], ids=beginning)
def test_toml(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(TrainError, match=r"nested too deeply|digits"):
        load_toml(tmp_path / "a.toml")


@pytest.mark.parametrize("name", ["network_args", "network_dim", "learning_rate", "resolution", "seed"])
@pytest.mark.parametrize("value", [1.5, True, {"a": 1}, 16**5000], ids=["float", "bool", "table", "digits"])
def test_values_of_a_configuration(name: str, value: object) -> None:
    if (name, value) == ("learning_rate", 1.5):
        return
    with pytest.raises(TrainError, match=name):
        recipe_from_settings({name: value})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.jsonl", DEEP),
        ("metadata.jsonl", f'{{"file_name": "{"a" * 5000}"}}'),
        ("metadata.jsonl", '{"file_name": "a\\u0000b"}'),
        ("metadata.csv", "file_name\n" + "x" * 200_000),
        ("metadata.csv", "file_name,text\n**,a"),
        ("captions.json", DIGITS),
    ],
    ids=beginning,
)
def test_caption_lists(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TrainError, match=name):
        load_caption_list(tmp_path / name, tmp_path)


@pytest.mark.parametrize(
    "text", ["prompt = 3", "[[prompt]]\na = 1", '[prompt]\nsubset = ["a"]', "[prompt]\nsubset = 3"]
)
def test_sample_prompts_in_toml(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(TrainError, match=r"it must be a table \[prompt\] with what all prompts share"):
        load_sample_prompts(tmp_path / "p.toml", SampleSpec(""))


@pytest.mark.parametrize("text", [DEEP, '{"cells": 1}', '{"cells": [1]}', '{"cells": null}', "[]"], ids=beginning)
def test_sheets(text: str, tmp_path: Path) -> None:
    (tmp_path / "sheet.json").write_text(text)
    assert load_manifest(tmp_path) is None


def test_key_of_a_sheets_cell(tmp_path: Path) -> None:
    (tmp_path / "sheet.json").write_text('{"cells": [{"key": [1]}]}')
    manifest = load_manifest(tmp_path)
    assert manifest and manifest["cells"][0]["file"] == ""


@pytest.mark.parametrize(
    "text", ["[" * 1000, f"a: {DIGITS}", "a: 2020-13-45", "a: !!int x", "a: !!timestamp x"], ids=beginning
)
def test_yaml(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(FileError, match=r"a\.yaml is not a readable configuration"):
        load_ldm_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "alpha", [10**400, -(2**70), torch.tensor(1.0, device="meta"), torch.tensor(1j)], ids=["large", "70", "meta", "1j"]
)
def test_alpha_in_a_pickle(alpha: object, tmp_path: Path) -> None:
    factors = {f"{KEY}lora_up.weight": torch.ones(4, 2), f"{KEY}lora_down.weight": torch.ones(2, 4)}
    torch.save({**factors, f"{KEY}alpha": alpha}, tmp_path / "a.pt")
    with pytest.raises(FileError):
        load_lora_file(tmp_path / "a.pt")


@pytest.mark.parametrize("text", ["0-0.5;" + "9" * 18_000, "col 1/" + "9" * 4400], ids=beginning)
def test_long_numbers_of_a_region(text: str) -> None:
    with pytest.raises(PromptError, match="is no region"):
        parse_region(text)


def test_a_tags_name_is_half_a_surrogate_pair() -> None:
    with pytest.raises(PromptError, match="unknown block-weight preset"):
        resolve_block_weights(LoraTag("\udcd5", lbw="x"), Presets())


@pytest.mark.parametrize(
    ("name", "value"), [("LoRA_type", [None]), ("unet_lr", "x"), ("unet_lr", [[]]), ("lr_warmup", {"a": 1})], ids=str
)
def test_settings_of_kohyas_gui(name: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"LoRA_type": "Standard", name: value}))
    with pytest.raises(TrainError, match=name):
        load_gui_file(tmp_path / "a.json")


def test_resolution_has_too_many_digits() -> None:
    with pytest.raises(TrainError, match="resolution"):
        recipe_from_settings({"resolution": "9" * 4400})


def test_a_prompts_number_is_too_large() -> None:
    with pytest.raises(PromptError, match="is not a number for cfg"):
        convert_option_values({"cfg": 10**400}, "a")


def test_a_checkpoints_tensor_has_other_sides() -> None:
    shapes = {"text_model.embeddings.token_embedding.weight": (320, 4, 3, 3)}
    with pytest.raises(FileError, match="not those of a model"):
        clip_arguments(shapes, "", {})


def test_a_small_jpeg() -> None:
    out = io.BytesIO()
    Image.new("RGB", (6, 4)).save(out, "JPEG")
    assert check_image_data(Path("a.jpg"), out.getvalue()) == (6, 4)


def test_an_alpha_that_no_float_holds(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 10**400}))
    assert load_adapter_config(tmp_path / "adapter_config.json")[1]


def test_a_checkpoints_first_tensor_is_a_number() -> None:
    shapes: dict[str, tuple[int, ...]] = {"model.diffusion_model.input_blocks.0.0.weight": ()}
    with pytest.raises(FileError):
        check_is_supported(shapes)
