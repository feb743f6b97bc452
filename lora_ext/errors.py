"""One exception base and one subclass a room, so that callers catch what they can act on.

A message says what was given, what fits, and the nearest valid name where there is one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LoraError(Exception):
    """Something the user can mend; its text is meant to be shown as it is."""


class FileError(LoraError):
    """A file that cannot be read or written: missing, truncated, lying, or wanting to run code."""


class PromptError(LoraError):
    """A `<lora:…>` tag that cannot be understood."""


class BlockError(LoraError):
    """Block weights, presets or element rules that do not parse."""


class FitError(LoraError):
    """An adapter whose shapes do not fit the layer or the model it was meant for."""


class BakingMemoryError(FitError):
    """Too little memory to bake LoRAs.

    Attributes:
        shortage: the message without the advice to choose another mode, which `lora_ext.merge` does not have.
    """

    def __init__(self, shortage: str, advice: str) -> None:
        super().__init__(f"{shortage}; {advice}")
        self.shortage = shortage


class TrainError(LoraError):
    """Training that cannot start or go on."""


class ToolError(LoraError):
    """A file tool that was asked for something impossible."""


def did_you_mean(given: str, valid: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the nearest of `valid`, or the list of a few, or nothing."""
    names = sorted(set(valid))
    folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(given.casefold(), folded, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {folded[close[0]]!r}?"
    if names and len(names) <= 12:
        return f"; known: {', '.join(names)}"
    return ""
