"""Finds CLIP's tokenizer on this machine: beside the model, where the user says, or in the hub's cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...console import replace_lone_surrogates
from ...errors import FileError
from ...json_text import parse_json

TOKENIZER_REPOSITORIES = (
    "openai/clip-vit-large-patch14",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-v1-5",
)
"""Repositories with CLIP's vocabulary (SD1, SD2 and SDXL share it) that users may have in their cache."""


@dataclass(frozen=True)
class TransformersTokenizer:
    """A transformers tokenizer as a `prompt_encoding.PromptTokenizer`."""

    tokenizer: Any
    start_id: int
    end_id: int
    comma_id: int | None

    def encode(self, text: str) -> list[int]:
        """Returns token ids without start and end."""
        ids: list[int] = self.tokenizer(
            replace_lone_surrogates(text), truncation=False, add_special_tokens=False, verbose=False
        )["input_ids"]
        return ids

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.tokenizer.get_vocab().values()) + 1


def tokenizer_folders(model: Path | None, chosen: Path | None) -> list[Path]:
    """Returns the folders to search, in order; where the user chose a folder, only that one."""
    if chosen is not None:
        return [chosen, chosen / "tokenizer"]
    if model is None:
        return []
    if model.is_dir():
        return [model / "tokenizer", model]
    return [model.with_suffix(""), model.parent / "tokenizer", model.parent / "CLIP" / "tokenizer"]


def _is_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file() or all(
        (folder / name).is_file() for name in ("vocab.json", "merges.txt")
    )


def find_tokenizer(model: Path | None, chosen: Path | None = None) -> TransformersTokenizer:
    """Loads the tokenizer for a model. Downloads nothing.

    Args:
        model: the checkpoint file or diffusers folder.
        chosen: a folder that the user chose.

    Raises:
        FileError: there is none; the message lists the folders that were searched.
    """
    looked = tokenizer_folders(model, chosen)
    for folder in [*looked, *([] if chosen else _cached())]:
        if folder.is_dir() and _is_tokenizer(folder):
            return _load(folder)
    where = ", ".join(str(folder) for folder in looked)
    cache = "" if chosen else f", and the hub's cache ({_cache()}) has none of {', '.join(TOKENIZER_REPOSITORIES)}"
    raise FileError(
        f"no CLIP tokenizer (vocab.json and merges.txt) in {where}{cache}; nothing is downloaded: "
        "give a folder that holds one with --tokenizer DIR"
    )


def _load(folder: Path) -> TransformersTokenizer:
    from transformers import CLIPTokenizer, CLIPTokenizerFast

    kind = CLIPTokenizer if (folder / "vocab.json").is_file() else CLIPTokenizerFast
    try:
        tokenizer = kind.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"the tokenizer in {folder} cannot be read: {error}") from error
    comma = tokenizer.get_vocab().get(",</w>")
    return TransformersTokenizer(tokenizer, tokenizer.bos_token_id, tokenizer.eos_token_id, comma)


def _cached() -> list[Path]:
    """Returns folders in the hub's cache with a tokenizer of a known repository."""
    from huggingface_hub import try_to_load_from_cache

    files = (f"{folder}vocab.json" for folder in ("", "tokenizer/"))
    found = (try_to_load_from_cache(repository, file) for file in files for repository in TOKENIZER_REPOSITORIES)
    return [Path(file).parent for file in found if isinstance(file, str)]


def _cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)


def find_text_configs(model: Path | None, chosen: Path | None = None) -> Sequence[Mapping[str, Any]]:
    """Loads the `config.json` of the text encoders near a model, ("te", "te2"); {} where there is none.

    The tokenizer's folder is searched, then `text_encoder/` and `text_encoder_2/` beside the model.
    """
    beside = model if model is None or model.is_dir() else model.parent
    first = [*tokenizer_folders(model, chosen), *([beside / "text_encoder"] if beside else [])]
    second = [beside / "text_encoder_2"] if beside else []
    return tuple(next(filter(None, (_config(folder) for folder in folders)), {}) for folders in (first, second))


def _config(folder: Path) -> Mapping[str, Any]:
    """Loads the CLIP text configuration in a folder, or {}."""
    try:
        content = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, Mapping) and "hidden_size" in content else {}
