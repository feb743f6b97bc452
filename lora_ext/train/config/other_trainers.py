"""Options of diffusers' training scripts and of cloneofsimo's `lora_pti`, as settings of `Recipe`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import TrainError
from .kohya_options import is_neutral, usable_number
from .listed_texts import listed_texts
from .other_trainers_options import OTHER_TRAINERS_OPTIONS, RENAMED_OPTIONS

_ARGUMENTS = {
    "adam_epsilon": "eps", "adam_weight_decay": "weight_decay", "weight_decay_lora": "weight_decay",
    "prodigy_beta3": "beta3", "prodigy_decouple": "decouple", "prodigy_safeguard_warmup": "safeguard_warmup",
    "prodigy_use_bias_correction": "use_bias_correction",
}  # fmt: skip


def translate_other_options(given: dict[str, Any], notify: Callable[[str], None] = lambda sentence: None) -> None:
    """Sets our options for those of other trainers; an option of ours that is given too wins.

    Args:
        given: Option → value; changed.
        notify: Called with a sentence about what a word of another trainer sets.

    Raises:
        TrainError: A value that cannot be used here.
    """
    words = {name: given.pop(name) for name in list(given) if name in OTHER_TRAINERS_OPTIONS}
    if not words:
        return
    set_to = given.setdefault
    if not is_neutral(words.get("with_prior_preservation")):
        set_to("num_class_images", 100)
    elif "class_data_dir" in words:
        del words["class_data_dir"]
        notify("not used here: class_data_dir (without with_prior_preservation there is no regularisation)")
    if "perform_inversion" in words and is_neutral(words["perform_inversion"]):
        words.pop("placeholder_tokens", None)
        words.pop("initializer_tokens", None)
    for name in ("placeholder_tokens", "initializer_tokens"):
        if "|" in str(words.get(name, "")):
            raise TrainError(f"{name} {str(words[name])[:80]!r}: one new token is trained in a run; give one")
    for name in words.keys() & RENAMED_OPTIONS.keys():
        set_to(RENAMED_OPTIONS[name], words[name])
    _rank(words, set_to, notify)
    _optimizer_arguments(words, given)
    _checkpoints(words, set_to)
    _rest(words, set_to)


def _rank(words: Mapping[str, Any], set_to: Callable[[str, Any], Any], notify: Callable[[str], None]) -> None:
    scale = _number(words, "lora_scale", 1.0)
    for name in ("rank", "lora_rank"):
        if name in words:
            set_to("network_dim", words[name])
            set_to("network_alpha", _number(words, name, 4) * scale)
    if "rank" in words:
        with_text = not is_neutral(words.get("train_text_encoder"))
        set_to("network_targets", "attention")
        set_to("network_train_unet_only", not with_text)
        where = "the U-Net's attention and the text encoder" if with_text else "the U-Net's attention"
        notify(f"rank: as in diffusers' scripts, alpha is the rank, and {where} is trained")
    if not is_neutral(words.get("use_extended_lora")):
        set_to("network_module", "c3lier")
        set_to("conv_dim", words.get("lora_rank", 4))
        set_to("conv_alpha", _number(words, "lora_rank", 4) * scale)


def _number(words: Mapping[str, Any], name: str, default: float) -> float:
    number = usable_number(words.get(name, default))
    if number is None:
        raise TrainError(f"{name} must be a number, not {str(words[name])[:40]!r}")
    return number


def _optimizer_arguments(words: Mapping[str, Any], given: dict[str, Any]) -> None:
    """Adds `optimizer_args`; those that are given as such come last and so win."""
    made = [f"{argument}={words[name]}" for name, argument in _ARGUMENTS.items() if words.get(name) is not None]
    if "adam_beta1" in words or "adam_beta2" in words:
        made.append(f"betas={_number(words, 'adam_beta1', 0.9):g},{_number(words, 'adam_beta2', 0.999):g}")
    if made:
        given["optimizer_args"] = (*made, *listed_texts("optimizer_args", given.get("optimizer_args")))


def _checkpoints(words: Mapping[str, Any], set_to: Callable[[str, Any], Any]) -> None:
    if is_neutral(words.get("checkpointing_steps")):
        return
    every = int(_number(words, "checkpointing_steps", 500))
    set_to("save_every_n_steps", every)
    set_to("save_state", True)
    if not is_neutral(words.get("checkpoints_total_limit")):
        # as in kohya's scripts a file that is exactly so many steps old stays
        steps = max(1, every * (int(_number(words, "checkpoints_total_limit", 1)) - 1))
        set_to("save_last_n_steps", steps)
        set_to("save_last_n_steps_state", steps)


def _rest(words: Mapping[str, Any], set_to: Callable[[str, Any], Any]) -> None:
    kind = words.get("prediction_type")
    if not is_neutral(kind):
        if kind not in ("epsilon", "v_prediction"):
            raise TrainError(f"prediction_type must be epsilon or v_prediction, not {str(kind)[:40]!r}")
        set_to("v_parameterization", kind == "v_prediction")
    if not is_neutral(words.get("report_to")):
        set_to("log_with", words["report_to"])
    if not is_neutral(words.get("huggingface_repo_id")):
        set_to("push_to_hub", True)
        set_to("hub_model_id", words["huggingface_repo_id"])
    if not is_neutral(words.get("log_wandb")):
        set_to("log_with", "wandb")
    name = words.get("dataset_name")
    if not is_neutral(name):
        if not Path(str(name)).exists():
            raise TrainError(f"dataset_name {str(name)[:80]!r} is no folder of this machine; download it first")
        set_to("train_data_dir", str(name))
