"""`SavingOptions`: the options of `Recipe` that say what the results are saved as, and where they are sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .recipe_option import recipe_option

_REPOSITORY = re.compile(r"(?:[\w.-]{1,96}/)?[\w.-]{1,96}")


@dataclass(frozen=True)
class SavingOptions:
    """Format and upload of the results; each option's help says what it does."""

    save_model_as: str = recipe_option(
        "safetensors", "suffix of the files; ckpt and pt hold no metadata", "saving", ("safetensors", "ckpt", "pt")
    )
    push_to_hub: bool = recipe_option(
        False, "send the finished file to huggingface.co, as the user who is logged in there", "saving"
    )
    hub_model_id: str | None = recipe_option(
        None, "its repository, NAME or USER/NAME, made as a private one; output_name without it", "saving"
    )


def saving_problems(r: SavingOptions) -> Iterator[str]:
    """Yields a sentence for each problem."""
    if r.hub_model_id is not None and not r.push_to_hub:
        yield "hub_model_id names where push_to_hub sends the file; set push_to_hub, or leave it out"
    name = r.hub_model_id
    if name is not None and (not _REPOSITORY.fullmatch(name) or ".." in name or "--" in name):
        yield f"hub_model_id {name[:80]!r} is no repository of huggingface.co; give NAME or USER/NAME"
