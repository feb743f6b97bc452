"""A data set in `ss_*` metadata."""

from __future__ import annotations

import json
from pathlib import Path

from test_train_dataset import folder, recipe  # noqa: F401  (a fixture)

from lora_ext.inspect_file import top_tags
from lora_ext.train.data.dataset import Dataset
from lora_ext.train.data.dataset_metadata import dataset_metadata


def test_folders_tags_and_buckets(folder: Path) -> None:  # noqa: F811
    data = Dataset.from_recipe(recipe(folder, reg_data_dir=str(folder / "reg")))
    said = dataset_metadata(data)
    assert json.loads(said["ss_dataset_dirs"]) == {"2_thing": {"n_repeats": 2, "img_count": 8}}
    assert json.loads(said["ss_reg_dataset_dirs"]) == {"1_other": {"n_repeats": 1, "img_count": 3}}
    assert (said["ss_num_train_images"], said["ss_num_reg_images"]) == ("16", "16")
    assert json.loads(said["ss_tag_frequency"])["2_thing"]["a"] == 8
    assert json.loads(said["ss_tag_frequency"])["1_other"]["other"] == 3
    assert top_tags(said)["red"] == 1 and "other" not in top_tags(said)  # what is regularised is not taught
    buckets = json.loads(said["ss_bucket_info"])
    assert sum(row["count"] for row in buckets["buckets"].values()) == 32
    assert [64, 64] in [row["resolution"] for row in buckets["buckets"].values()]
    assert 0 <= buckets["mean_img_ar_error"] < 0.5
    assert int(said["ss_num_batches_per_epoch"]) == len(list(data.epoch_batches(0)))
    assert str(folder) not in str(said)


def test_two_folders_of_one_name_stay_two(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    one, other = tmp_path / "train", tmp_path / "again"
    (other / "2_thing").mkdir(parents=True)
    for path in (one / "2_thing").iterdir():
        (other / "2_thing" / path.name).write_bytes(path.read_bytes())
    text = "[[datasets]]\n" + "".join(
        f"[[datasets.subsets]]\nimage_dir = '{root}/2_thing'\nnum_repeats = {n}\n"
        for n, root in ((2, "train"), (5, "again"))
    )
    (tmp_path / "set.toml").write_text(text, encoding="utf-8")
    said = dataset_metadata(
        Dataset.from_recipe(recipe(folder, train_data_dir=None, dataset_config=str(tmp_path / "set.toml")))
    )
    dirs = json.loads(said["ss_dataset_dirs"])
    assert {name: row["n_repeats"] for name, row in dirs.items()} == {"2_thing": 2, "2_thing (2)": 5}
