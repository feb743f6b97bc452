"""kohya's and LyCORIS' names of networks and their `network_args`, as settings of `Recipe`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ...errors import TrainError, did_you_mean
from .kohya_options import is_neutral
from .recipe_option import ADAPTER_ALGOS

NETWORK_MODULE_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "networks.lora": "lierla",
        "networks.dylora": "dylora",
        "networks.lora_fa": "lierla",
        "networks.loha": "lierla",
        "networks.lokr": "lierla",
        "networks.oft": "lierla",
        "lora": "lierla",
        "lora-lierla": "lierla",
        "lora-c3lier": "c3lier",
        "locon": "c3lier",
    }
)
"""Other names of `network_module` → ours; `networks.lora` with a conv_dim is C3Lier. `lycoris.kohya` is read apart."""

_ALGOS_BY_MODULE = {"networks.loha": "loha", "networks.lokr": "lokr", "networks.oft": "oft"}
_ALGO_NAMES = {"locon": "lora", "lierla": "lora", "diag_oft": "diag-oft"}

_LYCORIS_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "full": {"network_module": "c3lier", "network_targets": "all"},
        "full-lin": {"network_module": "lierla", "network_targets": "all"},
        "attn-mlp": {"network_module": "lierla"},
        "attn-only": {"network_module": "lierla", "network_targets": "attention"},
        "unet-only": {"network_module": "c3lier", "network_targets": "all", "network_train_unet_only": True},
        "unet-transformer-only": {"network_module": "lierla", "network_train_unet_only": True},
        "unet-convblock-only": {
            "network_module": "c3lier", "network_targets": "resnet", "network_train_unet_only": True,
        },
        "ia3": {
            "network_module": "lierla",
            "network_include": ("*.to_k", "*.to_v", "*.ff.net.2", "*.k_proj", "*.v_proj", "*.mlp.fc2"),
        },
    }
)  # fmt: skip
"""LyCORIS' presets → settings. Its attn-only names classes of older diffusers; here it is what it says."""

ARGUMENT_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "dropout": "network_dropout", "block_size": "unit", "wd_on_output": "wd_on_out", "use_conv_cp": "use_tucker",
        "use_cp": "use_tucker", "constrain": "constraint",
    }
)  # fmt: skip
"""Names in `network_args` → ours."""

EXTRA_ARGUMENTS = frozenset({"preset", "enable_all_linear", "enable_conv"})
"""Names in `network_args` that set several settings."""

_NOT_PASSED_ON = "LyCORIS does not pass it on either"
UNUSED_ARGUMENTS: Mapping[str, str] = MappingProxyType(
    {
        "bypass_mode": "both ways compute the same function; the quicker one is used",
        "disable_conv_cp": "use_tucker is off unless it is given",
        "rank_dropout_scale": _NOT_PASSED_ON,
        "train_on_input": f"{_NOT_PASSED_ON}; IA3 scales the inputs of ff.net.2 and mlp.fc2, the outputs of others",
        "train_t5xxl": "there is no T5 in these models",
        "train_llm_adapter": "there is no such layer in these models",
        "verbose": "what is trained is listed anyway",
    }
)
"""Names in `network_args` that are accepted and do nothing here → why."""

UNSUPPORTED_ARGUMENTS: Mapping[str, str] = MappingProxyType(
    {
        "use_scalar": "no factor of a whole layer is trained; leave it out",
        "include_patterns": "use network_include, whose patterns have * and ?",
        "exclude_patterns": "use network_exclude, whose patterns have * and ?",
    }
)
"""Names in `network_args` that fail if their value turns something on → what to use."""


def name_network(given: dict[str, Any], notify: Callable[[str], None] = lambda sentence: None) -> None:
    """Sets `network_module` and `algo` to our names; a conv_dim without a module, or with kohya's name, means C3Lier.

    Args:
        given: Option → value; changed.
        notify: Called with a sentence about settings that have no effect.

    Raises:
        TrainError: An unknown algorithm or preset, or one that another network has.
    """
    preset, all_linear, conv = (given.pop(name, None) for name in ("preset", "enable_all_linear", "enable_conv"))
    if isinstance(given.get("algo"), str):
        folded = given["algo"].strip().lower()
        given["algo"] = _ALGO_NAMES.get(folded, folded)
    wide = not is_neutral(given.get("conv_dim")) or given.get("conv_block_dims") not in (None, "", [])
    name = given.get("network_module")
    folded = name.lower() if isinstance(name, str) else name
    if folded in ("lycoris.kohya", "lycoris"):
        _name_lycoris(given, str(preset or "full"), notify)
    elif preset is not None:
        raise TrainError("network_args: preset belongs to network_module lycoris.kohya; here it is network_targets")
    elif folded != "networks.oft" and not is_neutral([all_linear, conv]):
        raise TrainError("network_args: enable_all_linear and enable_conv belong to networks.oft; use network_targets")
    elif name is None and wide:
        given["network_module"] = "c3lier"
    elif isinstance(folded, str):
        ours = NETWORK_MODULE_ALIASES.get(folded, folded)
        given["network_module"] = "c3lier" if ours == "lierla" and wide and folded in NETWORK_MODULE_ALIASES else ours
        if folded in _ALGOS_BY_MODULE:
            given.setdefault("algo", _ALGOS_BY_MODULE[folded])
        if folded == "networks.lora_fa":
            given.setdefault("freeze_down", True)
        if folded == "networks.oft":
            _name_oft(given, is_all=not is_neutral(all_linear), is_conv=not is_neutral(conv))


def _name_oft(given: dict[str, Any], *, is_all: bool, is_conv: bool) -> None:
    """Settings of `networks.oft`: attention of the U-Net, all of its transformers, or these and 3x3 layers."""
    if is_conv and not is_all:
        raise TrainError("network_args: enable_conv needs enable_all_linear too; leave it out, or set both")
    given.setdefault("network_train_unet_only", True)
    given.setdefault("network_targets", "transformer" if is_all else "attention")
    if is_conv:
        given["network_module"] = "c3lier"


def _name_lycoris(given: dict[str, Any], preset: str, notify: Callable[[str], None]) -> None:
    """Settings of `lycoris.kohya`: conv_dim and conv_alpha are the other layers' unless given; conv_dim 0 is none."""
    if preset not in _LYCORIS_PRESETS:
        raise TrainError(
            f"network_args: preset {preset!r} is not one of {', '.join(_LYCORIS_PRESETS)}"
            f"{did_you_mean(preset, _LYCORIS_PRESETS)}; choose layers by network_include and network_exclude"
        )
    algo = given.get("algo", "lora")
    for option, value in _LYCORIS_PRESETS[preset].items():
        if option == "network_module":
            given[option] = value
        else:
            given.setdefault(option, value)
    if algo != "dylora" and algo not in ADAPTER_ALGOS:
        raise TrainError(
            f"algo {algo!r} cannot be trained; {', '.join(ADAPTER_ALGOS)} can{did_you_mean(algo, ADAPTER_ALGOS)}"
        )
    if "conv_dim" in given and is_neutral(given["conv_dim"]):
        given["network_module"] = "lierla"
    is_wide = given["network_module"] == "c3lier"
    if not is_wide:
        unused = [name for name in ("conv_dim", "conv_alpha") if not is_neutral(given.pop(name, None))]
        if unused:
            notify(f"not used here: {' and '.join(unused)} (no 3x3 layers with preset {preset} or conv_dim 0)")
    if algo == "dylora":
        given["algo"], given["network_module"] = "lora", "dylora"
        given.setdefault("unit", 4)
    if is_wide and ("conv_dim" in given or algo == "dylora"):
        given.setdefault("conv_dim", given.get("network_dim", 4))
        given.setdefault("conv_alpha", given.get("network_alpha", 1.0))
