"""Sends a run's finished file to huggingface.co, only where `push_to_hub` asks for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import TrainError
from ..config.recipe import Recipe


def check_hub_login(recipe: Recipe) -> None:
    """Checks before a run that its file can be sent afterwards; asks the network nothing.

    Args:
        recipe: The settings; nothing is checked without `push_to_hub`.

    Raises:
        TrainError: huggingface_hub is not installed, or nobody is logged in.
    """
    if recipe.push_to_hub and not _hub().get_token():
        raise TrainError("push_to_hub: nobody is logged in to huggingface.co; run 'hf auth login', or set HF_TOKEN")


def upload_result(recipe: Recipe, file: Path | None, is_main: bool, notify: Callable[[str], None]) -> None:
    """Sends a file to the recipe's repository, which is made as a private one where there is none.

    A failure is told and ends nothing: the file itself is on the disk.

    Args:
        recipe: The settings; nothing is sent without `push_to_hub`.
        file: The finished file; None where there is none.
        is_main: Whether this process is the one that sends.
        notify: Called with the address, or with what went wrong.

    Raises:
        TrainError: huggingface_hub is not installed.
    """
    if not recipe.push_to_hub or file is None or not is_main:
        return
    hub = _hub()
    name = recipe.hub_model_id or recipe.output_name
    try:
        api = hub.HfApi()
        repository = api.create_repo(name, private=True, exist_ok=True).repo_id
        api.upload_file(path_or_fileobj=file, path_in_repo=file.name, repo_id=repository)
    except (OSError, ValueError) as error:  # those of huggingface_hub and of requests too
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        notify(f"push_to_hub: {file.name} was not sent to {name} ({reason[:200]}); it is in {file.parent}")
    else:
        notify(f"sent {file.name} to https://huggingface.co/{repository}")


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise TrainError("push_to_hub needs huggingface_hub: pip install huggingface_hub") from error
    return huggingface_hub
