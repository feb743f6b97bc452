"""Gives changed inputs to a reader and watches what it does: errors, time, memory, and the lines that it reaches."""

from __future__ import annotations

import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import lora_ext
from lora_ext.errors import LoraError

from .mutations import mutate

MOST_SECONDS = 1.0
"""Processor time of one input."""
MEMORY_FACTOR, FREE_MEMORY = 10, 64 * 2**20
"""An input may take this many times its own size, beyond what imports, buffers of libraries and a picture of 16 million
pixels take: a plain picture of that size is a file of some hundred bytes (a white mask)."""
TOO_LONG, TOO_MUCH = "longer than a second", "too much memory"
"""What a find is called that is no error."""
TRACED_SHARE = 1 / 12
"""Share of the inputs that are traced: it makes Python about ten times slower."""
_OURS = str(Path(lora_ext.__file__).parent)


@dataclass(frozen=True)
class Target:
    """A reader of untrusted input.

    Attributes:
        name: what is read.
        run: gives it one input; may raise `LoraError`.
        seeds: sound inputs.
        words: text that the reader knows.
        weight: its share of the inputs; less for slow readers.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()
    weight: float = 1.0


@dataclass(frozen=True)
class Find:
    """An input that a reader did not take as it should.

    Attributes:
        target: the name of the target.
        what: the kind of error and the place, or the time, or the memory.
        data: the input.
        detail: the traceback.
    """

    target: str
    what: str
    data: bytes
    detail: str = ""


@dataclass
class TargetReport:
    """What was tried of one target.

    Attributes:
        name: of the target.
        inputs: how many were tried.
        refused: how many ended in an error of the project.
        places: lines and kinds of errors that were reached.
        slowest: the longest processor time of an input, in seconds.
        seconds: processor time of all.
        finds: one for each kind.
    """

    name: str
    inputs: int = 0
    refused: int = 0
    places: int = 0
    slowest: float = 0.0
    seconds: float = 0.0
    finds: list[Find] = field(default_factory=list)


class Fuzzer:
    """Tries changed inputs of one target, and keeps those that reach something new.

    Args:
        target: the reader.
        seed: the same seed gives the same inputs.
    """

    def __init__(self, target: Target, seed: int) -> None:
        self.target, self.report = target, TargetReport(target.name)
        self.corpus = list(target.seeds)
        self._rng = random.Random(f"{seed} {target.name}")
        self._seen: set[object] = set()
        self._known: set[str] = set()

    def run(self, inputs: int, seconds: float) -> TargetReport:
        """Tries up to `inputs` inputs within `seconds` of the processor."""
        begun = time.process_time()
        for data in self.target.seeds if not self.report.inputs else ():
            self.try_input(data, traced=True)
        while self.report.inputs < inputs and time.process_time() - begun < seconds:
            data = mutate(self._rng.choice(self.corpus), self.corpus, self.target.words, self._rng)
            if self.try_input(data, traced=self._rng.random() < TRACED_SHARE) and len(self.corpus) < 5000:
                self.corpus.append(data)
        self.report.places = self.places
        self.report.seconds += time.process_time() - begun
        return self.report

    @property
    def places(self) -> int:
        """Lines and kinds of errors that were reached."""
        return len(self._seen)

    def try_input(self, data: bytes, traced: bool = False) -> bool:
        """Tries one input. Returns whether it reached something new."""
        known, memory, begun = len(self._seen), _peak_memory(), time.process_time()
        if traced:
            sys.settrace(self._trace)
        try:
            self.target.run(data)
        except LoraError as error:
            self.report.refused += 1
            self._seen.add((type(error), *_last_place(error)))
        except Exception as error:
            place = _last_place(error)
            self._find(f"{type(error).__name__} at {place[0]}:{place[1]}", data, traceback.format_exc(limit=-6))
        finally:
            if traced:
                sys.settrace(None)
        spent = time.process_time() - begun
        if not traced:
            self.report.slowest = max(self.report.slowest, spent)
        if spent > MOST_SECONDS * (10 if traced else 1):
            self._find(TOO_LONG, data, f"{spent:.1f} s")
        if _peak_memory() - memory > MEMORY_FACTOR * len(data) + FREE_MEMORY:
            self._find(TOO_MUCH, data, f"{(_peak_memory() - memory) / 2**20:.0f} MiB")
        self.report.inputs += 1
        return len(self._seen) > known

    def _find(self, what: str, data: bytes, detail: str) -> None:
        if what not in self._known:
            self._known.add(what)
            self.report.finds.append(Find(self.target.name, what, data, detail))

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(_OURS):
            return None
        seen = self._seen

        def lines(inner: FrameType, event: str, argument: Any) -> Any:
            seen.add((code, inner.f_lineno))
            return lines

        seen.add((code, 0))
        return lines


def _last_place(error: BaseException) -> tuple[str, int]:
    """File and line of our own code where an error came from."""
    place = ("?", 0)
    step = error.__traceback__
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        if name.startswith(_OURS):
            place = (Path(name).relative_to(_OURS).as_posix(), step.tb_lineno)
        step = step.tb_next
    return place


try:
    import resource

    def _peak_memory() -> int:
        """The most memory that this process has had, in bytes."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
except ImportError:  # Windows

    def _peak_memory() -> int:
        return 0
