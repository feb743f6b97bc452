"""What other programs write beside a LoRA file: descriptions, trigger words, notes and pictures. Nothing is downloaded.

`NAME.json` is the web UI's user metadata, `NAME.civitai.info` is written by downloaders, `NAME.metadata.json` by
Lora-Manager, `NAME.txt` is a description. Anybody may have written them: `load_sidecar_json` and the functions below it
are the only way from them to values, and each value has a checked type and a limited length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from ..console import replace_lone_surrogates
from ..errors import FileError
from ..json_text import parse_json
from .containers import LORA_FILE_SUFFIXES
from .file_lock import exclusive_lock
from .saving import replacing_file

_NETWORK_TAG = re.compile(r"<\w+:[^<>]*>")
USER_METADATA, CIVITAI_INFO, MANAGER_METADATA = ".json", ".civitai.info", ".metadata.json"
DESCRIPTIONS = (".description.txt", ".txt")
TEXT_SUFFIXES = (USER_METADATA, CIVITAI_INFO, MANAGER_METADATA, *DESCRIPTIONS)
"""What is read, after the file's stem."""
_PICTURES = ("png", "jpg", "jpeg", "webp", "gif", "avif", "mp4", "webm")
SIDECAR_SUFFIXES = (
    *TEXT_SUFFIXES,
    *(f"{mark}.{kind}" for kind in _PICTURES for mark in ("", ".preview")),
    ".text_encoder.pt",
    ".ti.pt",
)
"""What belongs to a file and is moved, renamed and deleted with it."""
_USER_KEYS = {
    "description": "description",
    "activation_text": "activation text",
    "preferred_weight": "preferred weight",
    "negative_text": "negative text",
    "notes": "notes",
}
"""Our names of what the web UI's `NAME.json` holds → its own."""
LARGEST_FILE = 4 * 2**20
"""Bytes of a text file that is read; those of model sites have some 10 KB."""
LONGEST_TEXT, MOST_WORDS, LONGEST_WORD = 50_000, 200, 400
MOST_WEIGHT = 100.0


@dataclass(frozen=True)
class SidecarInfo:
    """What the files beside a LoRA file say. The web UI's come first, then Lora-Manager's, then a model site's.

    Attributes:
        title: The model's name.
        base_model: The base model as the site calls it.
        description: A description, without markup where a site wrote it.
        activation_text: The words that the web UI adds to the prompt.
        trained_words: Trigger words that a model site names, or else the file itself.
        preferred_weight: The weight to use it with; None where none is given.
        negative_text: Words for the negative prompt.
        notes: The user's notes.
        tags: Tags of Lora-Manager or the site.
        favourite: Whether it is a favourite in Lora-Manager; None where that says nothing.
        sources: The names of the files that were read.
        problems: A sentence for each file that cannot be read.
    """

    title: str = ""
    base_model: str = ""
    description: str = ""
    activation_text: str = ""
    trained_words: tuple[str, ...] = ()
    preferred_weight: float | None = None
    negative_text: str = ""
    notes: str = ""
    tags: tuple[str, ...] = ()
    favourite: bool | None = None
    sources: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def prompt_words(self) -> str:
        """The words that belong into the prompt with the tag; a tag among those of others loads no second network."""
        words = _NETWORK_TAG.sub(" ", ", ".join(self.trained_words))
        return self.activation_text or " ".join(words.split()).strip(", ")


def sidecar_path(path: Path, suffix: str) -> Path:
    """The path beside a LoRA file that ends in `suffix` instead of the file's own."""
    return path.with_name(path.stem + suffix)


def sidecar_files(path: Path) -> Iterator[Path]:
    """Lists the files that belong to a LoRA file; none where another LoRA file beside it has the same stem.

    Args:
        path: the LoRA file.

    Yields:
        The paths of those that exist.
    """
    others = (sidecar_path(path, suffix) for suffix in LORA_FILE_SUFFIXES if suffix != path.suffix.lower())
    if any(other.exists() for other in others):
        return
    for suffix in SIDECAR_SUFFIXES:
        beside = sidecar_path(path, suffix)
        if beside != path and beside.is_file():
            yield beside


def load_sidecar_json(path: Path) -> dict[str, Any]:
    """Loads a JSON object that anybody may have written.

    Args:
        path: the file.

    Returns:
        What it holds; the types of its values are for the caller to check.

    Raises:
        FileError: it is no regular file, larger than 4 MiB, not UTF-8, or no JSON object.
    """
    try:
        found = parse_json(_load_text(path))
    except ValueError as error:
        raise FileError(f"{path.name} cannot be read: it is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise FileError(f"{path.name} cannot be read: it must be a JSON object")
    return found


def _load_text(path: Path) -> str:
    try:
        if not path.is_file():
            raise FileError(f"{path.name} is not a file")
        if path.stat().st_size > LARGEST_FILE:
            raise FileError(f"{path.name} is not read: it is larger than {LARGEST_FILE // 2**20} MiB")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise FileError(f"{path.name} cannot be read: it is not UTF-8 text") from None
    except OSError as error:
        raise FileError(f"{path.name} cannot be read: {error.strerror or error}") from error


def as_text(value: object, longest: int = LONGEST_TEXT) -> str:
    """A text of JSON, cut to `longest` characters and without control characters; "" for anything else."""
    if not isinstance(value, str):
        return ""
    return re.sub(r"[^\S\n\t]|[\x00-\x08\x0b-\x1f\x7f]", " ", replace_lone_surrogates(value[:longest])).strip()


def as_words(value: object) -> tuple[str, ...]:
    """The texts of a JSON list, each once, at most 200; () for anything else."""
    found = (as_text(word, LONGEST_WORD).strip(" ,") for word in value[:MOST_WORDS]) if isinstance(value, list) else ()
    return tuple(dict.fromkeys(word for word in found if word))


def as_weight(value: object) -> float | None:
    """A weight of JSON; None for 0, which the web UI writes for none, and for what is no weight."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if value and abs(value) <= MOST_WEIGHT else None  # false for NaN


def as_object(value: object) -> Mapping[str, Any]:
    """A JSON object; empty for anything else."""
    return value if isinstance(value, dict) else {}


class _TextOfHtml(HTMLParser):
    """Collects the text of HTML; paragraphs, line breaks and list items become lines."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.is_text = True

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.is_text = tag not in ("script", "style")
        if tag in ("p", "br", "li", "div", "h1", "h2", "h3", "h4", "tr"):
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.is_text = True

    def handle_data(self, data: str) -> None:
        if self.is_text:
            self.parts.append(data)


def text_of_html(value: object) -> str:
    r"""The text of a model site's HTML, without its markup; "" for what is no text.

    Example:
        >>> text_of_html("<p>A <b>cat</b></p><script src=x></script><p>&lt;3</p>")
        'A cat\n<3'
    """
    text = as_text(value)
    if "<" not in text and "&" not in text:
        return text
    parser = _TextOfHtml()
    parser.feed(text)
    parser.close()
    return re.sub(r"\s*\n\s*", "\n", "".join(parser.parts)).strip()


def load_sidecar_info(path: Path) -> SidecarInfo:
    """Reads the files beside a LoRA file. It never raises: what cannot be read is named in `problems`.

    Args:
        path: the LoRA file.

    Returns:
        What they say.
    """
    problems: list[str] = []
    sources: list[str] = []

    def loaded(suffix: str) -> Mapping[str, Any]:
        beside = sidecar_path(path, suffix)
        if not beside.exists():
            return {}
        try:
            found = load_sidecar_json(beside)
        except FileError as error:
            problems.append(str(error))
            return {}
        sources.append(beside.name)
        return found

    user, manager, version = (loaded(suffix) for suffix in (USER_METADATA, MANAGER_METADATA, CIVITAI_INFO))
    site = version or as_object(manager.get("civitai"))
    model = as_object(site.get("model"))
    described = [as_text(user.get("description")), text_of_html(manager.get("modelDescription"))]
    described += [text_of_html(model.get("description")), text_of_html(site.get("description"))]
    return SidecarInfo(
        title=as_text(manager.get("model_name"), LONGEST_WORD) or as_text(model.get("name"), LONGEST_WORD),
        base_model=as_text(manager.get("base_model"), LONGEST_WORD) or as_text(site.get("baseModel"), LONGEST_WORD),
        description=next(filter(None, described), "") or _plain_description(path, sources, problems),
        activation_text=as_text(user.get("activation text")),
        trained_words=as_words(site.get("trainedWords")),
        preferred_weight=as_weight(user.get("preferred weight")) or _recommended_strength(manager),
        negative_text=as_text(user.get("negative text")),
        notes=as_text(user.get("notes")) or as_text(manager.get("notes")),
        tags=as_words(manager.get("tags")) or as_words(model.get("tags")),
        favourite=manager["favorite"] if isinstance(manager.get("favorite"), bool) else None,
        sources=tuple(sources),
        problems=tuple(problems),
    )


def _recommended_strength(manager: Mapping[str, Any]) -> float | None:
    """Lora-Manager keeps its usage tips as the text of a JSON object."""
    try:
        return as_weight(as_object(parse_json(as_text(manager.get("usage_tips")) or "{}")).get("strength"))
    except ValueError:
        return None


def _plain_description(path: Path, sources: list[str], problems: list[str]) -> str:
    for suffix in DESCRIPTIONS:
        beside = sidecar_path(path, suffix)
        if beside.exists():
            try:
                text = as_text(_load_text(beside))
            except FileError as error:
                problems.append(str(error))
                continue
            sources.append(beside.name)
            return text
    return ""


def save_user_metadata(path: Path, changes: Mapping[str, str | float | None], lock: Path) -> None:
    """Writes changes into the web UI's `NAME.json`; what else it holds stays.

    Args:
        path: the LoRA file.
        changes: names of `SidecarInfo` ("description", "activation_text", "preferred_weight", "negative_text",
            "notes") → values; a weight of None is written as 0, the web UI's "none".
        lock: a path beside which the lock's file lies, in a folder that exists.

    Raises:
        FileError: the file is there and is no JSON object (it would be lost), is a link, or cannot be written.
    """
    beside = sidecar_path(path, USER_METADATA)
    with exclusive_lock(lock):
        try:
            found = load_sidecar_json(beside) if beside.exists() else {}
        except FileError as error:
            raise FileError(f"{error}; it was left as it is: mend or remove it, and save again") from error
        found.update({_USER_KEYS[name]: value if value is not None else 0 for name, value in changes.items()})
        with replacing_file(beside, overwrite=True) as part:
            part.write_text(json.dumps(found, ensure_ascii=False, indent=4), encoding="utf-8", errors="replace")


def search_text(info: SidecarInfo) -> Iterable[tuple[str, str]]:
    """What a search looks through: (field, text) of each text that is there."""
    texts = {
        "title": info.title,
        "trigger words": ", ".join(filter(None, (info.activation_text, *info.trained_words))),
        "notes": info.notes,
        "base model": info.base_model,
        "description": info.description,
        "negative text": info.negative_text,
    }
    return [(field, text) for field, text in texts.items() if text]
