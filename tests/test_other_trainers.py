"""Words of diffusers' training scripts and of cloneofsimo's `lora_pti` and `lora_add`."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from lora_ext.errors import ToolError, TrainError
from lora_ext.tools.lora_add_words import merge_arguments
from lora_ext.train.config.recipe import Recipe, recipe_options
from lora_ext.train.config.recipe_io import recipe_from_arguments, recipe_from_settings, recipe_parser
from lora_ext.train.data.dataset_folders import find_subsets
from lora_ext.train.data.table_files import unpack_tables
from lora_ext.train.run.regularisation_images import missing_regularisation_images
from lora_ext.web.training_runs import TrainingRuns


def read(line: str, said: list[str]) -> Recipe:
    return recipe_from_arguments(recipe_parser().parse_args(line.split()), None, said.append)


def test_dreambooth_of_diffusers(tmp_path: Path) -> None:
    said: list[str] = []
    recipe = read(
        f"--instance_data_dir {tmp_path}/in --instance_prompt=sks --with_prior_preservation --class_prompt dog "
        f"--class_data_dir={tmp_path}/c --num_class_images 3 --rank 8 --validation_prompt x --checkpointing_steps 10 "
        "--checkpoints_total_limit 2 --center_crop --random_flip --adam_beta2 0.9 --use_8bit_adam --report_to wandb "
        "--prediction_type v_prediction --repeats 2",
        said,
    )
    assert (recipe.network_dim, recipe.network_alpha, recipe.network_targets) == (8, 8, "attention")
    assert recipe.network_train_unet_only and recipe.flip_aug and recipe.v_parameterization and recipe.save_state
    assert (recipe.save_every_n_steps, recipe.save_last_n_steps, recipe.log_with) == (10, 10, "wandb")
    assert recipe.optimizer_args == ("betas=0.9,0.9",) and recipe.optimizer_type == "AdamW8bit"
    assert len(said) == 2 and "alpha is the rank" in said[0] and "center_crop" in said[1]
    (tmp_path / "in").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "in" / "a.png")
    wanted = missing_regularisation_images(recipe, 1)
    assert [item.prompt for item in wanted] == ["dog"] * 3
    wanted[0].path.write_bytes((tmp_path / "in" / "a.png").read_bytes())
    subsets = find_subsets(recipe)
    assert [(s.concept, s.repeats, s.regularisation) for s in subsets] == [("sks", 2, False), ("dog", 2, True)]
    assert read(f"--instance_data_dir {tmp_path} --class_data_dir c", said).reg_data_dir is None
    assert "with_prior_preservation" in said[-1]


def test_lora_pti() -> None:
    recipe = read(
        "--instance_data_dir d --placeholder_tokens=<s1> --initializer_tokens dog --lora_rank 4 --lora_scale 0.5 "
        "--use_extended_lora --learning_rate_ti 1e-3 --max_train_steps_tuning 9 --continue_inversion "
        "--clip_ti_decay=False",
        [],
    )
    assert (recipe.token_string, recipe.init_word, recipe.inversion_lr) == ("<s1>", "dog", 1e-3)
    assert (recipe.network_module, recipe.network_alpha, recipe.conv_dim, recipe.max_train_steps) == ("c3lier", 2, 4, 9)
    assert recipe_from_settings({"perform_inversion": "False", "placeholder_tokens": "x"}).token_string is None
    for settings, told in (
        ({"placeholder_tokens": "<a>|<b>"}, "one new token"),
        ({"dataset_name": "some/hub"}, "no folder of this machine"),
        ({"prediction_type": "sample"}, "epsilon or v_prediction"),
        ({"rank": "many"}, "rank must be a number"),
        ({"hub_model_id": "me/lora"}, "set push_to_hub"),
        ({"push_to_hub": True, "hub_model_id": "me/../lora"}, "is no repository of huggingface.co"),
    ):
        with pytest.raises(TrainError, match=told):
            recipe_from_settings(settings)


def test_no_word_of_others_is_an_option_of_ours() -> None:
    from lora_ext.train.config import other_trainers_options as others

    tables = (others.OTHER_TRAINERS_OPTIONS, others.OTHER_IGNORED_OPTIONS, others.OTHER_UNSUPPORTED_OPTIONS)
    names = [name for table in tables for name in table]
    assert len(names) == len(set(names)) and not set(names) & recipe_options().keys()
    assert set(others.RENAMED_OPTIONS.values()) <= recipe_options().keys()


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("a b c", "--models a b --save_to c --method factors --ratios 0.5 0.5"),
        (
            "a b c 1.0 0.3 --mode=lpl --overwrite",
            "--models a b --save_to c --method factors --ratios 1 0.3 --overwrite",
        ),
        ("a b c --mode ljl --save-precision fp16", "--models a b --save_to c --method concat --save_precision fp16"),
        ("m b c.ckpt --alpha_1 -1 --mode upl-ckpt-v2", "--sd_model m --models b --ratios -1 --save_to c.ckpt"),
        ("--path_1 a --path_2 b --output_path c --mode upl", "--sd_model a --models b --ratios 0.5 --save_to c"),
        ("--models a b --save_to c", "--models a b --save_to c"),
    ],
)
def test_lora_add(line: str, made: str) -> None:
    assert merge_arguments(line.split()) == made.split()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("a b c --mode lpll", "'lpl'"),
        ("a b --mode upl", "three paths"),
        ("a b c x", "not 'x'"),
        ("a b --save_to c", "--models FIRST SECOND --save_to OUTPUT"),
    ],
)
def test_lora_add_errors(line: str, told: str) -> None:
    with pytest.raises(ToolError, match=told):
        merge_arguments(line.split())


def test_pictures_in_a_parquet_file(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    image = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(image, "PNG")
    rows = [{"bytes": image.getvalue(), "path": "x.png"}, {"bytes": image.getvalue(), "path": None}]
    data = tmp_path / "data"
    data.mkdir()
    parquet.write_table(pyarrow.table({"image": rows, "caption": ["a red", "picture"]}), data / "train.parquet")
    recipe = Recipe(train_data_dir=str(data), output_dir=str(tmp_path / "out"), caption_column="caption")
    (subset,) = find_subsets(recipe)
    assert sorted(subset.listed_captions.values()) == ["a red", "picture"] and len(subset.files) == 2
    assert unpack_tables(data, recipe) == subset.folder
    with pytest.raises(TrainError, match=r"no column 'captoin'.*'caption'"):
        unpack_tables(data, Recipe(output_dir=str(tmp_path), caption_column="captoin"))
    parquet.write_table(pyarrow.table({"image": ["../x.png"]}), data / "train.parquet")
    with pytest.raises(TrainError, match="no file in"):
        unpack_tables(data, Recipe(output_dir=str(tmp_path)))


@pytest.mark.parametrize(
    "settings",
    [
        *({name: "../x"} for name in ("instance_data_dir", "out_name", "resume_from_checkpoint", "dataset_name")),
        {"network_args": "network_weights=../x"},
    ],
    ids=str,
)
def test_the_form_takes_no_path_by_another_name(tmp_path: Path, settings: dict[str, str]) -> None:
    app_state: Any = SimpleNamespace(folders=SimpleNamespace(outputs=tmp_path))
    with pytest.raises(TrainError, match=r"is for the command line|is not NAME=VALUE of a network setting"):
        TrainingRuns(app_state).recipe_from_form(settings)
