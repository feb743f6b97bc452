"""One picture to draw, as plain data, and edits of its prompt's tags."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import PromptError
from ..lora_tags import LORA_TAG_PATTERN, LoraTag, parse_lora_tags, parse_tag_items
from .training_run_files import is_same_run


@dataclass(frozen=True)
class ImageSettings:
    """What one picture is drawn from, with the web UI's names. Sizes are pixels, 0 what the model was made for."""

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0
    steps: int = 20
    width: int = 0
    height: int = 0
    sampler: str = "DPM++ 2M"
    scheduler: str = "Automatic"
    cfg: float = 7.0
    clip_skip: int = 1

    def image_fields(self) -> dict[str, Any]:
        """These fields by name, without those that a subclass adds."""
        return {item.name: getattr(self, item.name) for item in fields(ImageSettings)}


@dataclass(frozen=True)
class ImageSpec(ImageSettings):
    """A picture of a sheet. lora: the name of the file that axes speak about where they name none; no part of the
    picture."""

    lora: str = ""

    def tags(self) -> list[LoraTag]:
        """The requests of the prompt. Raises the first error among its tags."""
        _, requests, errors = parse_lora_tags(self.prompt)
        if errors:
            raise errors[0]
        return requests

    def without_loras(self) -> ImageSpec:
        """The same picture without any LoRA."""
        return replace(self, prompt=LORA_TAG_PATTERN.sub("", self.prompt).rstrip())

    def key(self, models: str = "") -> str:
        """A name for the picture: shots that must come out equal have the same. `models`: what else it depends on.

        Tags of weight 0 and their spelling do not count.
        """
        told = self.image_fields()
        del told["prompt"]
        acting = [repr(request) for request in self.tags() if request.te or request.unet]
        told |= {"text": LORA_TAG_PATTERN.sub("", self.prompt).rstrip(), "loras": acting, "models": models}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]

    def batch_key(self) -> tuple[object, ...]:
        """What pictures of one batch share."""
        return self.width, self.height, self.steps, self.sampler, self.scheduler, self.cfg, self.clip_skip


def edit_tag(prompt: str, name: str, change: Callable[[LoraTag], LoraTag]) -> str:
    """The prompt with the first tag of `name`'s run changed; a tag at weight 1 is added at the end where it has none.

    A tag that cannot be read stays as it is.
    """
    done = False

    def put(match) -> str:  # type: ignore[no-untyped-def]
        nonlocal done
        try:
            request = parse_tag_items(match[2].split(":"))
        except PromptError:
            return str(match[0])
        if done or not is_same_run(request.name, name):
            return str(match[0])
        done = True
        return change(request).format_tag()

    changed = LORA_TAG_PATTERN.sub(put, prompt)
    return changed if done else f"{prompt.rstrip()} {change(LoraTag(name)).format_tag()}".lstrip()


def find_tag(prompt: str, name: str) -> str:
    """The text of the tag that `edit_tag` would change, "" where there is none."""
    for match in LORA_TAG_PATTERN.finditer(prompt):
        try:
            if is_same_run(parse_tag_items(match[2].split(":")).name, name):
                return match[0]
        except PromptError:
            continue
    return ""
