"""Block curves, ranks and targets: kohya's recorded values on all of SD1.5's layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lora_ext.blocks import SD_BLOCKS, SDXL_BLOCKS
from lora_ext.errors import BlockError, TrainError
from lora_ext.layer_keys import format_kohya_key, parse_layer_key
from lora_ext.layer_names import LayerId, layer_name_table
from lora_ext.train.config.block_settings import ModuleRanks, block_list_notes, block_rate_weights, parse_side_weights
from lora_ext.train.config.recipe import Recipe

DATA = Path(__file__).parent / "data"
LR = json.loads((DATA / "kohya/block_lr.json").read_text(encoding="utf-8"))
DIMS = json.loads((DATA / "kohya/block_dims.json").read_text(encoding="utf-8"))
MAP = json.loads((DATA / "sd15_module_map.json").read_text(encoding="utf-8"))


def options(given: dict[str, str]) -> dict[str, Any]:
    """kohya's network_args as the recipe's options."""
    made: dict[str, Any] = dict(given)
    for name, text in given.items():
        if name.endswith("dims"):
            made[name] = tuple(int(x) for x in text.split(","))
        elif name.endswith("alphas"):
            made[name] = tuple(float(x) for x in text.split(","))
        elif name == "conv_dim":
            made[name] = int(text)
        elif name in ("conv_alpha", "block_lr_zero_threshold"):
            made[name] = float(text)
    return made


@pytest.mark.parametrize("case", LR, ids=lambda case: json.dumps(case[0]))
def test_block_rates_are_kohyas(case: Any) -> None:
    given, wanted = case
    recipe = Recipe(**options(given))
    if isinstance(wanted, str) and "up_lr_weight" not in given:  # its own error there breaks off
        with pytest.raises(BlockError):
            block_rate_weights(recipe)
    else:
        got = list(block_rate_weights(recipe).values())
        # there the surplus of up_lr_weight breaks it; as on the way down it is left out
        assert got == pytest.approx([1.0] * 13 + [1.0] * 12 if isinstance(wanted, str) else wanted, abs=1e-12)


def sd15() -> dict[str, tuple[LayerId, tuple[int, ...]]]:
    """kohya name → layer_id and shape, for every layer of SD1.5 that a LoRA can have."""
    rows = MAP if isinstance(MAP, list) else [{"name": name, **row} for name, row in MAP.items()]
    found = {}
    for row in rows:
        name = row.get("name") or row["lora_name"]
        parsed = parse_layer_key(f"{name}.alpha", ())
        assert parsed is not None
        found[name] = parsed[0], tuple(row["shape"])
    return found


@pytest.mark.parametrize("case", DIMS, ids=lambda case: ",".join(case[0]))
def test_block_dims_are_kohyas(case: Any) -> None:
    given, wanted = case
    module = "c3lier" if any(name.startswith("conv") for name in given) else "lierla"
    sizes = ModuleRanks(Recipe(network_module=module, network_dim=8, network_alpha=4.0, **options(given)))
    got = {name: sizes.for_layer(layer_id, shape) for name, (layer_id, shape) in sd15().items()}
    assert {name: [size.rank, size.alpha] for name, size in got.items() if size} == wanted


def test_targets_by_module() -> None:
    layers = sd15()

    def count(**given: Any) -> int:
        sizes = ModuleRanks(Recipe(**given))
        return sum(sizes.for_layer(*layer) is not None for layer in layers.values())

    assert count() == 264
    assert count(network_module="c3lier") == 350
    assert count(network_module="dylora") == 264
    assert count(network_module="dylora", conv_dim=4) == 350
    assert count(network_train_unet_only=True) == 192
    assert count(network_train_text_encoder_only=True) == 72


def test_norms_and_outer_layers_are_no_targets() -> None:
    sizes = ModuleRanks(Recipe(network_module="c3lier"))
    table = layer_name_table("unet").diffusers
    for layer_id in table:
        if "norm" in layer_id.layer or not layer_id.block:
            assert sizes.for_layer(layer_id, (8,) if "norm" in layer_id.layer else (8, 4)) is None


def test_sdxl_has_nineteen_blocks() -> None:
    rates = block_rate_weights(Recipe(down_lr_weight="linear", up_lr_weight="cosine"), SDXL_BLOCKS)
    assert list(rates) == list(SDXL_BLOCKS.blocks) and rates["IN08"] == 1 and rates["OUT00"] == 1
    with pytest.raises(TrainError, match="19 blocks"):
        ModuleRanks(Recipe(block_dims=(4,) * 25), SDXL_BLOCKS)
    with pytest.raises(TrainError, match="25 blocks"):
        ModuleRanks(Recipe(block_dims=(4,) * 24), SD_BLOCKS)


@pytest.mark.parametrize(
    ("text", "hint"), [("sinus", "'sine'"), ("1;2;3", "12 numbers"), ("1,x,3", "not a number"), ("sine+a", "'a'")]
)
def test_curves_that_do_not_parse_are_reported(text: str, hint: str) -> None:
    with pytest.raises(BlockError, match=hint):
        parse_side_weights(text)


def test_negative_weights_are_reported() -> None:
    with pytest.raises(BlockError, match="0 or more"):
        block_rate_weights(Recipe(mid_lr_weight="-1"))


def test_a_blocks_rate_is_the_parts_rate_times_its_weight() -> None:
    sizes = ModuleRanks(Recipe(down_lr_weight="0,0,0,0,0.5,0,0,0,0,0,0,0"))
    assert sizes.rate_weight(LayerId("unet", "IN04", "attention.proj_in")) == 0.5
    assert sizes.rate_weight(LayerId("te", "BASE", "layers.0.mlp.fc1")) == 1
    assert format_kohya_key(LayerId("unet", "IN04", "attention.proj_in")) in sd15()


def test_kohyas_lists_for_sdxl() -> None:
    """23 ranks: the time layers, 9 blocks, the three parts of MID, 9 blocks, the last layer; three weights of MID."""
    recipe = Recipe(
        network_module="c3lier", network_targets="all", block_dims=tuple(range(1, 24)), mid_lr_weight="0.5,,2"
    )
    sizes = ModuleRanks(recipe, SDXL_BLOCKS)
    places = {
        ("", "time_embedding.linear_1"): 1, ("IN00", "x"): 2, ("IN08", "attention.proj_in"): 10,
        ("MID", "resnet.0.time_emb_proj"): 11, ("MID", "resnet.1.time_emb_proj"): 13,
        ("OUT00", "attention.proj_in"): 14, ("OUT08", "resnet.time_emb_proj"): 22,
    }  # fmt: skip
    for (block, layer), rank in places.items():
        size = sizes.for_layer(LayerId("unet", block, layer), (8, 8))
        assert size is not None and size.rank == rank, (block, layer)
    parts = [LayerId("unet", "MID", layer) for layer in ("resnet.0.conv1", "attention.proj_in", "resnet.1.conv1")]
    assert [sizes.rate_weight(part) for part in parts] == [0.5, 0.0, 2.0]
    assert [sizes.rate_label(part) for part in parts] == ["MID resnet.0", "MID attention", "MID resnet.1"]
    assert sizes.for_layer(parts[1], (8, 8)) is None
    alike = ModuleRanks(Recipe(mid_lr_weight="0.5"), SDXL_BLOCKS)
    assert {(alike.rate_weight(part), alike.rate_label(part)) for part in parts} == {(0.5, "MID")}
    with pytest.raises(TrainError, match="25 blocks"):
        ModuleRanks(recipe)


def test_lists_of_another_length_are_said() -> None:
    recipe = Recipe(down_lr_weight="1,0.5", mid_lr_weight="0.5,1,1", up_lr_weight="sine")
    assert list(block_list_notes(recipe)) == [
        "down_lr_weight has 2 numbers where SD1/SD2 takes 12; those that are missing are 1",
        "mid_lr_weight has 3 numbers where SD1/SD2 takes 1; the rest is not used",
    ]
    fits = Recipe(down_lr_weight=",".join("1" * 9), mid_lr_weight="0.5,1,1")
    assert not list(block_list_notes(fits, SDXL_BLOCKS)) and not list(block_list_notes(Recipe(mid_lr_weight="1")))
