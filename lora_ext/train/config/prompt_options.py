"""`PromptOptions`: the options of `Recipe` that give prompts in place of files of captions or of prompts."""

from __future__ import annotations

from dataclasses import dataclass

from .recipe_option import recipe_option


@dataclass(frozen=True)
class PromptOptions:
    """Prompts and columns of tables; each option's help says what it does."""

    # --- data
    instance_prompt: str | None = recipe_option(
        None, "caption of pictures that have none, instead of the folder's name", "data"
    )
    class_prompt: str | None = recipe_option(
        None, "caption of regularisation pictures that have none; reg_generate makes them from it", "data"
    )
    num_class_images: int | None = recipe_option(
        None, "regularisation pictures that class_prompt is filled up to", "data", low=1, high=100_000
    )
    image_column: str = recipe_option("image", "column of pictures in a parquet file", "data")
    caption_column: str = recipe_option(
        "text", "column of captions in a parquet file, metadata.jsonl or metadata.csv", "data"
    )
    # --- samples
    validation_prompt: str | None = recipe_option(None, "prompt of samples, where sample_prompts is not set", "samples")
    num_validation_images: int = recipe_option(
        4, "samples of validation_prompt, each from another seed", "samples", low=1, high=100
    )
