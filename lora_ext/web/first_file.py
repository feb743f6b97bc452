"""The file that a panel begins with: one that the model can use."""

from __future__ import annotations

from ..file.base_model import CROSS_ATTENTION_DIMS
from ..file.lora_library import LibraryEntry
from .app_state import AppState
from .library_query import LibraryQuery

_READ_NOW = 50
"""The newest files are read for the answer where they were not yet; more of them would let the page wait."""


def newest_fitting_file(app_state: AppState, cross_attention_dim: int) -> LibraryEntry | None:
    """Finds the newest file that fits a model.

    A file fits where its own cross-attention layers, else those of its family, take in what the model's do. That tells
    the families apart, and the embedded model, which is a small SD1, from SD1.

    Args:
        app_state: Has the library.
        cross_attention_dim: What the model's cross-attention layers take in; 0 where that is not known.

    Returns:
        The file; the newest of all where none fits, None where there is none.
    """
    entries = app_state.search.find(LibraryQuery()).entries
    for number, entry in enumerate(entries if cross_attention_dim else ()):
        catalogue = app_state.catalogue
        known = catalogue.summary(entry) if number < _READ_NOW else catalogue.cached_summary(entry)
        if known is None:
            continue
        own = known.get("cross_attention_dim") or CROSS_ATTENTION_DIMS.get(known["base"])
        if own == cross_attention_dim:
            return entry
    return next(iter(entries), None)
