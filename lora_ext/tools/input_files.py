"""The files that a command works on: named one by one, by folders, or by patterns such as `loras/**/*.safetensors`."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..console import print_text
from ..errors import ToolError
from ..file.broken_links import is_broken_link, tell_broken_links
from ..file.containers import LORA_FILE_SUFFIXES
from ..file.displayed_names import displayed_name, files_below
from ..file.folder_listing import is_training_state, natural_sort_key
from ..file.peft_config import ADAPTER_CONFIG_NAME, ADAPTER_MODEL_STEM, find_peft_file


@dataclass(frozen=True)
class InputFile:
    """One file that a command works on.

    Attributes:
        path: where it is.
        name: its path below the folder that was searched, without suffix, with `/`: where the result stands below the
            folder of results.
    """

    path: Path
    name: str


def is_pattern(path: Path) -> bool:
    """Whether a path is a pattern: it has `*`, `?` or `[…]`, and no file has this name."""
    return glob.has_magic(str(path)) and not os.path.lexists(path)


def names_many_files(given: Sequence[Path]) -> bool:
    """Whether arguments name many files: several paths, a folder (of files, not of one PEFT adapter), or a pattern.

    Args:
        given: the arguments.
    """
    return len(given) > 1 or any(is_pattern(path) or find_peft_file(path).is_dir() for path in given)


def find_input_files(given: Sequence[Path], results: Path | None = None) -> list[InputFile]:
    """Finds the files that arguments name, each once, in natural order.

    Files that are named one by one keep their path below the folder that they share; where only such are named and no
    result is written, all stay as they are named.

    Args:
        given: files, folders and patterns. `**` in a pattern stands for any folders.
        results: the folder of results; where it stands inside a folder that is searched, its files are left out.

    Returns:
        The files.

    Raises:
        ToolError: a folder or pattern without a LoRA file.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a10.safetensors", "a2.safetensors", "notes.txt"):
        ...     (folder / name).touch()
        >>> [file.name for file in find_input_files([folder])]
        ['a2', 'a10']
    """
    found: dict[Path, InputFile] = {}
    single = [path for path in given if not is_pattern(path) and not find_peft_file(path).is_dir()]
    if results is None and len(single) == len(given):
        return [InputFile(file, _relative_name(file, shared_folder(single))) for file in map(find_peft_file, given)]
    for path in given:
        if path in single:
            root, files = shared_folder(single), [find_peft_file(path)]
        else:
            root, files = _search(path)
            files = [file for file in files if not _is_result(file, root, results)]
            if not files:
                raise ToolError(f"{path} has no LoRA file ({', '.join(LORA_FILE_SUFFIXES)})")
        for file in files:
            found.setdefault(Path(os.path.realpath(file)), InputFile(file, _relative_name(file, root)))
    return sorted(found.values(), key=lambda file: natural_sort_key(file.name))


def expand_input_files(given: Sequence[Path]) -> list[Path]:
    """The files that arguments name, in the order of the arguments, for commands that make one result of all.

    Args:
        given: as of `find_input_files`.

    Returns:
        The files; those of a folder or pattern in natural order, without the ones that are there already.

    Raises:
        ToolError: a folder or pattern without a LoRA file.
    """
    found: list[Path] = []
    for path in given:
        files = [file.path for file in find_input_files([path])]
        known = set(map(os.path.realpath, found)) if names_many_files([path]) else set()
        found += [file for file in files if os.path.realpath(file) not in known]
    return found


def colliding_files(files: Iterable[InputFile]) -> dict[InputFile, InputFile]:
    """Finds files whose results would have one name, also where a file system ignores case.

    Args:
        files: the files.

    Returns:
        File → another one with its name.
    """
    same = defaultdict(list)
    for file in files:
        same[displayed_name(file.name).casefold()].append(file)
    return {file: group[group[0] is file] for group in same.values() if len(group) > 1 for file in group}


def overwritten_files(files: Iterable[InputFile], results: Path, ending: str = "") -> dict[InputFile, InputFile]:
    """Finds files whose results would be written over another of the files.

    Args:
        files: the files.
        results: the folder of results.
        ending: regular expression of what the results' names have behind the file's.

    Returns:
        File → the other one.
    """
    files, replaced = list(files), {}
    for file in files:
        name = re.fullmatch(f"(.*?){ending}", displayed_name(file.path.stem).casefold(), flags=re.DOTALL)
        if name and file.path.suffix.lower() == ".safetensors":
            replaced[os.path.realpath(file.path.parent), name[1]] = file
    found = {}
    for file in files:
        result = results / file.name
        other = replaced.get((os.path.realpath(result.parent), displayed_name(result.name).casefold()), file)
        if other is not file:
            found[file] = other
    return found


def _search(path: Path) -> tuple[Path, list[Path]]:
    """(the folder that is searched, the files found) of a folder or a pattern."""
    if not is_pattern(path):
        broken: list[Path] = []
        found = list(files_below(path, LORA_FILE_SUFFIXES, _tell_unsearched, broken))
        tell_broken_links(broken)
        return path, [file for file in found if not is_training_state(file.parent)]
    root, rest = path, list[str]()
    while not root.is_dir():  # folders whose own names have brackets are no part of the pattern
        rest.insert(0, root.name)
        root = root.parent
    names = glob.glob(os.path.join(*rest), root_dir=root, recursive=True)  # noqa: PTH118, PTH207 (root_dir, links)
    paths = [file for file in (find_peft_file(root / name) for name in names) if not file.is_dir()]
    paths = [file for file in paths if file.suffix.lower() in LORA_FILE_SUFFIXES]
    tell_broken_links([file for file in paths if is_broken_link(file)])
    return root, [file for file in paths if file.is_file() and not is_training_state(file.parent)]


def _tell_unsearched(error: OSError) -> None:
    print_text(f"not searched: {error.filename}: {error.strerror}", file=sys.stderr)


def shared_folder(files: Sequence[Path]) -> Path:
    """The folder that all files stand in; that of a single file, or of files on several drives, is its own."""
    parents = {str(_named_path(find_peft_file(file)).absolute().parent) for file in files}
    try:
        return Path(os.path.commonpath(parents))
    except ValueError:  # several drives
        return Path()


def _relative_name(file: Path, root: Path) -> str:
    path = _named_path(file)
    try:
        name = path.relative_to(root) if path.is_relative_to(root) else path.absolute().relative_to(root.absolute())
    except ValueError:
        name = Path(path.name)
    if name == Path():  # the folder that is searched is itself a PEFT adapter
        return file.stem
    return (name if path is not file else name.with_name(name.stem)).as_posix()


def _named_path(file: Path) -> Path:
    """The path that gives a file its name: of PEFT's `adapter_model.*` its folder."""
    is_peft = file.stem == ADAPTER_MODEL_STEM and file.with_name(ADAPTER_CONFIG_NAME).is_file()
    return file.parent if is_peft else file


def _is_result(file: Path, root: Path, results: Path | None) -> bool:
    """Whether a file stands in the folder of results, and this inside the folder that is searched."""
    if results is None:
        return False
    inside, searched = Path(os.path.realpath(results)), Path(os.path.realpath(root))
    return (
        inside != searched and inside.is_relative_to(searched) and Path(os.path.realpath(file)).is_relative_to(inside)
    )
