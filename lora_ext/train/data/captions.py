"""Variations of a caption in one step: prefix, dropout, wildcards, shuffling, tag dropout.

The order and the options are those of kohya's scripts (`train_util.BaseDataset.process_caption`); with the same random
numbers the results are the same.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import TrainError
from ..config.text_file import load_utf8

CAPTION_EXTENSIONS = (".caption", ".txt")
"""Suffixes of caption files, tried after the one that the user sets."""
_WILDCARD = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")


@dataclass(frozen=True)
class CaptionRules:
    """How captions vary; the options of kohya's scripts of the same names.

    Attributes:
        shuffle_caption: Whether tags are shuffled.
        caption_separator: What separates tags.
        keep_tokens: Number of tags that stay first.
        keep_tokens_separator: A mark after the tags that stay first, and before those that stay last; "" for none.
        secondary_separator: Separates tags that stay together; None for none.
        enable_wildcard: Whether one of `{a|b}`, and one line of several, is chosen.
        caption_prefix: Text before every caption; None for none.
        caption_suffix: Text after every caption; None for none.
        caption_dropout_rate: Share of captions that are left out, 0 to 1.
        caption_dropout_every_n_epochs: In each n-th epoch all captions are left out; 0 for never.
        caption_tag_dropout_rate: Share of tags that are left out, 0 to 1.
        token_warmup_min: Number of tags at the start of token warm-up.
        token_warmup_step: Length of token warm-up in steps, or a share of all steps below 1; 0 for none.

    Raises:
        TrainError: A value is impossible.
    """

    shuffle_caption: bool = False
    caption_separator: str = ","
    keep_tokens: int = 0
    keep_tokens_separator: str = ""
    secondary_separator: str | None = None
    enable_wildcard: bool = False
    caption_prefix: str | None = None
    caption_suffix: str | None = None
    caption_dropout_rate: float = 0.0
    caption_dropout_every_n_epochs: int = 0
    caption_tag_dropout_rate: float = 0.0
    token_warmup_min: int = 1
    token_warmup_step: float = 0.0

    def __post_init__(self) -> None:
        for name in ("caption_dropout_rate", "caption_tag_dropout_rate"):
            rate = getattr(self, name)
            if not 0 <= rate <= 1:
                raise TrainError(f"{name} is {rate}; give a share from 0 to 1")
        if not self.caption_separator:
            raise TrainError("caption_separator is empty; the usual one is a comma")
        if self.shuffle_caption and self.keep_tokens < 0:
            raise TrainError(f"keep_tokens {self.keep_tokens} is negative; give 0 or the number of tags to keep first")

    @property
    def fixed(self) -> bool:
        """Whether a caption is the same in every step, so that its text-encoder output can be cached."""
        return not (
            self.shuffle_caption
            or self.enable_wildcard
            or self.caption_dropout_rate
            or self.caption_dropout_every_n_epochs
            or self.caption_tag_dropout_rate
            or self.token_warmup_step
        )


def vary_caption(
    caption: str, rules: CaptionRules, rng: random.Random, *, epoch: int = 1, step: int = 0, steps: int = 0
) -> str:
    """Varies a caption for one step.

    Args:
        caption: The caption, all its lines.
        rules: The rules.
        rng: The random numbers.
        epoch: The epoch from 1, which `caption_dropout_every_n_epochs` divides.
        step: The optimizer step, for the tag warm-up.
        steps: Optimizer steps of the whole run.

    Returns:
        The caption to train on.

    Example:
        >>> rules = CaptionRules(caption_prefix="photo,", shuffle_caption=True, keep_tokens=1)
        >>> vary_caption("cat, black, sitting", rules, random.Random(0))
        'photo, cat, sitting, black'
    """
    caption = " ".join(text for text in (rules.caption_prefix, caption, rules.caption_suffix) if text)
    if rules.caption_dropout_rate and rng.random() < rules.caption_dropout_rate:
        return ""
    if rules.caption_dropout_every_n_epochs and epoch % rules.caption_dropout_every_n_epochs == 0:
        return ""
    lines = caption.split("\n")
    caption = lines[0]
    if rules.enable_wildcard:
        caption = replace_wildcards(rng.choice(lines) if len(lines) > 1 else caption, rng)
    if rules.shuffle_caption or rules.token_warmup_step or rules.caption_tag_dropout_rate:
        caption = _vary_tags(caption, rules, rng, step, steps)
    if rules.secondary_separator:
        caption = caption.replace(rules.secondary_separator, rules.caption_separator)
    return caption


def has_wildcards(text: str) -> bool:
    """Whether `replace_wildcards` changes a text."""
    return _WILDCARD.search(text) is not None


def replace_wildcards(text: str, rng: random.Random) -> str:
    """`{cat|dog}` → one of the two; `{{` and `}}` → a brace."""

    def choose(match: re.Match[str]) -> str:
        return rng.choice(match[1].split("|")) if match[1] else match[0][0]

    return _WILDCARD.sub(choose, text)


def _tags(text: str, separator: str) -> list[str]:
    return [tag.strip() for tag in text.strip().split(separator)]


def _vary_tags(caption: str, rules: CaptionRules, rng: random.Random, step: int, steps: int) -> str:
    """Warm-up, shuffling and dropout of the tags that are not kept."""
    first, loose, last = _split_kept_tags(caption, rules)
    warm = rules.token_warmup_step
    warm = math.floor(warm * steps) if warm < 1 else warm
    if warm and step < warm:
        loose = loose[: math.floor(step * (len(loose) - rules.token_warmup_min) / warm) + rules.token_warmup_min]
    if rules.shuffle_caption:
        rng.shuffle(loose)
    if rules.caption_tag_dropout_rate:
        loose = [tag for tag in loose if rng.random() >= rules.caption_tag_dropout_rate]
    return ", ".join(first + loose + last)


def _split_kept_tags(caption: str, rules: CaptionRules) -> tuple[list[str], list[str], list[str]]:
    """(tags kept at the front, free tags, tags kept at the end)."""
    mark, separator = rules.keep_tokens_separator, rules.caption_separator
    if mark and mark in caption:
        parts = [[tag for tag in _tags(part, separator) if tag] for part in caption.split(mark, 2)]
        return parts[0], parts[1], parts[2] if len(parts) > 2 else []
    tags = _tags(caption, separator)
    keep = max(rules.keep_tokens, 0)
    return tags[:keep], tags[keep:], []


def checked_caption_suffix(extension: str) -> str:
    """A caption suffix with its dot, as the user names it. Raises TrainError for a part of a path."""
    suffix = extension if extension.startswith(".") else f".{extension}"
    if len(suffix) < 2 or re.search(r'[\\/:*?"<>|\x00-\x1f]', suffix):
        raise TrainError(f"captions cannot end in {extension!r} (caption_extension); .txt is usual")
    return suffix


def load_caption(image_path: Path, extension: str = "") -> str | None:
    """Loads the caption beside an image.

    Args:
        image_path: The image; both `name.txt` and `name.png.txt` are found for `name.png`.
        extension: The user's suffix, tried before `CAPTION_EXTENSIONS`.

    Returns:
        The text with all its lines; None without a caption file.

    Raises:
        TrainError: The file is not UTF-8 text.
    """
    for path, suffix in caption_files(image_path, extension):
        _check_link(path, suffix)
        return load_caption_text(path)
    return None


def caption_files(image_path: Path, extension: str = "") -> Iterator[tuple[Path, str]]:
    """The caption files beside an image with their suffixes; the first is the one that is read."""
    wanted = [checked_caption_suffix(extension)] if extension else []
    for suffix in dict.fromkeys([*wanted, *CAPTION_EXTENSIONS]):
        for path in (image_path.with_suffix(suffix), image_path.with_name(image_path.name + suffix)):
            if path.is_file():
                yield path, suffix


_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""Names of files in the cache of huggingface_hub, which its links point to."""


def _check_link(path: Path, suffix: str) -> None:
    """Raises TrainError for a link to a file that is not a caption.

    Captions are shown, trained on and written into the metadata; a data set from elsewhere may link to a private file.
    """
    if path.is_symlink():
        target = path.resolve()
        if target.suffix.lower() not in (suffix.lower(), *CAPTION_EXTENSIONS) and not _BLOB.fullmatch(target.name):
            raise TrainError(f"{path} is a link to {target.name}, which is not a caption; put the caption itself there")


def load_caption_text(path: Path) -> str:
    """A caption file's text, without spaces at the ends of its lines. Raises TrainError."""
    text = load_utf8(path)
    return "\n".join(line.strip() for line in text.strip().splitlines())


def longest_token_count(caption: str, rules: CaptionRules, count_tokens: Callable[[str], int]) -> int:
    """Counts the tokens of a caption's longest variation.

    Dropping and shuffling tags never makes it longer; prefix and suffix are counted.

    Args:
        caption: The caption, all its lines.
        rules: The rules.
        count_tokens: Text → number of tokens.

    Returns:
        The most tokens of any line, with the longest choice of each wildcard.
    """

    def longest(match: re.Match[str]) -> str:
        return max(match[1].split("|"), key=len) if match[1] else match[0][0]

    caption = " ".join(text for text in (rules.caption_prefix, caption, rules.caption_suffix) if text)
    lines = caption.split("\n")
    if rules.enable_wildcard:
        return max(count_tokens(_WILDCARD.sub(longest, line)) for line in lines)
    return count_tokens(lines[0].replace(rules.keep_tokens_separator, " ") if rules.keep_tokens_separator else lines[0])
