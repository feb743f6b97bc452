"""How several LoRA files act together: summed, in turn, or each in a prediction of its own (`compose=` in a tag).

Zhong et al. 2024, "Multi-LoRA Composition for Image Generation", arXiv:2402.16843: with LoRA Switch one file at a time
is active; with LoRA Composite each denoising step averages the guided predictions that are made with one file alone.
Guidance is linear in the predictions, so that averaging those of the prompt and of the negative prompt is the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .errors import PromptError, did_you_mean

SUM, SWITCH, COMPOSITE = "sum", "switch", "composite"
COMPOSITIONS = (SUM, SWITCH, COMPOSITE)

_TEXT = re.compile(r"(?P<method>[a-z]+)(?:/(?P<calls>[1-9]\d{0,3}))?")


@dataclass(frozen=True)
class Turn:
    """When one of several files acts.

    Attributes:
        place: the file's place among them, from 0.
        count: how many files take turns.
        calls: how many U-Net calls a turn lasts (switch); 0 where each call is made once for each file (composite).
    """

    place: int
    count: int
    calls: int

    def acts_at(self, step: int, prediction: int) -> bool:
        """Whether the file acts.

        Args:
            step: the U-Net call, from 0.
            prediction: which of the predictions of that call is made, from 0.

        Example:
            >>> [Turn(1, 2, calls=2).acts_at(step, 0) for step in range(6)]
            [False, False, True, True, False, False]
            >>> [Turn(1, 2, calls=0).acts_at(5, prediction) for prediction in range(2)]
            [False, True]
        """
        return (step // self.calls if self.calls else prediction) % self.count == self.place


def parse_composition(text: str) -> tuple[str, int]:
    """Parses the text of `compose=`.

    Args:
        text: `sum`, `switch`, `switch/5` (each file for 5 U-Net calls) or `composite`.

    Returns:
        (one of `COMPOSITIONS`, the calls that a turn lasts: 0 except with switch).

    Raises:
        PromptError: the text is none of these.

    Example:
        >>> parse_composition("switch/5"), parse_composition("composite")
        (('switch', 5), ('composite', 0))
    """
    match = _TEXT.fullmatch(text.strip().lower())
    method = match["method"] if match else text.strip()[:40]
    if match is None or method not in COMPOSITIONS or (match["calls"] and method != SWITCH):
        hint = did_you_mean(method, COMPOSITIONS)
        raise PromptError(f"compose={text.strip()[:40]} is not known{hint}; write sum, switch, switch/5 or composite")
    return method, int(match["calls"] or 1) if method == SWITCH else 0


def assign_turns(compositions: Sequence[str | None]) -> list[Turn | None]:
    """Decides when each file of a prompt acts.

    A file that says nothing does as the first one that says anything but `sum`. Files with the same text take turns;
    one that is alone with its text acts all the time.

    Args:
        compositions: the text of `compose=` of each file, in the order of the prompt; None where it says nothing.

    Returns:
        The turn of each file; None for one that acts all the time.

    Raises:
        PromptError: as `parse_composition`.

    Example:
        >>> assign_turns(["switch", None, "sum"])
        [Turn(place=0, count=2, calls=1), Turn(place=1, count=2, calls=1), None]
    """
    parsed = [None if text is None else parse_composition(text) for text in compositions]
    usual = next((one for one in parsed if one is not None and one[0] != SUM), (SUM, 0))
    chosen = [usual if one is None else one for one in parsed]
    turns: list[Turn | None] = []
    for i, (method, calls) in enumerate(chosen):
        count = chosen.count((method, calls))
        place = chosen[:i].count((method, calls))
        turns.append(None if method == SUM or count == 1 else Turn(place, count, calls))
    return turns


def predictions_per_call(turns: Iterable[Turn | None]) -> int:
    """Returns how many predictions are averaged at each U-Net call: as many as let each group of files come round.

    Example:
        >>> predictions_per_call([Turn(0, 2, 0), Turn(1, 2, 0), None]), predictions_per_call([Turn(0, 2, 1)])
        (2, 1)
    """
    return math.lcm(*(turn.count for turn in turns if turn is not None and not turn.calls))
