"""Sample pictures while training: the prompts file, and the pictures it makes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from ... import kohya_prompt_line
from ...errors import FileError, TrainError, did_you_mean
from ...file.saving import save_here_or_beside
from ...protocols import SampleSpec, TrainableModel
from ..config.toml_file import load_toml

_NAMES = {"negative_prompt": "negative", "sample_steps": "steps", "scale": "cfg", "sample_sampler": "sampler"}
"""kohya's words in toml and json prompt files, where they are not the fields' own."""


def parse_sample_prompt(line: str, defaults: SampleSpec) -> SampleSpec:
    """A line `prompt --n negative --w 512 --h 512 --d seed --s steps --l scale` over what is usual.

    Raises PromptError with the nearest letter, or naming the value that is no number.
    """
    prompt, given = kohya_prompt_line.parse_prompt_line(line)
    return replace(defaults, prompt=prompt, **given)


def _sample_from_options(defaults: SampleSpec, given: Mapping[str, Any], line: str) -> SampleSpec:
    known = {item.name for item in fields(SampleSpec)}
    named = {_NAMES.get(name, name): value for name, value in given.items()}
    for name in named.keys() - known:
        raise TrainError(f"prompt {line!r}: unknown word {name!r}{did_you_mean(name, [*known, *_NAMES])}")
    return replace(defaults, **kohya_prompt_line.convert_option_values(named, line))


def load_sample_prompts(path: Path, defaults: SampleSpec) -> list[SampleSpec]:
    """The prompts of a .txt (one a line, # begins a remark), .json or .toml file. Raises TrainError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainError(f"--sample_prompts {path} cannot be read: {error}") from error
    if path.suffix.lower() in (".json", ".toml"):
        return [_sample_from_options(defaults, entry, str(entry)) for entry in _entries(path, text)]
    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    if not lines:
        raise TrainError(f"--sample_prompts {path} holds no prompt")
    return [parse_sample_prompt(line, defaults) for line in lines]


def _entries(path: Path, text: str) -> list[Mapping[str, Any]]:
    try:
        if path.suffix.lower() == ".json":
            entries = json.loads(text)
        else:
            content = load_toml(path)["prompt"]
            common = {name: value for name, value in content.items() if name != "subset"}
            entries = [{**common, **entry} for entry in content.get("subset", [{}])]
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise TrainError(f"--sample_prompts {path} cannot be read: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise TrainError(f"--sample_prompts {path}: a list of prompts with their options is expected")
    return entries


@dataclass(frozen=True)
class SampleImage:
    """A sample picture: of which prompt (by number) and after which step and epoch."""

    prompt_index: int
    sample_spec: SampleSpec
    step: int
    epoch: int
    path: Path
    image: Image.Image


def generate_sample_images(
    model: TrainableModel,
    sample_specs: Sequence[SampleSpec],
    folder: Path,
    name: str,
    step: int,
    epoch: int | None,
    seed: int,
    rank_and_world_size: tuple[int, int] = (0, 1),
    notify: Callable[[str], None] = lambda text: None,
) -> list[SampleImage]:
    """One picture a prompt into `folder`, named as kohya's: NAME_e000001_00_SEED.png (or _000100_ at a step).

    rank_and_world_size: (rank, processes): a process draws every so manieth prompt.
    A prompt without a seed has `seed` plus its number, so that pictures of different epochs can be compared.
    Raises TrainError when they cannot be written.
    """
    when = f"e{epoch:06}" if epoch is not None else f"{step:06}"
    drawn = []
    for number, wish in list(enumerate(sample_specs))[rank_and_world_size[0] :: rank_and_world_size[1]]:
        wish = replace(wish, seed=(seed + number) % 2**32 if wish.seed is None else wish.seed)
        image = model.generate_image(wish)
        path = folder / f"{name}_{when}_{number:02}_{wish.seed}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = save_here_or_beside(path, partial(image.save, format="PNG"), notify)
        except OSError as error:
            raise TrainError(f"the sample {path} cannot be written: {error.strerror or error}") from error
        except FileError as error:
            raise TrainError(f"the sample {error}") from error
        drawn.append(SampleImage(number, wish, step, epoch or 0, path, image))
    return drawn
