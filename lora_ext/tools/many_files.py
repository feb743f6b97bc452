"""A command on many files: one bar, a report of each file, and a table of all at the end.

Results keep their path below the folder that was searched. Beside them stands `lora-ext-COMMAND.jsonl`, a line of JSON
for each file with its report; by it the same command, run again, does what is left. A run that was killed leaves
`.lora-ext-COMMAND.begun`, which names the files whose results it was to make: those are made again.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from ..console import print_text, single_line
from ..counted_words import counted
from ..errors import ToolError
from ..file.displayed_names import displayed_name
from ..file.peft_config import adapter_config_stamp
from ..file.saving import replacing_file
from ..json_text import dataclass_fields, parse_json
from ..progress import Track, no_progress, progress_bar
from .file_processes import available_cores, work_in_processes
from .input_files import InputFile, colliding_files, find_input_files, names_many_files, overwritten_files
from .report import ReportData, ToolReport, print_report

_Result = TypeVar("_Result")

_NOT_SETTINGS = ("overwrite", "json", "verbose", "processes", "save_to", "result_ending")
"""Options that do not change a result."""


@dataclass(frozen=True)
class FileOutcome(Generic[_Result]):
    """What became of one of many files.

    Attributes:
        model: the file.
        status: "done", "present" (an earlier run has done it) or "failed".
        result: what the command made of it; None where it failed or was present.
        error: why it failed.
        seconds: how long it took.
    """

    model: str
    status: str
    result: _Result | None = None
    error: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class ManyFilesData:
    """The JSON of a command on many files."""

    files: list[FileOutcome[ReportData]]
    done: int
    present: int
    failed: int


def run_tool(run: Callable[[argparse.Namespace, Track], ToolReport], args: argparse.Namespace) -> int:
    """Runs a tool on its `--model`: on one file, or on many.

    Args:
        run: does one file: it reads `args.model`, writes `args.save_to` and returns the report. A function of a module.
        args: the parsed command line; `model` is a list.

    Returns:
        The exit status: 0; 2 where a file of many failed.

    Raises:
        ToolError: the one file failed; or nothing was found, or the folder of results cannot be used.
    """
    if not names_many_files(args.model):
        one = copy.copy(args)
        one.model = args.model[0]
        print_report(run(one, no_progress if args.json else progress_bar), as_json=args.json, verbose=args.verbose)
        return 0
    outcomes = process_files(functools.partial(_without_bar, run), args, "model")
    if args.json:
        text = _json_text(ManyFilesData([_with_data(outcome) for outcome in outcomes], **_counts(outcomes)))
    else:
        reports = [outcome.result for outcome in outcomes if outcome.result is not None]
        each = [report.text(verbose=False) for report in reports] if args.verbose else []
        notes = _notes((outcome.model, outcome.result.notes) for outcome in outcomes if outcome.result)
        rows_text = [_report_row(outcome) for outcome in outcomes if outcome.status != "failed"]
        head = f"  {'layers':>6}  {'rank':>15}  {'kept':>7}  file"
        text = "\n".join([*each, *table_of_files(outcomes, head, rows_text), *_sizes(outcomes), *notes]) + "\n"
    print_text(text, end="")
    return exit_status(outcomes)


def _without_bar(run: Callable[[argparse.Namespace, Track], ToolReport], args: argparse.Namespace) -> ToolReport:
    return run(args, no_progress)


def _with_data(made: FileOutcome[ToolReport]) -> FileOutcome[ReportData]:
    data = None if made.result is None else made.result.data()
    return FileOutcome(made.model, made.status, data, made.error, made.seconds)


def process_files(
    work: Callable[[argparse.Namespace], _Result], args: argparse.Namespace, option: str
) -> list[FileOutcome[_Result]]:
    """Does the work of a command on each of the files that an option names.

    Args:
        work: does one file; a function that can be pickled. Its argument is `args` with one path in `option` and, where
            the command has `--save_to`, the file to write. Where `args` has `result_ending`, the names of the files
            that are written have something behind it that this regular expression matches.
        args: the parsed command line. `save_to`, where it is there and not None, is the folder of results.
        option: name of the attribute with the paths.

    Returns:
        What became of each file.

    Raises:
        ToolError: no file was found, or the folder of results cannot be used.
    """
    folder: Path | None = getattr(args, "save_to", None)
    files = find_input_files(getattr(args, option), folder)
    record = _Record(folder, args, option) if folder is not None else None
    clashes = colliding_files(files) if folder is not None else {}
    replaced = overwritten_files(files, folder, getattr(args, "result_ending", "")) if folder is not None else {}
    outcomes: dict[InputFile, FileOutcome[_Result]] = {}
    for file in files:
        if file in clashes:
            text = f"its result would have the name of that of {clashes[file].path}: {file.name}.safetensors"
            outcomes[file] = FileOutcome(str(file.path), "failed", error=text)
        elif file in replaced:
            text = f"its result could be written over {replaced[file].path}; choose another --save_to"
            outcomes[file] = FileOutcome(str(file.path), "failed", error=text)
        elif record is not None and record.has(file):
            outcomes[file] = FileOutcome(str(file.path), "present")
    left = [file for file in files if file not in outcomes]
    if record is not None:
        record.begin(left)
    jobs = [_job(args, option, file, folder) for file in left]
    processes = args.processes or available_cores()
    if getattr(args, "device", "cpu") != "cpu":
        processes = 1  # the others would wait for the same device, each with a copy of torch's memory on it
    from tqdm import tqdm

    with tqdm(
        total=len(left), unit="file", file=sys.stderr, leave=False, disable=args.json or len(left) < 2, delay=1
    ) as bar:
        try:
            for index, made in work_in_processes(work, jobs, [_size(file.path) for file in left], processes):
                status = "failed" if made.error else "done"
                outcome = FileOutcome(str(left[index].path), status, made.result, made.error, round(made.seconds, 3))
                outcomes[left[index]] = outcome
                if record is not None:
                    record.add(left[index], outcome)
                bar.update()
        except KeyboardInterrupt:
            if record is not None:
                so_far = f"{len(outcomes)} of {counted(len(files), 'file')}"
                print_text(f"\n{so_far} done; the same command does the rest", file=sys.stderr)
            raise
        finally:
            if record is not None:
                record.end()
    return [outcomes[file] for file in files]


def exit_status(outcomes: Iterable[FileOutcome[_Result]]) -> int:
    """Returns the exit status of a command on many files: 2 where one failed, else 0."""
    return 2 if any(outcome.status == "failed" for outcome in outcomes) else 0


def table_of_files(outcomes: Sequence[FileOutcome[_Result]], head: str, rows: Sequence[str]) -> list[str]:
    """Formats the table at the end of a command on many files.

    Args:
        outcomes: what became of each file.
        head: the line above the rows.
        rows: a line for each file that did not fail.

    Returns:
        Lines: the rows, the files that failed with the reasons, and the sum.
    """
    failed = [f"  FAILED {single_line(_named_error(o), 1000)}" for o in outcomes if o.status == "failed"]
    counts = _counts(outcomes)
    texts = (f"{counts['done']} done", f"{counts['present']} done before", f"{counts['failed']} failed")
    total = ", ".join(text for text in texts if not text.startswith("0 "))
    return [*([head, *rows] if rows else []), *failed, f"{counted(len(outcomes), 'file')}: {total}"]


def _named_error(outcome: FileOutcome[_Result]) -> str:
    """Why a file failed, with the file, which many errors begin with."""
    return outcome.error if outcome.error.startswith(outcome.model) else f"{outcome.model}: {outcome.error}"


def _counts(outcomes: Sequence[FileOutcome[_Result]]) -> dict[str, int]:
    return {status: sum(o.status == status for o in outcomes) for status in ("done", "present", "failed")}


def _report_row(outcome: FileOutcome[ToolReport]) -> str:
    report = outcome.result
    if report is None:
        return f"  {'done before':>32}  {single_line(outcome.model)}"
    ranks = f"{_ranks(layer.old for layer in report.layers)} -> {_ranks(layer.new for layer in report.layers)}"
    return f"  {len(report.layers):>6}  {ranks:>15}  {100 * report.kept:>6.2f}%  {single_line(outcome.model)}"


def _ranks(ranks: Iterable[int | None]) -> str:
    """`32`, or `4-32` where layers differ; `full` where none has a rank."""
    known = {rank for rank in ranks if rank is not None}
    return "-".join(str(rank) for rank in sorted({min(known), max(known)})) if known else "full"


def _sizes(outcomes: Iterable[FileOutcome[ToolReport]]) -> list[str]:
    """How large the files that were done were before, and how large their results are."""
    done = [outcome for outcome in outcomes if outcome.result and outcome.result.outputs]
    before = sum(_size(Path(outcome.model)) for outcome in done)
    after = sum(_size(Path(path)) for outcome in done if outcome.result for path in outcome.result.outputs)
    return [f"  {before / 1e6:.1f} MB became {after / 1e6:.1f} MB"] if done else []


def _notes(notes: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """Each sentence of the reports once, with the files that it is about; with the first one's name in it."""
    found: dict[str, tuple[str, list[str]]] = {}
    for model, texts in notes:
        for text in texts:
            named = re.sub(rf"(^|\bof ){re.escape(Path(model).stem)}(?=[: ])", r"\1…", text)
            found.setdefault(named, (text, []))[1].append(model)
    return [
        f"  {text} ({models[0]}{f' and {len(models) - 1} more' if len(models) > 1 else ''})"
        for text, models in found.values()
    ]


def _json_text(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=dataclass_fields) + "\n"


def _job(args: argparse.Namespace, option: str, file: InputFile, folder: Path | None) -> argparse.Namespace:
    """The command line for one file. Raises ToolError where its folder cannot be made."""
    one = copy.copy(args)
    setattr(one, option, file.path)
    if folder is not None:
        one.save_to = folder / f"{file.name}.safetensors"
        _make_folder(one.save_to.parent)
    return one


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolError(f"the folder {folder} cannot be made: {error.strerror or error}") from None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class _Record:
    """Which files were done with which options: `lora-ext-COMMAND.jsonl` in the folder of results.

    Args:
        folder: the folder of results; it is made where it is missing.
        args: the parsed command line.
        option: name of the attribute with the paths.
    """

    def __init__(self, folder: Path, args: argparse.Namespace, option: str) -> None:
        if folder.suffix.lower() == ".safetensors" or folder.is_file():
            raise ToolError(f"{folder} is a file; the results of many files need a folder: --save_to FOLDER")
        _make_folder(folder)
        self._folder, self._path = folder, folder / f"lora-ext-{args.command}.jsonl"
        self._begun, self._ending = folder / f".lora-ext-{args.command}.begun", getattr(args, "result_ending", "")
        values = {name: value for name, value in vars(args).items() if name not in (*_NOT_SETTINGS, option)}
        self._settings = json.loads(json.dumps(values, default=str))
        known = {} if args.overwrite else self._load()
        self._known = {name: row for name, row in known.items() if row.get("settings") == self._settings}
        with replacing_file(self._path, overwrite=True) as part:  # without half a line of a program that was killed
            part.write_text("".join(json.dumps(row) + "\n" for row in known.values()), encoding="utf-8")

    def begin(self, files: Sequence[InputFile]) -> None:
        """Notes which results are not there yet, and removes those that a run which was killed had made since its note:
        they have no line, and would be in the way of this run's.
        """
        try:
            earlier, since = parse_json(self._begun.read_text(encoding="utf-8")), self._begun.stat().st_mtime
        except (OSError, ValueError):
            earlier, since = None, 0.0
        same = isinstance(earlier, dict) and earlier.get("settings") == self._settings
        wanted = earlier.get("files") if same else None
        awaited = {}
        for file in files:
            name, there = displayed_name(file.name), self._results(file)
            is_of_the_killed_run = isinstance(wanted, dict) and wanted.get(name) == self._stamp(file)
            if is_of_the_killed_run and all(path.stat().st_mtime >= since for path in there):
                for path in there:
                    with contextlib.suppress(OSError):
                        path.unlink()
                there = self._results(file)
            if not there:
                awaited[name] = self._stamp(file)
        with replacing_file(self._begun, overwrite=True) as part:
            part.write_text(json.dumps({"settings": self._settings, "files": awaited}), encoding="utf-8")

    def end(self) -> None:
        """Removes the note: every result has its line."""
        with contextlib.suppress(OSError):
            self._begun.unlink(missing_ok=True)

    def _results(self, file: InputFile) -> list[Path]:
        """The files that are where the results of a file go."""
        made = self._folder / f"{file.name}.safetensors"
        if not self._ending:
            return [made] if made.is_file() else []
        stem = re.escape(displayed_name(made.stem))
        pattern = re.compile(f"{stem}{self._ending}", re.DOTALL)
        return [path for path in made.parent.glob("*.safetensors") if pattern.fullmatch(displayed_name(path.stem))]

    def _load(self) -> dict[str, dict[str, object]]:
        """Name → its last line; lines that are damaged count as none."""
        rows = {}
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return {}
        for line in lines:
            try:
                row = parse_json(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("name"), str):
                rows[row["name"]] = row
        return rows

    def has(self, file: InputFile) -> bool:
        """Whether a file was done with these options, has not changed since, and its results are there."""
        row = self._known.get(displayed_name(file.name), {})
        outputs = row.get("outputs")
        return (
            row.get("status") == "done"
            and row.get("stamp") == self._stamp(file)
            and isinstance(outputs, list)
            and all(isinstance(name, str) and (self._folder / name).is_file() for name in outputs)
        )

    def add(self, file: InputFile, outcome: FileOutcome[_Result]) -> None:
        """Adds a line."""
        made = self._folder / f"{file.name}.safetensors"
        report = outcome.result.data() if isinstance(outcome.result, ToolReport) else None
        outputs = report.outputs if report else [str(made)]
        row: Mapping[str, object] = {
            "name": displayed_name(file.name),
            "model": displayed_name(outcome.model),
            "stamp": self._stamp(file),
            "settings": self._settings,
            "status": outcome.status,
            "outputs": [Path(path).relative_to(self._folder).as_posix() for path in outputs],
            "error": outcome.error,
            "seconds": outcome.seconds,
            "report": report,
        }
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row, default=dataclass_fields) + "\n")

    @staticmethod
    def _stamp(file: InputFile) -> list[int]:
        try:
            status = file.path.stat()
        except OSError:
            return []
        return [status.st_mtime_ns, status.st_size, *(adapter_config_stamp(file.path) or ())]
