"""Routes of sets: several LoRA files under a name, saved, inserted, exported, imported, and read from a picture."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Query
from pydantic import Field

from ..errors import FileError
from ..host.infotext import PARAMETERS_KEY
from ..lora_tags import parse_lora_tags
from .app_state import AppState
from .lora_sets import LoraSet, LoraSetStore, export_set, import_sets, missing_names, tags_of_infotext, tags_of_text
from .prompt_insertion import InsertedPrompt, insert_words
from .routing import RequestBody
from .thumbnails import decode_upload, reading_picture
from .weights_routes import insert_tag

_LARGEST_PICTURE = 40_000_000
_USER_COMMENT, _EXIF = 0x9286, 0x8769


class SetRequest(RequestBody):
    """A set of tags and words.

    Attributes:
        name: The set's name.
        text: A text with its tags.
        words: Words for the prompt.
        negative: Words for the negative prompt.
        may_replace: Whether a set of that name may be replaced.
    """

    name: str = Field(max_length=100)
    text: str = Field(max_length=20_000)
    words: str = Field("", max_length=20_000)
    negative: str = Field("", max_length=20_000)
    may_replace: bool = True


class InsertSetRequest(RequestBody):
    """A set, and the prompts that it is put into.

    Attributes:
        name: The set's name.
        prompt: The prompt as it is.
        negative: The negative prompt as it is.
    """

    name: str = Field(max_length=100)
    prompt: str = Field("", max_length=100_000)
    negative: str = Field("", max_length=100_000)


class ImportSetsRequest(RequestBody):
    """Sets from a file.

    Attributes:
        text: The text of an exported file.
    """

    text: str = Field(max_length=10_000_000)


class PictureSetRequest(RequestBody):
    """A set from a picture's prompt.

    Attributes:
        data: The picture's bytes as base64; "" where `text` is given.
        text: The picture's infotext; "" where `data` is given.
    """

    data: str = Field("", max_length=_LARGEST_PICTURE * 4 // 3)
    text: str = Field("", max_length=100_000)


@dataclass(frozen=True)
class LoraSetRow:
    """A set in the list.

    Attributes:
        name: As in `LoraSet`.
        tags: As in `LoraSet`.
        words: As in `LoraSet`.
        negative: As in `LoraSet`.
        missing: Names of its files that the library does not have.
    """

    name: str
    tags: list[str]
    words: str
    negative: str
    missing: list[str]


@dataclass(frozen=True)
class LoraSetList:
    """All sets by name."""

    sets: list[LoraSetRow]


@dataclass(frozen=True)
class SetText:
    """Tags, or a file's text."""

    text: str


def infotext_of_picture(data: bytes) -> str:
    """The infotext of a PNG, or of a JPEG or WebP in its EXIF data, as the web UI writes it.

    Raises:
        FileError: It is no such picture, or has none.
    """
    with reading_picture(data) as image:
        text = image.info.get(PARAMETERS_KEY)
        comment = None if text else image.getexif().get_ifd(_EXIF).get(_USER_COMMENT)
    if isinstance(comment, bytes):  # eight bytes name the encoding
        encoding = "utf-16-be" if comment.startswith(b"UNICODE") else "utf-8"
        text = comment[8:].decode(encoding, "replace")
    if not isinstance(text, str) or not text:
        raise FileError("the picture does not say how it was made: it has no infotext")
    return text


def register_set_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the routes."""
    store = LoraSetStore(app_state.folders.data)

    @api.get("/sets")
    def sets() -> LoraSetList:
        """The user's sets of LoRA files."""
        found = store.sets()
        return LoraSetList([LoraSetRow(**vars(one), missing=missing_names(one, app_state.library)) for one in found])

    @api.put("/sets")
    def save(options: SetRequest) -> LoraSetList:
        """Saves a set under a name."""
        tags = tags_of_text(options.text)
        saved = LoraSet(options.name.strip(), tags, options.words.strip(), options.negative.strip())
        store.save(saved, may_replace=options.may_replace)
        return sets()

    @api.delete("/sets")
    def remove(name: str = Query(..., max_length=100)) -> LoraSetList:
        """Deletes a set."""
        store.remove(name)
        return sets()

    @api.post("/sets/insert")
    def insert(options: InsertSetRequest) -> InsertedPrompt:
        """The prompts with all tags and words of a set; a tag that is there already gets the set's weights."""
        one = store.get(options.name)
        prompt, separator = options.prompt, app_state.backend.tag_insertion().separator
        for tag in parse_lora_tags("\n".join(one.tags))[1]:
            prompt = insert_tag(prompt, tag, separator)
        negative = insert_words(options.negative, one.negative, ", ")
        return InsertedPrompt(insert_words(prompt, one.words), negative, missing_names(one, app_state.library))

    @api.get("/sets/export")
    def export(name: str = Query(..., max_length=100)) -> SetText:
        """A set as a file's text."""
        return SetText(export_set(store.get(name), app_state.presets.own_presets()))

    @api.post("/sets/import")
    def take(options: ImportSetsRequest) -> LoraSetList:
        """Adds the sets of an exported file."""
        found = import_sets(options.text)
        taken = {one.name for one in store.sets()} & {one.name for one in found}
        if taken:
            raise FileError(f"a set {min(taken)!r} already exists; rename or delete it first, nothing was imported")
        store.save(*found)
        return sets()

    @api.post("/sets/read")
    def read(options: PictureSetRequest) -> SetText:
        """The tags of a picture, from the infotext in it; a file that has another name here is found by its hash."""
        text = infotext_of_picture(decode_upload(options.data)) if options.data else options.text
        return SetText("\n".join(tags_of_infotext(text, app_state.library)))
