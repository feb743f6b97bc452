"""Which rows of a larger batch a call of a network computes, where LoRA weights differ from row to row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from ..counted_words import counted
from ..errors import FitError

_ROWS: ContextVar[tuple[tuple[int, ...], int] | None] = ContextVar("rows of the batch", default=None)


@contextmanager
def batch_rows(rows: Sequence[int], total: int) -> Iterator[None]:
    """Inside, a call of a network computes single rows of a batch: `rows[i]` of `total` is its row i.

    Live LoRAs whose weights differ from row to row use the weights of these rows. It serves batches that are computed
    in parts, and text encoders that get the rows' prompts one by one.

    Args:
        rows: the rows of the whole batch, from 0.
        total: the size of the whole batch, a multiple of the sets of LoRA weights.
    """
    token = _ROWS.set((tuple(rows), total))
    try:
        yield
    finally:
        _ROWS.reset(token)


def sets_of_rows(count: int, size: int) -> tuple[int, ...]:
    """Returns which of several sets of LoRA weights each row of a call has.

    Args:
        count: the number of sets.
        size: the rows of the call.

    Returns:
        The sets in turn, or those of the rows that `batch_rows` names.

    Raises:
        FitError: the batch is no multiple of the sets, or the call has another number of rows than were named.
    """
    rows, total = _ROWS.get() or (range(size), size)
    if total % count:
        raise FitError(f"a batch of {total} is no multiple of {count} sets of LoRA weights")
    if len(rows) != size:
        raise FitError(f"a batch of {size} has LoRA weights of {counted(len(rows), 'row')}")
    return tuple(row % count for row in rows)


def expand_to_rows(values: Tensor, size: int) -> Tensor:
    """Returns the values of each row of a call.

    Args:
        values: (sets, n).
        size: the rows of the call.

    Returns:
        (size, n).

    Raises:
        FitError: as `sets_of_rows`.
    """
    return values[list(sets_of_rows(len(values), size))]
