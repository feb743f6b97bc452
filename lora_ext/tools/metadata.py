"""Show, edit or strip a file's metadata; tensors stay bit-identical, hashes are computed again."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..command_line import CommandParser, check_disk_space, check_output_path
from ..console import print_text, single_line
from ..errors import ToolError, did_you_mean
from ..file.containers import load_tensors
from ..file.hashes import with_kohya_hashes
from ..file.loading import load_lora_file
from ..file.peft_config import ADAPTER_CONFIG_NAME, find_adapter_config, find_peft_file
from ..file.saving import save_safetensors
from ..json_text import dataclass_fields
from .input_files import names_many_files
from .layer_changes import is_key_format_entry
from .many_files import exit_status, process_files, table_of_files


def edit_metadata(
    metadata: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    *,
    new_entries: Mapping[str, str] | None = None,
    remove: Iterable[str] = (),
    strip: bool = False,
) -> dict[str, str]:
    """Edits metadata: strips, removes and sets, in this order.

    Args:
        metadata: key → value; it is not changed.
        tensors: the file's tensors, which the hashes are computed from.
        new_entries: entries to set.
        remove: keys to remove.
        strip: removes everything, also the hashes, except what the tensors cannot be read without (PEFT's alphas,
            cloneofsimo's classes).

    Returns:
        The metadata with the `sshs_*` hashes of the result; without hashes where it is only stripped.

    Raises:
        ToolError: a key to remove that is not there (with the nearest one that is).

    Example:
        >>> edit_metadata({"ss_output_name": "cat", "ss_steps": "10"}, {}, strip=True)
        {}
    """
    kept = {key: value for key, value in metadata.items() if not strip or is_key_format_entry(key, value)}
    for key in remove:
        if key not in metadata:
            raise ToolError(f"there is no metadata {key!r} to remove{did_you_mean(key, metadata)}")
        kept.pop(key, None)
    kept.update(new_entries or {})
    return kept if strip and not new_entries else with_kohya_hashes(tensors, kept)


def parse_key_values(texts: Iterable[str]) -> dict[str, str]:
    """Parses `key=value` texts; a value may contain `=`.

    Raises:
        ToolError: a text without `=` or without a key, or a key that is given twice; the message quotes it.

    Example:
        >>> parse_key_values(["ss_output_name=cat", "note=a=b"])
        {'ss_output_name': 'cat', 'note': 'a=b'}
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ToolError(f"{text!r} is not key=value, such as ss_output_name=cat")
        if key.strip() in found:
            raise ToolError(f"--set gives {key.strip()!r} twice; keep one of them")
        found[key.strip()] = value
    return found


def _format_metadata(metadata: Mapping[str, str], verbose: bool) -> str:
    """One line for each entry; long values are shortened unless `verbose`."""
    longest = None if verbose else 160
    lines = [f"{single_line(key)}: {single_line(metadata[key], longest)}" for key in sorted(metadata)]
    return "\n".join(lines or ["The file has no metadata."]) + "\n"


def _parser() -> CommandParser:
    parser = (
        CommandParser("metadata", "Show, edit or strip a file's metadata.")
        .add_input_files("file", "the file, or the folder of a PEFT adapter")
        .add_report_options()
    )
    parser.add_argument("--set", nargs="+", default=[], action="extend", metavar="KEY=VALUE", help="set entries")
    parser.add_argument("--remove", nargs="+", default=[], action="extend", metavar="KEY", help="remove entries")
    parser.add_argument("--strip", action="store_true", help="remove all entries (before --set)")
    parser.add_argument("--rehash", action="store_true", help="compute the sshs_* hashes again")
    text = "the file to write, of many files the folder (default: FILE itself, which needs --overwrite)"
    parser.add_argument("--save_to", type=Path, metavar="FILE", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `lora_ext metadata`.

    Args:
        argv: the command line without the command's name; None reads that of the program.

    Returns:
        The exit status.
    """
    args = _parser().parse_args(argv)
    parse_key_values(args.set)  # what is wrong with them is said once, and not for each file
    if not names_many_files(args.file):
        args.file = args.file[0]
        metadata = _run(args)
        if _edits(args):
            print_text(f"written: {args.save_to or find_peft_file(args.file)}", file=sys.stderr)
        text = _json_text(metadata) if args.json else _format_metadata(metadata, args.verbose)
        print_text(text, end="")
        return 0
    args.save_to = args.save_to if _edits(args) else None
    outcomes = process_files(_run, args, "file")
    if args.json:
        text = _json_text([dataclass_fields(outcome) for outcome in outcomes])
    else:
        shown = [(o.model, _format_metadata(o.result, args.verbose)) for o in outcomes if o.result is not None]
        each = [f"{model}\n{textwrap.indent(entries, '  ')}" for model, entries in shown]
        text = "\n".join([*each, *table_of_files(outcomes, "", [])]) + "\n"
    print_text(text, end="")
    return exit_status(outcomes)


def _json_text(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _edits(args: argparse.Namespace) -> bool:
    return bool(args.set or args.remove or args.strip or args.rehash)


def _run(args: argparse.Namespace) -> dict[str, str]:
    """The metadata of one file, after the edits."""
    args.file = find_peft_file(args.file)
    if not _edits(args):
        return dict(load_tensors(args.file).metadata)
    path = check_output_path(args.save_to or args.file, [args.file], overwrite=args.overwrite)
    contents = load_tensors(args.file)
    return _save_edited(args, path, contents.tensors, contents.metadata)


def _save_edited(
    args: argparse.Namespace, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> dict[str, str]:
    """Writes the edited file; returns its metadata."""
    if not tensors:  # cloneofsimo's first .pt files are lists of tensors without names
        raise ToolError(f"the tensors of {args.file} have no names; convert the file first (lora_ext convert)")
    if (
        not (path.exists() and path.samefile(args.file))
        and find_adapter_config(args.file)
        and load_lora_file(args.file).config
    ):
        raise ToolError(
            f"the strength of {args.file.name} is in {ADAPTER_CONFIG_NAME} beside it, and {path} would lose it: "
            "write the file there with convert first"
        )
    edited = edit_metadata(
        metadata, tensors, new_entries=parse_key_values(args.set), remove=args.remove, strip=args.strip
    )
    check_disk_space(path, sum(tensor.nbytes for tensor in tensors.values()) + 1_000_000)
    save_safetensors(tensors, path, metadata=edited, overwrite=args.overwrite)
    return edited
