"""One picture to draw, as plain data, and edits of its prompt's tags."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import PromptError
from ..lora_tags import TAG, Request, parse, request_of
from .training_run_files import same_run


@dataclass(frozen=True)
class Picture:
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

    def picture(self) -> dict[str, Any]:
        """These fields by name, without those that a subclass adds."""
        return {item.name: getattr(self, item.name) for item in fields(Picture)}


@dataclass(frozen=True)
class Shot(Picture):
    """A picture of a sheet. lora: the name of the file that axes speak about where they name none; no part of the
    picture."""

    lora: str = ""

    def tags(self) -> list[Request]:
        """The requests of the prompt. Raises the first error among its tags."""
        _, requests, errors = parse(self.prompt)
        if errors:
            raise errors[0]
        return requests

    def plain(self) -> Shot:
        """The same picture without any LoRA."""
        return replace(self, prompt=TAG.sub("", self.prompt).rstrip())

    def key(self, models: str = "") -> str:
        """A name for the picture: shots that must come out equal have the same. `models`: what else it depends on.

        Tags of weight 0 and their spelling do not count.
        """
        told = self.picture()
        del told["prompt"]
        acting = [repr(request) for request in self.tags() if request.te or request.unet]
        told |= {"text": TAG.sub("", self.prompt).rstrip(), "loras": acting, "models": models}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]

    def group(self) -> tuple[object, ...]:
        """What pictures of one batch share."""
        return self.width, self.height, self.steps, self.sampler, self.scheduler, self.cfg, self.clip_skip


def edit(prompt: str, name: str, change: Callable[[Request], Request]) -> str:
    """The prompt with the first tag of `name`'s run changed; a tag at weight 1 is added at the end where it has none.

    A tag that cannot be read stays as it is.
    """
    done = False

    def put(match) -> str:  # type: ignore[no-untyped-def]
        nonlocal done
        try:
            request = request_of(match[2].split(":"))
        except PromptError:
            return str(match[0])
        if done or not same_run(request.name, name):
            return str(match[0])
        done = True
        return change(request).tag()

    changed = TAG.sub(put, prompt)
    return changed if done else f"{prompt.rstrip()} {change(Request(name)).tag()}".lstrip()


def tag_of(prompt: str, name: str) -> str:
    """The text of the tag that `edit` would change, "" where there is none."""
    for match in TAG.finditer(prompt):
        try:
            if same_run(request_of(match[2].split(":")).name, name):
                return match[0]
        except PromptError:
            continue
    return ""
