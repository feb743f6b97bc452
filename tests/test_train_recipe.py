"""The recipe: every face says the same; kohya's options are taken; nonsense stops with a sentence."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lora_ext.errors import LoraError, TrainError
from lora_ext.train.config import recipe as recipe_module
from lora_ext.train.config.kohya_gui_file import load_gui_file
from lora_ext.train.config.kohya_options import UNSUPPORTED_OPTIONS, sort_options
from lora_ext.train.config.optimizers import OPTIMIZERS
from lora_ext.train.config.recipe import Recipe, recipe_options
from lora_ext.train.config.recipe_check import check_recipe, recipe_advice
from lora_ext.train.config.recipe_io import (
    IGNORED_OPTIONS,
    parse_recipe_option,
    recipe_from_arguments,
    recipe_from_settings,
    recipe_option_type,
    recipe_parser,
    recipe_to_toml,
    settings_from_recipe,
)
from lora_ext.train.config.recipe_metadata import (
    network_metadata,
    settings_from_lora_file,
    settings_from_metadata,
    training_metadata,
)
from lora_ext.train.config.toml_file import load_toml
from lora_ext.training import main

TRAIN = Path(recipe_module.__file__).parent
OPTIONS = Path(__file__).parent / "data/kohya/train_network_options.tsv"
ON_PURPOSE = {"learning_rate", "caption_extension", "output_name", "resolution", "network_dim", "optimizer_type"}
"""Defaults that differ from kohya's: None or empty there, or too small for a LoRA."""
NONE_THERE = {"max_token_length", "network_module", "dataset_repeats"}


def read(*argv: str) -> Recipe:
    return recipe_from_arguments(recipe_parser().parse_args(argv))


def test_defaults_are_kohyas() -> None:
    """What an option of ours with kohya's name starts from is what it starts from there."""
    with OPTIONS.open(encoding="utf-8", newline="") as file:
        rows = {row["option"].removeprefix("--"): row["default"] for row in csv.DictReader(file, delimiter="\t")}
    shared = [name for name in recipe_options() if name in rows]
    assert len(shared) > 110
    for name in shared:
        if name not in ON_PURPOSE | NONE_THERE:
            default = recipe_options()[name][0].default
            said = rows[name].strip("'")
            same = str(default) == said or (default in ((), None) and said in ("None", ""))
            assert same or float(default) == float(said), name


def test_every_option_is_on_every_face() -> None:
    options = recipe_parser()._option_string_actions
    for name, (_, option) in recipe_options().items():
        assert f"--{name}" in options and option.help and option.group
        assert parse_recipe_option(name, recipe_options()[name][0].default) == recipe_options()[name][0].default
    assert {f.name for f in fields(Recipe)} == set(recipe_options())


def _values(name: str) -> st.SearchStrategy[Any]:
    """Values that an option may have."""
    kind, optional = recipe_option_type(name)
    option = recipe_options()[name][1]
    low, high = option.low or 0, option.high if option.high is not None else 1e6
    numbers = st.floats(low, high, allow_nan=False).map(lambda x: float(f"{x:.6g}")).filter(lambda x: low <= x <= high)
    some: st.SearchStrategy[Any]
    if option.choices:
        some = st.sampled_from(option.choices)
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
            lambda t: t not in ("", "None") and not (option.kind and t == "none")
        )
    return st.none() | some if optional else some


@pytest.mark.long
@settings(max_examples=300)
@given(st.data())
def test_toml_brings_every_value_back(tmp_path_factory: Any, data: Any) -> None:
    name = data.draw(st.sampled_from(sorted(recipe_options())))
    value = data.draw(_values(name))
    recipe = replace(Recipe(), **{name: value})
    path = tmp_path_factory.mktemp("toml") / "x.toml"
    path.write_text(recipe_to_toml(recipe), encoding="utf-8")
    stored = load_toml(path)
    assert {key: parse_recipe_option(key, item) for key, item in stored.items()} == settings_from_recipe(recipe)


def test_toml_of_defaults_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(recipe_to_toml(Recipe()), encoding="utf-8")
    assert load_toml(path) == {}


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
    assert recipe_from_settings({"text_encoder_lr": [5e-5]}).text_encoder_lr == 5e-5
    assert recipe_from_settings({"resolution": [640, 512]}).size() == (640, 512)
    assert recipe_from_settings({"down_lr_weight": [0, 1, 0.5]}).down_lr_weight == "0,1,0.5"
    assert set(IGNORED_OPTIONS).isdisjoint(recipe_options())


WRONG_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"network_dimm": 4}, "did you mean 'network_dim'"),
    ({"network_dim": "four"}, "network_dim must be a whole number"),
    ({"network_dim": 4.5}, "whole number"),
    ({"network_dim": 0}, "1 or more"),
    ({"learning_rate": float("nan")}, "a number"),
    ({"learning_rate": 100}, "1e-4 is usual"),
    ({"learning_rate": 0}, "nothing would be trained"),
    ({"cache_latents": "maybe"}, "true or false"),
    ({"loss_type": "L3"}, "did you mean 'l"),
    ({"lr_scheduler": "cosin"}, "did you mean 'cosine'"),
    ({"optimizer_type": "AdamX"}, "did you mean"),
    ({"optimizer_args": ["weight_decay"]}, "name=value"),
    ({"network_args": ["algo=lohaha"]}, "algo must be .* did you mean"),
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
    ({"enable_bucket": True, "min_bucket_reso": 1024, "max_bucket_reso": 512}, "swap them"),
    ({"cache_latents": True, "color_aug": True}, "turn one"),
    ({"cache_text_encoder_outputs": True}, "network_train_unet_only"),
    (
        {"cache_text_encoder_outputs": True, "network_train_unet_only": True, "shuffle_caption": True},
        "changes captions",
    ),
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


@pytest.mark.parametrize(("given", "said"), WRONG_SETTINGS, ids=lambda x: str(x)[:60])
def test_wrong_settings_is_reported(given: dict[str, Any], said: str) -> None:
    with pytest.raises(LoraError, match=said):
        recipe_from_settings(given)


def test_default_recipe_is_sound() -> None:
    assert check_recipe(Recipe()) == Recipe() and not recipe_advice(Recipe())
    odd = Recipe(optimizer_type="Prodigy", lr_warmup_steps=5, zero_terminal_snr=True, network_alpha=64)
    odd = replace(odd, prior_loss_target="model")
    assert len(recipe_advice(odd)) == 5


def test_kinds_that_learn_at_other_rates_say_so() -> None:
    for algo, rate in (("ia3", 5e-3), ("full", 1e-5), ("lora", 1e-4)):
        assert not recipe_advice(Recipe(algo=algo, learning_rate=rate))
    for algo, near in (("ia3", "5e-3 to 1e-2; 0.0001"), ("full", "very fast")):
        (told,) = recipe_advice(Recipe(algo=algo))
        assert near in told
    for optimizer in ("Prodigy", "SGDNesterov"):  # whose rates are no AdamW's
        assert not any("algo" in told for told in recipe_advice(Recipe(algo="ia3", optimizer_type=optimizer)))


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
    said = training_metadata(recipe)
    assert not any("home" in value for value in said.values())
    assert said["ss_noise_offset"] == "0.1" and said["ss_flip_aug"] == "True" and said["ss_learning_rate"] == "0.0001"
    assert said["ss_optimizer"] == "AdamW" and all(isinstance(value, str) for value in said.values())


PRIVATE = {"saving", "metadata", "samples", "logging"}
"""Groups that a file's metadata does not tell, but for a comment."""


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(recipe_options()) - {"conv_dim", "conv_block_dims", "conv_alpha"}))
@settings(max_examples=8)
@given(data=st.data())
def test_what_a_file_tells_is_what_was_set(name: str, data: Any) -> None:
    """Every option comes back from the metadata, but for folders, files and how the run shows and keeps itself."""
    fitting = {"optimizer_type": st.sampled_from(sorted(OPTIMIZERS)), "resolution": st.just("512,768")}
    recipe = replace(Recipe(), **{name: data.draw(fitting.get(name, _values(name)))})
    notes = {**training_metadata(recipe), **network_metadata(recipe)}
    found, said = settings_from_metadata({**notes, "ss_epoch": "3", "ss_steps": "9", "sshs_model_hash": "0"})
    option = recipe_options()[name][1]
    reported = name == "training_comment" or not (option.kind or option.group in PRIVATE)
    network = {"conv_dim": 4, "conv_alpha": 1.0} if recipe.network_module == "c3lier" else {}
    assert not said and found == {**(settings_from_recipe(recipe) if reported else {}), **network}


def test_arguments_of_a_schedule_with_brackets_stay_whole() -> None:
    found, said = settings_from_metadata({"ss_lr_scheduler_args": "betas=(0.9, 0.99),T_0=10"})
    assert (found, said) == ({"lr_scheduler_args": ("betas=(0.9, 0.99)", "T_0=10")}, [])


def test_a_file_of_kohyas_scripts_is_a_beginning(tmp_path: Path, capsys: Any) -> None:
    """As its `train_network.py` notes a run: classes for names, None for what is not set, data sets apart."""
    folder = {"num_repeats": 10, "flip_aug": True, "keep_tokens": 1, "shuffle_caption": True, "image_dir": "x"}
    sets = [{"is_dreambooth": True, "batch_size_per_device": 3, "resolution": [640, 512], "enable_bucket": True,
             "max_bucket_reso": 1280, "subsets": [{**folder, "is_reg": True, "flip_aug": False}, folder]}]  # fmt: skip
    notes = {
        "ss_network_module": "networks.lora", "ss_network_dim": "32", "ss_network_alpha": "16.0",
        "ss_network_args": json.dumps({"conv_dim": "8", "conv_alpha": "4", "preset": "full"}),
        "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1,betas=(0.9, 0.99))",
        "ss_lr_scheduler": "cosine", "ss_lr_warmup_steps": "0", "ss_max_train_steps": "2000", "ss_num_epochs": "5",
        "ss_clip_skip": "None", "ss_max_token_length": "None", "ss_mixed_precision": "fp16", "ss_lowram": "False",
        "ss_min_snr_gamma": "5.0", "ss_text_encoder_lr": "5e-05", "ss_unet_lr": "0.0001", "ss_seed": "42",
        "ss_datasets": json.dumps(sets), "ss_sd_model_name": "v1-5.safetensors", "ss_output_name": "mine",
        "ss_ip_noise_gamma_random_strength": "False", "ss_noise_offset": "lots", "ss_zero_init": "3",
    }  # fmt: skip
    save_file({"x": torch.zeros(1)}, path := tmp_path / "theirs.safetensors", metadata=notes)
    found, said = settings_from_lora_file(path)
    assert found == {
        "network_module": "c3lier", "network_dim": 32, "network_alpha": 16.0, "conv_dim": 8, "conv_alpha": 4.0,
        "optimizer_type": "AdamW8bit", "optimizer_args": ("weight_decay=0.1", "betas=(0.9, 0.99)"),
        "lr_scheduler": "cosine", "max_train_steps": 2000, "mixed_precision": "fp16", "min_snr_gamma": 5.0,
        "text_encoder_lr": 5e-5, "unet_lr": 1e-4, "seed": 42, "train_batch_size": 3, "resolution": "640,512",
        "enable_bucket": True, "max_bucket_reso": 1280, "flip_aug": True, "keep_tokens": 1, "shuffle_caption": True,
    }  # fmt: skip
    assert [sentence.split()[0] for sentence in said] == ["ss_noise_offset:", "ss_zero_init", "ss_network_args"]
    assert main(["--recipe_from", str(path), "--network_dim=8", "--resolution", "512", "--output_config"]) == 0
    out, reported = capsys.readouterr()
    (tmp_path / "x.toml").write_text(out, encoding="utf-8")
    recipe = read("--config_file", str(tmp_path / "x.toml"))
    assert (recipe.network_dim, recipe.conv_dim, recipe.resolution, recipe.seed) == (8, 8, "512", 42)
    assert reported.splitlines() == said
    save_file({"x": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(TrainError, match="does not say how it was trained"):
        main(["--recipe_from", str(tmp_path / "bare.safetensors"), "--output_config"])


def test_a_c3lier_and_a_dylora_come_back() -> None:
    for recipe in (
        Recipe(network_module="c3lier", network_dim=16, network_alpha=8.0, conv_dim=4),
        Recipe(network_module="c3lier", network_dim=16, network_alpha=8.0),
        Recipe(network_module="dylora", network_dim=16, unit=8, dylora_variant="prefix", conv_dim=16),
    ):
        found, said = settings_from_metadata({**training_metadata(recipe), **network_metadata(recipe)})
        again = recipe_from_settings(found)
        assert not said and network_metadata(again) == network_metadata(recipe)
        assert training_metadata(again).items() >= training_metadata(recipe).items()


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(recipe_options()) - {"training_comment"}))
def test_every_option_is_read_where_training_is_done(name: str) -> None:
    """By attribute, outside of what reads, checks and notes recipes (a comment is for the notes alone)."""
    words = "recipe network_options recipe_option recipe_io recipe_check recipe_metadata"
    faces = {f"{word}.py" for word in words.split()}
    own = (TRAIN / "recipe.py").read_text(encoding="utf-8").partition("# --- derived values")[2]
    code = [own, *(p.read_text(encoding="utf-8") for p in TRAIN.parents[1].rglob("*.py") if p.name not in faces)]
    assert any(re.search(rf"\b(recipe|self|rules|augmentation|r)\.{name}\b", text) for text in code)


@pytest.mark.parametrize(
    "name", ["max_train_steps", "max_train_epochs", "inversion_steps", "max_bucket_reso", "resolution"]
)
def test_a_slip_of_the_finger_starts_nothing(name: str) -> None:
    with pytest.raises(TrainError, match=f"{name} .*(10000000|16384) or less"):
        recipe_from_settings({name: 1_000_000_000})
    assert recipe_from_settings({"max_train_steps": 10_000_000}).max_train_steps == 10_000_000


NEUTRAL_SETTINGS: list[dict[str, Any]] = [
    {"optimizer_args": [], "network_args": [], "lr_scheduler_args": []},
    {"vae": "", "lr_scheduler_type": "none", "wandb_api_key": "", "huggingface_token": "None", "deepspeed": False},
    {"clip_skip": "none", "log_with": "none", "resume": "none", "lr_scheduler": "", "save_precision": "None"},
    {"save_every_n_epochs": 0, "max_timestep": 0, "conv_dim": "", "max_train_epochs": "0"},
    {"save_model_as": "safetensors", "dynamo_backend": "no", "stop_text_encoder_training": 0, "validation_split": 0.0},
    {"use_8bit_adam": False, "mem_eff_attn": "false", "network_args": ["train_norm=False", "dora_wd=False"]},
]


@pytest.mark.parametrize("given", NEUTRAL_SETTINGS, ids=lambda given: next(iter(given)))
def test_values_that_turn_nothing_on_are_accepted(given: dict[str, Any]) -> None:
    said: list[str] = []
    assert recipe_from_settings(given, notify=said.append) == Recipe() and not said


def test_a_line_of_texts_keeps_quoted_values_and_windows_paths() -> None:
    line = r"""a=C:\loras\x "b=0.9, 0.99" 'c=D:\my cat'"""
    texts = (r"a=C:\loras\x", "b=0.9, 0.99", r"c=D:\my cat")
    assert recipe_from_settings({"optimizer_args": line}).optimizer_args == texts
    own = {"optimizer_type": "Adafactor", "lr_scheduler": "adafactor", "optimizer_args": line}
    assert recipe_from_settings(own).optimizer_args[2:] == texts
    assert recipe_from_settings({"adam_epsilon": 1e-8, "optimizer_args": line}).optimizer_args[1:] == texts
    rules = recipe_from_settings({"lr_scheduler": "piecewise_constant", "lr_scheduler_args": "'step_rules=1:10, 0.1'"})
    assert rules.lr_scheduler_args == ("step_rules=1:10, 0.1",)
    assert recipe_from_settings({"network_args": r"network_include='down blocks\x'"}).network_include == (
        "down",
        r"blocks\x",
    )
    with pytest.raises(TrainError, match=r"optimizer_args: .* No closing quotation"):
        recipe_from_settings({"optimizer_args": "a='b"})


def test_a_folder_may_be_called_none_in_capitals() -> None:
    assert recipe_from_settings({"output_dir": "NONE", "resume": "none"}) == Recipe(output_dir="NONE")


def test_text_encoders_have_one_rate_or_two() -> None:
    assert read("--text_encoder_lr", "1e-5", "1e-5") == recipe_from_settings({"text_encoder_lr": [1e-5, 1e-5]})
    two = read("--text_encoder_lr", "1e-5", "2e-5")
    assert [two.rate(part) for part in ("unet", "te", "te2")] == [1e-4, 1e-5, 2e-5]
    with pytest.raises(TrainError, match="a number, or two for SDXL's two text encoders"):
        recipe_from_settings({"text_encoder_lr": [1e-5, 2e-5, 3e-5]})
    assert recipe_from_settings({"adaptive_noise_scale": 0}).noise_offset is None
    assert recipe_from_settings({"caption_prefix": "none"}).caption_prefix == "none"  # a word, not "not set"


def test_a_config_file_names_all_that_it_cannot_use(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("epoch = 1\ndeepspeed = true\nnetwork_dimm = 4\nvae = ''\nlearning_rat = 1\ncache_info = true\n")
    with pytest.raises(TrainError) as caught:
        read("--config_file", str(path))
    assert [line.split(":")[0].split(";")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        "deepspeed is not supported here", "unknown setting 'network_dimm'", "unknown setting 'learning_rat'",
        "not used here",
    ]  # fmt: skip
    assert "'learning_rate'?" in str(caught.value) and "epoch (" in str(caught.value)
    path.write_text("epoch = 1\nhighvram = true\nnetwork_dim = 8\n")
    said: list[str] = []
    args = recipe_parser().parse_args(["--config_file", str(path), "--lowram"])
    assert recipe_from_arguments(args, notify=said.append).network_dim == 8
    assert "epoch (" in said[0] and "highvram (" in said[0] and "lowram (" in said[1] and len(said) == 2


WRONG_COMMAND_LINES: list[tuple[str, tuple[str, ...]]] = [
    ("--deepspeed", ("lora-ext: --deepspeed is not supported here",)),
    ("--huggingface_token x", ("--huggingface_token is not supported here: log in with 'hf auth login'",)),
    (
        "--save-n-epoch-ratio 2 --network_dimm 4 --deepspeed",
        ("--save_n_epoch_ratio", "--deepspeed", "unknown option --network_dimm; did you"),
    ),
    ("--zero_stage=3", ("--zero_stage is not supported here: DeepSpeed is not used",)),
]


@pytest.mark.parametrize(("line", "said"), WRONG_COMMAND_LINES, ids=lambda x: str(x)[:40])
def test_a_command_line_names_all_that_it_cannot_use(line: str, said: tuple[str, ...], capsys: Any) -> None:
    with pytest.raises(SystemExit):
        read(*line.split())
    error = capsys.readouterr().err
    assert all(sentence in error for sentence in said) and "flip_aug" not in error


def test_every_option_of_kohyas_script_is_recognised() -> None:
    with OPTIONS.open(encoding="utf-8", newline="") as file:
        names = [row["option"].removeprefix("--") for row in csv.DictReader(file, delimiter="\t")][1:]
    parser = recipe_parser()._option_string_actions
    assert not [name for name in names if f"--{name}" not in parser and name not in ("output_config", "debug_dataset")]
    assert set(UNSUPPORTED_OPTIONS).isdisjoint(recipe_options()) and set(UNSUPPORTED_OPTIONS).isdisjoint(
        IGNORED_OPTIONS
    )
    for name in UNSUPPORTED_OPTIONS:
        with pytest.raises(TrainError, match=f"^{name} is not supported here"):
            sort_options({name: "on"}, recipe_options())


def test_the_guis_file_with_its_defaults(tmp_path: Path) -> None:
    defaults = json.loads((OPTIONS.parent / "gui_defaults.json").read_text(encoding="utf-8"))
    path = tmp_path / "x.json"

    def loaded(**more: Any) -> Recipe:
        path.write_text(json.dumps({**defaults, **more}), encoding="utf-8")
        return read("--config_file", str(path))

    plain = loaded()
    assert (plain.network_module, plain.conv_dim, plain.max_train_epochs, plain.lr_warmup_steps) == (
        "lierla",
        None,
        1,
        0.1,
    )
    assert (plain.resolution, plain.text_encoder_lr, plain.unet_lr, plain.seed) == ("512,512", 1e-4, 1e-4, None)
    assert (plain.sdpa or plain.xformers) and plain.optimizer_type in ("AdamW", "AdamW8bit")
    assert loaded(text_encoder_lr=0).network_train_unet_only
    assert loaded(additional_parameters="--log_prefix='a b' --optimizer_args betas=0.9,0.99").log_prefix == "a b"
    with pytest.raises(TrainError, match="command line"):  # only what the user types may name a class by its module
        loaded(additional_parameters="--optimizer_type os.path")
    wide = loaded(
        LoRA_type="Kohya LoCon", conv_dim=4, max_train_steps=7, noise_offset=0.1, noise_offset_type="Multires"
    )
    assert (wide.network_module, wide.conv_dim, wide.max_train_steps, wide.noise_offset) == ("c3lier", 4, 7, None)
    assert wide.max_train_epochs is None
    kron = loaded(LoRA_type="LyCORIS/LoKr", factor=8, dora_wd=True, conv_dim=2, LyCORIS_preset="unet-only", unit=3)
    assert (kron.algo, kron.factor, kron.dora_wd, kron.conv_dim, kron.unit) == ("lokr", 8, True, 2, 4)
    assert kron.network_train_unet_only and kron.network_targets == "all"
    full = loaded(LoRA_type="LyCORIS/Native Fine-Tuning", LyCORIS_preset="attn-mlp", train_norm=True, factor=8)
    assert (full.algo, full.network_module, full.train_norm, full.factor) == ("full", "lierla", True, -1)
    flat = loaded(LoRA_type="LyCORIS/LoHa", conv_dim=0, loraplus_lr_ratio=0)
    assert (flat.algo, flat.network_module, flat.network_targets) == ("loha", "lierla", "all")
    assert loaded(LoRA_type="Kohya LoKr", factor=4).factor == 4
    fixed = loaded(LoRA_type="LoRA-FA", loraplus_unet_lr_ratio=4)
    assert (fixed.algo, fixed.freeze_down, fixed.loraplus_unet_lr_ratio) == ("lora", True, 4)
    for more, said in (
        ({"LoRA_type": "Flux1"}, "LoRA_type 'Flux1'"), ({"flux1_checkbox": True}, "flux1_checkbox"),
        ({"deepspeed": True, "huggingface_token": "x"}, "deepspeed is not.*\n.*huggingface_token is not"),
        ({"save_model_as": "diffusers"}, "save_model_as"),
        ({"additional_parameters": "'"}, "not a command line"),
        ({"additional_parameters": "--deepspeed --flip_au"}, "x.json: additional.*\n.*--deepspeed.*\n.*'--flip_aug'"),
        ({"min_snr_gama": 5}, "'min_snr_gamma'"),
    ):  # fmt: skip
        with pytest.raises(TrainError, match=said):
            loaded(**more)
    path.write_text("{}")
    with pytest.raises(TrainError, match="no LoRA_type"):
        load_gui_file(path)
