"""Settings files of OneTrainer and of traintrain as options of `Recipe`; what is not used is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import TrainError
from .kohya_options import is_neutral, usable_number
from .optimizers import OPTIMIZERS

_ONETRAINER_MODELS = """STABLE_DIFFUSION_15 STABLE_DIFFUSION_20 STABLE_DIFFUSION_20_BASE STABLE_DIFFUSION_21
    STABLE_DIFFUSION_21_BASE STABLE_DIFFUSION_XL_10_BASE""".split()
_PRECISIONS = {"FLOAT_16": "fp16", "BFLOAT_16": "bf16"}
_ONETRAINER_ALGOS = {"LORA": "lora", "LOHA": "loha", "LOKR": "lokr"}
_ONETRAINER_SCHEDULES = {
    "CONSTANT": "constant", "LINEAR": "linear", "COSINE": "cosine", "REX": "rex",
    "COSINE_WITH_RESTARTS": "cosine_with_restarts", "COSINE_WITH_HARD_RESTARTS": "cosine_with_restarts",
}  # fmt: skip
_ONETRAINER_PLACES = frozenset(
    """base_model_name concepts concept_file_name lora_model_name workspace_dir cache_dir output_model_destination
    sample_definition_file_name samples debug_dir""".split()
)
"""Files and folders of another machine, and pictures and prompts that other files hold."""
_ONETRAINER_OTHERS = frozenset(
    """__version training_method model_type prior transformer unconditional_transformer quantization text_encoder_3
    text_encoder_4 text_encoder_3_layer_skip text_encoder_4_layer_skip effnet_encoder decoder decoder_text_encoder
    decoder_vqgan cloud optimizer_defaults frames tensorboard tensorboard_expose tensorboard_always_on tensorboard_port
    multi_gpu fused_gradient_reduce async_gradient_reduce async_gradient_reduce_buffer gradient_reduce_precision
    async_offloading caching_threads prefetch_next_batch temp_device output_model_format text_caching
    clear_cache_before_training fallback_train_dtype enable_autocast_cache vb_loss_strength embedding
    embedding_weight_dtype bundle_additional_embeddings lora_weight_dtype sample_image_format sample_video_format
    sample_audio_format samples_to_tensorboard""".split()
)
"""Settings of other models, of embeddings and of that program, which a LoRA of these models does not depend on."""

_TRAINTRAIN_MODES = {
    "LoRA": "pictures", "iLECO": "ileco", "Difference": "difference", "ADDifT": "addift",
    "Multi-ADDifT": "multi-addift",
}  # fmt: skip
_TRAINTRAIN_PLACES = frozenset("model vae te lora_data_directory network_resume diff_load_1st_pass".split())
_TRAINTRAIN_OTHERS = frozenset("logging_save_csv logging_verbose save_as_json".split())
_TRAINTRAIN_NAMES = {
    "network_type": "network_module", "network_rank": "network_dim", "network_alpha": "network_alpha",
    "train_iterations": "max_train_steps", "train_batch_size": "train_batch_size",
    "train_learning_rate": "learning_rate", "train_textencoder_learning_rate": "text_encoder_lr",
    "save_lora_name": "output_name", "use_gradient_checkpointing": "gradient_checkpointing",
    "network_conv_rank": "conv_dim", "network_conv_alpha": "conv_alpha", "train_min_timesteps": "min_timestep",
    "train_max_timesteps": "max_timestep", "train_lr_warmup_steps": "lr_warmup_steps",
    "train_lr_scheduler_num_cycles": "lr_scheduler_num_cycles", "train_lr_scheduler_power": "lr_scheduler_power",
    "train_snr_gamma": "min_snr_gamma", "save_per_steps": "save_every_n_steps", "save_precision": "save_precision",
    "image_min_length": "min_bucket_reso", "image_num_multiply": "dataset_repeats", "image_mirroring": "flip_aug",
    "image_disable_upscale": "bucket_no_upscale", "diff_target_name": "diff_target_name",
    "diff_alt_ratio": "diff_alt_ratio", "diff_use_diff_mask": "diff_use_diff_mask",
    "model_v_pred": "v_parameterization", "original prompt": "original_prompt", "target prompt": "target_prompt",
}  # fmt: skip
_ELEMENTS = {"Full": "transformer", "CrossAttention": "cross_attention", "SelfAttention": "self_attention"}
_LOSSES = {"MSE": "l2", "L1": "l1", "Smooth-L1": "smooth_l1"}
_SCHEDULES = frozenset(
    "linear cosine cosine_with_restarts polynomial constant constant_with_warmup piecewise_constant".split()
)


def program_of(content: Mapping[str, Any]) -> str:
    """Which program wrote a settings file: "kohya", "OneTrainer" or "traintrain"; "" for none of these."""
    if "LoRA_type" in content:
        return "kohya"
    if {"training_method", "model_type"} <= content.keys():
        return "OneTrainer"
    return "traintrain" if {"train_iterations", "network_rank"} <= content.keys() else ""


class _Reader:
    """Takes values out of a file; what nobody took is listed.

    Attributes:
        found: Option → value.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content, self.found = content, dict[str, Any]()
        self._taken: set[str] = set()
        self._parts: list[str] = []

    def take(self, name: str, default: Any = None) -> Any:
        """A value, `default` where the file has none."""
        self._taken.add(name)
        value = self.content.get(name)
        return default if value is None else value

    def part(self, name: str) -> Mapping[str, Any]:
        """The settings of a part of the model; those that are not used are listed."""
        found = self.take(name, {})
        found = found if isinstance(found, dict) else {}
        used = ("train", "learning_rate")
        self._parts += [f"{name}.{key}" for key, value in found.items() if key not in used and not is_neutral(value)]
        return found

    def set(self, option: str, value: Any) -> None:
        """Sets an option where the value turns something on."""
        if not is_neutral(value):
            self.found[option] = value

    def choose(self, name: str, default: str, values: Mapping[str, Any]) -> Any:
        """The value for one of several words; a word that is not known is listed, and None."""
        word = str(self.take(name, default))
        if word not in values:
            self._taken.discard(name)
        return values.get(word)

    def not_used(self, others: frozenset[str]) -> list[str]:
        """The names of what turns something on and was not used."""
        left = self.content.keys() - self._taken - others
        return sorted([*self._parts, *(name for name in left if not is_neutral(self.content[name]))])


def translate_program_file(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Translates a settings file of OneTrainer or traintrain.

    Args:
        content: The JSON object of the file.

    Returns:
        (option → value, sentences about what is not used).

    Raises:
        TrainError: It is another program's file, or trains something that is not supported.
    """
    program = program_of(content)
    reader = _Reader(content)
    if program == "OneTrainer":
        _onetrainer(reader)
        places, others = _ONETRAINER_PLACES, _ONETRAINER_OTHERS
    elif program == "traintrain":
        _traintrain(reader)
        places, others = _TRAINTRAIN_PLACES, _TRAINTRAIN_OTHERS
    else:
        raise TrainError("this is no settings file of kohya's GUI, OneTrainer or traintrain")
    said = []
    if left := reader.not_used(others | places):
        said.append(f"settings of {program} that are not used here: {', '.join(left)}")
    if there := sorted(name for name in places if not is_neutral(content.get(name))):
        said.append(f"choose model, pictures and prompts here; not taken from the file: {', '.join(there)}")
    return reader.found, said


# --- OneTrainer ------------------------------------------------------------------------------------------------------


def _onetrainer(r: _Reader) -> None:
    """The defaults are those of its own program: a file lists only what differs."""
    method, model = str(r.take("training_method", "")), str(r.take("model_type", ""))
    if method != "LORA" or model not in _ONETRAINER_MODELS:
        models = ", ".join(_ONETRAINER_MODELS)
        raise TrainError(
            f"OneTrainer's file trains {method[:40]} of {model[:40]}; only LORA of {models} is trained here"
        )
    _onetrainer_network(r)
    _onetrainer_learning(r)
    _onetrainer_loss(r)
    sides = str(r.take("resolution", "512")).lower().replace("x", ",").replace(" ", "")
    r.set("resolution", ",".join(sides.split(",")[:2]))
    r.set("enable_bucket", r.take("aspect_ratio_bucketing", True))
    r.set("cache_latents", r.take("image_caching", r.take("latent_caching", True)))
    r.set("mixed_precision", _PRECISIONS.get(str(r.take("train_dtype", "FLOAT_16"))))
    r.set("save_precision", {**_PRECISIONS, "FLOAT_32": "float"}.get(str(r.take("output_dtype", "FLOAT_32"))))
    r.set("sdpa", r.choose("attention_mechanism", "SDP", {"SDP": True, "DEFAULT": False, "XFORMERS": False}))
    r.set("gradient_checkpointing", str(r.take("gradient_checkpointing", "ON")).upper() not in ("OFF", "FALSE"))
    for ours, theirs, default in (("save", "save_every", 0), ("sample", "sample_after", 10)):
        unit = str(r.take(f"{theirs}_unit", "NEVER" if ours == "save" else "MINUTE"))
        names = {"EPOCH": "epochs", "STEP": "steps"}
        if unit in names:
            r.set(f"{ours}_every_n_{names[unit]}", r.take(theirs, default))
        elif unit == "NEVER":
            r.take(theirs)
    r.set("train_batch_size", r.take("batch_size", 1))
    if skip := int(_number(r, "text_encoder_layer_skip", 0)):
        r.set("clip_skip", skip + 1)


def _onetrainer_network(r: _Reader) -> None:
    kind = str(r.take("peft_type", "LORA"))
    if kind not in _ONETRAINER_ALGOS:
        raise TrainError(f"OneTrainer's peft_type {kind[:40]} is not trained here; {', '.join(_ONETRAINER_ALGOS)} are")
    rank, alpha = r.take("lora_rank", 16), r.take("lora_alpha", 1.0)
    if kind == "LOKR":
        rank = r.take("lokr_dim", rank)
        for name in ("decompose_both", "full_matrix", "use_tucker"):
            r.set(name, r.take(f"lokr_{name}", False))
        r.set("factor", r.take("lokr_decompose_factor", -1))
        r.set("dora_wd", r.take("lokr_weight_decompose", False))
    r.set("algo", _ONETRAINER_ALGOS[kind])
    r.found |= {"network_dim": rank, "network_alpha": alpha, "network_module": "lierla"}
    r.set("network_dropout", r.take("dropout_probability", 0.0))
    if kind != "LOKR" and r.take("lora_decompose", False):
        r.found |= {"dora_wd": True, "wd_on_out": bool(r.take("lora_decompose_output_axis", False))}
    layers = r.choose(
        "layer_filter_preset", "full", {"full": "all", "attn-mlp": "transformer", "attn-only": "attention"}
    )
    if layers == "all":
        r.found |= {"network_module": "c3lier", "network_targets": "all", "conv_dim": rank, "conv_alpha": alpha}
    elif layers:
        r.found["network_targets"] = layers


def _onetrainer_learning(r: _Reader) -> None:
    r.found["learning_rate"] = r.take("learning_rate", 3e-6)
    parts = {name: r.part(name) for name in ("unet", "text_encoder", "text_encoder_2", "vae")}
    for name in ("unet", "text_encoder", "text_encoder_2"):
        r.set(f"{name}_lr", parts[name].get("learning_rate"))
    if not parts["text_encoder"].get("train", True):
        r.found["network_train_unet_only"] = True
    elif not parts["unet"].get("train", True):
        r.found["network_train_text_encoder_only"] = True
    r.found["max_train_epochs"] = r.take("epochs", 100)
    r.set("gradient_accumulation_steps", r.take("gradient_accumulation_steps", 1))
    warm = _number(r, "learning_rate_warmup_steps", 200.0)
    schedule = r.choose("learning_rate_scheduler", "CONSTANT", _ONETRAINER_SCHEDULES)
    if schedule:
        r.found["lr_scheduler"] = "constant_with_warmup" if schedule == "constant" and warm else schedule
    r.set("lr_warmup_steps", warm if warm != 1 else 0.99)
    r.set("lr_scheduler_num_cycles", round(_number(r, "learning_rate_cycles", 1.0)))
    r.set("lr_scheduler_min_lr_ratio", r.take("learning_rate_min_factor", 0.0))
    if str(r.take("ema", "OFF")) != "OFF":
        r.found["ema_decay"] = r.take("ema_decay", 0.999)
    r.take("ema_decay")
    r.found["max_grad_norm"] = r.take("clip_grad_norm", 0.0 if "clip_grad_norm" in r.content else 1.0)
    optimizer = r.take("optimizer", {})
    optimizer = optimizer if isinstance(optimizer, dict) else {"optimizer": optimizer}
    r.set("optimizer_type", _optimizer(str(optimizer.get("optimizer") or "ADAMW")))
    beta = [optimizer.get(name) for name in ("beta1", "beta2")]
    args = [f"betas={beta[0]},{beta[1]}"] if all(isinstance(one, float) for one in beta) else []
    for name in ("weight_decay", "eps"):
        args += [f"{name}={optimizer[name]}"] if isinstance(optimizer.get(name), (int, float)) else []
    r.set("optimizer_args", args)


def _onetrainer_loss(r: _Reader) -> None:
    strengths = {name: _number(r, f"{name}_strength", float(name == "mse")) for name in ("mse", "mae", "huber")}
    strongest = max(strengths, key=lambda name: strengths[name])
    r.found["loss_type"] = {"mse": "l2", "mae": "l1", "huber": "huber"}[strongest]
    weight = r.choose(
        "loss_weight_fn", "CONSTANT", {"CONSTANT": "", "MIN_SNR_GAMMA": "min", "DEBIASED_ESTIMATION": "debiased"}
    )
    strength = r.take("loss_weight_strength", 5.0)
    if weight == "min":
        r.found["min_snr_gamma"] = strength
    r.set("debiased_estimation_loss", weight == "debiased")
    r.set("noise_offset", r.take("offset_noise_weight", 0.0))
    r.set("ip_noise_gamma", r.take("perturbation_noise_weight", 0.0))
    r.set("zero_terminal_snr", r.take("rescale_noise_scheduler_to_zero_terminal_snr", False))
    r.set("v_parameterization", r.take("force_v_prediction", False))
    r.set("min_timestep", round(1000 * _number(r, "min_noising_strength", 0.0)))
    most = round(1000 * _number(r, "max_noising_strength", 1.0))
    r.set("max_timestep", most if most < 1000 else None)
    r.choose("timestep_distribution", "UNIFORM", {"UNIFORM": True})


# --- traintrain ------------------------------------------------------------------------------------------------------


def _traintrain(r: _Reader) -> None:
    mode = str(r.take("mode", "LoRA"))
    if mode not in _TRAINTRAIN_MODES:
        raise TrainError(f"traintrain's mode {mode[:40]!r} is none of {', '.join(_TRAINTRAIN_MODES)}")
    r.found["mode"] = _TRAINTRAIN_MODES[mode]
    for theirs, ours in _TRAINTRAIN_NAMES.items():
        r.set(ours, r.take(theirs))
    if r.found.get("network_module") == "loha":
        r.found |= {"network_module": "lierla", "algo": "loha"}
    r.set("network_targets", r.choose("network_element", "Full", _ELEMENTS))
    r.set("loss_type", r.choose("train_loss_function", "MSE", _LOSSES))
    r.set("mixed_precision", r.choose("train_model_precision", "fp16", {"fp16": "fp16", "bf16": "bf16", "fp32": ""}))
    sides = [side.strip() for side in str(r.take("image_size(height, width)", "512")).split(",")]
    r.set("resolution", ",".join(reversed(sides)))
    if step := int(_number(r, "image_buckets_step", 0)):
        r.found |= {"enable_bucket": True, "bucket_reso_steps": step}
    r.set("optimizer_type", _optimizer(str(r.take("train_optimizer", "AdamW"))))
    r.set("optimizer_args", _list(r, "train_optimizer_settings"))
    if (seed := int(_number(r, "train_seed", -1))) >= 0:
        r.found["seed"] = seed
    if word := str(r.take("lora_trigger_word", "")).strip():
        r.found |= {"caption_prefix": f"{word},", "metadata_trigger_phrase": word}
    _traintrain_schedule(r)
    _traintrain_blocks(r)


def _list(r: _Reader, name: str) -> list[str]:
    """A text with commas as its parts."""
    return [one.strip() for one in str(r.take(name, "")).split(",") if one.strip()]


def _traintrain_schedule(r: _Reader) -> None:
    settings = _list(r, "train_lr_scheduler_settings")
    rules = str(r.take("train_lr_step_rules", "")).strip()
    classes = {"cosine_annealing": "T_max", "cosine_annealing_with_restarts": "T_0"}
    names = {name: name for name in (*_SCHEDULES, *classes)}
    schedule = r.choose("train_lr_scheduler", "cosine", names)
    if schedule in classes:
        length = classes[schedule]
        if not any(one.startswith(f"{length}=") for one in settings):
            settings.append(f"{length}={r.found.get('max_train_steps', 1000)}")
        kind = "CosineAnnealingLR" if length == "T_max" else "CosineAnnealingWarmRestarts"
        r.found |= {"lr_scheduler_type": kind, "lr_scheduler_args": settings}
    elif schedule:
        r.found["lr_scheduler"] = schedule
        r.set("lr_scheduler_args", [f"step_rules={rules}"] if rules and schedule == "piecewise_constant" else [])


def _traintrain_blocks(r: _Reader) -> None:
    """Blocks that are not listed are not trained."""
    blocks = r.take("network_blocks(BASE = TextEncoder)")
    if not isinstance(blocks, list):
        return
    for option, names in (
        ("down_lr_weight", [f"IN{i:02}" for i in range(12)]),
        ("mid_lr_weight", ["M00"]),
        ("up_lr_weight", [f"OUT{i:02}" for i in range(12)]),
    ):
        if not all(name in blocks for name in names):
            r.found[option] = ",".join(str(int(name in blocks)) for name in names)
    if "BASE" not in blocks and r.found["mode"] == "pictures":
        r.found["network_train_unet_only"] = True


# --- both ------------------------------------------------------------------------------------------------------------


def _optimizer(name: str) -> str:
    """Our name of an optimizer: case, blanks and underscores do not count; an unknown one is kept and refused later."""
    plain: Callable[[str], str] = lambda text: text.lower().replace("_", "").replace(" ", "")  # noqa: E731
    return next((known for known in OPTIMIZERS if plain(known) == plain(name)), name)


def _number(r: _Reader, name: str, default: float) -> float:
    value = r.take(name, default)
    number = usable_number(value)
    if number is None:
        raise TrainError(f"{name} is {str(value)[:40]!r}; give a number")
    return number
