"""One alpha for all layers of a part of the model, so that diffusers reads a file with kohya's keys at its strength.

diffusers turns the alphas of such a file into PEFT's `alpha_pattern`, but under names that no attention layer has
(`diffusers.utils.peft_utils.get_peft_kwargs`, 0.39). Attention layers then get the commonest alpha of their part. Ranks
may differ: they are taken from the tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch

from ..adapters import Adapter, Lora
from ..layer_names import PARTS, LayerId
from .report import ToolReport

_ATTENTION_NAMES = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")


def is_misread_by_diffusers(adapters: Mapping[LayerId, Adapter], part: str) -> bool:
    """Whether diffusers would give an attention layer of a part another alpha than the file's.

    False where it reads no such file at all, since some layer is no LoRA.
    """
    loras = {layer_id: adapter for layer_id, adapter in adapters.items() if layer_id.part == part}
    if not all(isinstance(adapter, Lora) for adapter in loras.values()):
        return False
    commonest = Counter(layer_alpha(adapter) for adapter in loras.values()).most_common(1)
    return any(
        isinstance(adapter, Lora) and layer_alpha(adapter) != commonest[0][0] and bool(adapter.factors().up.any())
        for layer_id, adapter in loras.items()
        if is_attention_layer(layer_id)
    )


def is_attention_layer(layer_id: LayerId) -> bool:
    """Whether the layer is a projection of an attention.

    Example:
        >>> is_attention_layer(LayerId("unet", "MID", "attention.transformer_blocks.0.attn1.to_out.0"))
        True
    """
    return layer_id.layer.endswith(_ATTENTION_NAMES)


def layer_alpha(adapter: Adapter) -> float:
    """The alpha that gives the layer its scale: alpha / rank = `scaling()`, rounded as files store it."""
    return float(torch.tensor(adapter.scaling() * (adapter.rank or 1)))


def with_constant_alphas(adapters: Mapping[LayerId, Adapter], report: ToolReport) -> dict[LayerId, Adapter]:
    """Gives all layers of a part one alpha where diffusers would misread the file, and where that loses nothing.

    The rest of a layer's scale is multiplied into its factors: in float32, or where the product is exact in 16 bits. A
    rank may be padded with zeros for that, to less than twice its size. Where a part cannot be changed without loss it
    stays as it is, and the report says so.

    Args:
        adapters: the layers of a result in kohya's key format.
        report: gets the note.

    Returns:
        The layers, with the same ΔW.
    """
    result = dict(adapters)
    misread = [part for part in PARTS if is_misread_by_diffusers(result, part)]
    if not misread:
        return result
    for part in misread:
        layer_ids = [layer_id for layer_id in result if layer_id.part == part]
        alpha = Counter(layer_alpha(result[s]) for s in layer_ids if is_attention_layer(s)).most_common(1)[0][0]
        loras = {s: a for s in layer_ids if isinstance(a := result[s], Lora)}
        changed = {layer_id: made for layer_id, lora in loras.items() if (made := lora.with_alpha(alpha)) is not None}
        if len(changed) == len(layer_ids):
            result |= changed
    note_misread_alphas(result, report)
    return result


def note_misread_alphas(adapters: Mapping[LayerId, Adapter], report: ToolReport) -> None:
    """Adds a note where a result has several alphas that diffusers would not read as they are.

    Args:
        adapters: the layers of a result in kohya's key format.
        report: gets the note.
    """
    if any(is_misread_by_diffusers(adapters, part) for part in PARTS):
        report.add_note(
            "diffusers ignores the alphas of single attention layers and would read this file at another strength; "
            "other programs read it right. For diffusers: convert --to diffusers"
        )


def alphas_at_new_ranks(adapters: Mapping[LayerId, Adapter], rank: int, dynamic: bool) -> dict[str, float]:
    """The alpha of all layers of a part, for parts whose layers cannot keep alpha / rank without having several alphas.

    Args:
        adapters: the layers of the source.
        rank: the highest rank of the result.
        dynamic: whether layers get ranks of their own.

    Returns:
        Part → the alpha that its commonest scale has at the highest rank.
    """
    alphas: dict[str, float] = {}
    for part in PARTS:
        loras = {s: a for s, a in adapters.items() if s.part == part and isinstance(a, Lora) and a.scaling() > 0}
        scales = Counter(adapter.scaling() for layer_id, adapter in loras.items() if is_attention_layer(layer_id))
        if dynamic or len(scales) > 1:
            highest = min(rank, max((adapter.rank for adapter in loras.values()), default=rank))
            alphas[part] = (scales.most_common(1)[0][0] if scales else 1.0) * highest
    return alphas
