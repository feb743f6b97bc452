"""Kinds of attention: each puts a function of its own into LDM's and sgm's classes."""

from types import ModuleType

import tiny_ldm
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class SgmCrossAttention(nn.Module):
    def __init__(self, query_dim, context_dim=None, heads=8, dim_head=64, dropout=0.0, backend=None):
        super().__init__()

    def forward(self, x, context=None):
        return x


class SgmAttnBlock(nn.Module):
    def __init__(self, in_channels):
        super().__init__()

    def forward(self, x):
        return x


def _package(name, cross_attention, attn_block):
    """`NAME.modules.attention.CrossAttention` and `NAME.modules.diffusionmodules.model.AttnBlock`."""
    names = ("", ".modules", ".modules.attention", ".modules.diffusionmodules", ".modules.diffusionmodules.model")
    top, modules, attention, networks, model = (ModuleType(name + end) for end in names)
    top.modules, modules.attention, modules.diffusionmodules, networks.model = modules, attention, networks, model
    attention.CrossAttention, model.AttnBlock = cross_attention, attn_block
    return top


ldm = _package("ldm", tiny_ldm.CrossAttention, tiny_ldm.AttnBlock)
sgm = _package("sgm", SgmCrossAttention, SgmAttnBlock)


class SdOptimizationSdp:
    def is_available(self):
        return True

    def apply(self):
        ldm.modules.attention.CrossAttention.forward = _sdp
        sgm.modules.attention.CrossAttention.forward = _sdp
        ldm.modules.diffusionmodules.model.AttnBlock.forward = _same
        sgm.modules.diffusionmodules.model.AttnBlock.forward = _same


class SdOptimizationXformers:
    def is_available(self):
        return False

    def apply(self):
        raise AssertionError("xformers is not available")


def _sdp(self, x, context=None):
    context = x if context is None else context
    q, k, v = (
        layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        for layer, y in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
    )
    return self.to_out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _same(self, x):
    return x
