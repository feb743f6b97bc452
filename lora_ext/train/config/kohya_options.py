"""Options of kohya's and others' scripts that `Recipe` does not have: without an effect here, or not supported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from ...errors import TrainError, did_you_mean
from .other_trainers_options import NO_TOKEN, OTHER_IGNORED_OPTIONS, OTHER_UNSUPPORTED_OPTIONS

_ACCELERATE = "it is a setting of accelerate, which is not used"
_DEEPSPEED = "DeepSpeed is not used"

IGNORED_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "async_upload": "the upload is after the last step",
        "cache_info": "folders are always read anew",
        "console_log_file": "the log is on standard error",
        "console_log_level": "the log has one level",
        "console_log_simple": "the log is plain text already",
        "ddp_gradient_as_bucket_view": _ACCELERATE,
        "ddp_static_graph": _ACCELERATE,
        "ddp_timeout": _ACCELERATE,
        "disable_mmap_load_safetensors": "it only says how a file is read, which changes no result",
        "dynamo_mode": _ACCELERATE,
        "epoch": "max_train_epochs or max_train_steps sets the length",
        "highvram": "memory is not cleared between steps anyway",
        "log_config": "the settings are in the file's metadata",
        "lowram": "the model is loaded straight to the device",
        "no_token_padding": "it has no effect in kohya's script either",
        "noise_offset_type": "noise_offset and multires_noise_iterations are used as given",
        "persistent_data_loader_workers": "the threads that prepare pictures are kept always",
        "skip_cache_check": "cached latents are checked always",
        "tokenizer_cache_dir": "the tokenizer is loaded from the model or from --tokenizer",
        "wandb_api_key": "log in with 'wandb login' or set WANDB_API_KEY",
        "wandb_run_name": "log_tracker_name is used",
        **OTHER_IGNORED_OPTIONS,
    }
)
"""Option that is accepted and does nothing here → why."""

UNSUPPORTED_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "cpu_offload_checkpointing": "use gradient_checkpointing",
        "dataset_class": "it would run code from a file; use dataset_config",
        "debug_dataset": "give --debug_dataset on the command line",
        "deepspeed": _DEEPSPEED,
        "dynamo_backend": "torch_compile always uses inductor",
        "fp16_master_weights_and_gradients": _DEEPSPEED,
        "huggingface_path_in_repo": "the file is put beside the others of the repository",
        "huggingface_repo_type": "repositories are made for models",
        "huggingface_repo_visibility": "repositories are made private; change that on huggingface.co",
        "huggingface_token": NO_TOKEN,
        "log_tracker_config": "use log_with, log_tracker_name and log_prefix",
        "offload_optimizer_device": _DEEPSPEED,
        "offload_optimizer_nvme_path": _DEEPSPEED,
        "offload_param_device": _DEEPSPEED,
        "offload_param_nvme_path": _DEEPSPEED,
        "resume_from_huggingface": "download the state and give its folder as resume",
        "save_n_epoch_ratio": "use save_every_n_epochs",
        "save_state_to_huggingface": "only the finished file is sent",
        "stop_text_encoder_training": "the text encoder is trained to the end, or not with network_train_unet_only",
        "train_inpainting": "inpainting models are not trained",
        "zero3_init_flag": _DEEPSPEED,
        "zero3_save_16bit_model": _DEEPSPEED,
        "zero_stage": _DEEPSPEED,
        **OTHER_UNSUPPORTED_OPTIONS,
    }
)
"""Option that fails if its value turns something on → what to use, or why not."""

COMMAND_OPTIONS = frozenset({"debug_dataset"})
"""Those of them that the command `train` has and a file of settings cannot set."""

_DEFAULTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"huggingface_repo_type": ("model",), "huggingface_repo_visibility": ("private",), "dynamo_backend": ("inductor",),
     "dynamo_mode": ("default",), "zero_stage": ("2",)}
)  # fmt: skip
"""Values that change nothing, beside those of `is_neutral`."""


def is_neutral(value: object) -> bool:
    """Whether a value means "off" or "not set": None, false, 0, an empty text or list, "none" or "no"."""
    if isinstance(value, (list, tuple)):
        return all(is_neutral(item) for item in value)
    if isinstance(value, str):
        return value.strip().lower() in ("", "none", "no", "false", "0", "0.0")
    return not value


def usable_number(value: Any) -> float | None:
    """The number that a setting of another program gives; None for none, or one too large to count anything."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < 1e15 else None  # None for NaN too


def sort_options(
    given: Mapping[str, Any], known: Iterable[str], where: str = "", dashes: str = ""
) -> tuple[dict[str, Any], str]:
    """Separates the options of `Recipe` from kohya's other options.

    Args:
        given: Name → value.
        known: The names that are used.
        where: What a message begins with, such as the file's name.
        dashes: "--" where the names are those of a command line.

    Returns:
        (name → value of the options that are used, a sentence that lists the others, or "").

    Raises:
        TrainError: Options that are unknown or not supported; all are in one message.
    """
    names = set(known)
    used = {name: value for name, value in given.items() if name in names}
    ignored, problems = [], []
    for name, value in given.items():
        if name in names or (name in {**IGNORED_OPTIONS, **UNSUPPORTED_OPTIONS} and _is_default(name, value)):
            continue
        if name in IGNORED_OPTIONS:
            ignored.append(f"{dashes}{name} ({IGNORED_OPTIONS[name]})")
        elif name in UNSUPPORTED_OPTIONS:
            problems.append(f"{dashes}{name} is not supported here: {UNSUPPORTED_OPTIONS[name]}")
        else:
            hint = did_you_mean(dashes + name, (dashes + n for n in names))
            problems.append(f"unknown option {dashes}{name}{hint}" if dashes else f"unknown setting {name!r}{hint}")
    not_used = f"not used here: {', '.join(ignored)}" if ignored else ""
    if problems:
        lines = [*problems, *([not_used] if not_used else [])]
        begin = f"{where}: " if where else ""
        raise TrainError(begin + (lines[0] if len(lines) == 1 else "\n  ".join(["these options stop it:", *lines])))
    return used, f"{where}: {not_used}" if where and not_used else not_used


def _is_default(name: str, value: object) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    return all(is_neutral(item) or str(item).lower() in _DEFAULTS.get(name, ()) for item in values)
