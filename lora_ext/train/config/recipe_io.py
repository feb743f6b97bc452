"""`Recipe` in and out: command line, toml, network_args; every name and type comes from its knobs."""

from __future__ import annotations

import argparse
import json
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...command_line import CommandParser
from ...errors import TrainError, did_you_mean
from ...file.displayed_names import typed_path
from .recipe import Recipe, RecipeOption, UserOptimizerClass, recipe_options
from .recipe_check import check_recipe
from .toml_file import load_toml

NETWORK_MODULE_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "networks.lora": "lierla",
        "networks.dylora": "dylora",
        "lora": "lierla",
        "lora-lierla": "lierla",
        "lora-c3lier": "c3lier",
        "locon": "c3lier",
    }
)
"""Other names of `network_module` → ours; `networks.lora` with a conv_dim is C3Lier."""

IGNORED_OPTIONS = (
    "cache_info console_log_file console_log_level console_log_simple ddp_gradient_as_bucket_view ddp_static_graph "
    "ddp_timeout debug_dataset highvram log_config lowram persistent_data_loader_workers skip_cache_check "
    "tokenizer_cache_dir save_model_as"
).split()
"""Options of kohya's scripts that are taken and change nothing here."""

_ELSEWHERE = ("network_args", "use_8bit_adam", "use_lion_optimizer", "caption_extention", "mem_eff_attn")


# --- types -----------------------------------------------------------------------------------------------------------


def recipe_option_type(name: str) -> tuple[str, bool]:
    """("bool" | "int" | "float" | "str" | "ints" | "floats" | "strs", whether None is a value) of a knob."""
    text, _, none = str(recipe_options()[name][0].type).partition(" | ")
    return {"tuple[int, ...]": "ints", "tuple[float, ...]": "floats", "tuple[str, ...]": "strs"}.get(
        text, text
    ), none == "None"


def parse_recipe_option(name: str, given: object) -> Any:
    """A knob's value from what a command line, toml, json or form gives. Raises TrainError that says what fits."""
    kind, optional = recipe_option_type(name)
    knob = recipe_options()[name][1]
    if given is None or (isinstance(given, str) and kind != "str" and given.strip() in ("", "None")):
        return recipe_options()[name][0].default
    if optional and given in ("", "None"):
        return None
    try:
        value = _typed(kind, name, given)
    except (ValueError, TypeError, OverflowError):
        raise TrainError(f"{name} is {_TYPE_NAMES[kind]}, not {given!r}") from None
    _in_range(name, knob, value)
    return value


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
        return _listed(kind, given)
    if isinstance(given, (list, tuple)):
        if kind == "str":  # block weights, a resolution
            return ",".join(str(item) for item in given)
        given = given[0] if len(given) == 1 else _reject()
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


def _listed(kind: str, given: object) -> tuple[Any, ...]:
    if isinstance(given, str):
        given = shlex.split(given) if kind == "strs" else given.split(",")
    if not isinstance(given, Iterable):
        raise ValueError
    if kind == "ints":
        return tuple(int(str(item).strip()) for item in given)
    return tuple(float(str(item)) for item in given) if kind == "floats" else tuple(str(item) for item in given)


def _in_range(name: str, knob: RecipeOption, value: Any) -> None:
    if knob.choices and value not in knob.choices:
        raise TrainError(
            f"{name} is {' or '.join(knob.choices)}, not {value!r}{did_you_mean(str(value), knob.choices)}"
        )
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            if knob.low is not None and number < knob.low:
                raise TrainError(f"{name} is {knob.low:g} or more, not {_digits(number)}")
            if knob.high is not None and number > knob.high:
                raise TrainError(f"{name} is {_digits(knob.high)} or less, not {_digits(number)}")


def _digits(number: float) -> str:
    """A whole number with all its digits, others in short."""
    return str(number) if isinstance(number, int) else format(number, "g")


# --- recipes ---------------------------------------------------------------------------------------------------------


def recipe_from_settings(settings: Mapping[str, Any], base: Recipe | None = None) -> Recipe:
    """A checked recipe from name → value (values as `parse_recipe_option` takes them); names not given are `base`'s.

    Also takes kohya's `network_args`, `use_8bit_adam`, `networks.lora` and so on. Raises TrainError: an unknown name
    with the nearest one, a value out of range, or settings that do not go together.
    """
    given = dict(settings)
    known = recipe_options()
    for text in _split_arguments(given.pop("network_args", ())):
        name, equals, value = text.partition("=")
        if not equals or known.get(name) is None or known[name][1].group not in ("network", "dylora", "blocks"):
            valid = [n for n, (_, knob) in known.items() if knob.group in ("network", "dylora", "blocks")]
            raise TrainError(f"network_args has {text!r}, which is not a setting=value here{did_you_mean(name, valid)}")
        given.setdefault(name, value)
    if given.pop("use_8bit_adam", False):
        given.setdefault("optimizer_type", "AdamW8bit")
    if given.pop("use_lion_optimizer", False):
        given.setdefault("optimizer_type", "Lion")
    if "caption_extention" in given:
        given.setdefault("caption_extension", given.pop("caption_extention"))
    if given.pop("mem_eff_attn", False):
        given.setdefault("sdpa", True)
    if given.get("optimizer_type") == "":
        del given["optimizer_type"]
    _name_network(given)
    for name in [name for name in given if name in IGNORED_OPTIONS]:
        del given[name]
    for name in given:
        if name not in known:
            raise TrainError(f"unknown setting {name!r}{did_you_mean(name, known)}")
    return check_recipe(
        replace(base or Recipe(), **{name: parse_recipe_option(name, value) for name, value in given.items()})
    )


def _split_arguments(given: Any) -> list[str]:
    return shlex.split(given) if isinstance(given, str) else [str(item) for item in given or ()]


def _name_network(given: dict[str, Any]) -> None:
    """`network_module` in our words; a conv_dim without one, or with kohya's, means C3Lier."""
    wide = any(given.get(name) not in (None, "") for name in ("conv_dim", "conv_block_dims"))
    name = given.get("network_module")
    if name is None and wide:
        given["network_module"] = "c3lier"
    elif isinstance(name, str):
        ours = NETWORK_MODULE_ALIASES.get(name.lower(), name.lower())
        given["network_module"] = (
            "c3lier" if ours == "lierla" and wide and name.lower() in NETWORK_MODULE_ALIASES else ours
        )


def settings_from_recipe(recipe: Recipe) -> dict[str, Any]:
    """name → value of every knob that is not at its default; `recipe_from_settings` reads it back."""
    return {
        name: getattr(recipe, name) for name, (f, _) in recipe_options().items() if getattr(recipe, name) != f.default
    }


# --- command line ----------------------------------------------------------------------------------------------------


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """An option for every knob (`--no_NAME` turns one of the config file's off), and kohya's further ones."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, (f, knob) in recipe_options().items():
        group = groups.get(knob.group) or groups.setdefault(knob.group, parser.add_argument_group(knob.group))
        text = knob.help.replace("%", "%%")
        kind, _ = recipe_option_type(name)
        if kind == "bool":
            group.add_argument(f"--{name}", action="store_true", default=argparse.SUPPRESS, help=text)
            off = {"action": "store_false", "dest": name, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
            group.add_argument(f"--no_{name}", **off)  # type: ignore[arg-type]
            continue
        said = f"{text} (default: {f.default})" if f.default not in (None, ()) else text
        many = {"nargs": "*"} if kind == "strs" else {"metavar": _metavar(kind, knob)}
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, help=said, **many)  # type: ignore[arg-type]
    more = parser.add_argument_group("more")
    more.add_argument("--config_file", type=Path, metavar="FILE", help="toml with any of these settings")
    more.add_argument("--network_args", nargs="*", default=argparse.SUPPRESS, help="settings as name=value")
    for name in (*_ELSEWHERE[1:], *IGNORED_OPTIONS):
        more.add_argument(f"--{name}", nargs="?", const=True, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _metavar(kind: str, knob: RecipeOption) -> str:
    if knob.choices:
        return "{" + ",".join(knob.choices) + "}"
    return {"int": "N", "float": "X", "ints": "N,N,…", "floats": "X,X,…"}.get(kind, knob.kind.upper() or "TEXT")


def recipe_from_arguments(args: argparse.Namespace, base: Recipe | None = None) -> Recipe:
    """The recipe of a parsed command line: its `--config_file`, and over it what was given. Raises TrainError.

    Only `--optimizer_type` itself may name a class by its module: a config file or a base may be someone else's.
    """
    given = {name: value for name, value in vars(args).items() if name in recipe_options() or name in _ELSEWHERE}
    for name in given.keys() & {name for name, (_, knob) in recipe_options().items() if knob.kind}:
        given[name] = str(typed_path(given[name]))
    if "." in given.get("optimizer_type", ""):
        given["optimizer_type"] = UserOptimizerClass(given["optimizer_type"])
    path = getattr(args, "config_file", None)
    if path is None:
        return recipe_from_settings(given, base)
    stored = settings_from_toml(load_toml(path), path)
    merged = _split_arguments(stored.pop("network_args", ())) + _split_arguments(given.pop("network_args", ()))
    return recipe_from_settings({**stored, **given, **({"network_args": merged} if merged else {})}, base)


def recipe_parser(verb: str = "train", description: str = "Train a LoRA.") -> CommandParser:
    """A command line with every knob."""
    made = CommandParser(verb, description)
    add_recipe_options(made)
    return made


# --- toml ------------------------------------------------------------------------------------------------------------


def settings_from_toml(toml: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """name → value of a config file; its tables' names mean nothing, as in kohya's. Raises TrainError."""
    found: dict[str, Any] = {}
    for name, value in toml.items():
        inner = value if isinstance(value, dict) else {name: value}
        for key, item in inner.items():
            if isinstance(item, dict):
                raise TrainError(f"{path} has a table {name}.{key} where a setting is expected")
            if key not in recipe_options() and key not in (*_ELSEWHERE, *IGNORED_OPTIONS):
                raise TrainError(f"{path} has an unknown setting {key!r}{did_you_mean(key, recipe_options())}")
            found[key] = item
    return found


def recipe_to_toml(recipe: Recipe) -> str:
    """Every knob that is not at its default, as toml that `--config_file` reads back to the same recipe."""
    lines = []
    for name, value in settings_from_recipe(recipe).items():
        item = list(value) if isinstance(value, tuple) else value
        lines.append(f"{name} = {json.dumps(item, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"
