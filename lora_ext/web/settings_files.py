"""Settings files of other programs as values of the Train form."""

from __future__ import annotations

from typing import Any

from ..errors import TrainError
from ..train.config.network_modules import name_network
from ..train.config.recipe import recipe_options
from ..train.config.recipe_io import parse_recipe_option, settings_from_json, split_network_args
from .training_runs import TAB_OWNED_SETTINGS


def form_settings_of_file(text: str, name: str) -> tuple[dict[str, Any], list[str]]:
    """Translates a settings file of kohya's GUI, OneTrainer or traintrain.

    Args:
        text: What is in the file.
        name: The file's name, for messages.

    Returns:
        (values of the form by name, sentences that name what is not used).

    Raises:
        TrainError: It is another file, or trains something that is not supported.
    """
    given, said = settings_from_json(text, name)
    split_network_args(given, said.append)
    name_network(given, said.append)
    options, found = recipe_options(), {}
    elsewhere = []
    for option, value in given.items():
        if option not in options:
            said.append(f"{name}: {option} is not used in the form")
        elif option in TAB_OWNED_SETTINGS or options[option][1].kind:
            elsewhere.append(option)  # files and folders of the computer that it was written on
        else:
            try:
                parsed = parse_recipe_option(option, value)
                found[option] = list(parsed) if isinstance(parsed, tuple) else parsed
            except TrainError as error:
                said.append(f"left out: {error}")
    if elsewhere:
        said.append(f"choose files, folders and prompts here; not taken from the file: {', '.join(sorted(elsewhere))}")
    return found, said
