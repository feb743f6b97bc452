"""Names: a bijection, SD1.5's real layers, and every dialect's spelling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_ext.adapters import SUFFIXES
from lora_ext.blocks import LABELS, LAYOUTS, SD, SDXL
from lora_ext.layer_names import PARTS, TE, TE2, UNET, Site, kohya_key, names, parse_key, peft_key, site_of

MAP = json.loads((Path(__file__).parent / "data" / "sd15_module_map.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("part", PARTS)
def test_names_are_a_bijection(part: str) -> None:
    table = names(part)
    spelled = [name for site in table.diffusers for name in {table.diffusers[site], *table.ldm[site]}]
    assert len(spelled) == len(set(spelled)) == len(table.site)
    flat = [name.replace(".", "_") for name in spelled]
    assert len(flat) == len(set(flat))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("sdxl", [False, True])
def test_written_keys_read_back(part: str, sdxl: bool) -> None:
    for site in names(part).diffusers:
        assert parse_key(f"{kohya_key(site, sdxl=sdxl)}.lora_up.weight", SUFFIXES) == (site, "lora_up.weight")
        assert parse_key(f"{peft_key(site)}.lora_B.weight", SUFFIXES) == (site, "lora_up.weight")


@pytest.mark.parametrize("key", sorted(MAP))
def test_sd15_layers(key: str) -> None:
    row = MAP[key]
    parsed = parse_key(f"{key}.alpha", SUFFIXES)
    assert parsed is not None
    site = parsed[0]
    assert kohya_key(site) == key
    ldm = row["ldm"].removesuffix(".weight")
    live = ldm.removeprefix("model.diffusion_model.").removeprefix("cond_stage_model.transformer.")
    assert site_of(site.part, live) == site
    hf = row["diffusers"].removesuffix(".weight")
    assert peft_key(site) == hf
    assert LABELS.index(site.block) == row["lbw26"]
    if site.part == UNET:
        assert LAYOUTS[25].labels.index(site.block) == row["block25"]
        assert (site.block in LAYOUTS[17].labels) == ("attention." in site.leaf or site.block in SD.attention)


def test_layouts_of_sd15() -> None:
    blocks = {LABELS[row["lbw26"]] for key, row in MAP.items() if "attentions" in key}
    assert blocks == set(SD.attention)
    assert {LABELS[row["lbw26"]] for key, row in MAP.items() if "unet" in key} | {"IN00"} == set(SD.blocks)
    assert [len(LAYOUTS[n].labels) for n in LAYOUTS] == [12, 17, 20, 25, 26]
    assert set(SDXL.attention) < set(SDXL.blocks) < set(SD.blocks)


QUERY = Site(UNET, "IN01", "attention.transformer_blocks.0.attn1.to_q")


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
            Site(UNET, "MID", "attention.transformer_blocks.0.attn2.to_out.0"),
            "lora_up.weight",
        ),
        ("lora_te_text_model_encoder_layers_3_mlp_fc1.alpha", Site(TE, "BASE", "layers.3.mlp.fc1"), "alpha"),
        (
            "lora_te2_text_model_encoder_layers_31_self_attn_k_proj.dora_scale",
            Site(TE2, "BASE", "layers.31.self_attn.k_proj"),
            "dora_scale",
        ),
        (
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight",
            Site(TE, "BASE", "layers.0.self_attn.q_proj"),
            "lora_up.weight",
        ),
        ("lora_unet_output_blocks_2_2_conv.lora_up.weight", Site(UNET, "OUT02", "sampler.conv"), "lora_up.weight"),
        ("oft_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.oft_blocks", QUERY, "oft_blocks"),
        ("lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lokr_w1", QUERY, "lokr_w1"),
        ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_up.weight", QUERY, "lora_up.weight"),
        ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.alpha", QUERY, "alpha"),
        (
            "text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.lora_down.weight",
            Site(TE, "BASE", "layers.0.self_attn.q_proj"),
            "lora_down.weight",
        ),
        (
            "text_encoders.clip_g.transformer.text_model.encoder.layers.31.mlp.fc2.lora_A.weight",
            Site(TE2, "BASE", "layers.31.mlp.fc2"),
            "lora_down.weight",
        ),
        (
            "text_encoder.text_model.encoder.layers.0.self_attn.to_k_lora.up.weight",
            Site(TE, "BASE", "layers.0.self_attn.k_proj"),
            "lora_up.weight",
        ),
        (
            "text_encoder_2.text_model.encoder.layers.0.self_attn.to_out_lora.down.weight",
            Site(TE2, "BASE", "layers.0.self_attn.out_proj"),
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
def test_dialects(key: str, site: Site, suffix: str) -> None:
    assert parse_key(key, SUFFIXES) == (site, suffix)


def test_models_of_other_roots() -> None:
    """The web UI's wrappers and OpenCLIP's own names."""
    assert site_of(UNET, "input_blocks.1.1.transformer_blocks.0.attn1.to_q") == QUERY
    assert site_of(UNET, "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q") == QUERY
    assert site_of(TE2, "model.transformer.resblocks.4.mlp.c_fc") == Site(TE2, "BASE", "layers.4.mlp.fc1")
    assert site_of(TE, "transformer.text_model.encoder.layers.1.mlp.fc2") == Site(TE, "BASE", "layers.1.mlp.fc2")
    assert site_of(UNET, "no.such.layer") is None
    assert parse_key("no_such_layer.lora_up.weight", SUFFIXES) is None
