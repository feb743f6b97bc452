"""The files of a training run, recognised and put in order by their names."""

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
    """One file of a training run.

    Attributes:
        name: what a prompt calls it.
        run: name of the run.
        epoch: the epoch after which it was saved, or None.
        step: the step after which it was saved, or None. The run's last file has neither.
    """

    name: str
    run: str
    epoch: int | None = None
    step: int | None = None

    @property
    def last(self) -> bool:
        """Whether it was saved at the end of the training."""
        return self.epoch is None and self.step is None

    @property
    def label(self) -> str:
        """Its label on a sheet."""
        if self.last:
            return "last"
        return f"epoch {self.epoch}" if self.epoch is not None else f"step {self.step}"


def parse_run_file(name: str) -> RunFile:
    """Parses a file's name; folders in front of it belong to the run's name.

    Example:
        >>> parse_run_file("cats/tabby-000003")
        RunFile(name='cats/tabby-000003', run='cats/tabby', epoch=3, step=None)
    """
    match = _TAIL.search(name)
    if match is None:
        return RunFile(name, name)
    run = name[: match.start()]
    if match["step"]:
        return RunFile(name, run, step=int(match["steps"]))
    return RunFile(name, run, epoch=int(match["epoch"]))


def is_same_run(one: str, two: str) -> bool:
    """Whether two names belong to files of one run, or are equal.

    Args:
        one: the name of a file, such as "style-000004".
        two: another name.

    Returns:
        Whether they differ only in their epoch or step, and in upper and lower case.
    """
    return parse_run_file(one).run.casefold() == parse_run_file(two).run.casefold()


def group_by_run(names: Iterable[str]) -> Mapping[str, tuple[RunFile, ...]]:
    """Groups files by their runs.

    Names without a number are a run only together with numbered ones.

    Args:
        names: names of files.

    Returns:
        Run → its files by epoch (or by step where there are no epochs), the last file at the end.
    """
    found: dict[str, list[RunFile]] = {}
    for name in dict.fromkeys(names):
        file = parse_run_file(name)
        found.setdefault(file.run, []).append(file)
    runs = {}
    for run, files in found.items():
        if len(files) > 1 or not files[0].last:
            epochs = any(file.epoch is not None for file in files)
            kept = [file for file in files if file.last or not epochs or file.epoch is not None]
            runs[run] = tuple(sorted(kept, key=lambda f: (f.last, f.epoch or 0, f.step or 0)))
    return runs


def prompt_names(library: LoraLibrary) -> list[str]:
    """One name for each file of a library: the shortest one that a prompt can use for this file and no other.

    The files of a run all have the same alias (`ss_output_name`), so that their own names are needed.

    Args:
        library: the files.

    Returns:
        The names in the library's order.
    """
    return [_name_in_prompts(entry, library) for entry in library.entries]


def _name_in_prompts(entry: LibraryEntry, library: LoraLibrary) -> str:
    return entry.name if library.find(entry.name) is entry else library.shortest_name(entry)


def runs_in_library(library: LoraLibrary) -> Mapping[str, tuple[RunFile, ...]]:
    """The training runs among a library's files, each within one folder.

    Args:
        library: the files.

    Returns:
        Run → its files, with the names that a prompt uses.
    """
    names = {entry.relative_name: _name_in_prompts(entry, library) for entry in library.entries}
    found = group_by_run(names)
    return {run: tuple(replace(file, name=names[file.name]) for file in files) for run, files in found.items()}


def find_run(name: str | None, library: LoraLibrary) -> tuple[RunFile, ...]:
    """Finds a training run.

    Args:
        name: the run's name or that of one of its files; None for the only run in the library.
        library: where to search.

    Returns:
        The run's files in order.

    Raises:
        LoraError: no such run, or none or several for None; the message names the runs.
    """
    known = runs_in_library(library)
    if name is None:
        if len(known) == 1:
            return next(iter(known.values()))
        many = f"; name one of {', '.join(sorted(known))}" if known else ": no name ends in -000001 or the like"
        raise LoraError(f"{len(known) or 'no'} training runs are among the LoRA files{many}")
    for same in (
        lambda run, files: any(file.name == name for file in files),
        lambda run, files: is_same_run(run, name),
        lambda run, files: is_same_run(run.rpartition("/")[2], name),
    ):
        for run, files in known.items():
            if same(run, files):
                return files
    raise LoraError(
        f"{name!r} does not belong to a training run with several files{did_you_mean(parse_run_file(name).run, known)}"
    )


def select_run_files(files: tuple[RunFile, ...], text: str) -> list[RunFile]:
    """Selects files of a run.

    Args:
        files: the run's files in order.
        text: `all`, `last`, or epochs (steps where there are no epochs) as numbers and ranges. A range selects those
            that exist.

    Returns:
        The files in the order of `text`, each once.

    Raises:
        LoraError: a number or range of which no file exists.
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
            present = [by_number[number] for number in wanted if number in by_number]
            if not present or (len(wanted) == 1 and not present):
                have = ", ".join(str(number) for number in by_number)
                raise LoraError(f"epoch {item} is not among the files of {files[0].run!r}; there are {have} and last")
            found += present
    return list(dict.fromkeys(found))
