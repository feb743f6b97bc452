"""`python -m lora_ext conflicts A B …`: which files conflict in which blocks, and a split of the blocks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..command_line import CommandParser
from ..console import print_text
from ..errors import ToolError
from ..file.loading import load_lora_file
from ..file.saving import replacing_file
from ..json_text import dataclass_fields
from ..progress import no_progress, progress_bar
from ..tools.block_split import CONFLICT_THRESHOLD, FileSplit, suggest_split
from ..tools.conflicts import BlockConflict, ConflictReport, FilePairConflict, measure_conflicts
from ..tools.input_files import expand_input_files
from .conflict_heatmap import draw_conflict_heatmap

_HEADING = (
    f"  {'block':<6} {'interference':>12} {'cosine':>7} {'inside other':>13} {'by chance':>11} {'angle out/in':>12} "
    f"{'‖ΔW‖':>12}"
)
_COLUMNS = (
    "interference: how much of one file's change lies in directions that the other one changes too: "
    "0% as of unrelated files, 100% all of it",
    "cosine: above 0 the changes add up (1: they are the same), below 0 they cancel",
    "inside other: the part of one file's change in directions of the other, first in second / second in first",
    "by chance: what 'inside other' is for unrelated files of these ranks",
    "angle out/in: the smallest angle between directions that the files write to / read from: 90° where none is shared",
    "‖ΔW‖: how large the change of each file is, at its weight",
)
"""What the columns of `_HEADING` are."""


def format_conflicts(report: ConflictReport, splits: Sequence[FileSplit]) -> str:
    """Formats a report for a terminal.

    Args:
        report: the comparison.
        splits: the suggested split.

    Returns:
        Lines of text.
    """
    lines = []
    for pair in report.pairs:
        lines += [conflict_sentence(pair), _HEADING, *map(_row, [pair.total, *pair.blocks]), ""]
    if any(pair.total.layers for pair in report.pairs):
        lines += ["Columns:", *(f"  {column}" for column in _COLUMNS), ""]
    lines += [*(f"WARNING: {warning}" for warning in report.warnings), *report.notes]
    given_up = [split for split in splits if split.gives_up]
    if not given_up:
        return "\n".join([*lines, "No block is given up: the tags can stay as they are."]) + "\n"
    lines.append("Suggested split:")
    for split in splits:
        lines.append(f"  {split.tag}")
        left = f"leaves {', '.join(split.gives_up)} to others" if split.gives_up else "keeps every block"
        lines.append(f"    {split.name} {left}: {split.kept:.0%} of its change acts")
    return "\n".join(lines) + "\n"


def conflict_sentence(pair: FilePairConflict) -> str:
    """Says how much two files have in common, in one sentence."""
    total = pair.total
    if not total.layers:
        return f"{pair.first} and {pair.second} change no layer in common: they cannot conflict."
    direction = "add up" if total.cosine > 0.02 else "cancel" if total.cosine < -0.02 else "neither add up nor cancel"
    return (
        f"{pair.first} and {pair.second}: {total.inside[0]:.1%} of the first lies in directions of the second and "
        f"{total.inside[1]:.1%} the other way round (unrelated files: {total.by_chance[0]:.1%} and "
        f"{total.by_chance[1]:.1%}); on the whole they {direction} (cosine {total.cosine:+.2f})."
    )


def _row(row: BlockConflict) -> str:
    name = row.block or "other"
    norms = f"{row.norms[0]:.3g} / {row.norms[1]:.3g}"
    if not row.layers:
        return f"  {name:<6} {'only one file changes it':<58} {norms:>12}"
    inside, chance = (f"{a:.1%} / {b:.1%}" for a, b in (row.inside, row.by_chance))
    angles = f"{row.output_angle:.0f}° / {row.input_angle:.0f}°"
    return (
        f"  {name:<6} {row.interference:>12.1%} {row.cosine:>+7.2f} {inside:>13} {chance:>11} {angles:>12} {norms:>12}"
    )


def _parser() -> CommandParser:
    parser = CommandParser("conflicts", "Compare the changes of LoRA files block by block; no LoRA file is written.")
    text = "two LoRA files or more: files, folders or patterns such as 'loras/*.safetensors'"
    parser.add_argument("models", nargs="+", type=Path, metavar="FILE", help=text)
    parser.add_argument("--ratios", nargs="+", type=float, metavar="R", help="weight of each file (default 1)")
    text = f"interference from which a block counts as a conflict, 0 to 1 (default {CONFLICT_THRESHOLD:g})"
    parser.add_argument("--threshold", type=float, default=CONFLICT_THRESHOLD, metavar="SHARE", help=text)
    parser.add_argument("--every_block", action="store_true", help="give each block to one file, also without conflict")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="save the heat map of pairs and blocks")
    parser.add_argument("--json", action="store_true", help="the report as JSON on standard output")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `lora_ext conflicts`.

    Args:
        argv: the command line without the command's name; None reads that of the program.

    Returns:
        The exit status.

    Raises:
        ToolError: a picture that is not a PNG file, and as `measure_conflicts`.
    """
    args = _parser().parse_args(argv)
    if args.picture is not None and args.picture.suffix.lower() != ".png":
        raise ToolError(f"--picture {args.picture} is not a .png file")
    if args.picture is not None and (args.picture.is_dir() or not args.picture.parent.is_dir()):
        raise ToolError(f"--picture {args.picture} cannot be written: give a new file in a folder that exists")
    files = [load_lora_file(path) for path in expand_input_files(args.models)]
    report = measure_conflicts(files, args.ratios, track=no_progress if args.json else progress_bar)
    splits = suggest_split(report, threshold=args.threshold, every_block=args.every_block)
    if args.picture is not None:
        with replacing_file(args.picture, overwrite=True) as part:
            draw_conflict_heatmap(report).save(part, format="PNG")
    if args.json:
        print_text(json.dumps({**vars(report), "split": splits}, ensure_ascii=False, default=dataclass_fields))
    else:
        print_text(format_conflicts(report, splits), end="")
    return 0
