"""Switches the mode "auto" from baked to live: where weights keep changing, and where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, TypeVar

from ..errors import BakingMemoryError, FitError
from .free_memory import format_bytes, is_out_of_memory, release_memory

if TYPE_CHECKING:
    from . import Injection

_T = TypeVar("_T")
CHANGING_WEIGHTS_REASON = "the weights of these files keep changing"


class WeightChanges:
    """Detects that the weights of the same files keep changing, as with sliders and in sheets over weights.

    Then live is faster: measured with SDXL on a GPU, baking again takes 4 s, while live costs 0.05 s for each image.
    """

    CHANGES_BEFORE_LIVE, IMAGES_BEFORE_BAKING = 2, 3
    """Changes in a row after which live begins; images without a change after which it ends."""

    def __init__(self) -> None:
        self._files: Hashable = None
        self._weights: object = None
        self._changed = self._same = 0

    def note_weights(self, files: Hashable, weights: object) -> bool:
        """Records the files and weights of the next image.

        Args:
            files: anything that is equal for the same files.
            weights: anything that is equal for the same weights.

        Returns:
            Whether weights keep changing.
        """
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
    """Applies changes of an injection and switches the mode "auto" to live where memory runs out.

    Args:
        injection: the injection.
        apply_changes: `apply_changes(anew)` applies what is wanted now: only differences, or everything anew.
        changes: weights of earlier images.

    Attributes:
        note: a message for the user after a switch to live; "" before.
    """

    def __init__(
        self, injection: Injection, apply_changes: Callable[[bool], object], changes: WeightChanges | None = None
    ) -> None:
        self.injection, self.changes = injection, changes or WeightChanges()
        self.note = ""
        self._apply_changes = apply_changes

    def note_weights(self, files: Hashable, weights: object, on_gpu: bool) -> bool:
        """Records what is applied next, and chooses live where weights keep changing on a GPU.

        Args:
            files: identifies the files.
            weights: their weights.
            on_gpu: whether images take seconds, so that baking at every change would take as long as an image.

        Returns:
            Whether the weights have settled, so that everything is to be applied anew.
        """
        changing = self.changes.note_weights(files, weights) and on_gpu
        before = self.injection.forced_live_reason
        if before in ("", CHANGING_WEIGHTS_REASON):
            self.injection.forced_live_reason = CHANGING_WEIGHTS_REASON if changing else ""
        return before == CHANGING_WEIGHTS_REASON and not changing

    def apply(self, anew: bool = False) -> bool:
        """Applies changes.

        Args:
            anew: apply everything, not only differences.

        Returns:
            False where memory ran out: everything is to be applied again, then live.

        Raises:
            FitError: memory ran out in the mode "baked".
        """
        try:
            self._apply_changes(anew)
            return True
        except Exception as error:
            if not is_out_of_memory(error) or self.injection.mode == "live" or self.note:
                raise
            if self.injection.mode == "baked":
                raise BakingMemoryError(
                    "memory ran out while baking", "the modes live and auto do not need it"
                ) from error
        self._live_from_now("memory ran out while baking: live from now on")
        return False

    def go_live(self) -> bool:
        """Applies live from now on what is baked. Returns whether that freed memory."""
        baked_bytes = self.injection.baked_bytes()
        if self.injection.mode != "auto" or not baked_bytes:
            return False
        self._live_from_now(f"memory ran out while {format_bytes(baked_bytes)} were baked: live from now on")
        self._apply_changes(True)
        release_memory()
        return True

    def retry_when_out_of_memory(self, work: Callable[[], _T]) -> _T:
        """Calls `work`, and where memory runs out in it calls it once more with everything applied live.

        Args:
            work: what may run out of memory.

        Returns:
            The result of `work`, such as an image.

        Raises:
            FitError: memory ran out in the mode "baked".
        """
        try:
            return work()
        except Exception as error:
            baked_bytes = self.injection.baked_bytes()
            if not is_out_of_memory(error) or not baked_bytes:
                raise
            if self.injection.mode != "auto":
                raise FitError(
                    f"{error}; baked LoRAs hold {format_bytes(baked_bytes)}, modes live and auto hold nothing"
                ) from error
        self.go_live()  # outside the except block, where the traceback keeps tensors alive
        return work()

    def _live_from_now(self, why: str) -> None:
        release_memory()
        self.note = self.injection.forced_live_reason = why
