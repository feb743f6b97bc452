"""Reading and writing a `Recipe`: command line, TOML and `network_args`. Names and types come from its options."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from ...command_line import CommandParser
from ...errors import TrainError, did_you_mean
from ...file.displayed_names import typed_path
from ...json_text import parse_json
from .kohya_gui_file import settings_of_gui_file
from .kohya_options import COMMAND_OPTIONS, IGNORED_OPTIONS, UNSUPPORTED_OPTIONS, is_neutral, sort_options
from .listed_texts import listed_texts, shown_value, split_texts
from .lr_schedules import name_schedule
from .network_modules import (
    ARGUMENT_NAMES,
    EXTRA_ARGUMENTS,
    UNSUPPORTED_ARGUMENTS,
    UNUSED_ARGUMENTS,
    name_network,
)
from .other_programs_files import program_of, translate_program_file
from .other_trainers import translate_other_options
from .other_trainers_options import OTHER_TRAINERS_OPTIONS
from .recipe import Recipe, UserOptimizerClass, recipe_options
from .recipe_check import check_recipe
from .recipe_option import RecipeOption
from .text_file import load_utf8
from .toml_file import load_toml

_OTHER_OPTIONS = (
    "network_args", "use_8bit_adam", "use_lion_optimizer", "caption_extention", "mem_eff_attn",
    *sorted(OTHER_TRAINERS_OPTIONS),
)  # fmt: skip
"""Options of other scripts that set options of other names here; `caption_extention` is kohya's old misspelling."""


# --- types -----------------------------------------------------------------------------------------------------------


def recipe_option_type(name: str) -> tuple[str, bool]:
    """The kind of an option's value, and whether it may be None.

    Args:
        name: The name of a field of `Recipe`.

    Returns:
        ("bool", "int", "float", "str", "ints", "floats" or "strs", whether None is accepted).
    """
    text, _, none = str(recipe_options()[name][0].type).partition(" | ")
    return {"tuple[int, ...]": "ints", "tuple[float, ...]": "floats", "tuple[str, ...]": "strs"}.get(
        text, text
    ), none == "None"


def parse_recipe_option(name: str, given: object) -> Any:
    """Parses an option's value as a command line, TOML, JSON or a form gives it.

    Args:
        name: The option.
        given: The value; "", [] and "none" mean "not set", as 0 does for an option such as `save_every_n_epochs`.

    Returns:
        The value in the option's type.

    Raises:
        TrainError: The type does not fit or the value is out of range; the message says what is accepted.

    Example:
        >>> parse_recipe_option("learning_rate", "1e-4"), parse_recipe_option("block_dims", "4,8")
        (0.0001, (4, 8))
    """
    kind, optional = recipe_option_type(name)
    option = recipe_options()[name][1]
    if given is None or given in ([], ()) or _is_unset_text(given, kind, option):
        return recipe_options()[name][0].default
    if optional and (given in ("", "None") or (kind == "int" and option.low == 1 and given in (0, "0"))):
        return None
    try:
        value = _typed(kind, name, given)
    except (ValueError, TypeError, OverflowError):
        wanted = _TYPE_NAMES[kind]
        if name == "text_encoder_lr":
            wanted = f"{wanted}, or two for SDXL's two text encoders"
        raise TrainError(f"{name} must be {wanted}, not {shown_value(given)}") from None
    _in_range(name, option, value)
    return value


def _is_unset_text(given: object, kind: str, option: RecipeOption) -> bool:
    """Whether a text means "not set"; in an option of free text, such as a caption's prefix, "none" is a word."""
    if not isinstance(given, str) or (kind == "str" and not option.choices):
        return bool(option.kind) and given in ("", "none")  # NONE may be a folder
    return given.strip().lower() in ("", "none") and given not in option.choices


_TYPE_NAMES = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "ints": "whole numbers separated by commas",
    "floats": "numbers separated by commas",
    "strs": "name=value pairs",
}


def _typed(kind: str, name: str, given: object) -> Any:
    if kind == "bool":
        if isinstance(given, (bool, int)):
            return bool(given)
        return (
            {"true": True, "false": False, "1": True, "0": False}[str(given).lower()] if _is_bool(given) else _reject()
        )
    if kind in ("ints", "floats", "strs"):
        return _listed(kind, name, given)
    if isinstance(given, (list, tuple)):
        if kind == "str":  # block weights or a resolution as a list of numbers
            return ",".join(str(item) for item in given)
        given = given[0] if all(item == given[0] for item in given) else _reject()
    if isinstance(given, bool) and kind != "str":
        return _reject()
    if kind == "int":
        number = float(given) if isinstance(given, float) else int(str(given).strip())
        return int(number) if number == int(number) else _reject()
    if kind == "float":
        number = float(str(given))
        return number if math.isfinite(number) else _reject()
    return given if isinstance(given, UserOptimizerClass) else str(given)


def _is_bool(given: object) -> bool:
    return str(given).lower() in ("true", "false", "1", "0")


def _reject() -> Any:
    raise ValueError


def _listed(kind: str, name: str, given: object) -> tuple[Any, ...]:
    if kind == "strs":
        return tuple(listed_texts(name, given))
    if isinstance(given, str):
        given = given.split(",")
    if not isinstance(given, Iterable):
        raise ValueError
    if kind == "ints":
        return tuple(int(str(item).strip()) for item in given)
    return tuple(float(str(item)) for item in given)


def _in_range(name: str, option: RecipeOption, value: Any) -> None:
    if option.choices and value not in option.choices:
        raise TrainError(
            f"{name} must be {' or '.join(option.choices)}, not {value!r}{did_you_mean(str(value), option.choices)}"
        )
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            if option.low is not None and number < option.low:
                raise TrainError(f"{name} must be {option.low:g} or more, not {_digits(number)}")
            if option.high is not None and number > option.high:
                raise TrainError(f"{name} must be {_digits(option.high)} or less, not {_digits(number)}")


def _digits(number: float) -> str:
    """An integer with all its digits, other numbers in short form."""
    return str(number) if isinstance(number, int) else format(number, "g")


# --- recipes ---------------------------------------------------------------------------------------------------------


def recipe_from_settings(
    settings: Mapping[str, Any], base: Recipe | None = None, notify: Callable[[str], None] = lambda sentence: None
) -> Recipe:
    """Builds a checked recipe from option names and values.

    kohya's `network_args`, `use_8bit_adam`, `networks.lora` and so on are accepted too.

    Args:
        settings: Name → value, as `parse_recipe_option` accepts it.
        base: The recipe that gives all other values; the defaults without one.
        notify: Called with a sentence that lists the options that have no effect here.

    Returns:
        The recipe.

    Raises:
        TrainError: Unknown names (each with the nearest one) or options that are not supported, all in one message; a
            value out of range, or contradicting settings.

    Example:
        >>> recipe_from_settings({"network_module": "networks.lora", "conv_dim": "4"}).network_module
        'c3lier'
    """
    given = dict(settings)
    translate_other_options(given, notify)
    split_network_args(given, notify)
    for name, optimizer in (("use_8bit_adam", "AdamW8bit"), ("use_lion_optimizer", "Lion")):
        if not is_neutral(given.pop(name, False)):
            given.setdefault("optimizer_type", optimizer)
    if "caption_extention" in given:
        given.setdefault("caption_extension", given.pop("caption_extention"))
    if not is_neutral(given.pop("mem_eff_attn", False)):
        given.setdefault("sdpa", True)
    if given.get("optimizer_type") == "":
        del given["optimizer_type"]
    rates = given.get("text_encoder_lr")
    if isinstance(rates, (list, tuple)) and len(rates) == 2 and rates[0] != rates[1]:
        given["text_encoder_lr"], second = rates
        given.setdefault("text_encoder_2_lr", second)
    name_network(given, notify)
    name_schedule(given)
    used, not_used = sort_options(given, recipe_options())
    if not_used:
        notify(not_used)
    return check_recipe(
        replace(base or Recipe(), **{name: parse_recipe_option(name, value) for name, value in used.items()})
    )


def split_network_args(given: dict[str, Any], notify: Callable[[str], None]) -> None:
    """Moves the settings in `network_args` to `given`. Raises TrainError, with all that are unknown."""
    groups = ("network", "dylora", "blocks")
    # files are options of their own: the tab checks those by their names
    known = [n for n, (_, option) in recipe_options().items() if option.group in groups and not option.kind]
    known += EXTRA_ARGUMENTS
    wrong = []
    for text in listed_texts("network_args", given.pop("network_args", ())):
        name, equals, value = text.partition("=")
        name = ARGUMENT_NAMES.get(name, name)
        if equals and name in known:
            given.setdefault(name, value)
        elif equals and name in UNUSED_ARGUMENTS:
            if not is_neutral(value):
                notify(f"not used here: network_args {name} ({UNUSED_ARGUMENTS[name]})")
        elif equals and name in UNSUPPORTED_ARGUMENTS and not is_neutral(value):
            raise TrainError(f"network_args {name} is not supported here: {UNSUPPORTED_ARGUMENTS[name]}")
        elif not (equals and is_neutral(value)):
            wrong.append(text)
    if wrong:
        what = "is not NAME=VALUE of a network setting" if len(wrong) == 1 else "are not NAME=VALUE of network settings"
        hints = "".join(did_you_mean(text.partition("=")[0], known) for text in wrong)
        raise TrainError(f"network_args has {', '.join(map(repr, wrong))}, which {what}{hints}")


def settings_from_recipe(recipe: Recipe) -> dict[str, Any]:
    """Name → value of every option that is not at its default; `recipe_from_settings` reads it back."""
    return {
        name: getattr(recipe, name) for name, (f, _) in recipe_options().items() if getattr(recipe, name) != f.default
    }


# --- command line ----------------------------------------------------------------------------------------------------


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Adds an option for every field (and `--no_NAME` to turn off a flag of the config file), and kohya's others."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, (f, option) in recipe_options().items():
        group = groups.get(option.group) or groups.setdefault(option.group, parser.add_argument_group(option.group))
        text = option.help.replace("%", "%%")
        kind, _ = recipe_option_type(name)
        if kind == "bool":
            text += f" (default: on; --no_{name} turns it off)" if f.default else ""
            group.add_argument(f"--{name}", action="store_true", default=argparse.SUPPRESS, help=text)
            off = {"action": "store_false", "dest": name, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
            group.add_argument(f"--no_{name}", **off)  # type: ignore[arg-type]
            continue
        help_text = f"{text} (default: {f.default})" if f.default not in (None, (), "") else text
        # a rate for each encoder and a weight for each file, as kohya's scripts accept
        several = kind == "strs" or name in ("text_encoder_lr", "base_weights_multiplier")
        many = {"nargs": "*"} if several else {"metavar": _metavar(kind, option)}
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, help=help_text, **many)  # type: ignore[arg-type]
    more = parser.add_argument_group("more")
    more.add_argument(
        "--config_file",
        type=Path,
        metavar="FILE",
        help="toml with any of these settings; also a settings file of kohya's GUI, OneTrainer or traintrain (.json)",
    )
    more.add_argument(
        "--network_args",
        nargs="*",
        default=argparse.SUPPRESS,
        help="settings of the network as name=value, as in kohya's scripts, such as conv_dim=8",
    )
    for name in (*_OTHER_OPTIONS[1:], *IGNORED_OPTIONS):
        more.add_argument(f"--{name}", nargs="?", const=True, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    for name in UNSUPPORTED_OPTIONS.keys() - COMMAND_OPTIONS:
        more.add_argument(
            f"--{name}", nargs="*", action=_FlagOrValues, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )


class _FlagOrValues(argparse.Action):
    """Stores True for an option without a value, else the list of its values."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, values or True)


class RecipeParser(CommandParser):
    """A command line that names all options that are unknown or not supported in one message."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as `CommandParser` does."""
        found, rest = self.parse_known_args(args, namespace)
        given = {
            name: getattr(found, name) for name in UNSUPPORTED_OPTIONS.keys() - COMMAND_OPTIONS if hasattr(found, name)
        }
        unknown = {arg.partition("=")[0][2:]: True for arg in rest if arg.startswith("--") and len(arg) > 2}
        try:
            sort_options(
                {**given, **unknown}, [n[2:] for n in self._option_string_actions if n[2:] not in given], dashes="--"
            )
        except TrainError as error:
            self.exit(2, f"lora-ext: {error}\n")
        self.refuse_extra(rest)
        for name in given:
            delattr(found, name)
        return found


def _metavar(kind: str, option: RecipeOption) -> str:
    if option.choices:
        return "{" + ",".join(option.choices) + "}"
    return {"int": "N", "float": "X", "ints": "N,N,…", "floats": "X,X,…"}.get(kind, option.kind.upper() or "TEXT")


def recipe_from_arguments(
    args: argparse.Namespace, base: Recipe | None = None, notify: Callable[[str], None] = lambda sentence: None
) -> Recipe:
    """Builds the recipe of a parsed command line; its options override those of `--config_file`.

    Args:
        args: What `recipe_parser()` parsed.
        base: The recipe that gives all other values; the defaults without one.
        notify: Called with a sentence that lists the options that have no effect here.

    Returns:
        The checked recipe.

    Raises:
        TrainError: As `recipe_from_settings`, or the config file cannot be read.
    """
    # only --optimizer_type itself may name a class by its module: a config file or a base may be someone else's
    names = {*recipe_options(), *_OTHER_OPTIONS, *IGNORED_OPTIONS}
    given = {name: value for name, value in vars(args).items() if name in names}
    for name in given.keys() & {name for name, (_, option) in recipe_options().items() if option.kind}:
        value = given[name]
        given[name] = [str(typed_path(item)) for item in value] if isinstance(value, list) else str(typed_path(value))
    if "." in given.get("optimizer_type", ""):
        given["optimizer_type"] = UserOptimizerClass(given["optimizer_type"])
    path = getattr(args, "config_file", None)
    if path is None:
        return recipe_from_settings(given, base, notify)
    stored, said = settings_from_config_file(path)
    for sentence in said:
        notify(sentence)
    merged = [text for each in (stored, given) for text in listed_texts("network_args", each.pop("network_args", ()))]
    settings = {**stored, **given, **({"network_args": merged} if merged else {})}
    return recipe_from_settings(settings, base, notify)


def recipe_parser(verb: str = "train", description: str = "Train a LoRA.") -> RecipeParser:
    """A command line with every training option.

    Args:
        verb: The command.
        description: What the help says of it.

    Returns:
        The parser.
    """
    parser = RecipeParser(verb, description)
    add_recipe_options(parser)
    return parser


# --- toml ------------------------------------------------------------------------------------------------------------


def settings_from_config_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Loads a config file: TOML (names of its tables are ignored, as by kohya's scripts) or JSON of other programs.

    Args:
        path: The file.

    Returns:
        (name → value, sentences about what is not used, such as the list of options that have no effect here).

    Raises:
        TrainError: It cannot be read, or has options that are unknown or not supported.
    """
    if path.suffix.lower() == ".json":
        return settings_from_json(load_utf8(path), str(path))
    found: dict[str, Any] = {}
    for name, value in load_toml(path).items():
        inner = value if isinstance(value, dict) else {name: value}
        for key, item in inner.items():
            if isinstance(item, dict):
                raise TrainError(f"{path} has a table {name}.{key} where a setting is expected")
            found[key] = item
    used, not_used = sort_options(found, (*recipe_options(), *_OTHER_OPTIONS), str(path))
    return used, [not_used] if not_used else []


def settings_from_json(text: str, where: str) -> tuple[dict[str, Any], list[str]]:
    """Reads a settings file of kohya's GUI, OneTrainer or traintrain.

    Args:
        text: What is in the file.
        where: The file's name, for messages.

    Returns:
        As `settings_from_config_file`.

    Raises:
        TrainError: As `settings_from_config_file`.
    """
    try:
        content = parse_json(text)
    except ValueError as error:
        raise TrainError(f"{where} is not JSON: {error}") from None
    program = program_of(content) if isinstance(content, dict) else ""
    if not program:
        raise TrainError(f"{where} is no settings file of kohya's GUI (it has no LoRA_type), OneTrainer or traintrain")
    if program != "kohya":
        return translate_program_file(content)
    found, said = settings_of_gui_file(content, where)
    found.update(_additional_parameters(str(found.pop("additional_parameters", "")), where))
    used, not_used = sort_options(found, (*recipe_options(), *_OTHER_OPTIONS), where)
    return used, [*said, *([not_used] if not_used else [])]


class _ConfigFileParser(RecipeParser):
    """A command line inside a config file: a wrong one raises TrainError instead of ending the program."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise TrainError((message or "").removeprefix("lora-ext: ").strip())


def _additional_parameters(line: str, where: str) -> dict[str, Any]:
    """Name → value of the command line in a file of kohya's GUI. Raises TrainError."""
    parser = _ConfigFileParser("train", "")
    add_recipe_options(parser)
    try:
        found = parser.parse_args(split_texts(line))
    except (ValueError, TrainError) as error:
        raise TrainError(f"{where}: additional_parameters {line!r} is not a command line for this: {error}") from None
    return {name: value for name, value in vars(found).items() if name != "config_file"}


def recipe_to_toml(recipe: Recipe) -> str:
    """Writes every option that is not at its default as TOML, which `--config_file` reads back to the same recipe.

    Args:
        recipe: The settings.

    Returns:
        One `name = value` a line; a comment where every option is at its default, since an empty file is refused.
    """
    lines = []
    for name, value in settings_from_recipe(recipe).items():
        item = list(value) if isinstance(value, tuple) else value
        lines.append(f"{name} = {json.dumps(item, ensure_ascii=False)}")
    return "\n".join(lines or ["# every setting has its default"]) + "\n"
