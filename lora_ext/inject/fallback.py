"""Live where baking does not pay or does not fit: weights that keep changing, and memory that runs out."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, TypeVar

from ..errors import FitError
from .free_memory import format_bytes, is_out_of_memory, release_memory

if TYPE_CHECKING:
    from . import Injection

_T = TypeVar("_T")
CHANGING_WEIGHTS_REASON = "the weights of these files keep changing"


class WeightChanges:
    """Whether the weights of the same files keep changing, as with sliders and in sheets over weights.

    Baking at every change takes longer than a live picture is slower: 4 s against 0.05 s at SDXL's size on a GPU.
    """

    CHANGES_BEFORE_LIVE, IMAGES_BEFORE_BAKING = 2, 3
    """Changes in a row after which they are taken to go on; pictures without one after which they have ended."""

    def __init__(self) -> None:
        self._files: Hashable = None
        self._weights: object = None
        self._changed = self._same = 0

    def note_weights(self, files: Hashable, weights: object) -> bool:
        """Notes what the next picture gets, and says whether weights keep changing."""
        if files != self._files:
            self._changed = self._same = 0
        elif weights != self._weights:
            self._changed, self._same = self._changed + 1, 0
        else:
            self._same += 1
            self._changed = 0 if self._same >= self.IMAGES_BEFORE_BAKING else self._changed
        self._files, self._weights = files, weights
        return self._changed >= self.CHANGES_BEFORE_LIVE


class LiveFallback:
    """Moves an injection by `move(everything)`, and to live where memory runs out; only in the mode "auto".

    note: what the user has to know then, "" before.
    """

    def __init__(
        self, injection: Injection, apply_changes: Callable[[bool], object], changes: WeightChanges | None = None
    ) -> None:
        self.injection, self.changes = injection, changes or WeightChanges()
        self.note = ""
        self._apply_changes = apply_changes

    def note_weights(self, files: Hashable, weights: object, on_gpu: bool) -> bool:
        """Notes what is to be applied; live where that keeps changing and baking would be slow (`on_gpu`: on a GPU).
        Returns whether what is live because of it is to be baked again."""
        changing = self.changes.note_weights(files, weights) and on_gpu
        before = self.injection.forced_live_reason
        if before in ("", CHANGING_WEIGHTS_REASON):
            self.injection.forced_live_reason = CHANGING_WEIGHTS_REASON if changing else ""
        return before == CHANGING_WEIGHTS_REASON and not changing

    def apply(self, anew: bool = False) -> bool:
        """Moves; returns False where memory ran out, after which all is to be moved again: live. Raises FitError where
        it ran out in the mode "baked"."""
        try:
            self._apply_changes(anew)
            return True
        except Exception as error:
            if not is_out_of_memory(error) or self.injection.mode == "live" or self.note:
                raise
            if self.injection.mode == "baked":
                raise FitError("memory ran out while baking; the modes live and auto need none of it") from error
        self._live_from_now("memory ran out while baking: live from now on")
        return False

    def go_live(self) -> bool:
        """Takes off what is baked and applies it live from now on. Returns whether that gave memory back."""
        held = self.injection.baked_bytes()
        if self.injection.mode != "auto" or not held:
            return False
        self._live_from_now(f"memory ran out while {format_bytes(held)} were baked: live from now on")
        self._apply_changes(True)
        release_memory()
        return True

    def retry_when_out_of_memory(self, work: Callable[[], _T]) -> _T:
        """The result of `work`, such as a picture; where memory runs out in it, once more with everything live.

        Raises FitError where that is not to be done, in the mode "baked".
        """
        try:
            return work()
        except Exception as error:
            held = self.injection.baked_bytes()
            if not is_out_of_memory(error) or not held:
                raise
            if self.injection.mode != "auto":
                raise FitError(
                    f"{error}; baked LoRAs hold {format_bytes(held)}, modes live and auto hold nothing"
                ) from error
        self.go_live()  # here, where the error holds no tensors any more
        return work()

    def _live_from_now(self, why: str) -> None:
        release_memory()
        self.note = self.injection.forced_live_reason = why
