"""Finding a CLIP tokenizer without the network: beside the model, where the user says, or in the hub's cache."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileError

HUB = ("openai/clip-vit-large-patch14", "stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5")
"""Repositories with CLIP's vocabulary (SD1, SD2 and SDXL share it) that users may have in their cache."""


@dataclass(frozen=True)
class Words:
    """A `text.Vocabulary` around a transformers tokenizer."""

    tokenizer: Any
    start: int
    end: int
    comma: int | None

    def encode(self, text: str) -> list[int]:
        """Token ids without start and end."""
        ids: list[int] = self.tokenizer(text, truncation=False, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.tokenizer.get_vocab().values()) + 1


def places(model: Path | None, chosen: Path | None) -> list[Path]:
    """Folders to look into, first match wins. What the user chose is the only place then."""
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


def find(model: Path | None, chosen: Path | None = None) -> Words:
    """The tokenizer for a model. Raises FileError that lists where it was looked for; downloads nothing."""
    from transformers import CLIPTokenizer, CLIPTokenizerFast

    def load(source: str, **options: Any) -> Words:
        fast = not (Path(source) / "vocab.json").is_file() and Path(source).is_dir()
        kind = CLIPTokenizerFast if fast else CLIPTokenizer
        tokenizer = kind.from_pretrained(source, local_files_only=True, **options)
        comma = tokenizer.get_vocab().get(",</w>")
        return Words(tokenizer, tokenizer.bos_token_id, tokenizer.eos_token_id, comma)

    looked = places(model, chosen)
    for folder in looked:
        if folder.is_dir() and _is_tokenizer(folder):
            try:
                return load(str(folder))
            except (OSError, ValueError, KeyError) as error:
                raise FileError(f"the tokenizer in {folder} cannot be read: {error}") from error
    for repository in () if chosen else HUB:
        try:
            return load(repository, **({"subfolder": "tokenizer"} if "diffusion" in repository else {}))
        except (OSError, ValueError):
            continue
    where = ", ".join(str(folder) for folder in looked)
    cache = "" if chosen else f", and the hub's cache ({_cache()}) has none of {', '.join(HUB)}"
    raise FileError(
        f"no CLIP tokenizer (vocab.json and merges.txt) in {where}{cache}; nothing is downloaded by itself: "
        "give a folder that holds one with --tokenizer DIR"
    )


def _cache() -> str:
    home = os.environ.get("HF_HOME", str(Path.home() / ".cache" / "huggingface"))
    return os.environ.get("HF_HUB_CACHE", str(Path(home) / "hub"))


def text_configs(model: Path | None, chosen: Path | None = None) -> Sequence[Mapping[str, Any]]:
    """What `config.json` files near the model say about its text encoders, (te, te2); {} where nothing is said.

    Looked for in the tokenizer's folder, then in `text_encoder/` and `text_encoder_2/` beside the model.
    """
    beside = model if model is None or model.is_dir() else model.parent
    first = [*places(model, chosen), *([beside / "text_encoder"] if beside else [])]
    second = [beside / "text_encoder_2"] if beside else []
    return tuple(next(filter(None, (_config(folder) for folder in folders)), {}) for folders in (first, second))


def _config(folder: Path) -> Mapping[str, Any]:
    """The CLIP text configuration in a folder, or {}."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, Mapping) and "hidden_size" in content else {}
