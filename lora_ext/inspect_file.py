"""`python -m lora_ext inspect FILE`: describes LoRA files."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .adapters import adapters_with_rank
from .blocks import BLOCK_LABELS
from .command_line import CommandParser
from .console import print_text, single_line
from .counted_words import counted
from .file import hashes
from .file.loading import load_lora_file
from .file.lora_file import LoraFile
from .json_text import dataclass_fields, parse_json
from .message_help import help_hint
from .tools.input_files import names_many_files
from .tools.many_files import exit_status, process_files, table_of_files

_METADATA_LABELS = {
    "ss_output_name": "name given by the trainer",
    "modelspec.title": "title",
    "ss_sd_model_name": "trained on",
    "ss_base_model_version": "base",
    "ss_network_module": "network",
    "ss_network_dim": "network dim",
    "ss_network_alpha": "network alpha",
    "ss_network_args": "network arguments",
    "ss_resolution": "resolution",
    "ss_clip_skip": "clip skip",
    "ss_num_train_images": "training images",
    "ss_num_epochs": "epochs",
    "ss_epoch": "this epoch",
    "ss_steps": "steps",
    "ss_max_train_steps": "steps planned",
    "ss_learning_rate": "learning rate",
    "ss_unet_lr": "U-Net learning rate",
    "ss_text_encoder_lr": "text encoder learning rate",
    "ss_optimizer": "optimizer",
    "ss_training_comment": "comment",
}
"""Metadata keys to show, in this order, with their labels."""


@dataclass(frozen=True)
class BlockNorm:
    """How much a block's layers change.

    Attributes:
        block: The block's label; "" for layers of no block.
        layers: How many layers of the block the file has.
        norm: Their ‖ΔW‖ (Frobenius) at weight 1; null where none has a norm without the base model's weights.
        need_base: How many layers have no norm without the base model's weights.
    """

    block: str
    layers: int
    norm: float | None
    need_base: int


@dataclass(frozen=True)
class InspectionReport:
    """Everything that `inspect` shows of a file.

    Attributes:
        path: Where the file is.
        bytes: Its size.
        hash: The first 12 digits of its content's hash.
        wrong_hash: The hash in its metadata where that is not the content's.
        variant: The kind of network, such as "LoRA" or "LoKr".
        dylora_unit: The unit of a DyLoRA.
        kinds: Kind of layer → how many layers.
        family: "SD1", "SD2", "SDXL" or "unknown".
        dialect: The key format.
        layers: How many layers it has.
        parts: Part of the model → how many layers.
        ranks: Rank → how many layers, without those whose change is 0: `resize` writes these at rank 1.
        alphas: Alpha, "rank" where it is not given → how many of these layers.
        dtypes: Data type → how many layers.
        blocks: Each block of the file, in the U-Net's order.
        metadata: Its metadata.
        tags: Its most frequent caption tags → how often they occur.
        embeddings: Name of an embedding for the prompt → text encoder → shape.
        unread: Keys that were not understood.
        damaged: Layer → why it is skipped.
        other: A sentence about a file that is not for SD1, SD2 or SDXL.
        not_finite: The first key with NaN or infinity.
        config: PEFT's `adapter_config.json`.
        notes: Sentences about the file.
        assumed: A sentence on the alpha that is assumed where the file has none.
    """

    path: str
    bytes: int
    hash: str
    wrong_hash: str | None
    variant: str
    dylora_unit: int | None
    kinds: dict[str, int]
    family: str
    dialect: str
    layers: int
    parts: dict[str, int]
    ranks: dict[str, int]
    alphas: dict[str, int]
    dtypes: dict[str, int]
    blocks: list[BlockNorm]
    metadata: dict[str, str]
    tags: dict[str, int]
    embeddings: dict[str, dict[str, list[int]]]
    unread: list[str]
    damaged: dict[str, str]
    other: str | None
    not_finite: str | None
    config: str | None
    notes: list[str]
    assumed: str | None


def inspect_lora_file(path: str | Path) -> InspectionReport:
    """Looks into a LoRA file.

    Args:
        path: A safetensors or torch file, or the folder of a PEFT adapter.

    Returns:
        Everything that `inspect` shows.

    Raises:
        FileError: The file cannot be read.
    """
    file = load_lora_file(path)
    path = file.path or path
    digest, stored = hashes.model_hash(path), hashes.stored_hash(file.metadata)
    with_rank = adapters_with_rank(file.adapters.values())
    return InspectionReport(
        path=str(path),
        bytes=Path(path).stat().st_size,
        hash=digest[:12],
        wrong_hash=stored[:12] if stored and not digest.startswith(stored) else None,
        variant=file.variant,
        dylora_unit=file.dylora_unit,
        kinds=dict(Counter(adapter.kind for adapter in file.adapters.values()).most_common()),
        family=file.family,
        dialect=file.key_format,
        layers=len(file.adapters),
        parts=dict(Counter(layer_id.part for layer_id in file.adapters)),
        ranks=_counts(adapter.rank for adapter in with_rank),
        alphas=_counts(adapter.alpha for adapter in with_rank),
        dtypes=dict(Counter(_dtype(a.dtype) for a in file.adapters.values()).most_common()),
        blocks=block_norms(file),
        metadata=dict(file.metadata),
        tags=top_tags(file.metadata),
        embeddings={n: {v: list(t.shape) for v, t in vectors.items()} for n, vectors in file.embeddings.items()},
        unread=file.unrecognized_keys,
        damaged={str(layer_id): layer.reason for layer_id, layer in file.damaged.items()},
        other=file.foreign_architecture.sentence(file.name) if file.foreign_architecture else None,
        not_finite=file.first_non_finite_key,
        config=str(file.config) if file.config else None,
        notes=list(file.notes),
        assumed=file.assumed or None,
    )


def _counts(values: Iterable[float | None]) -> dict[str, int]:
    """How often each value occurs, most frequent first; a missing alpha is "rank", which it means."""
    texts = ("rank" if value is None else format(value, "g") for value in values)
    return dict(Counter(texts).most_common())


def _dtype(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def block_norms(file: LoraFile) -> list[BlockNorm]:
    """Measures how much a file changes each block.

    Args:
        file: the file.

    Returns:
        One row for each block of the file, in the U-Net's order.
    """
    layers, need_base = Counter[str](), Counter[str]()
    squares: dict[str, float] = {}
    for layer_id, adapter in file.adapters.items():
        layers[layer_id.block] += 1
        low = adapter.low_rank()
        if low is None:
            need_base[layer_id.block] += 1
        else:
            squares[layer_id.block] = squares.get(layer_id.block, 0.0) + low.frobenius() ** 2
    norms = {block: math.sqrt(square) if math.isfinite(square) else None for block, square in squares.items()}
    order = [*BLOCK_LABELS, ""]
    return [
        BlockNorm(block, layers[block], norms.get(block), need_base[block]) for block in sorted(layers, key=order.index)
    ]


def top_tags(metadata: Mapping[str, str], count: int = 20) -> dict[str, int]:
    """Reads the most frequent caption tags of what was taught from kohya's metadata (`ss_tag_frequency`).

    Those of regularisation pictures, which stand there too, are not taught.

    Args:
        metadata: the file's metadata.
        count: how many tags at most.

    Returns:
        Tag → how often it occurs, most frequent first; empty where the metadata has none.

    Example:
        >>> top_tags({"ss_tag_frequency": '{"10_cat": {"cat": 9, "sofa": 2}}'}, count=1)
        {'cat': 9}
    """
    total: Counter[str] = Counter()
    try:
        taught, reg = (parse_json(metadata.get(f"ss_{kind}dataset_dirs") or "{}") for kind in ("", "reg_"))
        for folder, tags in parse_json(metadata.get("ss_tag_frequency", "{}")).items():
            if folder in reg and folder not in taught:
                continue
            total.update({str(tag).strip(): int(times) for tag, times in tags.items()})
    except (ValueError, TypeError, AttributeError, OverflowError):
        return {}
    return dict(total.most_common(count))


# --- text ------------------------------------------------------------------------------------------------------------


def format_inspection(found: InspectionReport) -> str:
    """Formats the report for a terminal.

    Args:
        found: the report.

    Returns:
        Lines of text.
    """
    lines = [found.path, *_summary(found), ""]
    if found.blocks:
        lines += ["How strongly each block is changed (norm of the change at weight 1):", *_table(found.blocks), ""]
    elif not found.other:
        lines += ["It has no LoRA layers.", ""]
    rows = [
        (words, single_line(found.metadata[key])) for key, words in _METADATA_LABELS.items() if found.metadata.get(key)
    ]
    lines += [f"  {words}: {value}" for words, value in rows if value != "None"]
    if found.tags:
        lines.append("  most frequent tags: " + ", ".join(single_line(tag) for tag in found.tags))
    if not found.metadata:
        lines.append("  It has no metadata.")
    for name, vectors in found.embeddings.items():
        rows_in = max((shape[0] if len(shape) > 1 else 1 for shape in vectors.values()), default=0)
        lines.append(f"  embedding for the prompt: {single_line(name)} ({counted(rows_in, 'vector')})")
    if found.not_finite:
        lines.append(
            f"  WARNING: it contains NaN or infinity (first in {single_line(found.not_finite)}) and is damaged."
        )
    return "\n".join([*lines, *(f"  {line}" for line in inspection_warnings(found))]).rstrip() + "\n"


def _summary(found: InspectionReport) -> list[str]:
    kinds = ", ".join(f"{kind} ({counted(count, 'layer')})" for kind, count in found.kinds.items())
    parts = {"unet": "U-Net", "te": "text encoder", "te2": "second text encoder"}
    where = ", ".join(f"{count} {parts[part]}" for part, count in found.parts.items())
    size = found.bytes / 1e6
    lines = [
        f"  {found.variant} for {found.family.replace('unknown', 'an unknown base model')}, {size:.1f} MB, "
        f"{', '.join(found.dtypes) or 'no layers'}, hash {found.hash}",
    ]
    if len(found.kinds) > 1:
        lines.append(f"  kinds: {kinds}")
    if where:
        lines.append(f"  layers: {where}")
    if found.ranks:
        assumed = f"; {found.assumed}" if found.assumed else ""
        lines.append(f"  rank {_list(found.ranks)}; alpha {_list(found.alphas)}{assumed}")
    if found.config:
        lines.append(f"  alpha from {Path(found.config).name} beside it")
    return lines


def _list(counts: Mapping[str, int]) -> str:
    """`8`, or `8 (60 layers), 4 (13 layers)`, at most six of them."""
    if len(counts) == 1:
        return next(iter(counts))
    shown = [f"{value} ({counted(count, 'layer')})" for value, count in list(counts.items())[:6]]
    return ", ".join(shown) + (", …" if len(counts) > 6 else "")


def _table(rows: Sequence[BlockNorm], width: int = 32) -> list[str]:
    """A line a block: label, layers, norm, and a bar as long as the norm is of the largest."""
    largest = max((row.norm or 0.0 for row in rows), default=0.0)
    lines = []
    for row in rows:
        norm, label = row.norm, row.block or "other"
        if norm is None:
            value, bar = "   -   ", "needs the base model's weights" if row.need_base else "not a number"
        else:
            value = f"{norm:7.0f}" if norm >= 1000 else f"{norm:7.3g}"
            bar = "█" * round(width * norm / largest) if largest else ""
            if row.need_base:
                bar += f" (+ {counted(row.need_base, 'layer that needs', 'layers that need')} the base model's weights)"
        lines.append(
            f"  {label:<5} {row.layers:>3} {'layer ' if row.layers == 1 else 'layers'} {value}  {bar}".rstrip()
        )
    return lines


def inspection_warnings(found: InspectionReport) -> list[str]:
    """Describes what of a file cannot be applied, or may act differently from what its author intended.

    Args:
        found: the report.

    Returns:
        Sentences for the user.
    """
    if found.other:
        return [f"{single_line(found.other, 400)}."]
    lines = [f"{single_line(note)}." for note in found.notes]
    if found.damaged:
        first = single_line(next(iter(found.damaged.values())))
        lines.append(
            f"WARNING: {counted(len(found.damaged), 'damaged layer is', 'damaged layers are')} skipped, the others "
            f"apply: {first}."
        )
    if found.wrong_hash:
        lines.append(
            f"Its metadata has a different hash, {found.wrong_hash}: it was copied, or the tensors were changed later."
        )
    if found.unread:
        shown = ", ".join(single_line(key) for key in found.unread[:3])
        one = len(found.unread) == 1
        text = "{0} entry was not understood: {1}" if one else "{0} entries were not understood, such as {1}"
        lines.append(text.format(len(found.unread), shown))
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `inspect`.

    Args:
        argv: the command line without the command's name; None reads that of the program.

    Returns:
        The exit status: 0, or 2 when a file cannot be read.
    """
    parser = CommandParser("inspect", "What a LoRA file is, and what it changes.")
    parser.add_input_files("file", "safetensors, .pt, .ckpt or .bin")
    parser.add_argument("--json", action="store_true", help="print JSON (a list for several files)")
    options = parser.parse_args(argv)
    many = names_many_files(options.file)
    outcomes = process_files(_inspect_one, options, "file")
    reports = [outcome.result for outcome in outcomes if outcome.result]
    for outcome in outcomes:
        if outcome.error:
            error = single_line(outcome.error, 1000)
            print_text(f"lora-ext: {error}{help_hint(error)}", file=sys.stderr)
    if options.json and reports:
        shown = reports if many else reports[0]
        text = json.dumps(shown, indent=2, ensure_ascii=False, default=dataclass_fields) + "\n"
    else:
        text = "\n".join(format_inspection(found) for found in reports)
        if many:
            head = f"  {'layers':>6}  {'rank':>10}  {'base':<7}  {'kind':<12}  file"
            table = table_of_files(outcomes, head, [_table_row(found) for found in reports])
            text += "\n" + "\n".join(table) + "\n"
    print_text(text, end="")
    return exit_status(outcomes)


def _inspect_one(options: argparse.Namespace) -> InspectionReport:
    return inspect_lora_file(options.file)


def _table_row(found: InspectionReport) -> str:
    """A file's line in the table of many files."""
    numbers = sorted(found.ranks, key=float)
    ranks = "-".join(dict.fromkeys((*numbers[:1], *numbers[-1:]))) or "-"
    family = "other" if found.other else found.family
    return f"  {found.layers:>6}  {ranks:>10}  {family:<7}  {found.variant:<12}  {single_line(found.path, 400)}"
