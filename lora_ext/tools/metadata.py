"""`metadata`: show, edit or strip what a file says about itself; tensors stay bit-identical, hashes are made anew."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..command_line import CommandParser, check_disk_space, check_output_path
from ..console import printable_text
from ..errors import ToolError, did_you_mean
from ..file.containers import load_tensors
from ..file.hashes import with_kohya_hashes
from ..file.loading import load_lora_file
from ..file.peft_config import ADAPTER_CONFIG_NAME, find_adapter_config
from ..file.saving import save_safetensors
from .layer_changes import is_key_format_entry


def edit_metadata(
    metadata: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    *,
    new_entries: Mapping[str, str] | None = None,
    remove: Iterable[str] = (),
    strip: bool = False,
) -> dict[str, str]:
    """The metadata after stripping, removing and setting, in this order, with `sshs_*` hashes of the result.

    strip: everything goes but what the tensors cannot be read without (PEFT's alphas, cloneofsimo's classes), the
    hashes too. Raises ToolError with the nearest key for one to remove that is not there.
    """
    kept = {key: value for key, value in metadata.items() if not strip or is_key_format_entry(key, value)}
    for key in remove:
        if key not in metadata:
            raise ToolError(f"there is no metadata {key!r} to remove{did_you_mean(key, metadata)}")
        kept.pop(key, None)
    kept.update(new_entries or {})
    return kept if strip and not new_entries else with_kohya_hashes(tensors, kept)


def parse_key_values(texts: Iterable[str]) -> dict[str, str]:
    """`key=value` texts; a value may hold `=`. Raises ToolError that quotes the text."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ToolError(f"{text!r} is not key=value, such as ss_output_name=cat")
        found[key.strip()] = value
    return found


def _format_metadata(metadata: Mapping[str, str], verbose: bool) -> str:
    """A line an entry; long values shortened unless verbose."""
    lines = []
    for key in sorted(metadata):
        value = "".join(c if c.isprintable() else " " for c in metadata[key])
        lines.append(f"{key}: {value if verbose or len(value) <= 160 else value[:160] + '…'}")
    return "\n".join(lines or ["It carries no metadata."]) + "\n"


def _parser() -> CommandParser:
    parser = CommandParser("metadata", "Show, edit or strip a file's metadata.").add_report_options()
    parser.add_argument("file", type=Path, metavar="FILE", help="the file")
    parser.add_argument("--set", nargs="+", default=[], action="extend", metavar="KEY=VALUE", help="set entries")
    parser.add_argument("--remove", nargs="+", default=[], action="extend", metavar="KEY", help="remove entries")
    parser.add_argument("--strip", action="store_true", help="remove all entries (before --set)")
    parser.add_argument("--rehash", action="store_true", help="compute the sshs_* hashes anew")
    parser.add_argument("--save_to", type=Path, metavar="FILE", help="write here; without it FILE, with --overwrite")
    parser.add_argument("--overwrite", action="store_true", help="replace the file that is there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `metadata`."""
    args = _parser().parse_args(argv)
    contents = load_tensors(args.file)
    metadata = contents.metadata
    if args.set or args.remove or args.strip or args.rehash:
        metadata = _save_edited(args, contents.tensors, metadata)
    text = (
        json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"
        if args.json
        else _format_metadata(metadata, args.verbose)
    )
    sys.stdout.write(printable_text(text))
    return 0


def _save_edited(
    args: argparse.Namespace, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> dict[str, str]:
    """Writes the edited file; returns its metadata."""
    if not tensors:
        raise ToolError(f"{args.file} holds a list without names; convert it first")
    path = check_output_path(args.save_to or args.file, [args.file], overwrite=args.overwrite)
    if (
        not (path.exists() and path.samefile(args.file))
        and find_adapter_config(args.file)
        and load_lora_file(args.file).config
    ):
        raise ToolError(
            f"the strength of {args.file.name} stands in {ADAPTER_CONFIG_NAME} beside it, which {path} would lose: "
            "write it there "
            "with convert first"
        )
    made = edit_metadata(
        metadata, tensors, new_entries=parse_key_values(args.set), remove=args.remove, strip=args.strip
    )
    check_disk_space(path, sum(tensor.nbytes for tensor in tensors.values()) + 1_000_000)
    save_safetensors(tensors, path, metadata=made, overwrite=args.overwrite)
    print(f"written: {path}", file=sys.stderr)
    return made
