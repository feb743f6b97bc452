"""Files of 0 bytes are called empty, and not damaged or of another kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lora_ext.errors import LoraError
from lora_ext.file.loading import load_lora_file
from lora_ext.file.safetensors_file import load_safetensors_header
from lora_ext.json_text import parse_json
from lora_ext.train.config.recipe_io import settings_from_config_file
from lora_ext.train.config.toml_file import load_toml
from lora_ext.train.data.caption_lists import load_caption_list
from lora_ext.train.data.image_files import check_image_data, load_training_image

READERS: dict[str, Callable[[Path], object]] = {
    "a.safetensors": load_lora_file,
    "a.pt": load_lora_file,
    "b.safetensors": load_safetensors_header,
    "a.png": load_training_image,
    "b.jpg": lambda path: check_image_data(path, path.read_bytes()),
    "a.toml": load_toml,
    "a.json": settings_from_config_file,
    "metadata.json": lambda path: load_caption_list(path, path.parent),
    "metadata.csv": lambda path: load_caption_list(path, path.parent),
    "metadata.jsonl": lambda path: load_caption_list(path, path.parent),
}


@pytest.mark.parametrize("name", READERS)
def test_an_empty_file_is_called_empty(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(LoraError) as caught:
        READERS[name](tmp_path / name)
    assert "is empty" in str(caught.value) and str(tmp_path / name) in str(caught.value)
    assert "damaged" not in str(caught.value) and "Expecting" not in str(caught.value)


def test_blank_json_is_empty() -> None:
    with pytest.raises(ValueError, match=r"^it is empty$"):
        parse_json(" \n")


def test_one_byte_is_one_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"x")
    with pytest.raises(LoraError, match="1 byte is too few for a header"):
        load_safetensors_header(path)
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"xy")
    with pytest.raises(LoraError, match="the last 1 byte belongs to no tensor"):
        load_safetensors_header(path)
