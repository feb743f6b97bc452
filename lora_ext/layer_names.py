"""Where an adapter acts: `LayerId(part, block, leaf)`, and the names that files and models use for it.

A key is never taken apart at its underscores (they are ambiguous). Every name that a U-Net or a CLIP text encoder of
the SD family can have is generated once, flattened where a dialect flattens, and looked up in a dict.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from .blocks import BASE, MID

UNET, TE, TE2 = "unet", "te", "te2"
PARTS = (UNET, TE, TE2)


@dataclass(frozen=True, order=True)
class LayerId:
    """One layer of one part of a model.

    part: "unet", "te" (CLIP-L, or SD2's OpenCLIP-H), "te2" (SDXL's OpenCLIP-bigG).
    block: IN00 … MID … OUT11 in the U-Net ("" for layers outside the blocks), BASE in a text encoder.
    layer: the layer inside its block, in diffusers' words: `attention.transformer_blocks.0.attn1.to_q`,
    `resnet.conv1`, `sampler.conv`, `layers.3.mlp.fc1`. MID has `resnet.0` and `resnet.1`.
    """

    part: str
    block: str
    layer: str

    def __str__(self) -> str:
        return ".".join(filter(None, (self.part, self.block, self.layer)))


# --- the leaves that exist -------------------------------------------------------------------------------------------

_ATTENTION = tuple(f"{attn}.{leaf}" for attn in ("attn1", "attn2") for leaf in ("to_q", "to_k", "to_v", "to_out.0")) + (
    "ff.net.0.proj",
    "ff.net.2",
    "norm1",
    "norm2",
    "norm3",
)
_TRANSFORMER_DEPTH = 12
_RESNET = {  # diffusers leaf -> LDM leaf
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
_TEXT = {  # HF leaf of a layer -> OpenCLIP leaf of a resblock
    "self_attn.q_proj": "attn.q_proj",
    "self_attn.k_proj": "attn.k_proj",
    "self_attn.v_proj": "attn.v_proj",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
}
_TEXT_DEPTH = 48


def _attention_layer_names() -> Iterator[str]:
    yield from ("norm", "proj_in", "proj_out")
    for depth in range(_TRANSFORMER_DEPTH):
        yield from (f"transformer_blocks.{depth}.{leaf}" for leaf in _ATTENTION)


def _unet_names() -> Iterator[tuple[LayerId, str, tuple[str, ...]]]:
    """(site, diffusers name, LDM names) of every layer that a U-Net of the family can have.

    Blocks count in threes: resnet (+ attention), resnet (+ attention), sampler on the way down; three resnets
    (+ attention), the last with a sampler, on the way up (LDM `openaimodel.py`; diffusers `unet_2d_blocks.py`).
    The sampler of an up block has LDM index 1, or 2 where the block holds attention.
    """
    for leaf, ldm in _OUTSIDE.items():
        yield LayerId(UNET, "", leaf), leaf, (ldm,)
    yield LayerId(UNET, "IN00", "conv_in"), "conv_in", ("input_blocks.0.0",)
    for index in range(24):
        down, block = index < 12, f"{'IN' if index < 12 else 'OUT'}{index % 12:02}"
        level, place = divmod(index - 1 if down else index - 12, 3)
        side, ldm = ("down", f"input_blocks.{index}") if down else ("up", f"output_blocks.{index - 12}")
        if down and index and place == 2:
            yield LayerId(UNET, block, "sampler.conv"), f"down_blocks.{level}.downsamplers.0.conv", (f"{ldm}.0.op",)
        elif index:
            yield from _resnet_names(block, "resnet", f"{side}_blocks.{level}.resnets.{place}", f"{ldm}.0")
            yield from _attention_names(block, f"{side}_blocks.{level}.attentions.{place}", f"{ldm}.1")
        if not down and place == 2:
            yield (
                LayerId(UNET, block, "sampler.conv"),
                f"up_blocks.{level}.upsamplers.0.conv",
                (f"{ldm}.2.conv", f"{ldm}.1.conv"),
            )
    yield from _resnet_names(MID, "resnet.0", "mid_block.resnets.0", "middle_block.0")
    yield from _attention_names(MID, "mid_block.attentions.0", "middle_block.1")
    yield from _resnet_names(MID, "resnet.1", "mid_block.resnets.1", "middle_block.2")


def _resnet_names(block: str, role: str, diffusers: str, ldm: str) -> Iterator[tuple[LayerId, str, tuple[str, ...]]]:
    for leaf, ldm_leaf in _RESNET.items():
        yield LayerId(UNET, block, f"{role}.{leaf}"), f"{diffusers}.{leaf}", (f"{ldm}.{ldm_leaf}",)


def _attention_names(block: str, diffusers: str, ldm: str) -> Iterator[tuple[LayerId, str, tuple[str, ...]]]:
    for leaf in _attention_layer_names():
        yield LayerId(UNET, block, f"attention.{leaf}"), f"{diffusers}.{leaf}", (f"{ldm}.{leaf}",)


def _text_names(part: str) -> Iterator[tuple[LayerId, str, tuple[str, ...]]]:
    """(site, HF name, OpenCLIP names) of every layer of a CLIP text encoder."""
    for depth in range(_TEXT_DEPTH):
        for leaf, clip in _TEXT.items():
            hf = f"text_model.encoder.layers.{depth}.{leaf}"
            yield LayerId(part, BASE, f"layers.{depth}.{leaf}"), hf, (f"transformer.resblocks.{depth}.{clip}",)
    yield LayerId(part, BASE, "final_layer_norm"), "text_model.final_layer_norm", ("ln_final",)
    yield LayerId(part, BASE, "text_projection"), "text_projection", ("text_projection",)


@dataclass(frozen=True)
class LayerNameTable:
    """Dotted names of one part: `diffusers` (HF for text) and `ldm` (OpenCLIP for text; preferred name first)."""

    diffusers: dict[LayerId, str]
    ldm: dict[LayerId, tuple[str, ...]]
    layer_ids: dict[str, LayerId]


@cache
def layer_name_table(part: str) -> LayerNameTable:
    """The table of one part's names, made once."""
    rows = list(_unet_names() if part == UNET else _text_names(part))
    sites = {name: site for site, diffusers, ldm in rows for name in (diffusers, *ldm)}
    return LayerNameTable({s: d for s, d, _ in rows}, {s: n for s, _, n in rows}, sites)


# --- models ----------------------------------------------------------------------------------------------------------

_ROOTS = ("", "model.", "diffusion_model.", "transformer.", "wrapped.", "text_model.")
"""What a live module's own names may carry in front of the names above (stripped), by who wraps it."""


def find_layer_id(part: str, name: str) -> LayerId | None:
    """The site of a live module called `name` (dotted, relative to its part's root), or None."""
    table = layer_name_table(part).layer_ids
    for root in _ROOTS:
        site = table.get(name.removeprefix(root)) or table.get(root + name)
        if site is not None:
            return site
    return None


def index_layers(part: str, module_names: Iterable[str]) -> dict[LayerId, str]:
    """Site → the live module's own name, for every module name that is a site of `part`."""
    found = ((find_layer_id(part, name), name) for name in module_names)
    return {site: name for site, name in found if site is not None}


# --- file keys -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeyPrefix:
    """One way in which files begin a key: `text` before the name of a layer of `part`."""

    text: str
    part: str
    is_flattened: bool
    """Whether dots of the layer's name are written as underscores."""


KOHYA_PREFIXES = (
    KeyPrefix("lora_unet_", UNET, True),
    KeyPrefix("lora_te_", TE, True),
    KeyPrefix("lora_te1_", TE, True),
    KeyPrefix("lora_te2_", TE2, True),
    KeyPrefix("oft_unet_", UNET, True),
    KeyPrefix("diffusion_model_", UNET, True),
    KeyPrefix("lycoris_unet_", UNET, True),
    KeyPrefix("lycoris_te_", TE, True),
    KeyPrefix("lycoris_te1_", TE, True),
    KeyPrefix("lycoris_te2_", TE2, True),
    KeyPrefix("lycoris_", UNET, True),
    KeyPrefix("lycoris_", TE, True),
)
"""Keys `<prefix><flattened name>.<suffix>`: kohya's scripts, LyCORIS, kohya's OFT, the built-in extension's own."""

DOTTED_PREFIXES = (
    KeyPrefix("unet.", UNET, False),
    KeyPrefix("text_encoder.", TE, False),
    KeyPrefix("text_encoder_2.", TE2, False),
    KeyPrefix("base_model.model.unet.", UNET, False),
    KeyPrefix("base_model.model.text_encoder.", TE, False),
    KeyPrefix("base_model.model.", UNET, False),
    KeyPrefix("base_model.model.", TE, False),
    KeyPrefix("diffusion_model.", UNET, False),
    KeyPrefix("model.diffusion_model.", UNET, False),
    KeyPrefix("text_encoders.clip_l.transformer.", TE, False),
    KeyPrefix("text_encoders.clip_h.transformer.", TE, False),
    KeyPrefix("text_encoders.clip_g.transformer.", TE2, False),
    KeyPrefix("", UNET, False),
    KeyPrefix("", TE, False),
)
"""Keys `<prefix><dotted name>.<suffix>`: diffusers pipelines, attention-processor files, PEFT, ComfyUI."""

SUFFIX_ALIASES = {
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora.down.weight": "lora_down.weight",
    "lora.up.weight": "lora_up.weight",
    "lora_linear_layer.down.weight": "lora_down.weight",
    "lora_linear_layer.up.weight": "lora_up.weight",
    "lora_conv2d_layer.down.weight": "lora_down.weight",
    "lora_conv2d_layer.up.weight": "lora_up.weight",
    "lora_magnitude_vector.weight": "lora_magnitude_vector",
    "network_alpha": "alpha",
}
"""Suffixes of other dialects → the suffix that adapters know."""

_PROCESSOR = re.compile(r"(?:\.processor)?\.to_(q|k|v|out)_lora\.(down|up)\.weight$")
"""Attention-processor files name the projection inside the suffix (diffusers before 0.22); so do the text encoders of
diffusers 0.15 and 0.16, by the U-Net's names and without a processor."""

_NAMED = re.compile(r"\.(lora_[AB]|lora_magnitude_vector)\.(?!weight$)[^.]+(\.weight)?$")
"""PEFT's suffixes with the adapter's own name inside: `lora_A.default.weight`."""


@cache
def _lookup(flat: bool) -> dict[str, LayerId]:
    table: dict[str, LayerId] = {}
    for prefix in KOHYA_PREFIXES if flat else DOTTED_PREFIXES:
        for name, site in layer_name_table(prefix.part).layer_ids.items():
            table.setdefault(prefix.text + (name.replace(".", "_") if flat else name), site)
    return table


def parse_layer_key(key: str, suffixes: Iterable[str]) -> tuple[LayerId, str] | None:
    """A file's key → (site, suffix in the adapters' words), or None when it names no known layer.

    `suffixes` are those that adapters know (`adapters.SUFFIXES`).
    """
    head, _, suffix = key.partition(".")
    site = _lookup(flat=True).get(head)
    if site is not None:
        return site, SUFFIX_ALIASES.get(suffix, suffix)
    match = _PROCESSOR.search(key)
    if match:
        text = key[: match.start()].endswith(".self_attn")
        leaf = f"{match[1]}_proj" if text else "to_out.0" if match[1] == "out" else f"to_{match[1]}"
        key = f"{key[: match.start()]}.{leaf}.lora_{match[2]}.weight"
    else:
        key = _NAMED.sub(r".\1.weight", key)
    for known in (*SUFFIX_ALIASES, *suffixes):
        if key.endswith("." + known):
            site = _lookup(flat=False).get(key[: -len(known) - 1])
            if site is not None:
                return site, SUFFIX_ALIASES.get(known, known)
    return None


def format_kohya_key(layer_id: LayerId, *, sdxl: bool = False) -> str:
    """The name kohya's scripts write: diffusers names, or LDM names with numbered text encoders for SDXL."""
    table = layer_name_table(layer_id.part)
    unet_name = table.ldm[layer_id][0] if sdxl and layer_id.part == UNET else table.diffusers[layer_id]
    prefix = {UNET: "lora_unet_", TE: "lora_te1_" if sdxl else "lora_te_", TE2: "lora_te2_"}[layer_id.part]
    return prefix + unet_name.replace(".", "_")


def format_peft_key(layer_id: LayerId) -> str:
    """The name that diffusers pipelines write and read (PEFT)."""
    prefix = {UNET: "unet.", TE: "text_encoder.", TE2: "text_encoder_2."}[layer_id.part]
    return prefix + layer_name_table(layer_id.part).diffusers[layer_id]


def element_rule_names(layer_id: LayerId) -> tuple[str, ...]:
    """Flattened names of a layer that element rules (`lbwe=`) may match a part of."""
    table = layer_name_table(layer_id.part)
    return tuple(n.replace(".", "_") for n in (table.diffusers[layer_id], *table.ldm[layer_id]))
