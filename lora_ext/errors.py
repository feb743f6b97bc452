"""One base class of exceptions and one subclass for each kind of error, so that callers catch what they can handle.

A message says what was given, what is accepted, and the nearest valid name where there is one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class LoraError(Exception):
    """An error that the user can correct; its text is shown as it is."""


class FileError(LoraError):
    """A file that cannot be read or written: missing, truncated, inconsistent, or with code to run."""


class PromptError(LoraError):
    """A `<lora:…>` tag that cannot be understood."""


class BlockError(LoraError):
    """Block weights, presets or element rules that do not parse."""


class FitError(LoraError):
    """An adapter whose shapes do not fit the layer or the model it was meant for."""


class BakingMemoryError(FitError):
    """Too little memory to bake LoRAs.

    Args:
        shortage: what is missing.
        advice: which modes to choose instead.

    Attributes:
        shortage: the message without the advice to choose another mode, which `lora_ext.merge` does not have.
    """

    def __init__(self, shortage: str, advice: str) -> None:
        super().__init__(f"{shortage}; {advice}")
        self.shortage = shortage


class TrainError(LoraError):
    """Training that cannot start or continue."""


class ToolError(LoraError):
    """A request that a file tool cannot fulfil."""


def did_you_mean(given: str, valid: Iterable[str], most: int = 12) -> str:
    """Formats a hint for a name that is not accepted.

    Args:
        given: the name.
        valid: the accepted names.
        most: how many of them may be listed.

    Returns:
        The nearest name, else the list of at most `most` names, else "".

    Example:
        >>> did_you_mean("konya", ["kohya", "diffusers"]), did_you_mean("x", ["kohya", "diffusers"])
        ("; did you mean 'kohya'?", '; known: diffusers, kohya')
    """
    names = sorted(set(valid))
    nearest = _nearest(given, names)
    if nearest is not None:
        return f"; did you mean {nearest!r}?"
    if names and len(names) <= most:
        return f"; known: {', '.join(' '.join(name.split()) for name in names)}"  # those of files may have line breaks
    return ""


def did_you_mean_path(given: Path, names: Iterable[str]) -> str:
    """Formats a hint for a path that does not exist, as `did_you_mean` does for a name.

    Args:
        given: the path.
        names: what its folder holds instead.

    Returns:
        The nearest with its folder, so that it can be copied; else the list of few names, else "".

    Example:
        >>> did_you_mean_path(Path("mycta.pt"), ["mycat.pt"])
        "; did you mean 'mycat.pt'?"
    """
    names = list(names)
    nearest = _nearest(given.name, names)
    return did_you_mean(given.name, names) if nearest is None else f"; did you mean '{given.with_name(nearest)}'?"


def _nearest(given: str, names: Iterable[str]) -> str | None:
    """The name that is most like the given one, where any is like it."""
    folded = {name.casefold(): name for name in names}
    text = given.strip().casefold()
    alike = [name for name in folded if name[:1] == text[:1]]  # else half of the letters says little
    close = difflib.get_close_matches(text, folded, 1, 0.6) or difflib.get_close_matches(text, alike, 1, 0.5)
    return folded[close[0]] if close else None
