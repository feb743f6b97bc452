"""Files of cloneofsimo/lora, whose layers have numbers instead of names.

Number i counts the Linear (extended: and Conv2d) layers below modules of the target classes, in the order in which
the model's constructors registered them (its `lora_diffusion/lora.py`, `_find_modules_v2`). In diffusers of that
time (0.10, 0.11): the U-Net registers down blocks, up blocks, and the middle last; a block its attentions before its
resnets; `BasicTransformerBlock` attn1, ff, attn2 (later versions attn1, attn2, ff). CLIP's attention registers k, v,
q, out. The shapes distinguish these variants.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

from torch import Tensor

from ..adapters import Adapter
from ..counted_words import counted
from ..errors import FileError
from ..json_text import parse_json
from ..layer_names import TE, UNET, LayerId, find_layer_id
from .containers import FileContents, load_tensors
from .layer_check import DamagedLayer, adapter_if_sound
from .lora_file import LoraFile

TOKEN_METADATA_VALUE = "<embed>"
"""Metadata value of a token's tensor."""

_ATTENTION = ("CrossAttention", "Attention")
DEFAULT_TARGET_CLASSES = frozenset({*_ATTENTION, "GEGLU"})
EXTENDED_TARGET_CLASSES = DEFAULT_TARGET_CLASSES | {"ResnetBlock2D"}
TEXT_TARGET_CLASSES = frozenset({"CLIPAttention"})
KNOWN_TARGET_CLASSES = {UNET: EXTENDED_TARGET_CLASSES, TE: TEXT_TARGET_CLASSES | {"CLIPMLP"}}
"""Target classes whose order is known."""

_NEW, _OLD = ("attn1", "attn2", "ff"), ("attn1", "ff", "attn2")
_PARTS = {"unet": UNET, "text_encoder": TE}
FactorPair = tuple[Tensor, Tensor]


# --- the order -------------------------------------------------------------------------------------------------------


def unet_layer_order(classes: Iterable[str], inner: Sequence[str] = _OLD) -> list[LayerId]:
    """Lists the layers of an SD1 or SD2 U-Net in cloneofsimo's order.

    Args:
        classes: the target classes.
        inner: the order inside a transformer block.

    Returns:
        The layer ids; number i of a file is the i-th.

    Raises:
        FileError: the order is not known for a class.
    """
    chosen = _known(UNET, classes)
    names: list[str] = []
    for level in range(4):
        attentions = 2 if level < 3 else 0
        names += _block(f"down_blocks.{level}", attentions, 2, chosen, inner, shortcuts=(0,) if level in (1, 2) else ())
    for level in range(4):
        attentions = 3 if level > 0 else 0
        names += _block(f"up_blocks.{level}", attentions, 3, chosen, inner, shortcuts=(0, 1, 2))
    names += _block("mid_block", 1, 2, chosen, inner, shortcuts=())
    return _layer_ids(UNET, names)


def text_layer_order(classes: Iterable[str], layers: int) -> list[LayerId]:
    """Lists the layers of a CLIP text encoder in cloneofsimo's order.

    Args:
        classes: the target classes.
        layers: number of the encoder's blocks.

    Returns:
        The layer ids; number i of a file is the i-th.

    Raises:
        FileError: the order is not known for a class.
    """
    chosen = _known(TE, classes)
    names: list[str] = []
    for layer in range(layers):
        root = f"text_model.encoder.layers.{layer}"
        if "CLIPAttention" in chosen:
            names += [f"{root}.self_attn.{projection}_proj" for projection in ("k", "v", "q", "out")]
        if "CLIPMLP" in chosen:
            names += [f"{root}.mlp.fc1", f"{root}.mlp.fc2"]
    return _layer_ids(TE, names)


def _block(
    root: str, attentions: int, resnets: int, chosen: frozenset[str], inner: Sequence[str], shortcuts: Sequence[int]
) -> Iterator[str]:
    """Names of one block's layers: its attentions, then its resnets."""
    for index in range(attentions):
        base = f"{root}.attentions.{index}.transformer_blocks.0"
        for role in inner:
            if role == "ff" and "GEGLU" in chosen:
                yield f"{base}.ff.net.0.proj"
            elif role != "ff" and chosen & set(_ATTENTION):
                yield from (f"{base}.{role}.{layer}" for layer in ("to_q", "to_k", "to_v", "to_out.0"))
    if "ResnetBlock2D" in chosen:
        for index in range(resnets):
            layers = ("conv1", "time_emb_proj", "conv2", *(("conv_shortcut",) if index in shortcuts else ()))
            yield from (f"{root}.resnets.{index}.{layer}" for layer in layers)


def _known(part: str, classes: Iterable[str]) -> frozenset[str]:
    chosen = frozenset(classes)
    if not chosen or not chosen <= KNOWN_TARGET_CLASSES[part]:
        raise FileError(
            f"it targets the module classes {', '.join(sorted(chosen)) or '(none)'}; "
            f"accepted are {', '.join(sorted(KNOWN_TARGET_CLASSES[part]))}"
        )
    return chosen


def _layer_ids(part: str, names: Iterable[str]) -> list[LayerId]:
    found = [find_layer_id(part, name) for name in names]
    assert None not in found
    return [layer_id for layer_id in found if layer_id is not None]


# --- which order fits ------------------------------------------------------------------------------------------------


def match_layer_order(part: str, pairs: Sequence[FactorPair], classes: Iterable[str] | None) -> list[LayerId]:
    """Finds the order of layers that the count and the shapes of a file's factors match.

    Args:
        part: "unet" or "te".
        pairs: (up, down) of each number.
        classes: the target classes in the metadata; None where the file has none.

    Returns:
        The layer id of each pair.

    Raises:
        FileError: neither count nor shapes match a known order.
    """
    shapes = [(tuple(up.shape), tuple(down.shape)) for up, down in pairs]
    for up, down in shapes:
        if len(up) < 2 or len(down) != len(up) or up[1] != down[0] or any(size != 1 for size in up[2:]):
            raise FileError(f"layer {shapes.index((up, down))} of {part} has factors of shapes {up} and {down}")
    candidates = list(_candidates(part, len(pairs), classes))
    for layer_ids in candidates:
        if len(layer_ids) == len(pairs) and not _misfit(layer_ids, shapes):
            return layer_ids
    counts = sorted({len(layer_ids) for layer_ids in candidates})
    if len(pairs) not in counts:
        raise FileError(
            f"it has {counted(len(pairs), f'numbered {part} layer')}; accepted are {' or '.join(map(str, counts))}"
        )
    layer_ids = next(layer_ids for layer_ids in candidates if len(layer_ids) == len(pairs))
    raise FileError(f"its {part} layers match no known order: {_misfit(layer_ids, shapes)}")


def _candidates(part: str, count: int, classes: Iterable[str] | None) -> Iterator[list[LayerId]]:
    if part == TE:
        for chosen in [frozenset(classes)] if classes is not None else [TEXT_TARGET_CLASSES, KNOWN_TARGET_CLASSES[TE]]:
            each = len(text_layer_order(chosen, 1))
            yield text_layer_order(chosen, max(1, min(count // each, 48)))
        return
    options = (
        [frozenset(classes)]
        if classes is not None
        else [DEFAULT_TARGET_CLASSES, EXTENDED_TARGET_CLASSES, frozenset(_ATTENTION)]
    )
    for chosen in options:
        for inner in (_OLD, _NEW):
            yield unet_layer_order(chosen, inner)


def _misfit(layer_ids: Sequence[LayerId], shapes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> str | None:
    """What contradicts this order, or None. Layers of one transformer block share a width, and so on."""
    widths: dict[str, int] = {}

    def same(what: str, number: int) -> bool:
        return widths.setdefault(what, number) == number

    for index, (layer_id, (up, down)) in enumerate(zip(layer_ids, shapes, strict=True)):
        out, into = up[0], down[1]
        layer = layer_id.layer.rpartition(".transformer_blocks.0.")[2]
        block = f"the width of {layer_id.block}"
        if layer.startswith("resnet"):
            kernel = 3 if layer.endswith((".conv1", ".conv2")) else 1
            fits = down[2:] == (() if layer.endswith("time_emb_proj") else (kernel, kernel)) and same(block, out)
        elif len(down) != 2:
            fits = False
        elif layer == "ff.net.0.proj":
            fits = out == 8 * into and same(block, into)
        elif layer in ("attn2.to_k", "attn2.to_v"):
            fits = same(block, out) and same("the width of the text", into)
        elif layer.startswith("layers."):
            wide = "mlp.fc1" in layer or "mlp.fc2" in layer
            fits = wide or (out == into and same("the width of the text encoder", out))
        else:
            fits = out == into and same(block, out)
        if not fits:
            return (
                f"layer {index} would be {layer_id}, but has {into} inputs, {out} outputs, kernel {down[2:] or 'none'}"
            )
    return None


# --- files -----------------------------------------------------------------------------------------------------------


def is_tensor_list(raw: object) -> TypeGuard[list[Tensor]]:
    """Whether a torch file holds a bare list: alternating up, down."""
    return isinstance(raw, list)


def is_token_file(path: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a torch file is the `.ti.pt` beside a LoRA: token → vector."""
    return path.name.lower().endswith(".ti.pt") and bool(tensors) and all(t.dim() <= 2 for t in tensors.values())


def has_numbered_keys(keys: Iterable[str]) -> bool:
    """Whether a file's keys are `unet:0:up` and the like."""
    return any(map(_parse_numbered_key, keys))


def _parse_numbered_key(key: str) -> tuple[str, int, str] | None:
    """`unet:7:up` → (part, 7, "up")."""
    fields = key.split(":") if ":" in key else ()
    if len(fields) != 3 or fields[0] not in _PARTS or not fields[1].isdecimal() or fields[2] not in ("up", "down"):
        return None
    return (_PARTS[fields[0]], int(fields[1]), fields[2]) if len(fields[1]) < 6 else None


def load_cloneofsimo_torch(path: Path, contents: FileContents) -> LoraFile:
    """Loads a `.pt` list together with `.text_encoder.pt` and `.ti.pt` beside it, or one of these alone.

    The result has no keys of its own: it is written in kohya's key format, its tokens as `bundle_emb`.

    Args:
        path: the file.
        contents: what it holds.

    Returns:
        The file.

    Raises:
        FileError: its tensors match no known order of layers, or a file beside it cannot be read.
    """
    layers: dict[LayerId, FactorPair] = {}
    tokens = contents.tensors
    if is_tensor_list(contents.raw):
        text_alone = path.name.lower().endswith(".text_encoder.pt")
        layers.update(_listed(TE if text_alone else UNET, contents.raw))
        stem = path.with_suffix("")
        sibling = stem.with_name(stem.name + ".text_encoder.pt")
        if not text_alone and sibling.is_file():
            other = load_tensors(sibling)
            if not is_tensor_list(other.raw):
                raise FileError(f"{sibling}, which belongs to it, is not a list of tensors")
            layers.update(_listed(TE, other.raw))
        sibling = stem.with_name(stem.name + ".ti.pt")
        if not text_alone and sibling.is_file():
            tokens = load_tensors(sibling).tensors
    embeddings = {name: {"emb_params": _rows(tensor)} for name, tensor in tokens.items()}
    adapters: dict[LayerId, Adapter] = {}
    damaged: dict[LayerId, DamagedLayer] = {}
    unrecognized: dict[str, Tensor] = {}
    for layer_id, pair in layers.items():
        keys = [f"{layer_id}.lora_{end}.weight" for end in ("up", "down")]
        adapter = _adapter(layer_id, pair, keys, damaged)
        if adapter is None:
            unrecognized.update(zip(keys, pair, strict=True))
        else:
            adapters[layer_id] = adapter
    return LoraFile(adapters, {}, embeddings, unrecognized, key_format="cloneofsimo", path=path, damaged=damaged)


def _rows(tensor: Tensor) -> Tensor:
    """A token's vectors as (tokens, width)."""
    return tensor.unsqueeze(0) if tensor.dim() == 1 else tensor


def _listed(part: str, tensors: Sequence[Tensor]) -> dict[LayerId, FactorPair]:
    if len(tensors) % 2:
        raise FileError(f"its list of {counted(len(tensors), 'tensor')} does not consist of pairs (up, down)")
    pairs = list(zip(tensors[::2], tensors[1::2], strict=True))
    return dict(zip(match_layer_order(part, pairs, None), pairs, strict=True))


def _adapter(
    layer_id: LayerId, pair: FactorPair, keys: Sequence[str], damaged: dict[LayerId, DamagedLayer]
) -> Adapter | None:
    """A LoRA layer without alpha: its scale is 1. None where it is damaged."""
    return adapter_if_sound(layer_id, {"lora_up.weight": pair[0], "lora_down.weight": pair[1]}, keys, damaged)


def load_cloneofsimo_safetensors(path: Path, contents: FileContents) -> LoraFile:
    """Makes a `LoraFile` from a safetensors file of cloneofsimo's, with `<token>` tensors.

    Args:
        path: the file.
        contents: what it holds.

    Returns:
        The file.

    Raises:
        FileError: its tensors match no known order of layers.
    """
    layers: dict[str, dict[int, dict[str, Tensor]]] = {}
    names: dict[tuple[str, int, str], str] = {}
    embeddings: dict[str, dict[str, Tensor]] = {}
    embedding_keys: dict[tuple[str, str], str] = {}
    unrecognized: dict[str, Tensor] = {}
    for key, tensor in contents.tensors.items():
        found = _parse_numbered_key(key)
        if found:
            if found in names:
                raise FileError(f"{names[found]!r} and {key!r} are the same layer")
            names[found] = key
            layers.setdefault(found[0], {}).setdefault(found[1], {})[found[2]] = tensor
        elif contents.metadata.get(key) == TOKEN_METADATA_VALUE:
            embeddings[key] = {"emb_params": tensor}
            embedding_keys[key, "emb_params"] = key
        else:
            unrecognized[key] = tensor
    adapters: dict[LayerId, Adapter] = {}
    damaged: dict[LayerId, DamagedLayer] = {}
    keys: dict[tuple[LayerId, str], str] = {}
    for part, numbered in layers.items():
        pairs = [_pair(part, numbered, i) for i in range(len(numbered))]
        for i, layer_id in enumerate(match_layer_order(part, pairs, _classes(part, contents.metadata))):
            own = {f"lora_{end}.weight": names[part, i, end] for end in ("up", "down")}
            adapter = _adapter(layer_id, pairs[i], list(own.values()), damaged)
            if adapter is None:
                unrecognized.update(zip(own.values(), pairs[i], strict=True))
                continue
            adapters[layer_id] = adapter
            keys.update({(layer_id, suffix): key for suffix, key in own.items()})
    return LoraFile(
        adapters,
        contents.metadata,
        embeddings,
        unrecognized,
        keys,
        embedding_keys,
        key_format="cloneofsimo",
        path=path,
        damaged=damaged,
    )


def _pair(part: str, numbered: Mapping[int, Mapping[str, Tensor]], index: int) -> FactorPair:
    pair = numbered.get(index, {})
    if len(pair) != 2:
        raise FileError(f"layer {index} of {part} lacks {' and '.join(sorted({'up', 'down'} - pair.keys()))}")
    return pair["up"], pair["down"]


def _classes(part: str, metadata: Mapping[str, str]) -> list[str] | None:
    """The target classes that the metadata names for a part, None when it names none. Raises FileError."""
    text = metadata.get(next(name for name, own in _PARTS.items() if own == part))
    if text is None:
        return None
    try:
        classes = parse_json(text)
    except ValueError:
        classes = None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise FileError(f"its metadata has no list of target classes for {part}: {text[:80]!r}")
    return classes
