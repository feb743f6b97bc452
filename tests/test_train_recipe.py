"""The recipe: every face says the same; kohya's options are taken; nonsense stops with a sentence."""

from __future__ import annotations

import csv
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_ext.errors import LoraError, TrainError
from lora_ext.train.recipe import Recipe, knobs
from lora_ext.train.recipe_check import advice, check
from lora_ext.train.recipe_io import (
    WITHOUT_EFFECT,
    from_arguments,
    metadata,
    parser,
    recipe_of,
    settings_of,
    to_toml,
    type_of,
    value_of,
)
from lora_ext.train.toml_file import read_toml

OPTIONS = Path(__file__).parent / "data/kohya/train_network_options.tsv"
ON_PURPOSE = {"learning_rate", "caption_extension", "output_name", "resolution", "network_dim", "optimizer_type"}
"""Defaults that differ from kohya's: None or empty there, or too small for a LoRA."""
NONE_THERE = {"max_token_length", "network_module", "dataset_repeats"}


def read(*argv: str) -> Recipe:
    return from_arguments(parser().parse_args(argv))


def test_defaults_are_kohyas() -> None:
    """What a knob of ours with kohya's name starts from is what it starts from there."""
    with OPTIONS.open(encoding="utf-8", newline="") as file:
        rows = {row["option"].removeprefix("--"): row["default"] for row in csv.DictReader(file, delimiter="\t")}
    shared = [name for name in knobs() if name in rows]
    assert len(shared) > 110
    for name in shared:
        if name not in ON_PURPOSE | NONE_THERE:
            default = knobs()[name][0].default
            said = rows[name].strip("'")
            same = str(default) == said or (default in ((), None) and said in ("None", ""))
            assert same or float(default) == float(said), name


def test_every_knob_is_on_every_face() -> None:
    options = parser()._option_string_actions
    for name, (_, knob) in knobs().items():
        assert f"--{name}" in options and knob.help and knob.group
        assert value_of(name, knobs()[name][0].default) == knobs()[name][0].default
    assert {f.name for f in fields(Recipe)} == set(knobs())


def _values(name: str) -> st.SearchStrategy[Any]:
    """Values that a knob may have."""
    kind, optional = type_of(name)
    knob = knobs()[name][1]
    low, high = knob.low or 0, knob.high if knob.high is not None else 1e6
    numbers = st.floats(low, high, allow_nan=False).map(lambda x: float(f"{x:.6g}")).filter(lambda x: low <= x <= high)
    some: st.SearchStrategy[Any]
    if knob.choices:
        some = st.sampled_from(knob.choices)
    elif kind == "bool":
        some = st.booleans()
    elif kind == "int":
        some = st.integers(int(low), int(high))
    elif kind == "float":
        some = numbers
    elif kind in ("ints", "floats"):
        some = st.lists(st.integers(0, 64) if kind == "ints" else st.just(1.5), min_size=2, max_size=25).map(tuple)
    elif kind == "strs":
        some = st.lists(st.sampled_from(["a=1", "betas=(0.9, 0.99)", "b=x y"]), max_size=3).map(tuple)
    else:
        some = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1).filter(
            lambda t: t not in ("", "None")
        )
    return st.none() | some if optional else some


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_toml_brings_every_value_back(tmp_path_factory: Any, data: Any) -> None:
    name = data.draw(st.sampled_from(sorted(knobs())))
    value = data.draw(_values(name))
    recipe = replace(Recipe(), **{name: value})
    path = tmp_path_factory.mktemp("toml") / "x.toml"
    path.write_text(to_toml(recipe), encoding="utf-8")
    stored = read_toml(path)
    assert {key: value_of(key, item) for key, item in stored.items()} == settings_of(recipe)


def test_command_line(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[first]\nnetwork_dim = 16\ncache_latents = true\nblock_dims = [" + "4," * 25 + "]\n")
    args = ["--config_file", str(path), "--network-dim=8", "--no-cache-latents", "--optimizer_args", "a=1", "b=2"]
    recipe = read(*args)
    assert (recipe.network_dim, recipe.cache_latents, recipe.block_dims) == (8, False, (4,) * 25)
    assert recipe.optimizer_args == ("a=1", "b=2")


def test_kohyas_ways_of_saying_it() -> None:
    plain = read("--network_module", "networks.lora", "--network_dim", "16", "--resolution", "512,768")
    assert (plain.network_module, plain.size()) == ("lierla", (512, 768))
    wide = read("--network_module", "networks.lora", "--network_args", "conv_dim=4", "conv_alpha=2")
    assert (wide.network_module, wide.conv_dim, wide.conv_alpha) == ("c3lier", 4, 2.0)
    nested = read("--network_module=networks.dylora", "--network_dim=16", "--network_args", "unit=8")
    assert (nested.network_module, nested.unit) == ("dylora", 8)
    assert read("--conv_dim", "4").network_module == "c3lier"
    assert read("--use_8bit_adam").optimizer_type == "AdamW8bit"
    assert read("--caption_extention", ".cap", "--lowram").caption_extension == ".cap"
    assert recipe_of({"text_encoder_lr": [5e-5]}).text_encoder_lr == 5e-5
    assert recipe_of({"resolution": [640, 512]}).size() == (640, 512)
    assert recipe_of({"down_lr_weight": [0, 1, 0.5]}).down_lr_weight == "0,1,0.5"
    assert set(WITHOUT_EFFECT).isdisjoint(knobs())


NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"network_dimm": 4}, "did you mean 'network_dim'"),
    ({"network_dim": "four"}, "network_dim is a whole number"),
    ({"network_dim": 4.5}, "whole number"),
    ({"network_dim": 0}, "1 or more"),
    ({"learning_rate": float("nan")}, "a number"),
    ({"learning_rate": 100}, "1e-4 is usual"),
    ({"learning_rate": 0}, "nothing would be learned"),
    ({"cache_latents": "maybe"}, "true or false"),
    ({"loss_type": "L3"}, "did you mean 'l"),
    ({"lr_scheduler": "cosin"}, "did you mean 'cosine'"),
    ({"optimizer_type": "AdamX"}, "did you mean"),
    ({"optimizer_args": ["weight_decay"]}, "name=value"),
    ({"network_args": ["algo=loha"]}, "algo=loha"),
    ({"network_train_unet_only": True, "network_train_text_encoder_only": True}, "leave one out"),
    ({"network_module": "lierla", "conv_dim": 4}, "c3lier"),
    ({"network_module": "dylora", "network_dim": 10}, "set unit 5"),
    ({"network_module": "dylora", "network_dim": 16, "conv_dim": 8}, "conv_dim 16"),
    ({"block_dims": [4] * 24}, "give 25"),
    ({"down_lr_weight": "cosinus"}, "'cosine'"),
    (
        {"down_lr_weight": "zeros", "mid_lr_weight": "0", "up_lr_weight": "zeros", "network_train_unet_only": True},
        "all",
    ),
    ({"resolution": "big"}, "512,768"),
    ({"resolution": "513"}, "512"),
    ({"enable_bucket": True, "min_bucket_reso": 1024, "max_bucket_reso": 512}, "exchange"),
    ({"cache_latents": True, "color_aug": True}, "leave one"),
    ({"cache_text_encoder_outputs": True}, "network_train_unet_only"),
    ({"cache_text_encoder_outputs": True, "network_train_unet_only": True, "shuffle_caption": True}, "another caption"),
    ({"min_timestep": 900, "max_timestep": 100}, "smaller"),
    ({"adaptive_noise_scale": 0.1}, "noise_offset too"),
    ({"masked_loss": True}, "alpha_mask"),
    ({"output_name": "a/b"}, "file's name"),
    ({"max_token_length": 100}, "75, 150 or 225"),
    ({"init_word": "cat"}, "token_string"),
    ({"dim_from_weights": True}, "network_weights"),
    ({"lr_warmup_steps": 2000}, "max_train_steps"),
    ({"face_crop_aug_range": "4,2"}, "2.0,4.0"),
]


@pytest.mark.parametrize(("given", "said"), NONSENSE, ids=lambda x: str(x)[:60])
def test_nonsense_is_told(given: dict[str, Any], said: str) -> None:
    with pytest.raises(LoraError, match=said):
        recipe_of(given)


def test_default_recipe_is_sound() -> None:
    assert check(Recipe()) == Recipe() and not advice(Recipe())
    odd = Recipe(optimizer_type="Prodigy", lr_warmup_steps=5, zero_terminal_snr=True, network_alpha=64)
    assert len(advice(odd)) == 4


def test_config_files_that_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    for text, said in (("network_dim = ", "TOML"), ("[a]\nnetwork_dims = 4", "network_dim"), ("[a.b]\nc = 1", "table")):
        path.write_text(text)
        with pytest.raises(TrainError, match=said):
            read("--config_file", str(path))
    with pytest.raises(TrainError, match="cannot be read"):
        read("--config_file", str(tmp_path / "no.toml"))


def test_metadata_names_no_folder() -> None:
    recipe = Recipe(train_data_dir="/home/me/secret", resume="/home/me/state", noise_offset=0.1, flip_aug=True)
    said = metadata(recipe)
    assert not any("home" in value for value in said.values())
    assert said["ss_noise_offset"] == "0.1" and said["ss_flip_aug"] == "True" and said["ss_learning_rate"] == "0.0001"
    assert said["ss_optimizer"] == "AdamW" and all(isinstance(value, str) for value in said.values())
