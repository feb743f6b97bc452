"""The JSON file of kohya's GUI (kohya_ss), read as that GUI turns it into the config file of kohya's script."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...errors import TrainError
from .text_file import load_utf8

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "lora_network_weights": "network_weights",
        "max_resolution": "resolution",
        "optimizer": "optimizer_type",
        "sdxl_cache_text_encoder_outputs": "cache_text_encoder_outputs",
        "sdxl_no_half_vae": "no_half_vae",
        "stop_text_encoder_training_pct": "stop_text_encoder_training",
    }
)
"""Name in the GUI's file → name in kohya's script."""

_NETWORKS: Mapping[str, str] = MappingProxyType(
    {"Standard": "networks.lora", "Kohya LoCon": "networks.lora", "Kohya DyLoRA": "networks.dylora",
     "LoRA-FA": "networks.lora_fa", "Kohya LoHa": "networks.loha", "Kohya LoKr": "networks.lokr"}
)  # fmt: skip
"""LoRA type of the GUI → network_module; others that are supported are those of `_LYCORIS`."""

_FACTORED = "use_tucker bypass_mode dora_wd use_scalar rank_dropout_scale"
_LYCORIS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "LyCORIS/BOFT": ("boft", "use_tucker rank_dropout_scale"),
        "LyCORIS/Diag-OFT": ("diag-oft", "use_tucker rank_dropout_scale constrain rescaled"),
        "LyCORIS/DyLoRA": ("dylora", "use_tucker unit"),
        "LyCORIS/GLoRA": ("glora", "use_tucker rank_dropout_scale"),
        "LyCORIS/iA3": ("ia3", "train_on_input"),
        "LyCORIS/LoCon": ("locon", _FACTORED),
        "LyCORIS/LoHa": ("loha", _FACTORED),
        "LyCORIS/LoKr": ("lokr", f"{_FACTORED} factor use_cp decompose_both"),
        "LyCORIS/Native Fine-Tuning": ("full", "rank_dropout_scale"),
        "Kohya LoHa": ("", "use_tucker"),
        "Kohya LoKr": ("", "use_tucker factor"),
    }
)
"""LoRA type of the GUI → (LyCORIS' algo, the settings of the page that it uses beside those of all types)."""

_OTHER_MODELS = ("flux1", "sd3", "hunyuan_image", "anima", "lumina")
"""Models whose settings are in every file and are used only if NAME_checkbox is on."""

_OTHER_MODELS_SETTINGS = frozenset(
    """ae apply_t5_attn_mask blocks_to_swap clip_g clip_g_dropout_rate clip_l cpu_offload_checkpointing
    disable_mmap_load_safetensors discrete_flow_shift double_blocks_to_swap enable_all_linear fp8_base_unet
    fused_backward_pass guidance_scale img_attn_dim img_mlp_dim img_mod_dim in_dims logit_mean logit_std mem_eff_save
    mode_scale model_prediction_type model_type pos_emb_random_crop_rate save_clip save_t5xxl show_timesteps
    show_timesteps_resolution single_blocks_to_swap single_dim single_mod_dim split_mode split_qkv t5xxl t5xxl_device
    t5xxl_dtype t5xxl_lr t5xxl_max_token_length timestep_sampling train_blocks train_double_block_indices
    train_single_block_indices train_t5xxl txt_attn_dim txt_mlp_dim txt_mod_dim weighting_scheme""".split()
)
_LYCORIS_SETTINGS = frozenset(
    """LyCORIS_preset bypass_mode constrain decompose_both dora_wd factor rank_dropout_scale rescaled train_norm
    train_on_input use_cp use_scalar use_tucker ggpo_beta ggpo_sigma train_lora_ggpo""".split()
)
_GUI_SETTINGS = frozenset(
    """LoRA_type lr_warmup sdxl xformers model_list headless print_only save_as_bool lowvram lowram num_processes
    num_machines multi_gpu gpu_ids main_process_port num_cpu_threads_per_process dynamo_backend dynamo_mode
    dynamo_use_fullgraph dynamo_use_dynamic extra_accelerate_launch_args learning_rate_te learning_rate_te1
    learning_rate_te2 blockwise_fused_optimizers fused_optimizer_groups""".split()
)
"""Settings of the page, of `accelerate launch` and of full fine-tuning, which the script is not given."""


def load_gui_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Loads a settings file of kohya's GUI.

    Args:
        path: The JSON file.

    Returns:
        (name → value, named as in kohya's script, without the values that are off; a sentence for each default of the
        GUI that needs a package which is not installed, and what is used instead). The value of `additional_parameters`
        is a command line.

    Raises:
        TrainError: It is not such a file, or it trains something that is not supported.
    """
    try:
        content = json.loads(load_utf8(path))
    except (ValueError, RecursionError) as error:
        raise TrainError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict) or "LoRA_type" not in content:
        raise TrainError(f"{path} is not a LoRA settings file of kohya's GUI: it has no LoRA_type")
    return settings_of_gui_file(content, str(path))


def settings_of_gui_file(content: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """The same for the JSON object of such a file; `where` is its name, for messages. Raises TrainError."""
    # the GUI leaves out what is empty, false or 0, which is kohya's default there
    given = {name: value for name, value in content.items() if value not in ("", False, None, "0", [])}
    _check_supported(where, given)
    found = _settings(given, content)
    return found, _replace_missing_packages(found)


def _check_supported(where: str, given: Mapping[str, Any]) -> None:
    wrong = [f"{name}_checkbox" for name in _OTHER_MODELS if given.get(f"{name}_checkbox")]
    known = {**_NETWORKS, **_LYCORIS}
    wrong += [f"LoRA_type {given.get('LoRA_type')!r}"] if str(given.get("LoRA_type")) not in known else []
    if wrong:
        kinds = ", ".join(known)
        raise TrainError(f"{where}: not supported here: {', '.join(wrong)}; networks are {kinds} for SD 1.x, 2.x, SDXL")


def _settings(given: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    left_out = {*_OTHER_MODELS_SETTINGS, *_LYCORIS_SETTINGS, *_GUI_SETTINGS}
    prefixes = (*(f"{name}_" for name in _OTHER_MODELS), "hunyuan_", "flux_")
    found = {
        _NAMES.get(name, name): value
        for name, value in given.items()
        if name not in left_out and not name.startswith(prefixes)
    }
    kind = given["LoRA_type"]
    found.pop("xformers", None)
    found["network_module"] = _NETWORKS.get(kind, "lycoris.kohya")
    for name in ("conv_dim", "conv_alpha") if kind in ("Standard", "LoRA-FA", "LyCORIS/Native Fine-Tuning") else ():
        found.pop(name, None)
    if kind != "Kohya DyLoRA":
        found.pop("unit", None)
    if kind in _LYCORIS:
        found["network_args"] = _lycoris_arguments(kind, given, content)
    _noise(found)
    _parts(found, content)
    _length(found, given)
    _prompts(found)
    attention = given.get("xformers")  # a choice there, and a flag in old files
    if attention in ("xformers", "sdpa", True):
        found["sdpa" if attention == "sdpa" else "xformers"] = True
    return {name: value for name, value in found.items() if value is not None}


def _lycoris_arguments(kind: str, given: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    """The `network_args` that the GUI makes of its page."""
    algo, names = _LYCORIS[kind]
    args = [f"{name}={given[name]}" for name in names.split() if name in given]
    if not algo:
        return args
    args += [f"algo={algo}", f"preset={given.get('LyCORIS_preset', 'full')}"]
    args += [f"train_norm={given['train_norm']}"] if "train_norm" in given and algo != "ia3" else []
    # 0 in the page means no 3x3 layers there, and not "not set"
    return [*args, "conv_dim=0"] if algo != "full" and str(content.get("conv_dim", "")) in ("0", "0.0") else args


def _replace_missing_packages(found: dict[str, Any]) -> list[str]:
    """Xformers and AdamW8bit are on unless turned off in the GUI; torch's equivalents differ in memory and rounding."""
    said = []
    if found.get("xformers") and find_spec("xformers") is None:
        del found["xformers"]
        found["sdpa"] = True
        said.append("xformers is not installed: torch's attention (sdpa) is used")
    if found.get("optimizer_type") == "AdamW8bit" and find_spec("bitsandbytes") is None:
        found["optimizer_type"] = "AdamW"
        said.append("AdamW8bit needs the package bitsandbytes, which is not installed: AdamW is used")
    return said


def _noise(found: dict[str, Any]) -> None:
    """Only the settings of the chosen kind of noise are used."""
    kind = found.pop("noise_offset_type", "Original")
    original = ("noise_offset", "noise_offset_random_strength", "adaptive_noise_scale")
    for name in ("multires_noise_iterations", "multires_noise_discount") if kind == "Original" else original:
        found.pop(name, None)


def _parts(found: dict[str, Any], content: Mapping[str, Any]) -> None:
    """A learning rate of 0 for one part leaves that part alone."""
    unet, text = (_number(content, name) for name in ("unet_lr", "text_encoder_lr"))
    found["network_train_unet_only"] = True if unet and not text else None
    found["network_train_text_encoder_only"] = True if text and not unet else None


def _number(values: Mapping[str, Any], name: str) -> float:
    """A setting as a number, 0 for none. Raises TrainError."""
    try:
        return float(values.get(name) or 0)
    except (TypeError, ValueError, OverflowError):
        raise TrainError(f"{name} is {str(values[name])[:40]!r}; give a number") from None


def _prompts(found: dict[str, Any]) -> None:
    """The GUI's file holds the prompts themselves; the GUI saves them as sample/prompt.txt in output_dir."""
    prompts = found.pop("sample_prompts", None)
    if prompts and ("sample_every_n_epochs" in found or "sample_every_n_steps" in found):
        saved = Path(str(found.get("output_dir", "."))) / "sample" / "prompt.txt"
        found["sample_prompts"] = prompts if Path(str(prompts)).suffix == ".txt" else str(saved)


def _length(found: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Epochs without steps are `max_train_epochs`; the warm-up is a percentage unless its steps are given."""
    epochs = found.pop("epoch", None)
    if not {"max_train_epochs", "max_train_steps", "dataset_config"} & given.keys():
        found["max_train_epochs"] = epochs
    if "lr_warmup_steps" not in found and "lr_warmup" in given:
        found["lr_warmup_steps"] = min(_number(given, "lr_warmup") / 100, 0.99)
