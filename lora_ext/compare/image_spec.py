"""The spec of one picture (prompt, seed and settings) as plain data, and edits of its prompt's tags."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import PromptError
from ..lora_tags import LORA_TAG_PATTERN, LoraTag, parse_lora_tags, parse_tag_items
from .training_run_files import is_same_run


@dataclass(frozen=True)
class ImageSettings:
    """The settings of one picture, with the web UI's names.

    Attributes:
        prompt: with its LoRA tags.
        negative_prompt: what the picture should not show.
        seed: seed of the noise.
        steps: number of sampling steps.
        width: in pixels; 0 for the size that the model was trained for.
        height: the same.
        sampler: sampling method.
        scheduler: noise schedule.
        cfg: guidance scale.
        clip_skip: text encoder layer, counted from the end.
    """

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
        """The fields of `ImageSettings` by name, without those of a subclass.

        Returns:
            Name → value.
        """
        return {item.name: getattr(self, item.name) for item in fields(ImageSettings)}


@dataclass(frozen=True)
class ImageSpec(ImageSettings):
    """The spec of a picture on a sheet.

    Attributes:
        lora: the name of the file that axes without a name change; it does not change the picture itself.
    """

    lora: str = ""

    def tags(self) -> list[LoraTag]:
        """The LoRA tags of the prompt.

        Returns:
            The tags in the order of the prompt.

        Raises:
            PromptError: the first error among them.
        """
        _, tags, errors = parse_lora_tags(self.prompt)
        if errors:
            raise errors[0]
        return tags

    def acting_tags(self) -> list[LoraTag]:
        """The tags with a weight other than 0. Raises PromptError."""
        return [tag for tag in self.tags() if tag.te or tag.unet]

    def without_loras(self) -> ImageSpec:
        """The same picture without any LoRA."""
        return replace(self, prompt=LORA_TAG_PATTERN.sub("", self.prompt).rstrip())

    def key(self, models: str = "") -> str:
        """A short hash that is equal for specs of the same picture.

        Tags of weight 0 and the way a tag is written do not change it.

        Args:
            models: whatever else the picture depends on, see `ImageRenderer.identity`.

        Returns:
            12 hexadecimal digits.
        """
        fields_by_name = self.image_fields()
        del fields_by_name["prompt"]
        acting = [
            repr(tag) + "".join(repr(curve) for curve in (tag.te_curve, tag.unet_curve, tag.hires) if curve is not None)
            for tag in self.acting_tags()
        ]
        fields_by_name |= {"text": LORA_TAG_PATTERN.sub("", self.prompt).rstrip(), "loras": acting, "models": models}
        return hashlib.sha256(json.dumps(fields_by_name, sort_keys=True).encode()).hexdigest()[:12]

    def batch_key(self) -> tuple[object, ...]:
        """The settings that all pictures of a batch share.

        Returns:
            A tuple that is equal for pictures of one batch.
        """
        return self.width, self.height, self.steps, self.sampler, self.scheduler, self.cfg, self.clip_skip


def edit_tag(prompt: str, name: str, change: Callable[[LoraTag], LoraTag]) -> str:
    """Changes the first tag of a file, or of another file of its training run.

    Without such a tag one with weight 1 is added at the end. Tags that cannot be parsed stay as they are.

    Args:
        prompt: the prompt.
        name: name of the file.
        change: the tag → the new tag.

    Returns:
        The new prompt.

    Example:
        >>> edit_tag("a cat <lora:style:0.5>", "style", lambda tag: replace(tag, te=1.0, unet=1.0))
        'a cat <lora:style:1>'
    """
    done = False

    def replace_tag(match) -> str:  # type: ignore[no-untyped-def]
        nonlocal done
        try:
            tag = parse_tag_items(match[2].split(":"))
        except PromptError:
            return str(match[0])
        if done or not is_same_run(tag.name, name):
            return str(match[0])
        done = True
        return change(tag).format_tag()

    changed = LORA_TAG_PATTERN.sub(replace_tag, prompt)
    return changed if done else f"{prompt.rstrip()} {change(LoraTag(name)).format_tag()}".lstrip()


def find_tag(prompt: str, name: str) -> str:
    """The text of the tag that `edit_tag` would change.

    Args:
        prompt: a prompt with LoRA tags.
        name: the name of a file, or of another file of its run.

    Returns:
        The whole tag, `<lora:…>`; "" where there is none.
    """
    for match in LORA_TAG_PATTERN.finditer(prompt):
        try:
            if is_same_run(parse_tag_items(match[2].split(":")).name, name):
                return match[0]
        except PromptError:
            continue
    return ""


def remove_tags(prompt: str, name: str) -> str:
    """The prompt without the tags of a file.

    Args:
        prompt: a prompt with LoRA tags.
        name: what the tags call the file.

    Returns:
        The rest of the prompt, unchanged.

    Example:
        >>> remove_tags("a cat <lora:style:0.5> <lora:face:1>", "style")
        'a cat  <lora:face:1>'
    """

    def keep_others(match: re.Match[str]) -> str:
        try:
            return "" if parse_tag_items(match[2].split(":")).name == name else match[0]
        except PromptError:
            return match[0]

    return LORA_TAG_PATTERN.sub(keep_others, prompt)
