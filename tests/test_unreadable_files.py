"""Files that hold anything at all: every loader raises its own error, with a sentence, or goes on without the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_ext.compare.cell_store import load_manifest
from lora_ext.errors import FileError, TrainError
from lora_ext.file.loading import load_lora_file
from lora_ext.host.ldm_config import load_ldm_config
from lora_ext.inspect_file import top_tags
from lora_ext.json_text import parse_json
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.config.recipe_metadata import settings_from_metadata
from lora_ext.train.config.toml_file import load_toml
from lora_ext.train.data.caption_lists import load_caption_list
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
