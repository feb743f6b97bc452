"""Layer names: a bijection, SD1.5's real layers, and the keys of every format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import text_encoder, unet

from lora_ext.adapters import ADAPTER_SUFFIXES
from lora_ext.blocks import BLOCK_LABELS, BLOCK_LAYOUTS, SD_BLOCKS, SDXL_BLOCKS
from lora_ext.layer_keys import (
    DOTTED_PREFIXES,
    KOHYA_PREFIXES,
    SUFFIX_ALIASES,
    format_kohya_key,
    format_peft_key,
    parse_layer_key,
)
from lora_ext.layer_names import (
    PARTS,
    TE,
    TE2,
    UNET,
    LayerId,
    element_rule_names,
    find_layer_id,
    layer_name_table,
)

MAP = json.loads((Path(__file__).parent / "data" / "sd15_module_map.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("part", PARTS)
def test_names_are_a_bijection(part: str) -> None:
    table = layer_name_table(part)
    spelled = [name for layer_id in table.diffusers for name in {table.diffusers[layer_id], *table.ldm[layer_id]}]
    assert len(spelled) == len(set(spelled)) == len(table.layer_ids)
    flat = [name.replace(".", "_") for name in spelled]
    assert len(flat) == len(set(flat))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("sdxl", [False, True])
def test_written_keys_read_back(part: str, sdxl: bool) -> None:
    for layer_id in layer_name_table(part).diffusers:
        assert parse_layer_key(f"{format_kohya_key(layer_id, sdxl=sdxl)}.lora_up.weight", ADAPTER_SUFFIXES) == (
            layer_id,
            "lora_up.weight",
        )
        assert parse_layer_key(f"{format_peft_key(layer_id)}.lora_B.weight", ADAPTER_SUFFIXES) == (
            layer_id,
            "lora_up.weight",
        )


@pytest.mark.parametrize(
    ("layer_id", "kohya", "kohya_sdxl", "peft"),
    [
        (
            LayerId(UNET, "IN04", "attention.proj_in"),
            "lora_unet_down_blocks_1_attentions_0_proj_in",
            "lora_unet_input_blocks_4_1_proj_in",
            "unet.down_blocks.1.attentions.0.proj_in",
        ),
        (
            LayerId(UNET, "OUT05", "sampler.conv"),
            "lora_unet_up_blocks_1_upsamplers_0_conv",
            "lora_unet_output_blocks_5_2_conv",
            "unet.up_blocks.1.upsamplers.0.conv",
        ),
        (
            LayerId(TE, "BASE", "layers.3.mlp.fc1"),
            "lora_te_text_model_encoder_layers_3_mlp_fc1",
            "lora_te1_text_model_encoder_layers_3_mlp_fc1",
            "text_encoder.text_model.encoder.layers.3.mlp.fc1",
        ),
        (
            LayerId(TE2, "BASE", "text_projection"),
            "lora_te2_text_projection",
            "lora_te2_text_projection",
            "text_encoder_2.text_projection",
        ),
    ],
)
def test_keys_that_are_written(layer_id: LayerId, kohya: str, kohya_sdxl: str, peft: str) -> None:
    assert format_kohya_key(layer_id) == kohya
    assert format_kohya_key(layer_id, sdxl=True) == kohya_sdxl
    assert format_peft_key(layer_id) == peft
    assert PARTS == ("unet", "te", "te2") == (UNET, TE, TE2)


def test_every_layer_of_real_models_has_an_id() -> None:
    """diffusers' U-Net with SD1's topology and transformers' text encoder; embeddings of tokens are no layers."""
    for part, model in (("unet", unet()), ("te", text_encoder())):
        weights = [name.removesuffix(".weight") for name, _ in model.named_parameters() if name.endswith(".weight")]
        names = [name for name in weights if "embeddings" not in name]
        found = [find_layer_id(part, name) for name in names]
        assert None not in found and len(set(found)) == len(names) > 16
        assert [layer_name_table(part).diffusers[layer_id] for layer_id in found if layer_id] == names


@pytest.mark.parametrize("key", sorted(MAP))
def test_sd15_layers(key: str) -> None:
    row = MAP[key]
    parsed = parse_layer_key(f"{key}.alpha", ADAPTER_SUFFIXES)
    assert parsed is not None
    layer_id = parsed[0]
    assert format_kohya_key(layer_id) == key
    ldm = row["ldm"].removesuffix(".weight")
    live = ldm.removeprefix("model.diffusion_model.").removeprefix("cond_stage_model.transformer.")
    assert find_layer_id(layer_id.part, live) == layer_id
    hf = row["diffusers"].removesuffix(".weight")
    assert format_peft_key(layer_id) == hf
    assert BLOCK_LABELS.index(layer_id.block) == row["lbw26"]
    if layer_id.part == UNET:
        assert BLOCK_LAYOUTS[25].labels.index(layer_id.block) == row["block25"]
        assert (layer_id.block in BLOCK_LAYOUTS[17].labels) == (
            "attention." in layer_id.layer or layer_id.block in SD_BLOCKS.attention_blocks
        )


def test_layouts_of_sd15() -> None:
    blocks = {BLOCK_LABELS[row["lbw26"]] for key, row in MAP.items() if "attentions" in key}
    assert blocks == set(SD_BLOCKS.attention_blocks)
    assert {BLOCK_LABELS[row["lbw26"]] for key, row in MAP.items() if "unet" in key} | {"IN00"} == set(SD_BLOCKS.blocks)
    assert [len(BLOCK_LAYOUTS[n].labels) for n in BLOCK_LAYOUTS] == [12, 17, 20, 25, 26]
    assert set(SDXL_BLOCKS.attention_blocks) < set(SDXL_BLOCKS.blocks) < set(SD_BLOCKS.blocks)


QUERY = LayerId(UNET, "IN01", "attention.transformer_blocks.0.attn1.to_q")


@pytest.mark.parametrize(
    ("key", "layer_id", "suffix"),
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
                "lora_B.bias": "lora_up.bias",
                "lora_B.style.bias": "lora_up.bias",
                "hada_w1_a.default": "hada_w1_a",
                "oft_R.weight": "oft_R.weight",
                "oft_R.default.weight": "oft_R.weight",
                "oft_R.scaled_oft": "oft_R.scaled_oft",
                "lokr_w1.style": "lokr_w1",
                "lora_magnitude_vector": "lora_magnitude_vector",
                "lora_magnitude_vector.style": "lora_magnitude_vector",
                "lora_magnitude_vector.default.weight": "lora_magnitude_vector",
            }.items()
        ),
    ],
)  # fmt: skip
def test_key_formats(key: str, layer_id: LayerId, suffix: str) -> None:
    assert parse_layer_key(key, ADAPTER_SUFFIXES) == (layer_id, suffix)


PREFIXES = {
    "lora_unet_": "unet", "lora_te_": "te", "lora_te1_": "te", "lora_te2_": "te2", "oft_unet_": "unet",
    "diffusion_model_": "unet", "lycoris_unet_": "unet", "lycoris_te_": "te", "lycoris_te1_": "te",
    "lycoris_te2_": "te2", "lycoris_": "unet te", "unet.": "unet", "text_encoder.": "te", "text_encoder_2.": "te2",
    "base_model.model.unet.": "unet", "base_model.model.text_encoder.": "te", "base_model.model.": "unet te",
    "diffusion_model.": "unet", "model.diffusion_model.": "unet", "text_encoders.clip_l.transformer.": "te",
    "text_encoders.clip_h.transformer.": "te", "text_encoders.clip_g.transformer.": "te2", "": "unet te",
    "clip_l.": "te", "clip_h.": "te", "clip_g.": "te2", "lora_unet.": "unet", "lora_te.": "te", "lora_te1.": "te",
    "lora_te2.": "te2",
}  # fmt: skip


def test_every_prefix_of_a_key_is_listed_above() -> None:
    assert {prefix.text for prefix in (*KOHYA_PREFIXES, *DOTTED_PREFIXES)} == PREFIXES.keys()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_each_beginning_of_a_key_stands_for(prefix: str) -> None:
    layers = {
        "unet": ("mid_block.attentions.0.proj_in", LayerId(UNET, "MID", "attention.proj_in")),
        "te": ("text_model.encoder.layers.0.mlp.fc1", LayerId(TE, "BASE", "layers.0.mlp.fc1")),
        "te2": ("text_model.encoder.layers.0.mlp.fc1", LayerId(TE2, "BASE", "layers.0.mlp.fc1")),
    }
    flat = prefix.endswith("_")
    for part in PREFIXES[prefix].split():
        name, layer_id = layers[part]
        key = prefix + (name.replace(".", "_") if flat else name)
        for suffix in ("lora_up.weight", "alpha", "dora_scale", "hada_w1_a"):
            assert parse_layer_key(f"{key}.{suffix}", ADAPTER_SUFFIXES) == (layer_id, suffix)
        assert parse_layer_key(f"x{key}.alpha", ADAPTER_SUFFIXES) is None


SUFFIXES_ELSEWHERE = {
    "lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight", "lora_B.bias": "lora_up.bias",
    "lora.down.weight": "lora_down.weight", "lora.up.weight": "lora_up.weight",
    "lora_linear_layer.down.weight": "lora_down.weight", "lora_linear_layer.up.weight": "lora_up.weight",
    "lora_conv2d_layer.down.weight": "lora_down.weight", "lora_conv2d_layer.up.weight": "lora_up.weight",
    "lora_magnitude_vector.weight": "lora_magnitude_vector", "network_alpha": "alpha",
}  # fmt: skip


def test_every_alias_of_a_suffix_is_listed_above() -> None:
    assert SUFFIX_ALIASES.keys() == SUFFIXES_ELSEWHERE.keys()


@pytest.mark.parametrize("suffix", SUFFIXES_ELSEWHERE)
@pytest.mark.parametrize("key", ["unet.mid_block.attentions.0.proj_in", "lora_unet_mid_block_attentions_0_proj_in"])
def test_suffixes_of_other_formats(key: str, suffix: str) -> None:
    wanted = (LayerId(UNET, "MID", "attention.proj_in"), SUFFIXES_ELSEWHERE[suffix])
    assert parse_layer_key(f"{key}.{suffix}", ADAPTER_SUFFIXES) == wanted


@pytest.mark.parametrize("number", range(12))
def test_blocks_of_sdxl_s_names(number: int) -> None:
    """Three layers of each block under LDM's names, which SDXL files have."""
    for side, block in (("input", f"IN{number:02}"), ("output", f"OUT{number:02}")):
        for ldm, layer in (
            ("1_transformer_blocks_9_attn2_to_k", "attention.transformer_blocks.9.attn2.to_k"),
            ("0_in_layers_2", "resnet.conv1"),
            ("0_op", "sampler.conv"),
            ("2_conv", "sampler.conv"),
        ):
            found = parse_layer_key(f"lora_unet_{side}_blocks_{number}_{ldm}.alpha", ADAPTER_SUFFIXES)
            samples = number in (3, 6, 9) if side == "input" else number in (2, 5, 8, 11)
            if layer == "sampler.conv":
                there = samples and ldm.endswith("op") == (side == "input")
            else:
                there = side == "output" or (number > 0 and not samples)
            assert found == ((LayerId(UNET, block, layer), "alpha") if there else None), (side, ldm)


def test_depths_that_exist() -> None:
    deepest = "lora_unet_mid_block_attentions_0_transformer_blocks_{}_ff_net_2.alpha"
    text = "lora_te_text_model_encoder_layers_{}_layer_norm2.alpha"
    for key, last in ((deepest, 11), (text, 47)):
        assert parse_layer_key(key.format(last), ADAPTER_SUFFIXES) is not None
        assert parse_layer_key(key.format(last + 1), ADAPTER_SUFFIXES) is None


def test_names_that_rules_see_and_names_of_modules() -> None:
    layer_id = LayerId(UNET, "IN04", "attention.transformer_blocks.0.attn1.to_out.0")
    assert set(element_rule_names(layer_id)) == {
        "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0",
        "input_blocks_4_1_transformer_blocks_0_attn1_to_out_0",
    }
    assert str(layer_id) == "unet.IN04.attention.transformer_blocks.0.attn1.to_out.0"
    assert str(LayerId(UNET, "", "conv_out")) == "unet.conv_out"
    assert find_layer_id(TE, "a") is None
    assert find_layer_id(TE, "text_model.encoder.layers.1.mlp.fc2") == LayerId(TE, "BASE", "layers.1.mlp.fc2")
    found = find_layer_id(TE, "transformer.text_model.final_layer_norm")
    assert found == LayerId(TE, "BASE", "final_layer_norm")


@pytest.mark.parametrize("root", ["", "model.", "diffusion_model.", "transformer.", "wrapped.", "text_model."])
def test_modules_below_what_wraps_them(root: str) -> None:
    assert find_layer_id(UNET, f"{root}conv_out") == LayerId(UNET, "", "conv_out")
    assert find_layer_id(TE, f"{root}ln_final") == LayerId(TE, "BASE", "final_layer_norm")
    assert find_layer_id(TE, "encoder.layers.0.mlp.fc1") == LayerId(TE, "BASE", "layers.0.mlp.fc1")
    assert find_layer_id(UNET, f"other.{root}conv_out") is None


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
    layer_id = find_layer_id(UNET, diffusers)
    assert layer_id is not None and find_layer_id(UNET, ldm) == layer_id
    assert layer_id.block == ("IN00" if diffusers == "conv_in" else "") and layer_id.layer == diffusers


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


def test_ldm_names_are_converted_as_diffusers_does() -> None:
    """Every U-Net layer that SD1 or SD2 can have: our two names for it against diffusers' own converter."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    table = layer_name_table(UNET)
    layer_ids = [layer_id for layer_id in table.ldm if not layer_id.layer.startswith("add_embedding")]
    stored = {
        f"model.diffusion_model.{table.ldm[layer_id][0]}.{kind}": torch.tensor(number)
        for number, layer_id in enumerate(layer_ids)
        for kind in ("weight", "bias")
    }
    converted = convert_ldm_unet_checkpoint(stored, {"layers_per_block": 2, "block_out_channels": (1, 1, 1, 1)})
    names = {int(number): key.removesuffix(".weight") for key, number in converted.items() if key.endswith(".weight")}
    assert names == {number: table.diffusers[layer_id] for number, layer_id in enumerate(layer_ids)}


@pytest.mark.parametrize(
    ("name", "block", "layer"),
    [
        ("down_blocks.3.resnets.1.conv1", "IN11", "resnet.conv1"),
        ("up_blocks.0.resnets.0.conv1", "OUT00", "resnet.conv1"),
        ("down_blocks.0.downsamplers.0.conv", "IN03", "sampler.conv"),
        ("up_blocks.2.upsamplers.0.conv", "OUT08", "sampler.conv"),
        ("down_blocks.1.resnets.1.norm2", "IN05", "resnet.norm2"),
        ("mid_block.resnets.1.time_emb_proj", "MID", "resnet.1.time_emb_proj"),
        ("up_blocks.3.attentions.2.norm", "OUT11", "attention.norm"),
        ("up_blocks.3.attentions.0.transformer_blocks.0.norm3", "OUT09", "attention.transformer_blocks.0.norm3"),
    ],
)
def test_blocks_and_names_inside_them(name: str, block: str, layer: str) -> None:
    assert find_layer_id(UNET, name) == LayerId(UNET, block, layer)


@pytest.mark.parametrize(
    ("open_clip", "transformers"),
    [
        ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
        *((f"attn.{name}_proj", f"self_attn.{name}_proj") for name in ("q", "k", "v", "out")),
    ],
)
def test_names_of_open_clip(open_clip: str, transformers: str) -> None:
    found = find_layer_id(TE2, f"transformer.resblocks.31.{open_clip}")
    assert found == LayerId(TE2, "BASE", f"layers.31.{transformers}")
    assert found == find_layer_id(TE2, f"text_model.encoder.layers.31.{transformers}")
