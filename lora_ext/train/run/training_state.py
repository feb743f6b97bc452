"""The saved state of a run: a folder, written whole or not at all, and loaded without running code from it."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ...errors import FileError, TrainError
from ...file.folder_listing import STATE_FOLDER_SUFFIX as STATE_FOLDER_SUFFIX
from ...file.folder_listing import STATE_NUMBERS_NAME as STATE_NUMBERS_NAME
from ...file.folder_listing import STATE_TENSORS_NAME as STATE_TENSORS_NAME
from ...file.saving import FileInUseError, replace_file
from ...file.torch_file import write_torch_file
from ...json_text import parse_json
from ..config.recipe import Recipe

REPLACED_STATE_PREFIX = ".old-"
"""Prefix of a state that is being replaced by one of the same name; it stays only if the process is killed then."""

CHANGES_TRAINING, CHANGES_NOTHING_LEARNED, ONLY_BEFORE_FIRST_STEP, CHANGES_NETWORK = "now", "quiet", "start", "network"
EFFECT_ON_RESUME: Mapping[str, str] = MappingProxyType(
    {
        name: effect
        for effect, names in {
            CHANGES_TRAINING: """
                fused_backward_pass full_bf16 full_fp16 fp8_base fp8_base_unet
                original_prompt target_prompt keep_prompts positive_prompt negative_prompt kept_attributes
                slider_guidance target_guidance denoise_steps original_image target_image diff_target_name
                target_data_dir diff_load_1st_pass
                diff_use_diff_mask diff_alt_ratio pair_weight paste_data_dir
                pretrained_model_name_or_path v2 v_parameterization clip_skip network_dropout rank_dropout
                module_dropout scale_weight_norms constraint freeze_down dylora_variant dylora_draw down_lr_weight
                mid_lr_weight up_lr_weight learning_rate unet_lr text_encoder_lr text_encoder_2_lr loraplus_lr_ratio
                loraplus_unet_lr_ratio loraplus_text_encoder_lr_ratio network_reg_lrs base_weights
                base_weights_multiplier train_batch_size gradient_accumulation_steps seed ema_decay max_grad_norm
                optimizer_type optimizer_args lr_scheduler lr_warmup_steps lr_scheduler_num_cycles
                lr_scheduler_power lr_scheduler_min_lr_ratio lr_scheduler_timescale lr_decay_steps lr_scheduler_type
                lr_scheduler_args validation_split validation_seed instance_prompt class_prompt num_class_images
                image_column caption_column loss_type huber_schedule huber_c huber_scale min_snr_gamma
                scale_v_pred_loss_like_noise_pred v_pred_like_loss debiased_estimation_loss noise_offset
                noise_offset_random_strength adaptive_noise_scale multires_noise_iterations multires_noise_discount
                ip_noise_gamma ip_noise_gamma_random_strength zero_terminal_snr min_timestep max_timestep
                masked_loss prior_loss_weight prior_loss_target train_data_dir reg_data_dir reg_generate
                dataset_config in_json conditioning_data_dir dataset_repeats resolution enable_bucket
                min_bucket_reso max_bucket_reso bucket_reso_steps bucket_no_upscale resize_interpolation flip_aug
                color_aug random_crop face_crop_aug_range alpha_mask caption_extension caption_separator
                shuffle_caption keep_tokens keep_tokens_separator secondary_separator enable_wildcard caption_prefix
                caption_suffix caption_dropout_rate caption_dropout_every_n_epochs caption_tag_dropout_rate
                token_warmup_min token_warmup_step max_token_length mixed_precision sdpa xformers torch_compile
                no_half_vae vae weighted_captions init_word inversion_lr inversion_continue""",
            CHANGES_NOTHING_LEARNED: """
                validate_every_n_epochs validate_every_n_steps max_validation_steps early_stopping_patience
                max_train_epochs max_train_steps initial_epoch initial_step
                skip_until_initial_step strict_images max_data_loader_n_workers cache_latents
                cache_latents_to_disk vae_batch_size cache_text_encoder_outputs cache_text_encoder_outputs_to_disk
                gradient_checkpointing blocks_to_swap device output_dir output_name save_precision save_every_n_epochs
                save_every_n_steps save_last_n_epochs save_last_n_steps save_state save_state_on_train_end
                save_last_n_epochs_state save_last_n_steps_state resume no_metadata training_comment metadata_title
                metadata_author metadata_description metadata_license metadata_tags metadata_trigger_phrase
                metadata_usage_hint metadata_thumbnail metadata_merged_from metadata_preprocessor
                save_model_as push_to_hub hub_model_id
                metadata_is_negative_embedding sample_prompts validation_prompt num_validation_images
                sample_every_n_epochs sample_every_n_steps sample_sampler logging_dir
                log_with log_prefix log_tracker_name""",
            ONLY_BEFORE_FIRST_STEP: "uce_start network_weights inversion_steps sample_at_first",
            CHANGES_NETWORK: """
                mode network_module network_dim network_alpha conv_dim conv_alpha dim_from_weights
                network_train_unet_only network_train_text_encoder_only algo init_lora_weights dora_wd wd_on_out
                rs_lora use_tucker factor decompose_both full_matrix unbalanced_factorization rescaled train_norm
                network_targets network_include network_reg_dims network_exclude unit block_lr_zero_threshold
                block_dims block_alphas conv_block_dims conv_block_alphas token_string num_vectors_per_token""",
        }.items()
        for name in names.split()
    }
)
"""Option of a recipe → what a new value does when a run is resumed.

CHANGES_TRAINING: it applies from the first resumed step, and the user is told. CHANGES_NOTHING_LEARNED: the same, but
the result of training does not change, and the user is not told. ONLY_BEFORE_FIRST_STEP: it has no effect any more, and
the user is told. CHANGES_NETWORK: it decides which tensors are trained; if the state's do not fit, the run is refused.
"""


@dataclass
class TrainingState:
    """The position and the tensors of a run.

    Attributes:
        step: Optimizer steps done.
        epoch: The epoch of the next batch, from 0.
        batch: The next batch of that epoch, from 0.
        seed: The run's seed.
        smoothed: The log's running mean of the loss, and the weight of its start.
        kept: Files and states as `TrainingFileSaver.kept` has them.
        recipe: The settings as JSON values.
        started: When the run began, in seconds since 1970.
        batches: Number of batches in the epoch.
        order: Fingerprint of the epoch's batches; "" in states of earlier versions.
        rate_changes: (step after which it was changed, factor on the learning rates from then on), oldest first.
        tensors: Parameters, optimizer, scheduler, gradient scaler, alphas and token embedding.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seed: int = 0
    smoothed: tuple[float, float] = (0.0, 1.0)
    kept: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    started: float = 0.0
    batches: int = 0
    order: str = ""
    rate_changes: list[tuple[int, float]] = field(default_factory=list)
    tensors: dict[str, Any] = field(default_factory=dict)


def save_training_state(state: TrainingState, folder: Path) -> Path:
    """Saves a state beside its folder and moves it there, so that a kill at any moment leaves the old or the new one.

    Args:
        state: The state.
        folder: Its folder.

    Returns:
        Where it is; another name beside `folder` while another program has a file in that open.

    Raises:
        TrainError: The disk is full, or the folder cannot be written to.
    """
    part = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write_torch_file(state.tensors, part / STATE_TENSORS_NAME)
        numbers = {name: value for name, value in vars(state).items() if name != "tensors"}
        with (part / STATE_NUMBERS_NAME).open("w", encoding="utf-8") as text:
            json.dump(numbers, text, indent=1)
            text.flush()
            os.fsync(text.fileno())
        old = folder.with_name(f"{REPLACED_STATE_PREFIX}{folder.name}")
        shutil.rmtree(old, ignore_errors=True)
        folder = _move_into_place(part, folder, old)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, FileError) as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise TrainError(f"the state {folder} cannot be written: {reason}; earlier states are untouched") from error
    return folder


def _move_into_place(part: Path, folder: Path, old: Path) -> Path:
    """Moves `part` to `folder`, and what is there to `old`; see `save_training_state`. Raises FileError."""
    try:
        if folder.exists():
            replace_file(folder, old, folder)
        replace_file(part, folder)
        return folder
    except FileInUseError:
        if old.exists() and not folder.exists():
            replace_file(old, folder)
    stem = folder.name.removesuffix(STATE_FOLDER_SUFFIX)
    names = (folder.with_name(f"{stem}-{number}{STATE_FOLDER_SUFFIX}") for number in itertools.count(2))
    other = next(name for name in names if not name.exists())
    replace_file(part, other)
    return other


def load_training_state(where: Path, name: str | None = None) -> TrainingState:
    """Loads a state.

    Args:
        where: A state's folder, or a folder with states, of which the furthest one is loaded.
        name: The output name of the run, for a folder with states.

    Returns:
        The state.

    Raises:
        TrainError: There is no state, or it cannot be read.
    """
    folder = find_training_state(where, name)
    try:
        numbers = parse_json((folder / STATE_NUMBERS_NAME).read_text(encoding="utf-8"))
        tensors = torch.load(folder / STATE_TENSORS_NAME, map_location="cpu", weights_only=True)
        numbers["smoothed"] = tuple(numbers["smoothed"])
        numbers["kept"] = {kind: [tuple(item) for item in items] for kind, items in numbers["kept"].items()}
        numbers["rate_changes"] = [tuple(item) for item in numbers.get("rate_changes", [])]
        found = TrainingState(**numbers, tensors=tensors)
        _check(found)
        return found
    except Exception as error:  # a damaged file can make json and torch raise anything
        raise TrainError(_unreadable(folder, error)) from error


def _check(state: TrainingState) -> None:
    """Raises ValueError if the file has other types than numbers, names and tensors in their places."""
    for name in ("step", "epoch", "batch", "seed", "batches"):
        number = getattr(state, name)
        if type(number) is not int or number < 0:
            raise ValueError(f"{STATE_NUMBERS_NAME} has {number!r} as {name}")
    if len(state.smoothed) != 2 or not all(isinstance(x, (int, float)) for x in (*state.smoothed, state.started)):
        raise ValueError(f"{STATE_NUMBERS_NAME} has {state.smoothed!r} as smoothed and {state.started!r} as started")
    if not all(isinstance(n, int) and isinstance(path, str) for items in state.kept.values() for n, path in items):
        raise ValueError(f"{STATE_NUMBERS_NAME} has {state.kept!r} as kept")
    if not all(type(step) is int and 0 < factor < math.inf for step, factor in state.rate_changes):
        raise ValueError(f"{STATE_NUMBERS_NAME} has {state.rate_changes!r} as rate_changes")
    if not isinstance(state.recipe, dict) or not isinstance(state.tensors, dict):
        raise ValueError("its recipe or its tensors are not what --save_state writes")


def _unreadable(folder: Path, error: Exception) -> str:
    reason = f"{STATE_NUMBERS_NAME} has no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
    others = sorted(
        p.parent.name for p in folder.parent.glob(f"*{STATE_FOLDER_SUFFIX}/{STATE_NUMBERS_NAME}") if p.parent != folder
    )
    hint = f"; other states are in {folder.parent}: {', '.join(others[-3:])}" if others else ""
    return f"the state {folder} is damaged or incomplete and cannot be read: {reason or type(error).__name__}{hint}"


def find_training_state(where: Path, name: str | None = None) -> Path:
    """The folder itself if it is a state, else the state in it with the most steps. Raises TrainError."""
    if (where / STATE_NUMBERS_NAME).is_file():
        return where
    if (where / STATE_TENSORS_NAME).is_file():
        raise TrainError(
            f"the state {where} is incomplete: it has no {STATE_NUMBERS_NAME}; give another state to --resume"
        )
    wanted = re.compile((re.escape(name) if name else ".+") + rf"(-\d+|-step\d+)?(-\d+)?{STATE_FOLDER_SUFFIX}")
    found: list[tuple[int, float, Path]] = []
    others: list[str] = []
    for numbers in where.glob(f"*{STATE_FOLDER_SUFFIX}/{STATE_NUMBERS_NAME}") if where.is_dir() else ():
        if not wanted.fullmatch(numbers.parent.name.removeprefix(REPLACED_STATE_PREFIX)):
            others.append(numbers.parent.name)
            continue
        try:
            step = int(parse_json(numbers.read_text(encoding="utf-8"))["step"])
        except (OSError, OverflowError, ValueError, KeyError, TypeError):
            step = -1  # damaged; it is only chosen, and then reported, if there is no other
        found.append((step, numbers.stat().st_mtime, numbers.parent))
    if not found:
        raise TrainError(_none_there(where, name, sorted(others)))
    return max(found)[2]


def _none_there(where: Path, name: str | None, others: list[str]) -> str:
    if others:
        run = re.sub(rf"(-\d+|-step\d+)?{STATE_FOLDER_SUFFIX}$", "", others[-1])
        return (
            f"--resume {where}: there is no saved state of a run called {name!r}, but {', '.join(others[:5])}; "
            f"give one of these folders to --resume, or set output_name {run}"
        )
    return f"--resume {where}: there is no saved state (--save_state saves folders that end in {STATE_FOLDER_SUFFIX})"


def recipe_as_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON values."""
    return json.loads(json.dumps(asdict(recipe)))


def changed_settings(state: TrainingState, recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """Option → (value when the state was saved, value now), for all that differ."""
    now, then = recipe_as_json(recipe), dict(state.recipe)
    if then.get("seed") is None or now["seed"] is None:
        now["seed"] = then.get("seed")
    return {name: (then[name], value) for name, value in now.items() if name in then and then[name] != value}


def describe_changed_settings(state: TrainingState, recipe: Recipe) -> list[str]:
    """A sentence for each changed setting that the user must know of."""
    sentences = []
    for name, (then, now) in changed_settings(state, recipe).items():
        effect = EFFECT_ON_RESUME[name]
        if name == "inversion_lr" and not recipe.inversion_continue:
            effect = ONLY_BEFORE_FIRST_STEP  # the embedding has been trained
        sentence = f"{name} was {then!r} and is {now!r}"
        if effect == ONLY_BEFORE_FIRST_STEP:
            sentence += "; it only has an effect before the first step, so it is ignored"
        if effect != CHANGES_NOTHING_LEARNED:
            sentences.append(sentence)
    return sentences
