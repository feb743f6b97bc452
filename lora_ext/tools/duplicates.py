"""`python -m lora_ext duplicates FOLDER`: files with the same network, also in another precision, format or rank."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..command_line import CommandParser
from ..console import print_text
from ..counted_words import counted
from ..errors import LoraError
from ..file import hashes
from ..file.loading import load_lora_file
from ..file.lora_file import LoraFile
from ..json_text import dataclass_fields
from ..progress import Track, no_progress, progress_bar
from .input_files import find_input_files
from .weight_relation import WeightRelation, file_dtype, weight_relation
from .weight_sketch import WeightSketch, sketch_file

_LEAST_COSINE = 0.3
"""A resize that keeps less of ‖ΔW‖ is not looked for: sketches of unrelated files may have 0.25."""
_SAME = 0.995
_NOISE = 0.15
"""How far the cosine of two sketches may be from that of the ΔW."""


@dataclass(frozen=True)
class DuplicateFile:
    """A file of a group.

    Attributes:
        path: Where it is.
        relation: What it is to the group's first file.
    """

    path: Path
    relation: WeightRelation


@dataclass(frozen=True)
class UncomparedFile:
    """A file that cannot be read.

    Attributes:
        path: Where it is.
        reason: What is wrong, as a sentence that names the file.
    """

    path: Path
    reason: str


@dataclass(frozen=True)
class DuplicateReport:
    """Files that hold the same network.

    Attributes:
        groups: Each with the file of the highest rank and precision first.
        files: How many files were compared.
        by_content_alone: How many of them were compared by their bytes alone, since what they change depends on the
            base model's weights, or since their tensors cannot be read.
        unreadable: Files that are empty or have no readable header; they are not among those compared.
    """

    groups: list[list[DuplicateFile]]
    files: int
    by_content_alone: int
    unreadable: list[UncomparedFile]


def find_duplicates(
    paths: Sequence[Path],
    *,
    sketch: Callable[[Path], WeightSketch | None] = sketch_file,
    content_hash: Callable[[Path], str] = hashes.model_hash,
    track: Track = no_progress,
) -> DuplicateReport:
    """Finds files with the same ΔW. Files that cannot be read are left out; links to a file count as the file.

    Sizes and short samples find files of the same bytes; sketches of ΔW find candidates among the others, which are
    then compared whole.

    Args:
        paths: the files.
        sketch: sketches a file, or takes its sketch from a cache.
        content_hash: hashes a file's content, or takes the hash from a cache.
        track: shows the progress.

    Returns:
        What was found.
    """
    paths = _without_links(paths)
    unreadable: list[UncomparedFile] = []
    identical = _identical_files(paths, content_hash, track, unreadable)
    sketches: dict[Path, WeightSketch] = {}
    heads = [group[0] for group in identical]
    for path in track(heads, "sketch"):
        with suppress(LoraError):
            found = sketch(path)
            if found is not None:
                sketches[path] = found
    copies = {group[0]: group[1:] for group in identical}
    groups = [_group(head, others, copies) for head, others in _related_files(sketches, track)]
    taken = {file.path for group in groups for file in group}
    groups += [_group(head, [], copies) for head in heads if head not in taken and copies[head]]
    return DuplicateReport(groups, len(paths) - len(unreadable), len(heads) - len(sketches), unreadable)


def _without_links(paths: Sequence[Path]) -> list[Path]:
    """Each file once: who deletes the "copy" that a link leads to has no file left."""
    found: dict[Path, Path] = {}
    for path in sorted(paths, key=lambda path: path.is_symlink()):
        found.setdefault(Path(os.path.realpath(path)), path)
    kept = set(found.values())
    return [path for path in dict.fromkeys(paths) if path in kept]


def _group(head: Path, others: Sequence[DuplicateFile], copies: dict[Path, list[Path]]) -> list[DuplicateFile]:
    """The files of a group with their copies behind each."""
    dtype = ""
    with suppress(LoraError):
        dtype = str(file_dtype(load_lora_file(head))).removeprefix("torch.")
    group = []
    for file in (DuplicateFile(head, WeightRelation("kept", 1.0, dtype)), *others):
        group.append(file)
        relation = replace(file.relation, kind="identical") if file.path == head else file.relation
        group += [DuplicateFile(path, relation) for path in copies[file.path]]
    return group


def _identical_files(
    paths: Sequence[Path], content_hash: Callable[[Path], str], track: Track, unreadable: list[UncomparedFile]
) -> list[list[Path]]:
    """The files in groups of the same bytes but for metadata; most groups have one file. Adds to `unreadable`."""
    alike: dict[tuple[int, str], list[Path]] = {}
    for path in track(paths, "read"):
        try:
            alike.setdefault(hashes.quick_key(path), []).append(path)
        except LoraError as error:
            unreadable.append(UncomparedFile(path, str(error)))
    groups: list[list[Path]] = []
    for candidates in alike.values():
        same: dict[str, list[Path]] = {}
        for path in candidates:
            digest = ""
            if len(candidates) > 1:
                with suppress(LoraError):
                    digest = content_hash(path)
            same.setdefault(digest or str(path), []).append(path)
        groups += same.values()
    return groups


def _related_files(sketches: dict[Path, WeightSketch], track: Track) -> Iterator[tuple[Path, list[DuplicateFile]]]:
    """(file, those that hold its network), the file with the highest rank and precision first."""
    order = sorted(
        sketches, key=lambda path: (sketches[path].rank, sketches[path].bits, sketches[path].norm), reverse=True
    )
    by_layers: dict[str, list[Path]] = {}
    for path in order:
        by_layers.setdefault(sketches[path].layers, []).append(path)
    values = {layers: torch.stack([sketches[path].values for path in paths]) for layers, paths in by_layers.items()}
    taken: set[Path] = set()
    for head in track(order, "compare"):
        mine = sketches[head]
        paths = by_layers[mine.layers]
        if head in taken or len(paths) < 2:
            continue
        after = paths.index(head) + 1
        cosines = (values[mine.layers][after:] @ mine.values).tolist()
        likely = [
            path
            for path, cosine in zip(paths[after:], cosines, strict=True)
            if path not in taken and _may_be_related(mine, sketches[path], cosine)
        ]
        found = list(_verified(head, likely)) if likely else []
        taken |= {file.path for file in found}
        if found:
            yield head, found


def _may_be_related(kept: WeightSketch, other: WeightSketch, cosine: float) -> bool:
    """Whether two files are worth comparing whole."""
    if cosine >= _SAME:
        return True
    is_projection = abs(cosine - other.norm / kept.norm) <= _NOISE
    return kept.rank > other.rank and cosine >= _LEAST_COSINE and is_projection


def _verified(head: Path, likely: Sequence[Path]) -> Iterator[DuplicateFile]:
    """Those of the candidates that really hold the network of `head`."""
    kept = _loaded(head)
    for path in likely if kept is not None else ():
        other = _loaded(path)
        relation = weight_relation(kept, other) if kept is not None and other is not None else None
        if relation is not None:
            yield DuplicateFile(path, relation)


def _loaded(path: Path) -> LoraFile | None:
    with suppress(LoraError):
        return load_lora_file(path)
    return None


_SENTENCES = {
    "kept": "{dtype}",
    "identical": "{dtype}, identical weights",
    "same": "{dtype}, the same weights in other keys or factors",
    "precision": "the same weights in {dtype}",
    "resize": "{dtype}, the same network at a lower rank: {share:.1%} of its change",
}


def format_duplicates(report: DuplicateReport) -> str:
    """Formats a report for a terminal.

    Args:
        report: what was found.

    Returns:
        Lines of text.
    """
    lines = []
    for group in report.groups:
        for number, file in enumerate(group):
            relation = file.relation
            about = _SENTENCES[relation.kind].format(dtype=relation.dtype or "unknown", share=relation.share)
            lines.append(f"{'  ' if number else ''}{file.path}  ({about})")
        lines.append("")
    if report.files:
        found, groups = sum(map(len, report.groups)), counted(len(report.groups), "group")
        lines.append(f"{counted(report.files, 'file')} compared; {found} of them in {groups} of the same network.")
    lines += (f"not compared: {file.reason}" for file in report.unreadable)
    if report.by_content_alone:
        how = "file was compared by its bytes alone.", "files were compared by their bytes alone."
        lines.append(counted(report.by_content_alone, *how))
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `lora_ext duplicates`.

    Args:
        argv: the command line without the command's name; None reads that of the program.

    Returns:
        The exit status: 0, or 2 where none of the files can be read.

    Raises:
        ToolError: a folder or pattern without a LoRA file.
    """
    text = (
        "Find files that hold the same network: copies, other precisions and key formats, resizes. Nothing is changed."
    )
    parser = CommandParser("duplicates", text)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="files, folders or patterns")
    parser.add_argument("--json", action="store_true", help="the report as JSON on standard output")
    args = parser.parse_args(argv)
    paths = [file.path for file in find_input_files(args.files)]
    report = find_duplicates(paths, track=no_progress if args.json else progress_bar)
    if args.json:
        print_text(json.dumps(vars(report), indent=2, ensure_ascii=False, default=_as_json))
    else:
        print_text(format_duplicates(report), end="")
    return 0 if report.files else 2


def _as_json(value: object) -> object:
    return str(value) if isinstance(value, Path) else dataclass_fields(value)
