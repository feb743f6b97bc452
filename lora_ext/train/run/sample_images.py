"""Sample images during training: the file of prompts, and the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from PIL import Image

from ... import kohya_prompt_line
from ...errors import FileError, TrainError, did_you_mean
from ...file.saving import save_here_or_beside
from ...json_text import parse_json
from ...protocols import SampleSpec, TrainableModel
from ..config.toml_file import load_toml

_NAMES = {"negative_prompt": "negative", "sample_steps": "steps", "scale": "cfg", "sample_sampler": "sampler"}
"""Names in kohya's TOML and JSON prompt files → fields of `SampleSpec`."""


def parse_sample_prompt(line: str, defaults: SampleSpec) -> SampleSpec:
    """Parses a line of a prompt file.

    Args:
        line: `prompt --n negative --w 512 --h 512 --d seed --s steps --l scale`.
        defaults: Values of what the line does not set.

    Raises:
        PromptError: An unknown option, with the nearest one, or a value that is not a number.

    Example:
        >>> parse_sample_prompt("a cat --s 8", SampleSpec("")).steps
        8
    """
    prompt, given = kohya_prompt_line.parse_prompt_line(line)
    return replace(defaults, prompt=prompt, **given)


def _sample_from_options(defaults: SampleSpec, given: Mapping[str, Any], line: str) -> SampleSpec:
    known = {item.name for item in fields(SampleSpec)}
    named = {_NAMES.get(name, name): value for name, value in given.items()}
    for name in named.keys() - known:
        raise TrainError(f"prompt {line!r}: unknown option {name!r}{did_you_mean(name, [*known, *_NAMES])}")
    return replace(defaults, **kohya_prompt_line.convert_option_values(named, line))


def load_sample_prompts(path: Path, defaults: SampleSpec) -> list[SampleSpec]:
    """Loads a prompt file.

    Args:
        path: .txt (one prompt a line, # starts a comment), .json or .toml.
        defaults: Values of what a prompt does not set.

    Returns:
        The images to generate, in the file's order; none for a file without a prompt, as kohya's GUI writes it.

    Raises:
        TrainError: The file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainError(f"--sample_prompts {path} cannot be read: {error}") from error
    if path.suffix.lower() in (".json", ".toml"):
        return [_sample_from_options(defaults, entry, str(entry)) for entry in _entries(path, text)]
    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    return [parse_sample_prompt(line, defaults) for line in lines]


def _entries(path: Path, text: str) -> list[Mapping[str, Any]]:
    entries: Any
    try:
        entries = parse_json(text) if path.suffix.lower() == ".json" else _toml_entries(load_toml(path).get("prompt"))
    except ValueError as error:
        raise TrainError(f"--sample_prompts {path} cannot be read: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        form = (
            "a list of prompts with their options"
            if path.suffix.lower() == ".json"
            else ("a table [prompt] with what all prompts share, and a table [[prompt.subset]] for each of them")
        )
        raise TrainError(f"--sample_prompts {path}: it must be {form}")
    return cast(list[Mapping[str, Any]], entries)


def _toml_entries(shared: object) -> list[dict[str, Any]] | None:
    """The prompts of a TOML file's table `prompt`; None where it has another form."""
    subsets = shared.get("subset", [{}]) if isinstance(shared, dict) else None
    if not isinstance(subsets, list) or not all(isinstance(subset, dict) for subset in subsets):
        return None
    common = {name: value for name, value in shared.items() if name != "subset"}  # type: ignore[attr-defined]
    return [{**common, **subset} for subset in subsets]


@dataclass(frozen=True)
class SampleImage:
    """A sample image.

    Attributes:
        prompt_index: The number of its prompt.
        sample_spec: What was generated.
        step: The step after which it was generated.
        epoch: The epoch after which it was generated; 0 within an epoch.
        path: Its file.
        image: The image.
    """

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
    """Generates one image for each prompt, named as by kohya: NAME_e000001_00_SEED.png, or _000100_ at a step.

    Args:
        model: The model with its hooks.
        sample_specs: The prompts. One without a seed gets `seed` plus its number, so that epochs can be compared.
        folder: The folder for the images; it is created.
        name: The run's output name.
        step: The current step.
        epoch: The current epoch; None within one.
        seed: The run's seed.
        rank_and_world_size: (rank, processes): a process generates every processes-th prompt.
        notify: Called with a sentence if a file is saved under another name.

    Returns:
        The images of this process.

    Raises:
        TrainError: An image cannot be written.
    """
    when = f"e{epoch:06}" if epoch is not None else f"{step:06}"
    samples = []
    for number, spec in list(enumerate(sample_specs))[rank_and_world_size[0] :: rank_and_world_size[1]]:
        spec = replace(spec, seed=(seed + number) % 2**32 if spec.seed is None else spec.seed)
        image = model.generate_image(spec)
        path = folder / f"{name}_{when}_{number:02}_{spec.seed}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = save_here_or_beside(path, partial(image.save, format="PNG"), notify)
        except OSError as error:
            raise TrainError(f"the sample {path} cannot be written: {error.strerror or error}") from error
        except FileError as error:
            raise TrainError(f"the sample {error}") from error
        samples.append(SampleImage(number, spec, step, epoch or 0, path, image))
    return samples
