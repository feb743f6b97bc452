"""`ValidationOptions`: the options of `Recipe` that keep pictures apart to see whether training still helps."""

from __future__ import annotations

from dataclasses import dataclass

from .recipe_option import MAX_STEPS, recipe_option


@dataclass(frozen=True)
class ValidationOptions:
    """Validation and early stopping; each option's help says what it does."""

    # --- validation
    validation_split: float = recipe_option(
        0.0, "share of the pictures that is not trained on; their loss is measured", "validation", low=0, high=0.9
    )
    validation_seed: int | None = recipe_option(
        None, "which pictures these are; else by the seed", "validation", low=0, high=2**63 - 1
    )
    validate_every_n_epochs: int | None = recipe_option(
        None, "measure every n epochs; every epoch where neither is set", "validation", low=1
    )
    validate_every_n_steps: int | None = recipe_option(None, "measure every n steps", "validation", low=1)
    max_validation_steps: int | None = recipe_option(None, "batches that are measured; else all", "validation", low=1)
    early_stopping_patience: int | None = recipe_option(
        None, "end the run after so many validations without a lower loss", "validation", low=1, high=MAX_STEPS
    )
