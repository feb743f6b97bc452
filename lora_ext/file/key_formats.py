"""Names the tensors of a `LoraFile` in its own key format, kohya's, ComfyUI's or diffusers'."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from ..adapters import Adapter
from ..errors import FileError, did_you_mean
from ..layer_keys import format_comfyui_key, format_kohya_key, format_peft_key
from ..layer_names import LayerId
from .lora_file import LoraFile

KEY_FORMATS = ("file", "kohya", "diffusers", "comfyui")
"""Key formats to write: the file's own (kohya's for new adapters), kohya's, PEFT's as diffusers reads it, and ComfyUI's
own."""

_DIFFUSERS_SUFFIXES = frozenset(
    {"lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha", "scale", "dora_scale"}
)
"""Suffixes that a LoRA layer may have in diffusers' key format."""

_COMFYUI_SUFFIXES = {
    "LoRA": {"lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha", "dora_scale", "diff_b"},
    "LoHa": {*(f"hada_{name}" for name in "w1_a w1_b w2_a w2_b t1 t2".split()), "alpha", "dora_scale"},
    "LoKr": {*(f"lokr_{name}" for name in "w1 w1_a w1_b w2 w2_a w2_b t2".split()), "alpha", "dora_scale"},
    "GLoRA": {"a1.weight", "a2.weight", "b1.weight", "b2.weight", "alpha"},
    "full": {"diff", "diff_b"},
    "norm": {"w_norm", "b_norm"},
    "OFT": {"oft_blocks", "alpha"},
}
"""Kind → the tensors that ComfyUI reads of it (comfy/lora.py, comfy/weight_adapter). Its OFT has no `rescale`."""


def is_described_by_metadata(file: LoraFile) -> bool:
    """Whether diffusers' metadata still describes the adapters: they are the objects that were loaded, all of them.

    Args:
        file: a file that was loaded, maybe with other adapters since.
    """
    was, now = file.adapters_as_loaded, file.adapters
    return bool(was) and was.keys() == now.keys() and all(was[layer_id] is now[layer_id] for layer_id in was)


def format_keys(file: LoraFile, key_format: str = "file", *, include_alphas: bool = True) -> dict[str, Tensor]:
    """Names a file's tensors in a key format.

    The format "diffusers" has no alpha and, without metadata, one rank for each part of the model: alpha/rank is
    multiplied into `lora_B`, and smaller ranks are padded with zeros.

    Args:
        file: the file.
        key_format: one of `KEY_FORMATS`.
        include_alphas: whether to write alphas that only diffusers' metadata held.

    Returns:
        Key → tensor, as the file is written.

    Raises:
        FileError: the key format is unknown or cannot hold something in the file, or two tensors would get one key.
    """
    if key_format not in KEY_FORMATS:
        raise FileError(f"unknown key format {key_format!r}{did_you_mean(key_format, KEY_FORMATS)}")
    if key_format == "diffusers":
        return _unique(file, _diffusers_rows(file))
    if key_format == "comfyui":
        return _unique(file, _comfyui_rows(file))
    if key_format == "file" and file.key_format == "diffusers" and include_alphas and not _all_keyed(file):
        try:
            return _unique(file, _diffusers_rows(file))
        except FileError:  # diffusers' key format cannot hold everything in it
            key_format = "kohya"
    return _unique(file, _rows(file, key_format == "file", include_alphas))


def _unique(file: LoraFile, rows: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for key, tensor in rows:
        if key in tensors:
            raise FileError(f"two tensors of {file.name} would be written as {key!r}")
        tensors[key] = tensor
    return tensors


def _all_keyed(file: LoraFile) -> bool:
    """Whether every tensor of every adapter has a key of the file's own."""
    return all(
        (layer_id, suffix) in file.keys for layer_id, adapter in file.adapters.items() for suffix in adapter.tensors
    )


def _rows(file: LoraFile, own: bool, include_alphas: bool) -> Iterator[tuple[str, Tensor]]:
    """Yields (key, tensor): with `own` the file's own keys where it has some, else kohya's."""
    sdxl = file.family == "SDXL"
    for layer_id, adapter in file.adapters.items():
        for suffix, tensor in adapter.tensors.items():
            key = _own_key(file, layer_id, adapter.tensors, suffix) if own else None
            if key or include_alphas or suffix != "alpha":
                yield key or f"{format_kohya_key(layer_id, sdxl=sdxl)}.{suffix}", tensor
    for name, vectors in file.embeddings.items():
        for vector, tensor in vectors.items():
            yield file.embedding_key(name, vector) if own else f"bundle_emb.{name}.{vector}", tensor
    yield from file.unrecognized.items()


def _own_key(file: LoraFile, layer_id: LayerId, suffixes: Iterable[str], suffix: str) -> str | None:
    """The file's key; for a new tensor (such as an alpha) of a file of kohya's one with the layer's prefix."""
    if (layer_id, suffix) in file.keys or file.key_format != "kohya":
        return file.keys.get((layer_id, suffix))
    others = (file.keys.get((layer_id, other), "") for other in suffixes)
    prefix = next((key.partition(".")[0] for key in others if key), None)
    return prefix and f"{prefix}.{suffix}"


# --- what a program cannot hold --------------------------------------------------------------------------------------


def unsupported_layers(file: LoraFile, key_format: str) -> dict[LayerId, str]:
    """Finds the layers that the program which a key format is for cannot read.

    Args:
        file: the file.
        key_format: "kohya" (for kohya's own scripts, which know LoRA alone), "diffusers" or "comfyui".

    Returns:
        Layer → what it is, such as "DoRA".
    """
    mixed = {
        part
        for part in {layer_id.part for layer_id in file.adapters}
        if len({a.magnitude() is None for layer_id, a in file.adapters.items() if layer_id.part == part}) > 1
    }
    found = {}
    for layer_id, adapter in file.adapters.items():
        plain = adapter.magnitude() is None
        if key_format == "comfyui":
            held = not adapter.tensors.keys() - _COMFYUI_SUFFIXES.get(adapter.kind, set())
            held = held and (adapter.kind != "OFT" or "alpha" in adapter.tensors)
        elif key_format == "diffusers":
            held = adapter.kind == "LoRA" and not adapter.tensors.keys() - _DIFFUSERS_SUFFIXES
            held = held and (plain or (layer_id.part not in mixed and _has_output_magnitude(adapter)))
        else:
            held = adapter.kind == "LoRA" and plain and adapter.low_rank() is not None
        if not held:
            found[layer_id] = _describe(adapter)
    return found


def _describe(adapter: Adapter) -> str:
    """The kind, with what a layer has beside it: "DoRA", "LoHa with DoRA", "LoRA with diff_b"."""
    if adapter.magnitude() is not None:
        return "DoRA" if adapter.kind == "LoRA" else f"{adapter.kind} with DoRA"
    more = sorted(adapter.tensors.keys() - _DIFFUSERS_SUFFIXES) if adapter.kind == "LoRA" else []
    return f"{adapter.kind} with {', '.join(more)}" if more else adapter.kind


def _has_output_magnitude(adapter: Adapter) -> bool:
    """Whether DoRA's magnitude has a number for each output, on factors without a Tucker core."""
    magnitude = adapter.tensors.get("dora_scale")
    return (
        magnitude is not None
        and "lora_mid.weight" not in adapter.tensors
        and magnitude.numel() == adapter.tensors["lora_up.weight"].shape[0]
    )


# --- ComfyUI ---------------------------------------------------------------------------------------------------------


def _comfyui_rows(file: LoraFile) -> Iterator[tuple[str, Tensor]]:
    """`diffusion_model.….lora_up.weight` and so on: names of its own models, suffixes of LyCORIS."""
    unsupported = unsupported_layers(file, "comfyui")
    if unsupported:
        layer_id, kind = next(iter(unsupported.items()))
        raise FileError(f"ComfyUI's key format cannot hold the {kind} at {layer_id}; use kohya's key format")
    for layer_id, adapter in file.adapters.items():
        for suffix, tensor in adapter.tensors.items():
            yield f"{format_comfyui_key(layer_id, file.family)}.{suffix}", tensor


# --- diffusers -------------------------------------------------------------------------------------------------------


def _diffusers_rows(file: LoraFile) -> Iterator[tuple[str, Tensor]]:
    """`unet.….lora_A.weight` and so on (format: what diffusers' `load_lora_weights` takes without conversion).

    diffusers makes one `LoraConfig` a part from it: DoRA in all layers or none, and alpha = the commonest rank in all.
    """
    if file.embeddings or file.unrecognized:
        extra = next(iter(file.embeddings or file.unrecognized))
        raise FileError(
            f"diffusers' key format cannot hold {extra!r} of {file.name}; leave it out, or use kohya's key format"
        )
    ranks: dict[str, int] = {}
    dora: dict[str, bool] = {}
    for layer_id, adapter in file.adapters.items():
        ranks[layer_id.part] = max(ranks.get(layer_id.part, 0), adapter.rank or 0)
        if dora.setdefault(layer_id.part, "dora_scale" in adapter.tensors) != ("dora_scale" in adapter.tensors):
            raise FileError(
                f"diffusers' key format cannot hold {file.name}: DoRA in some of its layers and not in others"
            )
    for layer_id, adapter in file.adapters.items():
        up, down = _factors(layer_id, adapter)
        name, missing = format_peft_key(layer_id), ranks[layer_id.part] - down.shape[0]
        if missing:
            down = torch.cat([down, down.new_zeros(missing, *down.shape[1:])])
            up = torch.cat([up, up.new_zeros(up.shape[0], missing, *up.shape[2:])], dim=1)
        yield f"{name}.lora_A.weight", down
        yield f"{name}.lora_B.weight", up
        if "dora_scale" in adapter.tensors:
            yield f"{name}.lora_magnitude_vector", _magnitude(layer_id, adapter.tensors, down.dim())


def _factors(layer_id: LayerId, adapter: Adapter) -> tuple[Tensor, Tensor]:
    """Up (alpha/rank inside it) and down (a Tucker core inside it) in the file's dtypes. Raises FileError."""
    tensors, low = adapter.tensors, adapter.low_rank()
    if adapter.kind != "LoRA" or tensors.keys() - _DIFFUSERS_SUFFIXES or (low is None and "lora_mid.weight" in tensors):
        raise FileError(f"diffusers' key format cannot hold the {adapter.kind} at {layer_id}; use kohya's key format")
    up, down, scale = tensors["lora_up.weight"], tensors["lora_down.weight"], adapter.scaling()
    if "lora_mid.weight" in tensors and low is not None:
        down = low.down.to(down.dtype)
    if down.dim() > up.dim():
        up = up.reshape(*up.shape, *[1] * (down.dim() - up.dim()))
    return up if scale == 1 else (up.float() * scale).to(up.dtype), down


def _magnitude(layer_id: LayerId, tensors: Mapping[str, Tensor], dims: int) -> Tensor:
    """DoRA's magnitude as PEFT shapes it: (out,) for Linear, (1, out, 1, 1) for Conv2d. Raises FileError."""
    magnitude = tensors["dora_scale"]
    if magnitude.numel() != tensors["lora_up.weight"].shape[0]:
        raise FileError(f"diffusers' key format cannot hold the DoRA per input at {layer_id}; use kohya's key format")
    return magnitude.reshape(1, -1, *[1] * (dims - 2)) if dims > 2 else magnitude.flatten()
