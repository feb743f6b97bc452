"""Which layers a recipe trains."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

from ...block_weights import parse_finite_number
from ...bounded_matching import LONGEST_EXPRESSION, MOST_ALTERNATIVES, MOST_REPETITIONS, is_bounded_expression
from ...errors import BlockError, TrainError
from ...layer_keys import format_kohya_key, format_peft_key
from ...layer_names import UNET, LayerId
from .recipe import Recipe

_OUTER_CONVOLUTIONS = ("conv_in", "conv_out")
_TIME_LAYERS = ("time_embedding.linear_1", "time_embedding.linear_2")
_MOST_PAIRS = 200
_ATTENTION_PARTS = {
    "attention": (".attn1.", ".attn2."),
    "cross_attention": (".attn2.",),
    "self_attention": (".attn1.",),
}


def has_conv3x3_modules(recipe: Recipe) -> bool:
    """Whether 3x3 layers get modules: C3Lier, or DyLoRA with `conv_dim`."""
    wide = recipe.conv_dim is not None or recipe.conv_block_dims is not None
    return recipe.network_module == "c3lier" or (recipe.is_dylora and wide)


@lru_cache(maxsize=64)
def parse_layer_numbers(text: str | None) -> tuple[tuple[re.Pattern[str], float], ...]:
    """Parses kohya's `network_reg_dims` and `network_reg_lrs`.

    Args:
        text: `EXPRESSION=NUMBER` separated by commas; None or "" for none.

    Returns:
        (regular expression, number) in order.

    Raises:
        TrainError: No such pair, too many, or an expression that is none or could take long to match.

    Example:
        >>> [(pattern.pattern, number) for pattern, number in parse_layer_numbers("attn2.*to_k=8, ff=4")]
        [('attn2.*to_k', 8.0), ('ff', 4.0)]
    """
    found = []
    pairs = [pair.strip() for pair in (text or "").split(",") if pair.strip()]
    if len(pairs) > _MOST_PAIRS:
        raise TrainError(f"{len(pairs)} pairs of EXPRESSION=NUMBER; at most {_MOST_PAIRS} are accepted")
    for pair in pairs:
        expression, equals, number = pair.rpartition("=")
        if not is_bounded_expression(expression.strip()):
            raise TrainError(
                f"the expression of {pair[:80]!r} could take long to match; accepted are up to {LONGEST_EXPRESSION} "
                f"characters with at most {MOST_REPETITIONS} of * + ?, none behind a group, at most "
                f"{MOST_ALTERNATIVES} of |, and no {{}}"
            )
        try:
            found.append((re.compile(expression.strip()), parse_finite_number(number, pair)))
        except (re.error, OverflowError, RecursionError, BlockError):
            equals = ""
        if not equals or not expression.strip() or found[-1][1] < 0:
            raise TrainError(f"{pair!r} is not EXPRESSION=NUMBER, such as attn2.*to_k=8; an expression has no comma")
    return tuple(found)


def number_for_layer(layer_id: LayerId, text: str | None) -> float | None:
    """The number of the first expression that occurs in a layer's name in kohya's files; None where none does.

    Args:
        layer_id: The layer.
        text: As for `parse_layer_numbers`.
    """
    pairs = parse_layer_numbers(text)
    names = {format_kohya_key(layer_id, sdxl=sdxl) for sdxl in (False, True)} if pairs else set()
    return next((number for pattern, number in pairs if any(map(pattern.search, names))), None)


def is_wider_than_1x1(shape: Sequence[int]) -> bool:
    """Whether a weight's kernel is larger than 1x1."""
    return len(shape) == 4 and max(shape[2:]) > 1


def is_trained_layer(layer_id: LayerId, shape: tuple[int, ...], recipe: Recipe) -> bool:
    """Whether a recipe trains a layer, chosen by module class as kohya's scripts do.

    Linear and 1x1 layers of Transformer2DModel, attention and MLP of CLIP; with 3x3 layers also all of ResnetBlock2D,
    Downsample2D and Upsample2D. `network_targets` takes a part of them or adds the outer layers, `train_norm` adds the
    norms of the U-Net's chosen classes, and `network_include` and `network_exclude` choose by name.

    Args:
        layer_id: The layer.
        shape: The shape of its weight.
        recipe: The settings.
    """
    if len(shape) < 2 and not (recipe.train_norm and layer_id.part == UNET):
        return False
    chosen = _is_text_target(layer_id, recipe) if layer_id.part != UNET else _is_unet_target(layer_id, shape, recipe)
    return chosen and _matches_patterns(layer_id, recipe)


def _is_text_target(layer_id: LayerId, recipe: Recipe) -> bool:
    if not recipe.trains_text or not layer_id.layer.startswith("layers."):
        return False
    targets = recipe.network_targets
    return not _is_attention_choice(targets) or targets.endswith("_ff") or ".self_attn." in layer_id.layer


def _is_unet_target(layer_id: LayerId, shape: tuple[int, ...], recipe: Recipe) -> bool:
    targets, layer = recipe.network_targets, layer_id.layer
    if not recipe.trains_unet or (is_wider_than_1x1(shape) and not has_conv3x3_modules(recipe)):
        return False
    if layer in _TIME_LAYERS:
        return targets == "all"
    if layer in _OUTER_CONVOLUTIONS:
        return targets in ("all", "resnet")
    if not layer_id.block:
        return False
    if layer.startswith("attention."):
        parts = _ATTENTION_PARTS.get(targets.removesuffix("_ff"))
        chosen = any(part in f"{layer}." for part in (*(parts or ()), *((".ff.",) if targets.endswith("_ff") else ())))
        return chosen if parts else targets != "resnet"
    return targets in ("all", "resnet") or (targets == "transformer" and has_conv3x3_modules(recipe))


def _is_attention_choice(targets: str) -> bool:
    return targets.removesuffix("_ff") in _ATTENTION_PARTS


def _matches_patterns(layer_id: LayerId, recipe: Recipe) -> bool:
    include, exclude = recipe.network_include, recipe.network_exclude
    included = not include or any(matches_pattern(layer_id, pattern) for pattern in include)
    return included and not any(matches_pattern(layer_id, pattern) for pattern in exclude)


def matches_pattern(layer_id: LayerId, pattern: str) -> bool:
    """Whether a layer's name matches a pattern with *, ? and [ ].

    Args:
        layer_id: The layer.
        pattern: For its name in kohya's files (`lora_unet_mid_block_…`) or PEFT's (`unet.mid_block.…`).
    """
    names = {format_kohya_key(layer_id, sdxl=sdxl) for sdxl in (False, True)} | {format_peft_key(layer_id)}
    return any(fnmatchcase(name, pattern) for name in names)
