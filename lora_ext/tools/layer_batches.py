"""Best approximations of many layers, a batch at a time: a layer alone is mostly many small calls of torch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..adapters import Adapter
from ..errors import ToolError
from ..layer_names import LayerId
from ..rank_reduction import LowRankApproximation, RankRule, reduce_ranks
from .layer_changes import LayerChange

_LAYERS, _NUMBERS = 16, 1 << 23
"""Most layers of a batch, and most numbers in their factors: these stay in memory, and in the processor's cache."""


@dataclass(frozen=True)
class ApproximationPlan:
    """A layer whose best approximation is wanted.

    Attributes:
        change: its ΔW.
        rule: the rank.
        finish: makes the layer of the result.
    """

    change: LayerChange
    rule: RankRule
    finish: Callable[[LowRankApproximation], Adapter]


LayerPlan = ApproximationPlan | Callable[[], Adapter | None]


def finish_layers(
    plans: Iterable[tuple[LayerId, LayerPlan]],
) -> Iterator[tuple[LayerId, Callable[[], Adapter | None]]]:
    """Computes the approximations of layers in batches.

    Args:
        plans: the layers; a function makes its result without an approximation.

    Yields:
        Each layer in its order, with a function that returns its result. The function raises ToolError where ΔW
        contains NaN or infinity, and what `finish` raises.
    """
    batch: list[tuple[LayerId, LayerPlan]] = []
    layers = numbers = 0
    for layer_id, plan in plans:
        batch.append((layer_id, plan))
        if isinstance(plan, ApproximationPlan):
            layers, numbers = layers + 1, numbers + _numbers(plan.change)
        if layers >= _LAYERS or numbers >= _NUMBERS:
            yield from _finish_batch(batch)
            batch, layers, numbers = [], 0, 0
    yield from _finish_batch(batch)


def _numbers(change: LayerChange) -> int:
    """Numbers in the factors; so many for a dense ΔW that the batch ends there."""
    return _NUMBERS if change.low is None else change.low.up.numel() + change.low.down.numel()


def _finish_batch(batch: list[tuple[LayerId, LayerPlan]]) -> Iterator[tuple[LayerId, Callable[[], Adapter | None]]]:
    wanted = [plan for _, plan in batch if isinstance(plan, ApproximationPlan)]
    together = [plan for plan in wanted if plan.change.has_thin_factors]
    found = reduce_ranks([plan.change.low for plan in together], [plan.rule for plan in together])  # type: ignore[misc]
    for layer_id, plan in batch:
        if not isinstance(plan, ApproximationPlan):
            yield layer_id, plan
            continue
        try:
            best = next(found) if plan.change.has_thin_factors else plan.change.best_approximation(plan.rule)
        except ToolError as error:
            yield layer_id, functools.partial(_fail, f"{layer_id} contains {error}")
            return
        yield layer_id, functools.partial(plan.finish, best)


def _fail(text: str) -> Adapter:
    raise ToolError(text)
