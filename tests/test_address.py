"""Names: a bijection, SD1.5's real layers, and every dialect's spelling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_ext.adapters import ADAPTER_SUFFIXES
from lora_ext.blocks import BLOCK_LABELS, BLOCK_LAYOUTS, SD_BLOCKS, SDXL_BLOCKS
from lora_ext.layer_keys import format_kohya_key, format_peft_key, parse_layer_key
from lora_ext.layer_names import PARTS, TE, TE2, UNET, LayerId, find_layer_id, layer_name_table

MAP = json.loads((Path(__file__).parent / "data" / "sd15_module_map.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("part", PARTS)
def test_names_are_a_bijection(part: str) -> None:
    table = layer_name_table(part)
    spelled = [name for site in table.diffusers for name in {table.diffusers[site], *table.ldm[site]}]
    assert len(spelled) == len(set(spelled)) == len(table.layer_ids)
    flat = [name.replace(".", "_") for name in spelled]
    assert len(flat) == len(set(flat))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("sdxl", [False, True])
def test_written_keys_read_back(part: str, sdxl: bool) -> None:
    for site in layer_name_table(part).diffusers:
        assert parse_layer_key(f"{format_kohya_key(site, sdxl=sdxl)}.lora_up.weight", ADAPTER_SUFFIXES) == (
            site,
            "lora_up.weight",
        )
        assert parse_layer_key(f"{format_peft_key(site)}.lora_B.weight", ADAPTER_SUFFIXES) == (site, "lora_up.weight")


@pytest.mark.parametrize("key", sorted(MAP))
def test_sd15_layers(key: str) -> None:
    row = MAP[key]
    parsed = parse_layer_key(f"{key}.alpha", ADAPTER_SUFFIXES)
    assert parsed is not None
    site = parsed[0]
    assert format_kohya_key(site) == key
    ldm = row["ldm"].removesuffix(".weight")
    live = ldm.removeprefix("model.diffusion_model.").removeprefix("cond_stage_model.transformer.")
    assert find_layer_id(site.part, live) == site
    hf = row["diffusers"].removesuffix(".weight")
    assert format_peft_key(site) == hf
    assert BLOCK_LABELS.index(site.block) == row["lbw26"]
    if site.part == UNET:
        assert BLOCK_LAYOUTS[25].labels.index(site.block) == row["block25"]
        assert (site.block in BLOCK_LAYOUTS[17].labels) == (
            "attention." in site.layer or site.block in SD_BLOCKS.attention_blocks
        )


def test_layouts_of_sd15() -> None:
    blocks = {BLOCK_LABELS[row["lbw26"]] for key, row in MAP.items() if "attentions" in key}
    assert blocks == set(SD_BLOCKS.attention_blocks)
    assert {BLOCK_LABELS[row["lbw26"]] for key, row in MAP.items() if "unet" in key} | {"IN00"} == set(SD_BLOCKS.blocks)
    assert [len(BLOCK_LAYOUTS[n].labels) for n in BLOCK_LAYOUTS] == [12, 17, 20, 25, 26]
    assert set(SDXL_BLOCKS.attention_blocks) < set(SDXL_BLOCKS.blocks) < set(SD_BLOCKS.blocks)


QUERY = LayerId(UNET, "IN01", "attention.transformer_blocks.0.attn1.to_q")


@pytest.mark.parametrize(
    ("key", "site", "suffix"),
    [
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.alpha", QUERY, "alpha"),
        ("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.hada_w1_a", QUERY, "hada_w1_a"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", QUERY, "lora_down.weight"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora.up.weight", QUERY, "lora_up.weight"),
        (
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight",
            QUERY,
            "lora_down.weight",
        ),
        (
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.up.weight",
            LayerId(UNET, "MID", "attention.transformer_blocks.0.attn2.to_out.0"),
            "lora_up.weight",
        ),
        ("lora_te_text_model_encoder_layers_3_mlp_fc1.alpha", LayerId(TE, "BASE", "layers.3.mlp.fc1"), "alpha"),
        (
            "lora_te2_text_model_encoder_layers_31_self_attn_k_proj.dora_scale",
            LayerId(TE2, "BASE", "layers.31.self_attn.k_proj"),
            "dora_scale",
        ),
        (
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight",
            LayerId(TE, "BASE", "layers.0.self_attn.q_proj"),
            "lora_up.weight",
        ),
        ("lora_unet_output_blocks_2_2_conv.lora_up.weight", LayerId(UNET, "OUT02", "sampler.conv"), "lora_up.weight"),
        ("oft_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.oft_blocks", QUERY, "oft_blocks"),
        ("lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lokr_w1", QUERY, "lokr_w1"),
        ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_up.weight", QUERY, "lora_up.weight"),
        ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.alpha", QUERY, "alpha"),
        (
            "text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.lora_down.weight",
            LayerId(TE, "BASE", "layers.0.self_attn.q_proj"),
            "lora_down.weight",
        ),
        (
            "text_encoders.clip_g.transformer.text_model.encoder.layers.31.mlp.fc2.lora_A.weight",
            LayerId(TE2, "BASE", "layers.31.mlp.fc2"),
            "lora_down.weight",
        ),
        (
            "text_encoder.text_model.encoder.layers.0.self_attn.to_k_lora.up.weight",
            LayerId(TE, "BASE", "layers.0.self_attn.k_proj"),
            "lora_up.weight",
        ),
        (
            "text_encoder_2.text_model.encoder.layers.0.self_attn.to_out_lora.down.weight",
            LayerId(TE2, "BASE", "layers.0.self_attn.out_proj"),
            "lora_down.weight",
        ),
        *(
            (f"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.{mark}", QUERY, suffix)
            for mark, suffix in {
                "lora_A.default.weight": "lora_down.weight",
                "lora_A.default_0.weight": "lora_down.weight",
                "lora_B.my style.weight": "lora_up.weight",
                "lora_magnitude_vector": "lora_magnitude_vector",
                "lora_magnitude_vector.style": "lora_magnitude_vector",
                "lora_magnitude_vector.default.weight": "lora_magnitude_vector",
            }.items()
        ),
    ],
)  # fmt: skip
def test_dialects(key: str, site: LayerId, suffix: str) -> None:
    assert parse_layer_key(key, ADAPTER_SUFFIXES) == (site, suffix)


@pytest.mark.parametrize(
    ("diffusers", "ldm"),
    [
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("add_embedding.linear_1", "label_emb.0.0"),
        ("add_embedding.linear_2", "label_emb.0.2"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
        ("conv_in", "input_blocks.0.0"),
    ],
)
def test_layers_outside_the_blocks(diffusers: str, ldm: str) -> None:
    site = find_layer_id(UNET, diffusers)
    assert site is not None and find_layer_id(UNET, ldm) == site
    assert site.block == ("IN00" if diffusers == "conv_in" else "") and site.layer == diffusers


def test_models_of_other_roots() -> None:
    """The web UI's wrappers and OpenCLIP's own names."""
    assert find_layer_id(UNET, "input_blocks.1.1.transformer_blocks.0.attn1.to_q") == QUERY
    assert find_layer_id(UNET, "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q") == QUERY
    assert find_layer_id(TE2, "model.transformer.resblocks.4.mlp.c_fc") == LayerId(TE2, "BASE", "layers.4.mlp.fc1")
    assert find_layer_id(TE, "transformer.text_model.encoder.layers.1.mlp.fc2") == LayerId(
        TE, "BASE", "layers.1.mlp.fc2"
    )
    assert find_layer_id(UNET, "no.such.layer") is None
    assert parse_layer_key("no_such_layer.lora_up.weight", ADAPTER_SUFFIXES) is None
