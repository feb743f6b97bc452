"""Live where baking does not pay or does not fit: weights that keep changing, and memory that runs out."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, TypeVar

from ..errors import FitError
from .free_memory import gib, is_out_of_memory, release

if TYPE_CHECKING:
    from . import Injection

T = TypeVar("T")
CHANGING = "the weights of these files keep changing"


class Changes:
    """Whether the weights of the same files keep changing, as with sliders and in sheets over weights.

    Baking at every change takes longer than a live picture is slower: 4 s against 0.05 s at SDXL's size on a GPU.
    """

    OFTEN, STILL = 2, 3
    """Changes in a row after which they are taken to go on; pictures without one after which they have ended."""

    def __init__(self) -> None:
        self._files: Hashable = None
        self._weights: object = None
        self._changed = self._same = 0

    def seen(self, files: Hashable, weights: object) -> bool:
        """Notes what the next picture gets, and says whether weights keep changing."""
        if files != self._files:
            self._changed = self._same = 0
        elif weights != self._weights:
            self._changed, self._same = self._changed + 1, 0
        else:
            self._same += 1
            self._changed = 0 if self._same >= self.STILL else self._changed
        self._files, self._weights = files, weights
        return self._changed >= self.OFTEN


class Fallback:
    """Moves an injection by `move(everything)`, and to live where memory runs out; only in the mode "auto".

    note: what the user has to know then, "" before.
    """

    def __init__(self, injection: Injection, move: Callable[[bool], object], changes: Changes | None = None) -> None:
        self.injection, self.changes = injection, changes or Changes()
        self.note = ""
        self._move = move

    def changing(self, files: Hashable, weights: object, quick: bool) -> bool:
        """Notes what is to be applied; live where that keeps changing and baking would be slow (`quick`: on a GPU).
        Returns whether what is live because of it is to be baked again."""
        changing = self.changes.seen(files, weights) and quick
        before = self.injection.forced
        if before in ("", CHANGING):
            self.injection.forced = CHANGING if changing else ""
        return before == CHANGING and not changing

    def put(self, everything: bool = False) -> bool:
        """Moves; returns False where memory ran out, after which all is to be moved again: live. Raises FitError where
        it ran out in the mode "baked"."""
        try:
            self._move(everything)
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
        self._live_from_now(f"memory ran out while {gib(held)} were baked: live from now on")
        self._move(True)
        release()
        return True

    def retrying(self, work: Callable[[], T]) -> T:
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
                raise FitError(f"{error}; baked LoRAs hold {gib(held)}, modes live and auto hold nothing") from error
        self.go_live()  # here, where the error holds no tensors any more
        return work()

    def _live_from_now(self, why: str) -> None:
        release()
        self.note = self.injection.forced = why
