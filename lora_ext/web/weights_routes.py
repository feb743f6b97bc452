"""Routes of the Weights panel: tags and block weights as text, presets."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Query

from ..applied_networks import resolve
from ..blocks import BASE, LABELS, parse_weights
from ..errors import BlockError, LoraError, PromptError
from ..file.displayed_names import shown
from ..lora_tags import TAG, Request, parse, request_of
from ..no_effect_reasons import why_idle
from .app_state import Studio
from .routing import Body


class Tag(Body):
    """What a `<lora:…>` tag says (`prompt.Request`); prompt: where it is written, or its older form replaced.

    start, stop: whole numbers are steps. step: both as text, as a tag has them: `5-10`, `0.25-`, `-1.0` (1 is a step,
    1.0 a share, which JSON in a browser does not tell apart).
    """

    name: str
    te: float = 1.0
    unet: float | None = None
    lbw: str | None = None
    lbwe: str | None = None
    start: float | None = None
    stop: float | None = None
    step: str | None = None
    dyn: int | None = None
    prompt: str = ""


class Text(Body):
    """A text to read."""

    text: str


class Preset(Body):
    """A preset: its name and 12, 17, 20, 25 or 26 values."""

    name: str
    values: str


class PresetName(Body):
    """A preset and its new name."""

    name: str
    to: str


def request(tag: Tag) -> Request:
    """The request that its text would read back to. Raises PromptError."""
    if any(mark in tag.name for mark in ":<>\n") or not tag.name.strip():
        raise PromptError(f"{tag.name[:80]!a} cannot stand in a tag")
    items = [tag.name, str(tag.te)]
    if tag.unet is not None:
        items.append(f"unet={tag.unet}")
    for name in ("lbw", "lbwe", "start", "stop", "step", "dyn"):
        value = getattr(tag, name)
        if value is None or value == "":
            continue
        if name in ("start", "stop") and value == int(value) and value != 0.0:
            value = int(value)
        if any(mark in str(value) for mark in "<>=\n" + ":" * (name == "step")):
            raise PromptError(f"{name} {str(value)[:80]!a} cannot stand in a tag")
        items.append(f"{name}={value}")
    made = request_of(":".join(items).split(":"))
    if made.lbw:
        try:
            parse_weights(made.lbw, presets={made.lbw: "0," * 16 + "0"} if "," not in made.lbw else {})
        except BlockError as error:
            raise PromptError(str(error)) from None
    return made


def put(prompt: str, wish: Request) -> str:
    """The prompt with the tag in place of the first one of that name, or at its end."""
    tag, done = wish.tag(), False

    def swap(match: Any) -> str:
        nonlocal done
        if done or shown(match[2].split(":")[0]).strip().lower() != shown(wish.name).lower():
            return str(match[0])
        done = True
        return tag

    swapped = TAG.sub(swap, prompt)
    return swapped if done else f"{prompt.rstrip()} {tag}".strip()


def notes(studio: Studio, made: Request) -> list[str]:
    """What a tag will not do, a sentence each; nothing about a file that is not there."""
    with suppress(LoraError):
        use = resolve(made, studio.library, studio.desk.presets())
        blocks = {site.block for site in use.file.adapters if site.block}
        given = use.blocks.labels
        missing = [
            name for name in LABELS if name in blocks and name != BASE and given is not None and name not in given
        ]
        said = f"blocks {', '.join(missing)} of this file are not among these weights and count as 0" if missing else ""
        return [text for text in (why_idle(use, use.file.adapters), said) if text]
    return []


def add(api: APIRouter, studio: Studio) -> None:
    """Adds the routes."""

    @api.post("/tag")
    def tag(wish: Tag) -> dict[str, Any]:
        """The `<lora:…>` tag, the given prompt with it, and what of it will not act."""
        made = request(wish)
        return {"tag": made.tag(), "prompt": put(wish.prompt, made), "notes": notes(studio, made)}

    @api.post("/tag/read")
    def read(given: Text) -> dict[str, Any]:
        """The first tag of a text as its fields, with the block weights worked out where they are plain."""
        _, requests, errors = parse(given.text[:20000])
        if errors and not requests:
            raise errors[0]
        if not requests:
            raise PromptError("there is no <lora:…> tag in it")
        found = {name: getattr(requests[0], name) for name in Request.__dataclass_fields__}
        steps = {name: "" if found[name] is None else repr(found[name]) for name in ("start", "stop")}
        return {**found, "steps": steps}  # as text: JSON in a browser does not tell the share 1.0 from step 1

    @api.get("/presets")
    def presets() -> dict[str, Any]:
        """All block-weight presets; `own` ones can be changed. notes: what is odd about the files they are in."""
        return {"presets": studio.presets.rows(), "notes": list(studio.desk.presets().notes)}

    @api.put("/presets")
    def save(preset: Preset) -> dict[str, Any]:
        """Adds or replaces one of the user's own."""
        studio.presets.put({preset.name.strip(): preset.values.strip()})
        return presets()

    @api.delete("/presets")
    def remove(name: str = Query(..., max_length=200)) -> dict[str, Any]:
        """Deletes one of the user's own."""
        studio.presets.remove(name)
        return presets()

    @api.post("/presets/rename")
    def rename(wish: PresetName) -> dict[str, Any]:
        """Renames one of the user's own."""
        studio.presets.rename(wish.name, wish.to.strip())
        return presets()

    @api.get("/presets/export")
    def export() -> dict[str, str]:
        """The user's own presets as a text file's lines, as the block-weight extension reads them."""
        return {"text": studio.presets.text()}

    @api.post("/presets/import")
    def take(given: Text) -> dict[str, Any]:
        """Adds presets from lines `NAME:v,v,…`."""
        return {"taken": studio.presets.take(given.text[:1_000_000]), **presets()}
