"""`Recipe` as the `ss_*` metadata of a trained file, and settings from files of this program and of kohya's scripts."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...bounded_matching import split_outside_brackets
from ...errors import TrainError
from ...file.folder_listing import load_metadata_quickly
from ...json_text import parse_json
from .block_settings import conv3x3_rank_and_alpha
from .dylora import DYLORA_SCALE_RULE_KEY, DYLORA_VARIANTS
from .layer_choice import has_conv3x3_modules
from .network_modules import ARGUMENT_NAMES, UNUSED_ARGUMENTS, name_network
from .optimizers import OPTIMIZERS
from .recipe import Recipe, recipe_options
from .recipe_io import parse_recipe_option, recipe_option_type, settings_from_recipe

_ALWAYS_RECORDED = frozenset(
    """learning_rate text_encoder_lr unet_lr gradient_checkpointing gradient_accumulation_steps max_train_steps
    lr_warmup_steps lr_scheduler mixed_precision v2 clip_skip max_token_length cache_latents seed noise_offset
    multires_noise_iterations multires_noise_discount adaptive_noise_scale zero_terminal_snr training_comment
    max_grad_norm caption_dropout_rate caption_dropout_every_n_epochs caption_tag_dropout_rate face_crop_aug_range
    prior_loss_weight min_snr_gamma scale_weight_norms ip_noise_gamma debiased_estimation_loss output_name loss_type
    huber_schedule huber_c huber_scale full_fp16 fp8_base fp8_base_unet""".split()
)
"""Options that kohya's scripts always record; others are recorded where they are not at their default."""

_ENTRY_NAMES = {"debiased_estimation_loss": "ss_debiased_estimation", "train_batch_size": "ss_batch_size_per_device"}
_KIND_ARGS = """algo init_lora_weights dora_wd wd_on_out freeze_down rs_lora use_tucker factor decompose_both
    full_matrix unbalanced_factorization constraint rescaled train_norm network_targets network_include network_exclude
    loraplus_lr_ratio loraplus_unet_lr_ratio loraplus_text_encoder_lr_ratio network_reg_dims network_reg_lrs""".split()
"""Options that are arguments of LyCORIS' networks, or choose layers."""

_RECORDED_ELSEWHERE = frozenset(
    {"network_module", "network_dim", "network_alpha", "network_dropout", "optimizer_type", *_KIND_ARGS}
)
"""Recorded by the network itself, or in an entry with others."""

_NETWORK_ARGS = """down_lr_weight mid_lr_weight up_lr_weight block_lr_zero_threshold block_dims block_alphas
    conv_block_dims conv_block_alphas rank_dropout module_dropout""".split()
"""Options that are arguments of the network in kohya's scripts."""


def training_metadata(recipe: Recipe) -> dict[str, str]:
    """The recipe's `ss_*` entries as kohya's scripts write them, without folders and files of this machine.

    Args:
        recipe: The settings.

    Returns:
        Metadata key → text.
    """
    found = {}
    for name, (f, option) in recipe_options().items():
        value = getattr(recipe, name)
        private = option.kind or option.group in ("saving", "metadata", "samples", "logging", "blocks")
        recorded = name in _ALWAYS_RECORDED or (not private and value != f.default)
        if recorded and name not in _RECORDED_ELSEWHERE:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            found[_ENTRY_NAMES.get(name, f"ss_{name}")] = text
    args = ",".join(recipe.optimizer_args)
    found["ss_optimizer"] = recipe.optimizer_type + (f"({args})" if args else "")
    return found


def network_metadata(recipe: Recipe) -> dict[str, str]:
    """The `ss_network_*` entries as kohya's scripts write them, and the scale rule of a DyLoRA.

    Args:
        recipe: The settings.

    Returns:
        Metadata key → text.
    """
    settings = settings_from_recipe(recipe)
    args = {name: settings[name] for name in (*_NETWORK_ARGS, *_KIND_ARGS) if name in settings}
    if _module_name(recipe) in ("lycoris.kohya", "networks.oft"):
        # their own choice of layers is another one
        args |= {"algo": recipe.algo, "network_targets": recipe.network_targets}
    if has_conv3x3_modules(recipe):
        args |= {"conv_dim": conv3x3_rank_and_alpha(recipe).rank, "conv_alpha": conv3x3_rank_and_alpha(recipe).alpha}
    if recipe.is_dylora:
        args["unit"] = recipe.unit
    texts = {name: _argument_text(name, value) for name, value in args.items()}
    found = {
        "ss_network_module": _module_name(recipe),
        "ss_network_dim": str(recipe.network_dim),
        "ss_network_alpha": str(recipe.network_alpha),
        "ss_network_dropout": str(recipe.network_dropout),
    }
    if texts:
        found["ss_network_args"] = json.dumps(texts)
    if recipe.is_dylora:
        found[DYLORA_SCALE_RULE_KEY] = DYLORA_VARIANTS[recipe.dylora_variant].rule
    return found


def _argument_text(name: str, value: Any) -> str:
    if name in ("network_include", "network_exclude"):
        return shlex.join(value)
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _module_name(recipe: Recipe) -> str:
    """The module of kohya's scripts that trains such a network."""
    if recipe.is_dylora:
        return "networks.dylora"
    if recipe.algo == "oft" or recipe.freeze_down:
        return "networks.oft" if recipe.algo == "oft" else "networks.lora_fa"
    return "lycoris.kohya" if recipe.algo != "lora" or recipe.dora_wd or recipe.use_tucker else "networks.lora"


# --- settings from metadata -------------------------------------------------------------------------------------------

_NO_SETTINGS = re.compile(
    r"ss_(session_id|training_(started|finished)_at|num_(train_images|reg_images|batches_per_epoch|epochs)|steps|epoch"
    r"|output_name|tag_frequency|(reg_)?dataset_dirs|bucket_info|datasets|(new_)?(sd_model|vae)_(name|hash)|base_model_version|sd_scripts_commit_hash|total_batch_size"
    r"|network_module|network_args|trained_layers|optimizer|lowram)"
)
"""Entries that describe a run's results or its model, or that are read separately."""
_OPTIONS_BY_ENTRY = {note: name for name, note in _ENTRY_NAMES.items()}


def settings_from_lora_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Reads the settings that a LoRA file was trained with from its metadata.

    Args:
        path: A LoRA file of this program or of kohya's scripts.

    Returns:
        (settings, warnings), as `settings_from_metadata` returns them.

    Raises:
        TrainError: The file has no `ss_*` metadata.
        FileError: The file cannot be read.
    """
    settings, warnings = settings_from_metadata(load_metadata_quickly(path))
    if not settings:
        raise TrainError(f"{path} does not say how it was trained: it has no ss_* metadata")
    return settings, warnings


def settings_from_metadata(metadata: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Reads training settings from `ss_*` metadata.

    Folders, files, the file's name and results of the run are left out. Of several data sets (kohya's `ss_datasets`)
    the first one's settings are taken.

    Args:
        metadata: A file's metadata.

    Returns:
        (option → value where it is not the default, a sentence for each entry that is unknown or does not fit).

    Example:
        >>> settings_from_metadata({"ss_network_module": "networks.lora", "ss_network_dim": "16"})
        ({'network_dim': 16}, [])
    """
    given: dict[str, Any] = {}
    warnings: list[str] = []
    for name, value, note in _noted_settings(metadata, warnings):
        if name in recipe_options():
            try:
                given[name] = parse_recipe_option(name, value)
            except TrainError as error:
                warnings.append(f"{note}: {error}; it is left out")
        elif str(value) not in ("", "None", "False"):
            warnings.append(f"{note} = {value} is not a setting here; it is left out")
    if given.get("max_train_epochs"):
        given.pop("max_train_steps", None)
    return {name: value for name, value in given.items() if value != recipe_options()[name][0].default}, warnings


def _noted_settings(metadata: Mapping[str, str], warnings: list[str]) -> Iterator[tuple[str, Any, str]]:
    """Yields (option's name, value, the entry it is recorded in); later ones override earlier ones."""
    yield from _dataset(metadata)
    for note, value in sorted(metadata.items()):
        if note == "ss_resolution":
            yield "resolution", re.findall(r"\d+", value) or None, note
        elif note.startswith("ss_") and not _NO_SETTINGS.fullmatch(note):
            option = _OPTIONS_BY_ENTRY.get(note, note.removeprefix("ss_"))
            is_list = option in recipe_options() and recipe_option_type(option)[0] == "strs"
            yield option, _list_items(value) if is_list else value, note
    yield from _network(metadata, warnings)
    optimizer = re.fullmatch(r"([\w.]+)(?:\((.{0,2000})\))?", metadata.get("ss_optimizer", ""), flags=re.DOTALL)
    if optimizer and (ours := _optimizer(optimizer[1])):
        yield "optimizer_type", ours, "ss_optimizer"
        yield "optimizer_args", _list_items(optimizer[2] or ""), "ss_optimizer"
    elif metadata.get("ss_optimizer"):
        # a class by its module would be imported, which runs code: a file must not ask for that
        warnings.append(
            f"ss_optimizer = {_short(metadata['ss_optimizer'])} is not a known optimizer; it is left out, with its "
            "arguments"
        )


def _dataset(metadata: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    """Settings of the first data set and of its first folder of training pictures."""
    try:
        sets = parse_json(metadata.get("ss_datasets", "[]"))
        first = {**sets[0]} if sets else {}
        folders = [folder for folder in first.pop("subsets", []) if not folder.get("is_reg")]
    except (ValueError, TypeError, AttributeError, KeyError):
        return
    settings = {**(folders[0] if folders else {}), **first, "train_batch_size": first.get("batch_size_per_device")}
    for name, value in settings.items():
        if name in recipe_options() and value is not None and not recipe_options()[name][1].kind:
            yield name, value, f"ss_datasets {name}"


def _network(metadata: Mapping[str, str], warnings: list[str]) -> Iterator[tuple[str, Any, str]]:
    """The network's kind and arguments."""
    try:
        args = dict(parse_json(metadata.get("ss_network_args", "{}")))
    except (ValueError, TypeError):
        args = {}
    module = metadata.get("ss_network_module", "")
    if module:
        given = {str(name): value for name, value in args.items() if value not in (None, "", "None")}
        if "network_targets" in given and "dylora" not in module:  # written here, where no preset is meant
            module = "c3lier" if {"conv_dim", "conv_block_dims"} & given.keys() else "lierla"
        args = given | {"network_module": module}
        unused = {"preset": args.pop("preset")} if "preset" in args and "lycoris" not in module else {}
        try:
            name_network(args)
            args |= unused
        except TrainError as error:
            warnings.append(f"ss_network_args: {error}; it is left out")
            args = {name: value for name, value in args.items() if name not in ("network_module", "algo", "preset")}
        if "network_module" in args:
            yield "network_module", args.pop("network_module"), "ss_network_module"
    for name, value in args.items():
        if name not in UNUSED_ARGUMENTS:
            yield ARGUMENT_NAMES.get(name, str(name)), value, f"ss_network_args {name}"


def _optimizer(name: str) -> str | None:
    """Our name of an optimizer that is recorded by its class; None for an unknown one."""
    last = name.rpartition(".")[2]
    by_class = (ours for ours, row in OPTIMIZERS.items() if row.name == last)
    folded = {ours.casefold(): ours for ours in OPTIMIZERS}
    return last if last in OPTIMIZERS else next(by_class, folded.get(last.casefold()))


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:120]}…"


def _list_items(args: str) -> list[str]:
    """`a=1,betas=(0.9,0.99)` → its parts."""
    return [part.strip() for part in split_outside_brackets(args, ",", "([)]") if part.strip()]
