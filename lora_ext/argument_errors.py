"""What a command line says of a value that does not fit its option: what was given, and what fits."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence

from .errors import did_you_mean


def whole_number(text: str) -> int:
    """Parses a whole number on the command line.

    Args:
        text: the argument.

    Returns:
        The number.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, such as 4") from None


def number(text: str) -> float:
    """Parses a number on the command line, such as a weight.

    Args:
        text: the argument.

    Returns:
        The number.

    Raises:
        argparse.ArgumentTypeError: it is none, or NaN or infinity.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, such as 0.5")
    return value


def choice_error(action: argparse.Action, value: object) -> argparse.ArgumentError:
    """The error of a value that is not among an option's choices.

    Args:
        action: the option.
        value: what was given.

    Returns:
        The error; it has the nearest choice, else all of them.
    """
    choices = [str(choice) for choice in action.choices or () if choice != ""]
    return argparse.ArgumentError(action, f"unknown value {value!r}{did_you_mean(str(value), choices, len(choices))}")


def argument_error_text(message: str, options: Mapping[str, argparse.Action]) -> str:
    """A message of argparse about one option, without argparse's words, and with what the option takes.

    Args:
        message: the message, such as "argument --ratios: expected at least one argument".
        options: option string → option.

    Returns:
        The sentence; any other message as it is.
    """
    names, _, what = message.removeprefix("argument ").partition(": ")
    action = options.get(names.split("/")[0])
    if action is None or not message.startswith("argument "):
        return message
    if what.startswith(("expected ", "ignored explicit argument ")):
        return f"{names} {_takes(action)}" + (f": {action.help}" if action.help and action.nargs != 0 else "")
    return f"{names}: {what}"


def extra_argument_text(extra: str, given: Sequence[str], options: Mapping[str, argparse.Action]) -> str:
    """Says why an argument has no place on a command line.

    Args:
        extra: the first argument that nothing takes.
        given: the whole command line.
        options: option string → option.

    Returns:
        The sentence: an option that does not exist, or a value too many for the option before it.
    """
    if extra.startswith("-") and extra.strip("-"):
        name = extra.partition("=")[0]
        return f"unknown option {name}{did_you_mean(name, options)}"
    before = given[: len(given) - 1 - list(reversed(given)).index(extra)]
    option = next((arg.partition("=")[0] for arg in reversed(before) if arg.partition("=")[0] in options), None)
    if option is None:
        return f"{extra!r} is one argument too many; a value with blanks needs quotes, and --help lists the options"
    action = options[option]
    advice = "" if action.nargs == 0 else "; a value with blanks needs quotes"
    if isinstance(action, argparse._AppendAction):
        advice += f", and several values {option} before each"
    return f"{option} {_takes(action)}, and {extra!r} is one too many{advice}"


def _takes(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "takes no value"
    return "takes one value" if action.nargs in (None, "?") else "takes one value or more"
