"""The three networks of the embedded model, as diffusers and transformers classes, and their sizes."""

from __future__ import annotations

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from .shapes import SCENE_PIXELS

SCALE_FACTOR = 0.18215
TEXT_WIDTH = 128
UNET_WIDTHS = (32, 64, 96, 96)
VAE_WIDTHS = (32, 32, 64, 64)


def new_vae() -> AutoencoderKL:
    """The autoencoder: (n, 3, 64, 64) images in -1..1 to (n, 4, 8, 8) latents and back."""
    return AutoencoderKL(
        block_out_channels=VAE_WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=SCENE_PIXELS,
        scaling_factor=SCALE_FACTOR,
    )


def new_unet() -> UNet2DConditionModel:
    """The U-Net of SD1 with narrow blocks: (n, 4, 8, 8) noisy latents to the noise in them."""
    return UNet2DConditionModel(
        sample_size=SCENE_PIXELS // 8,
        in_channels=4,
        out_channels=4,
        block_out_channels=UNET_WIDTHS,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        layers_per_block=2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,  # SD1's configuration uses this name for the number of heads
        norm_num_groups=32,
    )


def text_config(vocab_size: int) -> CLIPTextConfig:
    """The text encoder's configuration; the two last ids of the vocabulary are start and end of text."""
    return CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
        pad_token_id=vocab_size - 1,
    )


def new_text_encoder(vocab_size: int) -> CLIPTextModel:
    """The text encoder: (n, 77) token ids to (n, 77, 128) states."""
    return CLIPTextModel(text_config(vocab_size))


def new_scheduler() -> DDIMScheduler:
    """DDIM with SD1's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
