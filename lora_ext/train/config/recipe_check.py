"""Contradicting settings, each with a sentence that says what to change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ...counted_words import counted
from ...errors import TrainError
from .block_settings import KOHYA_SDXL_COUNT, block_rate_weights
from .layer_choice import parse_layer_numbers
from .lr_schedules import learning_rate_factor
from .memory_check import memory_problems
from .mode_check import mode_problems
from .optimizers import find_optimizer, optimizer_advice, parse_optimizer_args
from .recipe import Recipe
from .recipe_option import MAX_SIDE_PIXELS
from .saving_options import saving_problems

_LONGEST_NAME = 255 - len("-step00000001-state-12345678.part")
"""Bytes of an output_name with which states and the files before them still have names that systems accept."""


def check_recipe(recipe: Recipe) -> Recipe:
    """Checks that settings do not contradict each other.

    Args:
        recipe: The settings.

    Returns:
        The same recipe.

    Raises:
        TrainError: The first sentence of `recipe_problems`.
    """
    for sentence in recipe_problems(recipe):
        raise TrainError(sentence)
    return recipe


def recipe_problems(recipe: Recipe) -> Iterator[str]:
    """Yields a sentence for each problem."""
    for part in _PARTS:
        yield from part(recipe)


def _network(r: Recipe) -> Iterator[str]:
    if r.network_train_unet_only and r.network_train_text_encoder_only:
        yield "network_train_unet_only and network_train_text_encoder_only exclude each other; leave one out"
    if len(r.base_weights_multiplier) > len(r.base_weights):
        yield (
            f"base_weights_multiplier has {counted(len(r.base_weights_multiplier), 'value')} and base_weights "
            f"{len(r.base_weights)}; give one each"
        )
    if r.dim_from_weights and not r.network_weights:
        yield "dim_from_weights uses the ranks of network_weights; give that file"
    if r.network_module == "lierla" and (r.conv_dim is not None or r.conv_block_dims is not None):
        yield "LierLa does not train 3x3 layers: leave conv_dim out, or set network_module c3lier"
    if r.init_lora_weights != "kaiming":
        yield from _init(r)
    if r.freeze_down and (r.algo != "lora" or r.dora_wd or r.use_tucker or r.is_dylora):
        yield "freeze_down is for plain LoRA, without dora_wd, use_tucker and DyLoRA; leave it out"
    if r.is_dylora:
        yield from _dylora(r)
    yield from _kinds(r)
    for number in (*parse_layer_numbers(r.network_reg_dims), *parse_layer_numbers(r.network_reg_lrs)):
        if number[1] > 1024:
            yield f"{number[0].pattern}={number[1]:g} is too large; a rank is 1024 or less"
    for name in ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas"):
        values = getattr(r, name)
        if values is not None and len(values) not in (25, 19, KOHYA_SDXL_COUNT):
            yield (
                f"{name} has {counted(len(values), 'value')}; give 25 (IN00 to IN11, MID, OUT00 to OUT11), or 19 for "
                "SDXL"
            )
        if values is not None and min(values) < 0:
            yield f"{name} has {min(values)}; give 0 or more (a rank of 0 makes no modules)"
    if r.trains_unet and max(block_rate_weights(r).values()) == 0 and not r.trains_text:
        yield "all block weights are 0: nothing would be trained; raise down_lr_weight, mid_lr_weight or up_lr_weight"


def _kinds(r: Recipe) -> Iterator[str]:
    """What other kinds of adapters than plain LoRA exclude."""
    for names, algos in _OPTIONS_OF_ALGOS.items():
        for option in names.split():
            if getattr(r, option) != getattr(Recipe, option) and r.algo not in algos:
                yield f"{option} is for algo {' or '.join(algos)}, not {r.algo}; leave it out"
    if not r.wd_on_out and not r.dora_wd:
        yield "wd_on_out is for DoRA; set dora_wd, or leave it out"
    if r.use_tucker and r.network_module == "lierla":
        yield "use_tucker is for 3x3 layers, which LierLa does not train; leave it out, or set network_module c3lier"
    if r.algo == "lora" and not r.dora_wd and not r.use_tucker:
        return
    name = "dora_wd" if r.dora_wd else f"algo {r.algo}" if r.algo != "lora" else "use_tucker"
    if r.is_dylora:
        yield f"DyLoRA trains plain LoRA; leave {name} out, or set network_module lierla or c3lier"
    if r.network_dropout:
        yield f"network_dropout acts between the two factors of plain LoRA, not with {name}; leave it out"
    if r.scale_weight_norms and (r.dora_wd or r.algo in ("glora", "diag-oft", "boft", "oft")):
        yield f"scale_weight_norms cannot scale the change of {name}; leave it out"
    if r.torch_compile:
        yield f"torch_compile cannot be used with {name}; leave one of them out"
    if r.factor == 0:
        yield "factor must be -1 or at least 1, not 0"


_OPTIONS_OF_ALGOS = {
    "dora_wd use_tucker": ("lora", "loha", "lokr"),
    "loraplus_lr_ratio loraplus_unet_lr_ratio loraplus_text_encoder_lr_ratio": ("lora",),
    "rs_lora": ("lora", "loha", "lokr", "glora"),
    "factor decompose_both full_matrix unbalanced_factorization": ("lokr",),
    "constraint rescaled": ("diag-oft", "boft"),
}
"""Options → the algorithms that they are for."""


def _init(r: Recipe) -> Iterator[str]:
    """What excludes a start other than ΔW = 0·D: it is trained as the change of fixed first factors."""
    name = f"init_lora_weights {r.init_lora_weights}"
    if r.algo != "lora" or r.dora_wd or r.use_tucker or r.is_dylora:
        yield f"{name} is for plain LoRA, without dora_wd, use_tucker and DyLoRA; leave it out"
    for option in ("network_dropout", "rank_dropout", "scale_weight_norms"):
        if getattr(r, option):
            yield f"{option} would change the fixed first factors of {name}; leave one of them out"
    if r.network_weights:
        yield f"{name} starts a new LoRA, and network_weights continues one; leave one of them out"


def _dylora(r: Recipe) -> Iterator[str]:
    if r.network_dim % r.unit:
        fits = [n for n in range(1, r.network_dim + 1) if r.network_dim % n == 0]
        near = min(fits, key=lambda n: abs(n - r.unit))
        yield f"network_dim {r.network_dim} is not a multiple of unit {r.unit}; set unit {near}, or another network_dim"
    if r.conv_dim is not None and r.conv_dim != r.network_dim:
        yield f"DyLoRA draws one rank for all layers: set conv_dim {r.network_dim}, as network_dim"
    odd = [n for n in (*(r.block_dims or ()), *(r.conv_block_dims or ())) if n % r.unit]
    if odd:
        yield f"block_dims has {odd[0]}, which is not a multiple of unit {r.unit}"


def _pictures(r: Recipe) -> Iterator[str]:
    if not re.fullmatch(r"\s*\d+\s*([,x]\s*\d+\s*)?", r.resolution):
        yield f"resolution must be a side such as 512, or width,height such as 512,768, not {r.resolution!r}"
        return
    sides = r.size()
    if min(sides) < 64:
        yield f"resolution {r.resolution} is too small; give 64 or more"
    if max(sides) > MAX_SIDE_PIXELS:
        yield f"resolution {r.resolution} is too large; give {MAX_SIDE_PIXELS} or less"
    if not r.enable_bucket and any(side % 8 for side in sides):
        yield f"resolution {r.resolution} is not a multiple of 8; give {', '.join(str(s // 8 * 8) for s in sides)}"
    if r.enable_bucket and r.min_bucket_reso > r.max_bucket_reso:
        yield f"min_bucket_reso {r.min_bucket_reso} is above max_bucket_reso {r.max_bucket_reso}; swap them"
    if r.enable_bucket and r.bucket_reso_steps % 8:
        yield f"bucket_reso_steps {r.bucket_reso_steps} is not a multiple of 8; 64 is usual"
    if r.face_crop_aug_range is not None:
        found = re.fullmatch(r"\s*([\d.]+)\s*,\s*([\d.]+)\s*", r.face_crop_aug_range)
        if not found or float(found[1]) > float(found[2]):
            yield f"face_crop_aug_range must be smallest,largest, such as 2.0,4.0, not {r.face_crop_aug_range!r}"


def _caches(r: Recipe) -> Iterator[str]:
    if r.cache_latents or r.cache_latents_to_disk:
        for name in ("color_aug", "random_crop", "face_crop_aug_range"):
            if getattr(r, name):
                yield f"{name} changes pictures in every step, but cached latents stay the same; turn one of them off"
    if r.cache_text_encoder_outputs or r.cache_text_encoder_outputs_to_disk:
        if r.trains_text:
            yield "the text encoder is trained, so its outputs cannot be cached; set network_train_unet_only"
        names = "shuffle_caption caption_dropout_rate caption_tag_dropout_rate token_warmup_step enable_wildcard"
        for name in names.split():
            if getattr(r, name):
                yield f"{name} changes captions in every step, but cached outputs stay the same; turn one of them off"


def _loss(r: Recipe) -> Iterator[str]:
    low, high = r.min_timestep or 0, 1000 if r.max_timestep is None else r.max_timestep
    if low >= high:
        yield f"min_timestep {low} leaves nothing below max_timestep {high}; make it smaller"
    if r.adaptive_noise_scale and not r.noise_offset:
        yield "adaptive_noise_scale changes noise_offset; set noise_offset too"
    if r.masked_loss and not (r.alpha_mask or r.conditioning_data_dir or r.dataset_config):
        yield (
            "masked_loss needs masks: set alpha_mask, or give their folder as conditioning_data_dir; masks that were "
            "painted over pictures in the tab act without it"
        )


def _learning(r: Recipe) -> Iterator[str]:
    trained = [part for part, on in (("unet", r.trains_unet), ("te", r.trains_text), ("te2", r.trains_text)) if on]
    if trained and max(r.rate(part) for part in trained) == 0:
        yield "every learning rate is 0, so nothing would be trained; set learning_rate, such as 1e-4"
    for part in trained:
        if r.rate(part) * (r.up_rate_ratio(part) or 1) > 10:
            rate = r.rate(part) * (r.up_rate_ratio(part) or 1)
            yield f"a learning rate of {rate:g} destroys the network; 1e-4 is usual"
    optimizer = find_optimizer(r.optimizer_type)
    if r.ema_decay is not None and "ScheduleFree" in optimizer.name:
        yield f"{r.optimizer_type} averages the weights itself; leave ema_decay out"
    parse_optimizer_args(r.optimizer_args)
    learning_rate_factor(r, 0, 1)  # raises for a schedule or arguments that are not known
    if r.early_stopping_patience and not r.validation_split:
        yield "early_stopping_patience ends a run by its validation loss; set validation_split, such as 0.1"
    if r.max_train_epochs is None and r.lr_warmup_steps >= 1 and r.lr_warmup_steps >= r.max_train_steps:
        yield f"lr_warmup_steps {r.lr_warmup_steps:g} takes all of max_train_steps {r.max_train_steps}; make it smaller"


def _rest(r: Recipe) -> Iterator[str]:
    if r.max_token_length not in (75, 150, 225):
        yield f"max_token_length must be 75, 150 or 225, not {r.max_token_length}"
    bad = re.search(r'[\\/:*?"<>|\x00-\x1f]', r.output_name)
    if bad or not r.output_name.strip(". "):
        yield f"output_name {r.output_name!r} cannot be a file's name; use letters, digits, - and _"
    if (length := len(r.output_name.encode(errors="replace"))) > _LONGEST_NAME:
        yield f"output_name has {length} bytes, too many for a file's name; use at most {_LONGEST_NAME}"
    if r.token_string is not None:
        yield from _token_string(r.token_string, r.caption_separator)
    if r.init_word and not r.token_string:
        yield "init_word is the starting point of token_string; give token_string too"
    if r.inversion_continue and not r.token_string:
        yield "inversion_continue keeps training token_string; give token_string too"
    if not r.caption_separator:
        yield "caption_separator is empty; the comma is usual"


def _token_string(word: str, separator: str) -> Iterator[str]:
    hint = "; choose another word, such as sks or <s1>"
    if word != word.strip() or any(not letter.isprintable() for letter in word):
        yield f"token_string {word!r} begins or ends with a space, or has an invisible character{hint}"
    elif "." in word:
        yield f"token_string {word!r} has a '.', at which a word's name ends in a LoRA file{hint}"
    elif separator and separator in word:
        yield f"token_string {word!r} has a {separator!r}, which separates tags in captions{hint}"
    elif re.search(r"<[^<>:]*:[^<>]*>", word):
        yield f"token_string {word!r} looks like a tag such as <lora:name:1>, which prompts leave out{hint}"


def _compiled(r: Recipe) -> Iterator[str]:
    if not r.torch_compile:
        return
    for name in ("network_dropout", "rank_dropout", "module_dropout"):
        if getattr(r, name):
            yield f"torch_compile would recompile in every step, because {name} draws anew; leave one of them out"
    if r.prior_loss_target == "model":
        yield "torch_compile cannot run the U-Net without the network, as prior_loss_target model does; leave one out"
    if r.gradient_checkpointing:
        yield "torch_compile cannot be used with gradient_checkpointing; leave one of them out"
    if r.is_dylora and r.dylora_draw == "module":
        yield "torch_compile would recompile for each module's draw; set dylora_draw step, or leave torch_compile out"
    if not r.trains_unet:
        yield "torch_compile compiles the U-Net, which is not trained; leave it out"


def _rate_advice(r: Recipe) -> Iterator[str]:
    """Two kinds whose parameters are no factors of a low rank learn at other rates than LoRA."""
    optimizer = find_optimizer(r.optimizer_type)
    if optimizer.has_own_rate or "SGD" in optimizer.name:
        return
    fastest = max(r.rate("unet") if r.trains_unet else 0.0, r.rate("te") if r.trains_text else 0.0)
    if r.algo == "ia3" and fastest < 1e-3:
        yield f"algo ia3 learns at a learning rate of 5e-3 to 1e-2; {fastest:g} changes next to nothing"
    if r.algo == "full" and fastest > 7e-5:
        yield f"algo full learns at a learning rate of 1e-6 to 1e-5 (a small model: 7e-5); {fastest:g} is very fast"


_PARTS: tuple[Callable[[Recipe], Iterator[str]], ...] = (
    mode_problems, _network, _pictures, _caches, _loss, _learning, memory_problems, saving_problems, _compiled, _rest,
)  # fmt: skip


def recipe_advice(recipe: Recipe, prediction: str = "epsilon") -> list[str]:
    """Finds settings that are possible but seldom meant.

    Args:
        recipe: The checked settings.
        prediction: What the model predicts: "epsilon" or "v_prediction".

    Returns:
        A sentence for each, with what to change.
    """
    advice = optimizer_advice(recipe)
    if recipe.lr_warmup_steps and recipe.lr_scheduler == "constant":
        advice.append("lr_warmup_steps does nothing with the constant schedule; set lr_scheduler constant_with_warmup")
    if recipe.zero_terminal_snr and prediction != "v_prediction":
        advice.append("zero_terminal_snr is for models that predict v; this one predicts the noise")
    if recipe.prior_loss_target == "model" and not (recipe.reg_data_dir or recipe.dataset_config):
        advice.append("prior_loss_target model needs regularisation pictures; set reg_data_dir")
    word = recipe.token_string or ""
    if set(word) & set("()[]\\"):
        written = re.sub(r"([()\[\]\\])", r"\\\1", word)
        advice.append(f"token_string {word!r} has brackets, which set weights in prompts; write {written} in prompts")
    elif word and not (word[0].isalnum() and word[-1].isalnum()):
        advice.append(f"put spaces around {word!r} in prompts: beside a comma or a bracket it is not recognised")
    advice += _rate_advice(recipe)
    if recipe.network_alpha > 4 * recipe.network_dim:
        advice.append(f"network_alpha {recipe.network_alpha:g} at rank {recipe.network_dim} makes very large changes")
    if recipe.network_weights is None and recipe.scale_weight_norms and recipe.scale_weight_norms < 0.1:
        advice.append(f"scale_weight_norms {recipe.scale_weight_norms:g} leaves almost no change; 1 is usual")
    return advice
