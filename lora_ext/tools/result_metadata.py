"""The metadata of a tool's result, made from that of its sources; and the writing of the result.

The keys are those of kohya's scripts, which trainers, web UIs and model sites read: `ss_network_dim`,
`ss_network_alpha` (numbers, or "Dynamic" where layers differ), `ss_network_args` (JSON), `ss_training_comment`,
`sshs_model_hash`, `sshs_legacy_hash`, `modelspec.*`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..adapters import Adapter, adapters_with_rank
from ..command_line import check_disk_space
from ..errors import ToolError
from ..file import hashes
from ..file.key_formats import format_keys
from ..file.lora_file import LoraFile
from ..file.saving import save_lora_file
from ..json_text import parse_json
from ..layer_names import LayerId
from .layer_changes import is_wide_kernel_shape
from .report import ToolReport, print_report

SOURCES_KEY = "lora_ext_sources"
"""Metadata key: JSON list of the sources of a file, each with name, hash, ratio and block weights."""

STALE_KEYS = ("modelspec.hash_sha256", "modelspec.thumbnail", "sshs_model_hash", "sshs_legacy_hash")
"""Metadata keys that are no longer true of a changed file."""

SPLIT_SCALE_KEY = "lora_ext_dylora_scale"
"""Metadata key of a DyLoRA file: the rule by which a prefix of its ranks is scaled in training (one of
`split_dylora.DYLORA_SCALE_RULES`)."""

DYNAMIC_VALUE = "Dynamic"
"""Value of `ss_network_dim` and `ss_network_alpha` where layers differ."""

_KIND_ARGUMENTS = """unit algo factor decompose_both full_matrix unbalanced_factorization use_tucker use_cp use_scalar
    constraint constrain rescaled block_size""".split()
"""Names in `ss_network_args` that only DyLoRA and LyCORIS' adapter kinds use."""


@dataclass(frozen=True)
class SourceRecord:
    """One source of a result, as its metadata records it.

    Attributes:
        name: the file's name.
        hash: hash of its content.
        ratio: the weight that it was merged with, where there was one.
        lbw: its block weights, where there were any.
    """

    name: str
    hash: str
    ratio: float | None = None
    lbw: str | None = None


def source_record(file: LoraFile, ratio: float | None = None, lbw: str | None = None) -> SourceRecord:
    """The record of one source; its hash is computed from what was loaded, or taken from the metadata."""
    path = file.path
    if file.data is not None:
        digest = hashes.data_hash(file.data)
    else:
        digest = hashes.model_hash(path) if path is not None and path.is_file() else hashes.stored_hash(file.metadata)
    return SourceRecord(file.name, digest, ratio, lbw)


def source_as_dict(source: SourceRecord) -> dict[str, str | float]:
    """A source for the JSON list in the metadata; fields without a value are left out."""
    return {name: value for name, value in asdict(source).items() if value is not None}


def prepend_to_comment(metadata: Mapping[str, str], action: str) -> str:
    """`ss_training_comment` with `action` in front, as kohya's scripts write it.

    Example:
        >>> prepend_to_comment({"ss_training_comment": "first try"}, "resized")
        'resized; first try'
    """
    return "; ".join(filter(None, (action, metadata.get("ss_training_comment", ""))))


def with_network_dims(
    file: LoraFile, metadata: Mapping[str, str], dims: tuple[int, int] | None = None
) -> dict[str, str]:
    """The metadata with `ss_network_dim`, `ss_network_alpha`, `conv_dim` and `conv_alpha` of a file's adapters.

    The values are numbers where all layers of a type agree, and "Dynamic" where they differ. Layers whose change is 0
    do not count.

    Args:
        file: the file with the adapters.
        metadata: the entries to start from.
        dims: (rank, rank of kernels above 1x1) that was asked for: these are written even if layers too small for
            them have less.
    """
    plain: set[tuple[int, float]] = set()
    point, conv = plain.copy(), plain.copy()
    for adapter in adapters_with_rank(file.adapters.values()):
        low = adapter.low_rank()
        shape = low.shape if low is not None else (0, 0)
        group = conv if is_wide_kernel_shape(shape) else point if len(shape) > 2 else plain
        rank = adapter.rank or 0
        group.add((rank, round(adapter.scaling() * rank, 6)))
    result = dict(metadata)
    result.setdefault("ss_network_module", "networks.lora")
    dim, conv_dim = dims or (None, None)
    result["ss_network_dim"], result["ss_network_alpha"] = _pair(plain or point or conv, dim)
    args = _args(metadata)
    for name in ("conv_dim", "conv_alpha"):
        args.pop(name, None)
    if conv:
        args["conv_dim"], args["conv_alpha"] = _pair(conv, conv_dim)
    if args:
        result["ss_network_args"] = json.dumps(args)
    else:
        result.pop("ss_network_args", None)
    return result


def _pair(found: set[tuple[int, float]], dim: int | None) -> tuple[str, str]:
    """(dim, alpha) as text; "Dynamic" where layers differ."""
    matching = [pair for pair in found if pair[0] == dim]
    if len(matching) == 1 and all(abs(alpha / rank - matching[0][1] / matching[0][0]) < 1e-6 for rank, alpha in found):
        return str(matching[0][0]), str(matching[0][1])
    dims, alphas = {dim for dim, _ in found}, {alpha for _, alpha in found}
    return tuple(str(min(v)) if len(v) == 1 else DYNAMIC_VALUE for v in (dims, alphas))  # type: ignore[return-value]


def as_plain_lora_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a file whose layers became plain LoRA: entries of DyLoRA and LyCORIS are removed."""
    kept = {key: value for key, value in metadata.items() if key != SPLIT_SCALE_KEY}
    kept["ss_network_module"] = "networks.lora"
    kept["ss_network_args"] = json.dumps(
        {name: v for name, v in _args(metadata).items() if name not in _KIND_ARGUMENTS}
    )
    return kept


def is_turned_into_lora(file: LoraFile, adapters: Mapping[LayerId, Adapter]) -> bool:
    """Whether all `adapters` of a result are plain LoRA, and some of them had another kind or rank in `file`."""
    same = all((a.kind, a.rank) == (file.adapters[s].kind, file.adapters[s].rank) for s, a in adapters.items())
    return not same and all(a.kind == "LoRA" and a.magnitude() is None for a in adapters.values())


def _args(metadata: Mapping[str, str]) -> dict[str, object]:
    """`ss_network_args` as a dict; empty where it is missing or not a JSON object."""
    try:
        args = parse_json(metadata.get("ss_network_args") or "{}")
    except ValueError:
        return {}
    return args if isinstance(args, dict) else {}


def carry_metadata(metadata: Mapping[str, str], action: str, sources: Sequence[SourceRecord]) -> dict[str, str]:
    """The metadata of a changed file: `action` goes into the comment, the sources are recorded, stale keys removed.

    Args:
        metadata: of the source.
        action: what was done, such as "converted to the keys of kohya".
        sources: the records of all sources.
    """
    kept = {key: value for key, value in metadata.items() if key not in STALE_KEYS}
    kept["ss_training_comment"] = prepend_to_comment(metadata, action)
    kept[SOURCES_KEY] = json.dumps([source_as_dict(o) for o in sources])
    return kept


_BASE_MODEL_KEYS = """ss_base_model_version ss_v2 ss_sd_model_name ss_sd_model_hash ss_clip_skip ss_resolution
    modelspec.sai_model_spec modelspec.architecture modelspec.implementation modelspec.prediction_type""".split()


def join_metadata(files: Sequence[LoraFile], action: str, sources: Sequence[SourceRecord]) -> dict[str, str]:
    """The metadata of a merge: entries on the base model where the sources agree, `action`, and the sources.

    Args:
        files: the merged files.
        action: what was done, for the comment.
        sources: the records of the files.
    """
    shared: dict[str, str] = {}
    for key in _BASE_MODEL_KEYS:
        values = {file.metadata[key] for file in files if key in file.metadata}
        if len(values) == 1:
            shared[key] = values.pop()
    shared["ss_network_module"] = "networks.lora"
    shared["modelspec.merged_from"] = ", ".join(o.name for o in sources)
    return carry_metadata(shared, action, sources)


def save_tool_result(file: LoraFile, path: Path, *, overwrite: bool = False) -> Path:
    """Writes a result with new hashes; a failure leaves no partial file.

    `ss_output_name` and `modelspec.title` become the file's name: the web UI calls a file by `ss_output_name`, so that
    a copy with its source's name would hide one of the two.

    Args:
        file: the result.
        path: where to write.
        overwrite: whether a file at `path` may be replaced.

    Returns:
        The path that was written.

    Raises:
        ToolError: too little space on the disk, or a result without layers.
        FileError: the file cannot be written.
    """
    metadata = {**file.metadata, "ss_output_name": path.stem}
    if any(key.startswith("modelspec.") for key in metadata):
        metadata["modelspec.title"] = path.stem
    size = sum(tensor.nbytes for tensor in format_keys(file).values())
    check_disk_space(path, size + 1_000_000)
    if not file.adapters:
        raise ToolError(f"nothing would be left in {path}")
    return save_lora_file(file, path, overwrite=overwrite, metadata=metadata, rehash=True)


def save_with_report(file: LoraFile, report: ToolReport, args: argparse.Namespace) -> ToolReport:
    """Writes a command's result to `--save_to`.

    Args:
        file: the result.
        report: gets the path that was written.
        args: the parsed command line.

    Returns:
        The report.
    """
    if getattr(args, "no_metadata", False):
        kept = {key: value for key, value in file.metadata.items() if not key.startswith("modelspec.")}
        file = replace(file, metadata=kept)
    report.outputs.append(str(save_tool_result(file, args.save_to, overwrite=args.overwrite)))
    return report


def save_and_report(file: LoraFile, report: ToolReport, args: argparse.Namespace) -> int:
    """Ends a command: writes the result to `--save_to` and prints the report.

    Args:
        file: the result.
        report: gets the path that was written.
        args: the parsed command line.

    Returns:
        The exit status.
    """
    print_report(save_with_report(file, report, args), as_json=args.json, verbose=args.verbose)
    return 0
