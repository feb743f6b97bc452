"""`python -m lora_ext COMMAND …`. The module of a command is imported only when the command runs."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from . import __version__
from .console import make_output_safe
from .errors import LoraError, did_you_mean
from .message_help import report_error

CLI_COMMANDS = {
    "demo": ("demo", "generate a labelled sheet with the small built-in model: what a LoRA and its weight do"),
    "generate": ("generate", "generate images from a prompt with <lora:name:0.8> tags"),
    "compare": ("generate.compare_command", "one labelled sheet over epochs, files, weights, blocks, ranks, seeds"),
    "ui": ("ui", "the LoRA tab in the browser: block weights, file tools, library, training"),
    "train": ("training", "train a LoRA from a folder of images; options as in kohya's train_network.py"),
    "teach": ("training.teach_command", "train on a folder of pictures with suggested settings and their reasons"),
    "control": ("training.control_command", "ask a training run at work to sample, save, stop or change its rates"),
    "images": ("train.data.resize_images", "make training images smaller, at one size or several"),
    "blocks": ("generate.blocks_command", "which blocks of a LoRA matter: a heat map, and a preset that keeps them"),
    "caption": ("training.caption_command", "caption images that have no caption yet, with a local BLIP model"),
    "inspect": ("inspect_file", "show what a LoRA file contains"),
    "duplicates": ("tools.duplicates", "files with the same network, also in another precision, format or rank"),
    "merge": ("host.standalone.merge_command", "merge LoRAs into one, exactly or at a new rank; or into a checkpoint"),
    "svd-merge": ("tools.svd_merge", "merge LoRAs into one at a new rank"),
    "resize": ("tools.resize", "change the rank of a LoRA, fixed or layer by layer"),
    "extract": ("tools.extract", "save the difference of two checkpoints as a LoRA"),
    "split-dylora": ("tools.split_dylora", "split a DyLoRA into one LoRA file for each rank"),
    "convert": ("tools.convert", "kohya's and diffusers' key formats, .pt to .safetensors, LoHa, LoKr, full to LoRA"),
    "metadata": ("tools.metadata", "show, edit or strip a file's metadata; compute its hashes again"),
    "conflicts": ("compare.conflicts_command", "which LoRAs conflict in which blocks, and how to split the blocks"),
    "reweight": ("tools.reweight", "write block weights into a LoRA"),
    "help": ("help_command", "what to do about a message or a symptom, such as help black; without a word, all"),
}
"""Command → (module with `main(argv) -> int`, what it does)."""
PACKAGE_EXTRAS = {
    "standalone": ("accelerate", "diffusers", "huggingface_hub", "transformers", "yaml"),
    "ui": ("fastapi", "pydantic", "starlette", "uvicorn"),
}
"""Extra of pyproject.toml → the modules that it brings, which some commands import."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the command line without the program's name; None reads that of the program.

    Returns:
        The exit status: 0; 2 for an error that the user can correct, with one line on stderr, and a second one where
        the troubleshooting page explains it; 130 when interrupted; 1 when the reader of its output has ended, as `head`
        does.
    """
    make_output_safe()
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
        return 1


def _run(argv: Sequence[str] | None) -> int:
    """`main`, without what happens to its output."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(__version__)
        return 0
    command, *rest = argv
    if command not in CLI_COMMANDS:
        print(f"lora-ext: unknown command {command!r}{did_you_mean(command, CLI_COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return int(_load_command_module(CLI_COMMANDS[command][0]).main(rest) or 0)
    except LoraError as error:
        return report_error(error)
    except OSError as error:  # such as a folder without rights
        if error.filename is None or isinstance(error, BrokenPipeError):
            raise
        return report_error(LoraError(f"{error.filename}: {error.strerror}"))
    except ModuleNotFoundError as error:
        extra = next((extra for extra, names in PACKAGE_EXTRAS.items() if error.name in names), None)
        if extra is None:
            raise
        needs = f"{command} needs {error.name}, which is not installed"
        where = "into an environment of its own, not into a web UI's"
        return report_error(LoraError(f"{needs}; install what it needs {where}: {_pip_command(extra)}"))
    except KeyboardInterrupt:
        print("lora-ext: interrupted", file=sys.stderr)
        return 130


def _pip_command(extra: str) -> str:
    """The command that installs an extra: from the clone that runs; an index may have other packages of this name."""
    root = Path(__file__).resolve().parents[1]
    source = f'-e "{root}[{extra}]"' if (root / "pyproject.toml").is_file() else f'"lora-ext[{extra}]"'
    return f"pip install {source}"


def _load_command_module(name: str) -> ModuleType:
    """Imports a command's module without garbage collection, which would take a fifth of the start.

    What is imported stays until the end, so that nothing of it is ever garbage.
    """
    gc.disable()
    try:
        return import_module(f".{name}", __package__)
    finally:
        gc.freeze()
        gc.enable()


def _help() -> str:
    rows = "\n".join(f"  {command:<14}{text}" for command, (_, text) in CLI_COMMANDS.items())
    return f"usage: python -m lora_ext COMMAND [options]   (COMMAND --help lists its options)\n\n{rows}"
