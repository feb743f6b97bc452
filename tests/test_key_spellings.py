"""All layers of SD1, SD2 and SDXL, in the spelling of every program: each lands on its own layer, and none is lost."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_ext.file.loading import assemble_lora_file
from lora_ext.layer_names import TE, TE2, UNET, LayerId, layer_name_table

# of each family: transformer blocks in each level, and the part and depth of each text encoder
FAMILIES = {
    "SD1": ((1, 1, 1, 0), {TE: 12}),
    "SD2": ((1, 1, 1, 0), {TE: 24}),
    "SDXL": ((0, 2, 10), {TE: 12, TE2: 32}),
}


@cache
def layer_names(family: str) -> dict[str, list[str]]:
    """Part → names of its Linear and Conv2d layers, from models with the topology of the real ones and no memory."""
    levels, texts = FAMILIES[family]
    kind = ["CrossAttn" if depth else "" for depth in levels]
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(32,) * len(levels),
            down_block_types=[f"{one}DownBlock2D" for one in kind],
            up_block_types=[f"{one}UpBlock2D" for one in kind[::-1]],
            transformer_layers_per_block=[max(depth, 1) for depth in levels],
            attention_head_dim=8,
            cross_attention_dim=8,
            addition_embed_type="text_time" if family == "SDXL" else None,
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32,
        )
        parts: dict[str, torch.nn.Module] = {UNET: unet}
        for part, depth in texts.items():
            config = CLIPTextConfig(
                hidden_size=8, intermediate_size=8, num_hidden_layers=depth, num_attention_heads=1, vocab_size=8
            )
            parts[part] = (CLIPTextModelWithProjection if part == TE2 else CLIPTextModel)(config)
    return {
        part: [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
        for part, model in parts.items()
    }


def ldm(family: str, name: str) -> str:
    """The U-Net's name in LDM checkpoints, which diffusers' own converter confirms in test_layer_names.py."""
    table = layer_name_table(UNET)
    names = table.ldm[table.layer_ids[name]]
    # an upsampler's number is 1 behind a resnet alone, as in the deepest level of SD1 and SD2, and 2 behind attention
    return names[-1] if name == "up_blocks.0.upsamplers.0.conv" and family != "SDXL" else names[0]


def text(name: str) -> str:
    """A text encoder's name as files have it, also where transformers 5 leaves out `text_model.`."""
    return name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}"


CLIPS = {"SD1": {TE: "clip_l"}, "SD2": {TE: "clip_h"}, "SDXL": {TE: "clip_l", TE2: "clip_g"}}
NUMBERED = {TE: "te1", TE2: "te2"}
DIFFUSERS = {TE: "text_encoder", TE2: "text_encoder_2"}


def comfyui(family: str, part: str, name: str) -> str:
    """ComfyUI's LoraSave, OneTrainer's COMFY."""
    if part == UNET:
        return f"diffusion_model.{ldm(family, name)}"
    return f"text_encoders.{CLIPS[family][part]}.transformer.{text(name)}"


def onetrainer_omi(family: str, part: str, name: str) -> str:
    return f"unet.{ldm(family, name)}" if part == UNET else f"{CLIPS[family][part]}.{text(name)}"


def onetrainer_backup(family: str, part: str, name: str) -> str:
    return f"lora_unet.{name}" if part == UNET else f"lora_{NUMBERED[part]}.{text(name)}"


def diffusers(family: str, part: str, name: str) -> str:
    return f"unet.{name}" if part == UNET else f"{DIFFUSERS[part]}.{text(name)}"


def peft(family: str, part: str, name: str) -> str:
    return f"base_model.model.{diffusers(family, part, name)}" if part != TE2 else diffusers(family, part, name)


def kohya(family: str, part: str, name: str) -> str:
    if part == UNET:
        return f"lora_unet_{ldm(family, name) if family == 'SDXL' else name}".replace(".", "_")
    return f"lora_{NUMBERED[part] if family == 'SDXL' else 'te'}_{text(name)}".replace(".", "_")


def lycoris(family: str, part: str, name: str) -> str:
    """LyCORIS on diffusers' models, as SimpleTuner does; with several models it numbers the text encoders."""
    return f"lycoris_{'' if part == UNET else NUMBERED[part] + '_'}{name if part == UNET else text(name)}".replace(
        ".", "_"
    )


SUFFIXES: dict[Callable[[str, str, str], str], tuple[str, str]] = {
    comfyui: ("lora_up.weight", "lora_down.weight"),
    onetrainer_omi: ("lora_up.weight", "lora_down.weight"),
    onetrainer_backup: ("lora_up.weight", "lora_down.weight"),
    diffusers: ("lora_B.weight", "lora_A.weight"),
    peft: ("lora_B.my_style.weight", "lora_A.my_style.weight"),
    kohya: ("lora_up.weight", "lora_down.weight"),
    lycoris: ("lora_up.weight", "lora_down.weight"),
}


@pytest.mark.long
@pytest.mark.parametrize("spelling", SUFFIXES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_lands_on_its_own(family: str, spelling: Callable[[str, str, str], str]) -> None:
    up, down = SUFFIXES[spelling]
    tensors: dict[str, Tensor] = {}
    expected: dict[LayerId, int] = {}
    for part, names in layer_names(family).items():
        for name in names:
            number = len(expected)
            expected[layer_name_table(part).layer_ids[name if part == UNET else text(name)]] = number
            key = spelling(family, part, name)
            tensors[f"{key}.{up}"] = torch.full((2, 1), float(number))
            tensors[f"{key}.{down}"] = torch.ones(1, 2)
    assert len(tensors) == 2 * len(expected) > 300
    keys = list(tensors)
    random.Random(5).shuffle(keys)
    file = assemble_lora_file({key: tensors[key] for key in keys}, {})
    assert not file.unrecognized and not file.damaged
    assert {layer_id: int(a.tensors["lora_up.weight"][0]) for layer_id, a in file.adapters.items()} == expected
