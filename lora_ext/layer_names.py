"""Layer ids, and the names that LoRA files and models use for a layer.

A flattened key such as `lora_unet_down_blocks_0_attentions_0_proj_in` cannot be split at its underscores, since layer
names contain underscores too. So every name that a U-Net or a CLIP text encoder of the SD family can have is generated
once, flattened where a key format flattens names, and looked up in a dict.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from .blocks import BASE, MID

UNET, TE, TE2 = "unet", "te", "te2"
PARTS = (UNET, TE, TE2)


class LayerId(NamedTuple):
    """One layer of one part of a model. A tuple, since its hash is computed several times for each change of a weight.

    Attributes:
        part: "unet", "te" (CLIP-L, or OpenCLIP-H in SD2) or "te2" (OpenCLIP-bigG in SDXL).
        block: the block label: IN00 to OUT11 or MID in the U-Net, "" for U-Net layers outside the blocks, BASE in a
            text encoder.
        layer: the name inside the block, as in diffusers: `attention.transformer_blocks.0.attn1.to_q`,
            `resnet.conv1`, `sampler.conv`, `layers.3.mlp.fc1`. MID has `resnet.0` and `resnet.1`.

    Example:
        >>> str(LayerId("unet", "IN04", "resnet.conv1"))
        'unet.IN04.resnet.conv1'
    """

    part: str
    block: str
    layer: str

    def __str__(self) -> str:
        return ".".join(filter(None, (self.part, self.block, self.layer)))


# --- the layers that exist -------------------------------------------------------------------------------------------

_ATTENTION = tuple(f"{attn}.{name}" for attn in ("attn1", "attn2") for name in ("to_q", "to_k", "to_v", "to_out.0")) + (
    "ff.net.0.proj",
    "ff.net.2",
    "norm1",
    "norm2",
    "norm3",
)
_TRANSFORMER_DEPTH = 12  # SDXL has 10 transformer blocks in a row, the other families 1
_RESNET = {  # diffusers name -> LDM name
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {  # U-Net layers outside the blocks: diffusers -> LDM
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_TEXT = {  # name in a transformers CLIP layer -> name in an OpenCLIP resblock
    "self_attn.q_proj": "attn.q_proj",
    "self_attn.k_proj": "attn.k_proj",
    "self_attn.v_proj": "attn.v_proj",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
}
_TEXT_DEPTH = 48  # OpenCLIP-bigG has 32 layers, OpenCLIP-H 24, CLIP-L 12


def _attention_layer_names() -> Iterator[str]:
    yield from ("norm", "proj_in", "proj_out")
    for depth in range(_TRANSFORMER_DEPTH):
        yield from (f"transformer_blocks.{depth}.{layer}" for layer in _ATTENTION)


def _unet_names() -> Iterator[tuple[LayerId, str, tuple[str, ...]]]:
    """(layer id, diffusers name, LDM names) of every layer that a U-Net of the family can have.

    A level has three blocks. Going down: resnet (+ attention), resnet (+ attention), downsampler. Going up: three
    resnets (+ attention), the last with an upsampler (LDM `openaimodel.py`; diffusers `unet_2d_blocks.py`).
    The upsampler has LDM index 1 in its block, or 2 where the block has attention.
    """
    for layer, ldm in _OUTSIDE.items():
        yield LayerId(UNET, "", layer), layer, (ldm,)
    yield LayerId(UNET, "IN00", "conv_in"), "conv_in", ("input_blocks.0.0",)
    for index in range(24):
        down, block = index < 12, f"{'IN' if index < 12 else 'OUT'}{index % 12:02}"
        level, position = divmod(index - 1 if down else index - 12, 3)
        side, ldm = ("down", f"input_blocks.{index}") if down else ("up", f"output_blocks.{index - 12}")
        if down and index and position == 2:
            yield LayerId(UNET, block, "sampler.conv"), f"down_blocks.{level}.downsamplers.0.conv", (f"{ldm}.0.op",)
        elif index:
            yield from _resnet_names(block, "resnet", f"{side}_blocks.{level}.resnets.{position}", f"{ldm}.0")
            yield from _attention_names(block, f"{side}_blocks.{level}.attentions.{position}", f"{ldm}.1")
        if not down and position == 2:
            yield (
                LayerId(UNET, block, "sampler.conv"),
                f"up_blocks.{level}.upsamplers.0.conv",
                (f"{ldm}.2.conv", f"{ldm}.1.conv"),
            )
    yield from _resnet_names(MID, "resnet.0", "mid_block.resnets.0", "middle_block.0")
    yield from _attention_names(MID, "mid_block.attentions.0", "middle_block.1")
    yield from _resnet_names(MID, "resnet.1", "mid_block.resnets.1", "middle_block.2")


def _resnet_names(block: str, role: str, diffusers: str, ldm: str) -> Iterator[tuple[LayerId, str, tuple[str, ...]]]:
    for layer, ldm_layer in _RESNET.items():
        yield LayerId(UNET, block, f"{role}.{layer}"), f"{diffusers}.{layer}", (f"{ldm}.{ldm_layer}",)


def _attention_names(block: str, diffusers: str, ldm: str) -> Iterator[tuple[LayerId, str, tuple[str, ...]]]:
    for layer in _attention_layer_names():
        yield LayerId(UNET, block, f"attention.{layer}"), f"{diffusers}.{layer}", (f"{ldm}.{layer}",)


def _text_names(part: str) -> Iterator[tuple[LayerId, str, tuple[str, ...]]]:
    """(layer id, transformers name, OpenCLIP names) of every layer of a CLIP text encoder."""
    for depth in range(_TEXT_DEPTH):
        for layer, clip in _TEXT.items():
            hf = f"text_model.encoder.layers.{depth}.{layer}"
            yield LayerId(part, BASE, f"layers.{depth}.{layer}"), hf, (f"transformer.resblocks.{depth}.{clip}",)
    yield LayerId(part, BASE, "final_layer_norm"), "text_model.final_layer_norm", ("ln_final",)
    yield LayerId(part, BASE, "text_projection"), "text_projection", ("text_projection",)


@dataclass(frozen=True)
class LayerNameTable:
    """Dotted names of all layers of one part.

    Attributes:
        diffusers: layer id → name in diffusers (of a text encoder: in transformers).
        ldm: layer id → names in LDM checkpoints (of a text encoder: in OpenCLIP), the preferred name first.
        layer_ids: any of these names → layer id.
    """

    diffusers: dict[LayerId, str]
    ldm: dict[LayerId, tuple[str, ...]]
    layer_ids: dict[str, LayerId]

    def ldm_name(self, layer_id: LayerId, family: str) -> str:
        """The layer's name in an LDM checkpoint of a family.

        The upsampler of a block without attention has index 1: in SD1 and SD2 that is OUT02, in SDXL none.
        """
        names = self.ldm[layer_id]
        without_attention = layer_id.block == "OUT02" and family != "SDXL"
        return names[1] if without_attention and layer_id.layer == "sampler.conv" else names[0]


@cache
def layer_name_table(part: str) -> LayerNameTable:
    """Returns the names of all layers of a part. The table is made once and cached.

    Args:
        part: "unet", "te" or "te2".

    Returns:
        The table.
    """
    rows = list(_unet_names() if part == UNET else _text_names(part))
    layer_ids = {name: layer_id for layer_id, diffusers, ldm in rows for name in (diffusers, *ldm)}
    return LayerNameTable({s: d for s, d, _ in rows}, {s: n for s, _, n in rows}, layer_ids)


# --- models ----------------------------------------------------------------------------------------------------------

_ROOTS = ("", "model.", "diffusion_model.", "transformer.", "wrapped.", "text_model.")
"""Prefixes that wrappers (the web UI, OpenCLIP, compiled modules) put before a module's name, or leave out."""


def find_layer_id(part: str, name: str) -> LayerId | None:
    """Finds the layer id of a module in a loaded model.

    Args:
        part: "unet", "te" or "te2".
        name: the module's dotted name relative to the root module of its part.

    Returns:
        The layer id, or None for a module that is no layer of the SD family.

    Example:
        >>> find_layer_id("unet", "input_blocks.1.1.transformer_blocks.0.attn1.to_q")
        LayerId(part='unet', block='IN01', layer='attention.transformer_blocks.0.attn1.to_q')
        >>> find_layer_id("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q").block
        'IN01'
    """
    table = layer_name_table(part).layer_ids
    for root in _ROOTS:
        layer_id = table.get(name.removeprefix(root)) or table.get(root + name)
        if layer_id is not None:
            return layer_id
    return None


# --- file keys -------------------------------------------------------------------------------------------------------


def element_rule_names(layer_id: LayerId) -> tuple[str, ...]:
    """Returns the flattened names of a layer in which element rules (`lbwe=`) search.

    Args:
        layer_id: the layer.

    Returns:
        diffusers' name and LDM's names.
    """
    table = layer_name_table(layer_id.part)
    return tuple(n.replace(".", "_") for n in (table.diffusers[layer_id], *table.ldm[layer_id]))
