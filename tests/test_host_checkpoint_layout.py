"""The real models' sizes are recognised; no memory is used for them (meta tensors)."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from test_host_checkpoint import PREFIXES, ldm_text, ldm_unet, ldm_vae
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_ext.host.checkpoint_layout import detect_checkpoint_layout

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
UNETS = {
    "SD1": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "SD2": {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
    "SDXL": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": (PLAIN, CROSS, CROSS),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
BIG_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
TEXTS = {"SD1": (CLIP_L,), "SD2": (CLIP_H,), "SDXL": (CLIP_L, {**BIG_G, "projection_dim": 1280})}


@pytest.mark.parametrize("family", UNETS)
@pytest.mark.parametrize("channels", [4, 9])
def test_real_sizes(family: str, channels: int) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(in_channels=channels, **UNETS[family])
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        kinds = (CLIPTextModel, CLIPTextModelWithProjection)
        texts = [kind(CLIPTextConfig(**config)) for kind, config in zip(kinds, TEXTS[family], strict=False)]
        state = {**ldm_unet(unet), **ldm_vae(vae)}
        for text, prefix in zip(texts, PREFIXES[family], strict=True):
            state |= ldm_text(text, prefix, width=text.config.hidden_size)
        what = detect_checkpoint_layout({name: tuple(tensor.shape) for name, tensor in state.items()})
        ours = [UNet2DConditionModel(**what.unet), AutoencoderKL(**what.vae)]
    assert what.family == family and what.is_inpainting == (channels == 9)
    for mine, theirs in zip(ours, (unet, vae), strict=True):
        shapes = {name: tensor.shape for name, tensor in mine.state_dict().items()}
        assert shapes == {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    heads = UNETS[family]["attention_head_dim"]
    assert what.unet["attention_head_dim"] == [heads] * 4 if isinstance(heads, int) else list(heads)
    for shape, config in zip(what.text_encoders, TEXTS[family], strict=True):
        unused = 1 if family == "SD2" else 0
        expected = {**config, "num_hidden_layers": config["num_hidden_layers"] - unused}
        assert {name: shape.config[name] for name in expected} == expected
    assert what.prediction == (None if family == "SD2" and channels == 4 else "epsilon")
