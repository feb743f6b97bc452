"""A Stable Diffusion 1 in miniature with LDM's module names: every layer of the U-Net is there, 16 channels wide."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, silu
from transformers import CLIPTextConfig, CLIPTextModel

WIDTH, TIME, TEXT = 16, 32, 16
END = 1023
"""The last token id: start and end of a text, and what fills it up."""


class CrossAttention(nn.Module):
    def __init__(self, query_dim, context_dim=None, heads=8, dim_head=64, dropout=0.0):  # type: ignore[no-untyped-def]
        super().__init__()
        inner, self.heads = heads * dim_head, heads
        self.to_q = nn.Linear(query_dim, inner, bias=False)
        self.to_k = nn.Linear(context_dim or query_dim, inner, bias=False)
        self.to_v = nn.Linear(context_dim or query_dim, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, query_dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context

        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = split(self.to_q(x)), split(self.to_k(context)), split(self.to_v(context))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        out: Tensor = self.to_out((weights @ v).transpose(1, 2).flatten(2))
        return out


class AttnBlock(nn.Module):
    """The autoencoder's attention: only its name and its `forward` matter here."""

    def __init__(self, in_channels):  # type: ignore[no-untyped-def]
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


class GEGLU(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(width), nn.Dropout(0.0), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class BasicTransformerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn1 = CrossAttention(WIDTH, heads=2, dim_head=8)
        self.attn2 = CrossAttention(WIDTH, TEXT, heads=2, dim_head=8)
        self.ff = FeedForward(WIDTH)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self._forward(x, context)

    def _forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, WIDTH)
        self.proj_in, self.proj_out = nn.Conv2d(WIDTH, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1)
        self.transformer_blocks = nn.ModuleList([BasicTransformerBlock()])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        y = self.proj_in(self.norm(x))
        height = y.shape[2]
        y = self.transformer_blocks[0](y.flatten(2).transpose(1, 2), context)
        return x + self.proj_out(y.transpose(1, 2).unflatten(2, (height, -1)))


class ResBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(4, channels), nn.SiLU(), nn.Conv2d(channels, WIDTH, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(TIME, WIDTH))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(4, WIDTH), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if channels == WIDTH else nn.Conv2d(channels, WIDTH, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self._forward(x, emb)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        y = self.in_layers(x) + self.emb_layers(emb)[..., None, None]
        out: Tensor = self.skip_connection(x) + self.out_layers(y)
        return out


class Downsample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.op = nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


class Upsample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(interpolate(x, scale_factor=2.0))
        return out


class UNet(nn.Module):
    """SD1's twelve input blocks, the middle, and twelve output blocks."""

    in_channels = 4

    def __init__(self) -> None:
        super().__init__()
        self.dtype = torch.float32
        self.time_embed = nn.Sequential(nn.Linear(WIDTH, TIME), nn.SiLU(), nn.Linear(TIME, TIME))
        down: list[list[nn.Module]] = [[nn.Conv2d(4, WIDTH, 3, padding=1)]]
        up: list[list[nn.Module]] = []
        for level in range(4):
            attends = [SpatialTransformer] if level < 3 else []
            down += [[ResBlock(WIDTH), *(a() for a in attends)] for _ in range(2)]
            down += [[Downsample()]] if level < 3 else []
        for level in (3, 2, 1, 0):
            attends = [SpatialTransformer] if level < 3 else []
            for place in range(3):
                more = [Upsample()] if place == 2 and level else []
                up.append([ResBlock(2 * WIDTH), *(a() for a in attends), *more])
        self.input_blocks = nn.ModuleList(nn.ModuleList(block) for block in down)
        self.middle_block = nn.ModuleList([ResBlock(WIDTH), SpatialTransformer(), ResBlock(WIDTH)])
        self.output_blocks = nn.ModuleList(nn.ModuleList(block) for block in up)
        self.out = nn.Sequential(nn.GroupNorm(4, WIDTH), nn.SiLU(), nn.Conv2d(WIDTH, 4, 3, padding=1))

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(10000) * torch.arange(WIDTH // 2) / (WIDTH // 2)).to(x.device)
        angles = timesteps.float()[:, None] * frequencies
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=-1).to(x.dtype))
        kept = []
        for block in self.input_blocks:
            x = _through(block, x, emb, context)
            kept.append(x)
        x = _through(self.middle_block, x, emb, context)
        for block in self.output_blocks:
            x = _through(block, torch.cat([x, kept.pop()], dim=1), emb, context)
        out: Tensor = self.out(x)
        return out


def _through(block: Any, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
    """Each kind of layer gets what it needs, as in LDM."""
    more = {ResBlock: (emb,), SpatialTransformer: (context,)}
    for layer in block:
        x = layer(x, *more.get(type(layer), ()))
    return x


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 8, 8, stride=8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv_in(x)
        return out


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_out = nn.ConvTranspose2d(4, 3, 8, stride=8)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.conv_out(silu(z))
        return out


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()
        self.quant_conv, self.post_quant_conv = nn.Conv2d(8, 8, 1), nn.Conv2d(4, 4, 1)

    def decode(self, z: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.post_quant_conv(z))
        return out


class CLIP(nn.Module):
    """What the web UI's own text encoder wraps."""

    def __init__(self) -> None:
        super().__init__()
        config = CLIPTextConfig(
            vocab_size=END + 1, hidden_size=TEXT, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2
        )
        self.transformer = CLIPTextModel(config)
