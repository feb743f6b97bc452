"""The command line of cloneofsimo's `lora_add`, as one of `merge`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..argument_errors import number
from ..command_line import CommandParser
from ..errors import ToolError, did_you_mean

LORA_ADD_MODES = {
    "lpl": "the factors of two LoRAs, times alpha_1 and alpha_2, added (--method factors)",
    "ljl": "the ranks of two LoRAs side by side (--method concat)",
    "upl": "a LoRA times alpha_1 merged into a diffusers folder (--sd_model)",
    "upl-ckpt-v2": "the same, written as a checkpoint file (--sd_model)",
}
"""Mode → what it does, and the option of `merge` for it."""
_PLACES = ("path_1", "path_2", "output_path", "alpha_1", "alpha_2", "mode")
"""What arguments without a name are, in `lora_add`'s order."""


def merge_arguments(argv: Sequence[str]) -> list[str]:
    """Turns `PATH_1 PATH_2 OUTPUT [ALPHA_1 [ALPHA_2 [MODE]]] --mode MODE` into options of `merge`.

    Args:
        argv: A command line of `merge`.

    Returns:
        The options of `merge`; the same command line where it has neither `--mode` nor a file in the first place.

    Raises:
        ToolError: An unknown mode, or files that are missing.

    Example:
        >>> merge_arguments(["a.safetensors", "b.safetensors", "c.safetensors", "--mode", "ljl"])
        ['--models', 'a.safetensors', 'b.safetensors', '--save_to', 'c.safetensors', '--method', 'concat']
    """
    options = {arg.partition("=")[0].replace("-", "_") for arg in argv if arg.startswith("--")}
    if "__mode" not in options and (not argv or argv[0].startswith("-")):
        return list(argv)
    first_option = next((place for place, arg in enumerate(argv) if arg.startswith("--")), len(argv))
    args, rest = _parser().parse_known_args(argv[first_option:])
    places = [name for name in _PLACES if getattr(args, name) is None]
    if first_option > len(places):
        raise ToolError(f"merge: {argv[len(places)]!r} is one file too many; lora_add has FIRST SECOND OUTPUT")
    for name, value in zip(places, argv[:first_option], strict=False):
        setattr(args, name, value)
    mode = args.mode or "lpl"
    if mode not in LORA_ADD_MODES:
        modes = "; ".join(f"{name}: {text}" for name, text in LORA_ADD_MODES.items())
        raise ToolError(f"merge: unknown mode {mode!r}{did_you_mean(mode, LORA_ADD_MODES)}; {modes}")
    if not (args.path_1 and args.path_2 and args.output_path):
        if args.mode is None:
            raise ToolError("merge: give the LoRA files with --models and the result with --save_to: "
                            "merge --models FIRST SECOND --save_to OUTPUT")  # fmt: skip
        raise ToolError(f"merge --mode {mode} needs three paths, as lora_add does: FIRST SECOND OUTPUT")
    first, second = (_weight(alpha) for alpha in (args.alpha_1, args.alpha_2))
    if mode.startswith("upl"):
        made = ["--sd_model", args.path_1, "--models", args.path_2, "--ratios", f"{first:g}"]
        return [*made, "--save_to", args.output_path, *rest]
    made = ["--models", args.path_1, args.path_2, "--save_to", args.output_path]
    if mode == "ljl":  # as there, without weights
        return [*made, "--method", "concat", *rest]
    return [*made, "--method", "factors", "--ratios", f"{first:g}", f"{second:g}", *rest]


def _weight(text: str | None) -> float:
    try:
        return 0.5 if text is None else number(text)
    except argparse.ArgumentTypeError:
        raise ToolError(f"merge: alpha_1 and alpha_2 are weights, not {text!r}") from None


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("merge", "")
    for name in _PLACES:
        parser.add_argument(f"--{name}")
    # the text encoder's layers are merged where both files have them
    return parser.add_ignored_options("--with_text_lora")
