"""Which objective a recipe's mode trains."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ...protocols import TrainableModel
from ..config.recipe import Recipe
from ..network.trainable_network import TrainableNetwork
from .objective import TrainingObjective
from .pair_objective import PairObjective
from .prompt_objective import PromptObjective

OBJECTIVES: Mapping[str, type[TrainingObjective]] = MappingProxyType(
    {"ileco": PromptObjective, "slider": PromptObjective, "addift": PairObjective, "multi-addift": PairObjective}
)
"""Mode → objective; that of pictures is `TrainingObjective`."""


def build_objective(
    model: TrainableModel, recipe: Recipe, network: TrainableNetwork, *, trains_text: bool
) -> TrainingObjective:
    """Builds the objective of a recipe's mode; the arguments are those of `TrainingObjective`."""
    return OBJECTIVES.get(recipe.mode, TrainingObjective)(model, recipe, network, trains_text=trains_text)
