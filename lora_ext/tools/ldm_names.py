"""Names of a diffusers model's tensors in an LDM checkpoint (CompVis' and Stability AI's layout), network by network.

OpenCLIP stacks q, k and v of an attention in one tensor and stores the text projection transposed; the autoencoder's
attention has 1x1 convolutions where diffusers has Linear layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ToolError
from ..layer_names import TE, UNET, layer_name_table
from ..ldm_keys import (
    LDM_UNET_PREFIX,
    LDM_VAE_PREFIX,
    SD1_CLIP_PREFIX,
    SD2_OPEN_CLIP_PREFIX,
    SDXL_CLIP_PREFIX,
    SDXL_OPEN_CLIP_PREFIX,
)

TEXT_PREFIXES = {
    "SD1": {"text_encoder": SD1_CLIP_PREFIX},
    "SD2": {"text_encoder": SD2_OPEN_CLIP_PREFIX},
    "SDXL": {"text_encoder": SDXL_CLIP_PREFIX, "text_encoder_2": SDXL_OPEN_CLIP_PREFIX},
}
"""Family → subfolder of a text encoder → the prefix of its tensors in an LDM checkpoint."""

_VAE_ATTENTION = {
    "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
    "query": "q", "key": "k", "value": "v", "proj_attn": "proj_out",
}  # fmt: skip
"""diffusers name (today's, and that of releases before 0.17) → LDM name."""


@dataclass(frozen=True)
class LdmTensor:
    """One tensor of an LDM checkpoint and the tensors of a diffusers network that it is made of.

    Attributes:
        name: its name in the checkpoint.
        sources: names in the network; several are stacked along the first axis.
        transposed: whether it is the transpose of its source.
        as_kernel: whether a matrix becomes a 1x1 kernel.
    """

    name: str
    sources: tuple[str, ...]
    transposed: bool = False
    as_kernel: bool = False

    def build(self, tensors: Iterable[Tensor]) -> Tensor:
        """The tensor, made of its sources in their order; also of tensors on the meta device."""
        parts = list(tensors)
        made = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.as_kernel and made.dim() == 2:
            made = made[:, :, None, None]
        return made.T if self.transposed else made

    def split(self, tensor: Tensor) -> list[Tensor]:
        """The inverse of `build`: the tensors of the network, in the order of `sources`; kernels stay kernels."""
        return list((tensor.T if self.transposed else tensor).chunk(len(self.sources)))


def ldm_tensors(subfolder: str, family: str, names: Iterable[str]) -> Iterator[LdmTensor]:
    """Finds the LDM tensors of one network.

    Args:
        subfolder: "unet", "vae", "text_encoder" or "text_encoder_2".
        family: "SD1", "SD2" or "SDXL".
        names: the tensor names of the network in diffusers (of a text encoder: in transformers).

    Yields:
        Each tensor of the LDM checkpoint.

    Raises:
        ToolError: a name that no such network has.

    Example:
        >>> [row.name for row in ldm_tensors("vae", "SD1", ["encoder.mid_block.attentions.0.to_q.weight"])]
        ['first_stage_model.encoder.mid.attn_1.q.weight']
    """
    if subfolder == "unet":
        for name in names:
            yield LdmTensor(LDM_UNET_PREFIX + _unet_name(name, family), (name,))
    elif subfolder == "vae":
        names = list(names)
        levels = 1 + max(
            (int(m[1]) for m in map(re.compile(r"decoder\.up_blocks\.(\d+)\.").match, names) if m), default=0
        )
        for name in names:
            yield LdmTensor(LDM_VAE_PREFIX + _vae_name(name, levels), (name,), as_kernel=".attentions." in name)
    elif TEXT_PREFIXES[family][subfolder] in (SD2_OPEN_CLIP_PREFIX, SDXL_OPEN_CLIP_PREFIX):
        yield from _open_clip_tensors(TEXT_PREFIXES[family][subfolder], list(names))
    else:
        for name in names:
            yield LdmTensor(TEXT_PREFIXES[family][subfolder] + name, (name,))


def unused_last_layer(rows: Iterable[LdmTensor]) -> list[LdmTensor]:
    """The layer that SD2's text encoder has in a checkpoint and not in a diffusers folder.

    SD2 uses the states of the last layer but one, so that diffusers leaves the last one out; programs that read the
    checkpoint count on it. As in kohya's scripts it is a copy of the layer before.

    Args:
        rows: the tensors of the checkpoint without it.

    Returns:
        The tensors of the layer.
    """
    pattern = re.compile(rf"({re.escape(SD2_OPEN_CLIP_PREFIX)}transformer\.resblocks\.)(\d+)(\..*)")
    found = [(match, row) for row in rows if (match := pattern.fullmatch(row.name))]
    last = max((int(match[2]) for match, _ in found), default=-1)
    return [replace(row, name=f"{m[1]}{last + 1}{m[3]}") for m, row in found if int(m[2]) == last]


def _unet_name(name: str, family: str) -> str:
    layer, _, leaf = name.rpartition(".")
    table = layer_name_table(UNET)
    layer_id = table.layer_ids.get(layer)
    if layer_id is None or table.diffusers[layer_id] != layer:
        raise ToolError(f"the U-Net has a tensor {name!r}, which no {family} checkpoint has a name for")
    return f"{table.ldm_name(layer_id, family)}.{leaf}"


def _vae_name(name: str, levels: int) -> str:
    """The name in LDM's autoencoder, whose decoder counts its levels from the output."""

    def up(match: re.Match[str]) -> str:
        return f"up.{levels - 1 - int(match[1])}."

    ldm = re.sub(r"down_blocks\.(\d+)\.", r"down.\1.", re.sub(r"up_blocks\.(\d+)\.", up, name))
    ldm = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", ldm)
    ldm = re.sub(r"resnets\.(\d+)", r"block.\1", ldm).replace("conv_shortcut", "nin_shortcut")
    ldm = ldm.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    ldm = ldm.replace("conv_norm_out", "norm_out").replace("mid_block.attentions.0", "mid.attn_1")
    head, found, leaf = ldm.partition(".attn_1.")
    if found:
        layer, _, kind = leaf.rpartition(".")
        ldm = f"{head}{found}{_VAE_ATTENTION.get(layer, layer)}.{kind}"
    return ldm


def _open_clip_tensors(prefix: str, names: list[str]) -> Iterator[LdmTensor]:
    table = layer_name_table(TE)
    stems = {"text_model.embeddings.token_embedding.weight": "token_embedding.weight",
             "text_model.embeddings.position_embedding.weight": "positional_embedding"}  # fmt: skip
    for name in names:
        layer, _, leaf = name.rpartition(".")
        layer_id = table.layer_ids.get(layer)
        if name in stems:
            yield LdmTensor(prefix + stems[name], (name,))
        elif name == "text_projection.weight":
            yield LdmTensor(prefix + "text_projection", (name,), transposed=True)
        elif layer.endswith(".q_proj"):
            stacked = tuple(name.replace(".q_proj.", f".{which}_proj.") for which in "qkv")
            block = table.ldm[table.layer_ids[layer]][0].removesuffix("q_proj")
            yield LdmTensor(f"{prefix}{block}in_proj_{leaf}", stacked)
        elif layer_id is not None and not layer.endswith((".k_proj", ".v_proj")):
            yield LdmTensor(f"{prefix}{table.ldm[layer_id][0]}.{leaf}", (name,))
        elif layer_id is None and not name.endswith("position_ids"):
            raise ToolError(f"the text encoder has a tensor {name!r}, which no checkpoint has a name for")
