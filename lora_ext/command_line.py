"""The command-line parser of every command, and the checks that commands share. Option names follow kohya's scripts."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from .argument_errors import argument_error_text, choice_error, extra_argument_text, number, whole_number
from .console import print_text
from .errors import ToolError, did_you_mean
from .file.displayed_names import accept_typed_paths
from .file.lora_file import is_tensor_finite
from .file.saving import check_not_protected
from .precisions import SAVE_PRECISIONS, parse_precision_name
from .rank_reduction import DYNAMIC_RANK_METHODS, RankRule

SVD_ONLY_OPTIONS = ("new_rank", "new_conv_rank", "clamp_quantile")
"""Options of `merge` that are for its method "svd"."""

TOKENIZER_HELP = "folder with CLIP's vocab.json and merges.txt (default: beside the model, or in the hub cache)"
CONFIG_HELP = "LDM configuration as yaml (default: the one beside the checkpoint)"


class HelpWithDefaults(argparse.HelpFormatter):
    """Adds its default to the sentence of each option that has one and does not say it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        unset = action.default is argparse.SUPPRESS or action.default in (None, "", [], ()) or action.default is False
        if unset or action.nargs == 0 or not action.help or re.search(r"\(default\b", action.help):
            return action.help
        return f"{action.help} (default: %(default)s)"


class CommandParser(argparse.ArgumentParser):
    """The parser of a command.

    Options are declared with underscores and accepted with dashes too, but not abbreviated. A wrong command line
    prints one line, which suggests the nearest option for an unknown one, and exits with status 2.

    Args:
        command: the command's name.
        description: one sentence for `--help`.
    """

    def __init__(self, command: str, description: str) -> None:
        formatter = HelpWithDefaults
        super().__init__(
            prog=f"lora-ext {command}", description=description, allow_abbrev=False, formatter_class=formatter
        )
        accept_typed_paths(self)
        self.register("type", int, whole_number)
        self.register("type", float, number)
        self._given: list[str] = []
        # argparse's own pattern lacks exponents and lists: `--ratios -1e-3` would be read as an option
        self._negative_number_matcher = re.compile(r"^-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?(,.*)?$")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as argparse does, with `--new-rank` read as `--new_rank`."""
        args = self._given = [_underscored(arg) for arg in (sys.argv[1:] if args is None else args)]
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as argparse does; an argument that nothing takes is named with the option before it."""
        found, rest = self.parse_known_args(args, namespace)
        self.refuse_extra(rest)
        return found

    def refuse_extra(self, rest: Sequence[str]) -> None:
        """Exits with status 2 where arguments are left that nothing takes; the first is named.

        Args:
            rest: those arguments.
        """
        if rest:
            self.error(extra_argument_text(rest[0], self._given, self._option_string_actions))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise choice_error(action, value)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Prints help and errors, which may hold what was given."""
        print_text(message, file=file or sys.stderr, end="")

    def error(self, message: str) -> NoReturn:
        """Prints one line and exits with status 2. An unknown option is named before options that are missing.

        Args:
            message: argparse's message.
        """
        known = self._option_string_actions
        names = (arg.partition("=")[0] for arg in self._given if re.match("--?[A-Za-z]", arg))
        unknown = next((name for name in names if name not in known), None)
        if unknown is not None and message.startswith("the following arguments are"):
            message = extra_argument_text(unknown, self._given, known)
        self.exit(2, f"lora-ext: {argument_error_text(message, known)}\n")

    def add_input_files(self, option: str, text: str) -> CommandParser:
        """Adds the option that names the files of a command which works on one file or on many, and --processes.

        Args:
            option: its name, such as "--model" or, for a positional argument, "file".
            text: its help.

        Returns:
            This parser.
        """
        text += "; of many: files, folders or patterns such as 'loras/**/*.safetensors'"
        argument = self.add_argument(option, nargs="+", type=Path, metavar="FILE", help=text)
        argument.required = True
        text = "of many files: how many are worked on side by side (default: one for each core)"
        self.add_argument("--processes", type=_process_count, metavar="N", help=text)
        self.set_defaults(command=self.prog.rpartition(" ")[2])
        return self

    def add_output_options(
        self, *, device: bool = True, save_precision: bool = True, many: bool = False
    ) -> CommandParser:
        """Adds the options of every command that writes a file: --save_to, --overwrite, --json, --verbose.

        Args:
            device: whether to add --device.
            save_precision: whether to add --save_precision.
            many: whether the command works on many files too.

        Returns:
            This parser.
        """
        text = "the file to write" + ("; of many files: the folder" if many else "")
        self.add_argument("--save_to", type=Path, required=True, metavar="FILE", help=text)
        self.add_argument("--overwrite", action="store_true", help="replace a file that exists, also an input")
        if save_precision:
            text = "dtype of the result (default: that of the input; of several, the widest)"
            self.add_argument("--save_precision", choices=SAVE_PRECISIONS, help=text)
        if device:
            self.add_argument("--device", default="cpu", help="where to compute: cpu, cuda, cuda:1, mps")
        return self.add_report_options()

    def add_ignored_options(self, *names: str) -> CommandParser:
        """Accepts options of kohya's scripts that have no effect here, with a value or without.

        Args:
            *names: the options, with dashes.

        Returns:
            This parser.
        """
        for name in names:
            self.add_argument(name, nargs="?", const=True, help="accepted for kohya's command lines, without effect")
        return self

    def add_dynamic_rank_options(self) -> CommandParser:
        """Adds --dynamic_method and --dynamic_param."""
        self.add_argument(
            "--dynamic_method", choices=DYNAMIC_RANK_METHODS, help="choose each layer's rank by its singular values"
        )
        text = "sv_ratio: S0/S, such as 5; the others: a share, such as 0.9"
        self.add_argument("--dynamic_param", type=float, help=text)
        return self

    def add_report_options(self) -> CommandParser:
        """Adds --json and --verbose."""
        self.add_argument("--json", action="store_true", help="the report as JSON on standard output")
        self.add_argument("--verbose", action="store_true", help="a line for every layer in the report")
        return self


def _underscored(arg: str) -> str:
    """`--new-rank=4` → `--new_rank=4`; values and everything else as they are."""
    name, equals, value = arg.partition("=")
    if not re.fullmatch(r"--[A-Za-z][\w-]*", name):
        return arg
    return "--" + name[2:].replace("-", "_") + equals + value


def rank_rules(rank: int, conv_rank: int | None, method: str | None, param: float | None) -> tuple[RankRule, RankRule]:
    """Makes the rules by which ranks are chosen.

    Args:
        rank: rank of the layers; the highest one with a dynamic method.
        conv_rank: the same for convolutions; None for `rank`.
        method: the dynamic method, one of `DYNAMIC_RANK_METHODS`; None for a fixed rank.
        param: the parameter of that method.

    Returns:
        (rule for Linear layers, rule for convolutions).

    Raises:
        ToolError: an unknown method, or a rank or parameter that is missing or out of range.
    """
    if method is not None and method not in DYNAMIC_RANK_METHODS:
        raise ToolError(f"unknown dynamic method {method!r}{did_you_mean(method, DYNAMIC_RANK_METHODS)}")
    if method is not None and param is None:
        raise ToolError(f"{method} needs its number: --dynamic_param")
    conv_rank = rank if conv_rank is None else conv_rank
    return RankRule(rank, method, param or 0.0), RankRule(conv_rank, method, param or 0.0)


def parse_precision(name: str | None) -> torch.dtype | None:
    """Parses the value of --save_precision.

    Args:
        name: one of `SAVE_PRECISIONS`, or None.

    Returns:
        torch's dtype; None for None.

    Raises:
        ToolError: an unknown name; the message has the nearest.
    """
    return None if name is None else parse_precision_name(name, SAVE_PRECISIONS, ToolError)


def _process_count(text: str) -> int:
    """Parses --processes."""
    if whole_number(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1; leave it out for one process for each core")
    return int(text)


def parse_device(name: str) -> torch.device:
    """Parses the value of --device, and checks that it can be used.

    Args:
        name: such as "cpu" or "cuda:1".

    Returns:
        torch's device.

    Raises:
        ToolError: this machine or this torch has no such device.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ToolError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def check_output_path(
    path: Path, inputs: Sequence[str | Path] = (), *, overwrite: bool = False, folder: bool = False
) -> Path:
    """Checks that a result may be written to a path, before the work begins.

    Args:
        path: where to write.
        inputs: the files that are read, which a message names as such.
        overwrite: whether a file that exists may be replaced.
        folder: whether a folder is written instead of a .safetensors file.

    Returns:
        `path`.

    Raises:
        ToolError: its folder is missing, its suffix is not .safetensors, or it exists and `overwrite` is not set.
        FileError: it is a link, or write-protected.
    """
    if not path.parent.is_dir():
        raise ToolError(f"{path} cannot be written: there is no folder {path.parent}; create it first")
    if not os.access(path.parent, os.W_OK):
        raise ToolError(f"{path}: nothing may be written into {path.parent}; choose another folder")
    if folder:
        return path
    if path.suffix.lower() != ".safetensors":
        raise ToolError(f"{path} cannot be written: results are .safetensors files, such as {path.stem}.safetensors")
    if path.is_dir():
        raise ToolError(f"{path} is a folder, not a file")
    if path.exists() and not overwrite:
        if any(Path(source).exists() and path.samefile(source) for source in inputs):
            raise ToolError(f"{path} is one of the inputs; choose another name or give --overwrite")
        raise ToolError(f"{path} exists; choose another name or give --overwrite")
    check_not_protected(path)
    return path


def check_output_folder(path: Path, option: str) -> None:
    """Checks that a folder for results is one or can become one, before the work begins; nothing is created.

    Args:
        path: the folder.
        option: the option that names it.

    Raises:
        ToolError: it, or what it should lie in, is a file or a broken link, or may not be written to.
    """
    there = next((place for place in (path, *path.parents) if os.path.lexists(place)), path)
    if os.path.lexists(there) and not there.is_dir():
        what = "a broken link" if there.is_symlink() and not there.exists() else "a file"
        raise ToolError(f"{option} {path} cannot be a folder: {there} is {what}; choose another name")
    if not os.access(there, os.W_OK) and os.path.lexists(there):
        raise ToolError(f"{option} {path}: nothing may be written into {there}; choose another folder")


def check_disk_space(path: Path, size: int) -> None:
    """Checks that the disk has space for a result; a file that is replaced stays until the end.

    Args:
        path: where to write.
        size: bytes of the result.

    Raises:
        ToolError: less is free.
    """
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise ToolError(
            f"{path} cannot be written: it needs {size / 1e6:.1f} MB, its disk has {free / 1e6:.1f} MB free"
        )


def cast_tensor(tensor: Tensor, dtype: torch.dtype, where: str) -> Tensor:
    """Rounds a tensor to a dtype.

    Args:
        tensor (Tensor): any shape, on any device.
        dtype: the new dtype.
        where: what messages call the tensor.

    Returns:
        The tensor on the CPU.

    Raises:
        ToolError: NaN, or a number that is too large for `dtype`.
    """
    result = tensor.to("cpu", dtype)
    if not is_tensor_finite(result):
        name = str(dtype).removeprefix("torch.")
        if not bool(torch.isfinite(tensor).all()):
            raise ToolError(f"{where} contains NaN or infinity")
        largest = float(tensor.float().abs().max())
        raise ToolError(
            f"{where} does not fit {name}: it holds {largest:.4g}, the largest is {torch.finfo(dtype).max:.4g}; "
            "save as bf16 or float"
        )
    return result


def widest_dtype(dtypes: Mapping[torch.dtype, object] | Sequence[torch.dtype]) -> torch.dtype:
    """Returns the dtype that can hold the numbers of all dtypes.

    Args:
        dtypes: dtypes; an 8-bit float counts as fp16.

    Returns:
        The dtype; float32 for none, and instead of float64.

    Example:
        >>> widest_dtype([torch.float16, torch.bfloat16]), widest_dtype([torch.float8_e5m2])
        (torch.float32, torch.float16)
    """
    found: torch.dtype | None = None
    for dtype in dtypes:
        wide = dtype if dtype.is_floating_point and dtype.itemsize > 1 else torch.float16
        found = wide if found is None else torch.promote_types(found, wide)
    return torch.float32 if found is None or found == torch.float64 else found
