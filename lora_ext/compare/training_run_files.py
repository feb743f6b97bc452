"""Runs of training: the files that one training left, told apart by their names, in order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..errors import LoraError, did_you_mean
from ..file.lora_library import LibraryEntry, LoraLibrary
from .axis_values import parse_item_list, parse_number_range

_TAIL = re.compile(r"-(?:(?P<step>step)(?P<steps>\d{8})|(?P<epoch>\d{6}))(?P<state>-state)?$")
"""kohya's names: `name-000003` after epoch 3, `name-step00000500` after step 500; the last is just `name`."""


@dataclass(frozen=True)
class RunFile:
    """One file of a run: what the prompt calls it; its epoch, or its step; neither for the last file."""

    name: str
    run: str
    epoch: int | None = None
    step: int | None = None

    @property
    def last(self) -> bool:
        """Whether it is the one that the training ended with."""
        return self.epoch is None and self.step is None

    @property
    def label(self) -> str:
        """What stands over its column."""
        if self.last:
            return "last"
        return f"epoch {self.epoch}" if self.epoch is not None else f"step {self.step}"


def parse_run_file(name: str) -> RunFile:
    """A name taken apart; folders before it belong to the run."""
    match = _TAIL.search(name)
    if match is None:
        return RunFile(name, name)
    run = name[: match.start()]
    if match["step"]:
        return RunFile(name, run, step=int(match["steps"]))
    return RunFile(name, run, epoch=int(match["epoch"]))


def is_same_run(one: str, two: str) -> bool:
    """Whether two names are of files of one run (or the same name)."""
    return parse_run_file(one).run.casefold() == parse_run_file(two).run.casefold()


def group_by_run(names: Iterable[str]) -> Mapping[str, tuple[RunFile, ...]]:
    """Run → its files in order: by epoch (or by step where there are no epochs), the last file at the end.

    Names without a number make a run only beside numbered ones.
    """
    found: dict[str, list[RunFile]] = {}
    for name in dict.fromkeys(names):
        file = parse_run_file(name)
        found.setdefault(file.run, []).append(file)
    made = {}
    for run, files in found.items():
        if len(files) > 1 or not files[0].last:
            epochs = any(file.epoch is not None for file in files)
            kept = [file for file in files if file.last or not epochs or file.epoch is not None]
            made[run] = tuple(sorted(kept, key=lambda f: (f.last, f.epoch or 0, f.step or 0)))
    return made


def prompt_names(library: LoraLibrary) -> list[str]:
    """One name for each file, the shortest that means this very file (aliases of a run's files are all the same)."""
    return [_name(entry, library) for entry in library.entries]


def _name(entry: LibraryEntry, library: LoraLibrary) -> str:
    return entry.name if library.find(entry.name) is entry else library.shortest_name(entry)


def runs_in_library(library: LoraLibrary) -> Mapping[str, tuple[RunFile, ...]]:
    """The runs among a library's files: those of one folder belong together. Names are what a prompt calls them."""
    names = {entry.relative_name: _name(entry, library) for entry in library.entries}
    found = group_by_run(names)
    return {run: tuple(replace(file, name=names[file.name]) for file in files) for run, files in found.items()}


def find_run(name: str | None, library: LoraLibrary) -> tuple[RunFile, ...]:
    """The files of the run that `name` is of (any of its files, or the run's own name); None: the only run there is.

    Raises LoraError that names the runs.
    """
    known = runs_in_library(library)
    if name is None:
        if len(known) == 1:
            return next(iter(known.values()))
        many = f"; name one of {', '.join(sorted(known))}" if known else ": no name ends in -000001 or the like"
        raise LoraError(f"{len(known) or 'no'} runs of training are among the LoRA files{many}")
    for same in (
        lambda run, files: any(file.name == name for file in files),
        lambda run, files: is_same_run(run, name),
        lambda run, files: is_same_run(run.rpartition("/")[2], name),
    ):
        for run, files in known.items():
            if same(run, files):
                return files
    raise LoraError(f"{name!r} is not of a run with several files{did_you_mean(parse_run_file(name).run, known)}")


def select_run_files(files: tuple[RunFile, ...], text: str) -> list[RunFile]:
    """`all`, `last`, epochs (or steps) as numbers and ranges: the run's files that are meant, in the order asked.

    A range takes those that are there; a number that is not there is an error. Raises LoraError.
    """
    found: list[RunFile] = []
    by_number = {file.epoch if file.epoch is not None else file.step: file for file in files if not file.last}
    for item in parse_item_list(text) or ["all"]:
        if item.lower() == "all":
            found += files
        elif item.lower() == "last":
            found.append(files[-1])
        else:
            wanted = [int(value) for value in parse_number_range(item, "epoch")]
            there = [by_number[number] for number in wanted if number in by_number]
            if not there or (len(wanted) == 1 and not there):
                have = ", ".join(str(number) for number in by_number)
                raise LoraError(f"epoch {item} is not among the files of {files[0].run!r}; there are {have} and last")
            found += there
    return list(dict.fromkeys(found))
