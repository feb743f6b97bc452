"""Resuming with a recipe that is not the state's: what is asked holds, is refused, or a sentence says what stays."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_trainable_model import RecordingHost, pictures, recipe, tiny_model

from lora_ext.errors import TrainError
from lora_ext.file.loading import load_lora_file
from lora_ext.train.config.lr_schedules import learning_rate_factor
from lora_ext.train.config.optimizers import OPTIMIZERS
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.run import training_state
from lora_ext.train.run.training_run import TrainingRun

Resume = Callable[..., tuple[TrainingRun, str]]
STATE = "last-step00000003-state"


def has(name: str) -> bool:
    try:
        __import__(OPTIMIZERS[name].module)
    except ImportError:
        return False
    return True


def rows(run: TrainingRun) -> list[dict[str, str]]:
    with (run.folder / "last.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def begin(folder: Path, **more: Any) -> Path:
    """A run of 8 steps in 2 epochs whose state at step 3 is kept; returns the folder of its results."""
    data = folder / "data"
    if not data.is_dir():
        pictures(data)
    TrainingRun(
        tiny_model(), recipe(data, folder / "a", save_every_n_steps=3, save_state=True, **more), RecordingHost()
    ).run()
    return folder / "a"


def resumed(folder: Path, **more: Any) -> tuple[TrainingRun, str]:
    """The run resumed from its state at step 3 with `more`, and all that was said."""
    shell = RecordingHost()
    out = folder / f"b{len(list(folder.glob('b*')))}"
    shutil.copytree(folder / "a", out)
    run = TrainingRun(tiny_model(), recipe(folder / "data", out, resume=str(out / STATE), **more), shell)
    run.run()
    return run, "\n".join(shell.said)


@pytest.fixture(scope="module")
def base(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    begin(folder)
    return folder


def test_every_field_says_what_it_does_on_resume() -> None:
    assert set(training_state.EFFECT_ON_RESUME) == {field.name for field in fields(Recipe)}


@pytest.mark.long
@pytest.mark.parametrize(
    ("more", "column", "want"),
    [
        ({"learning_rate": 1e-5}, "lr_unet", 1e-5),
        ({"unet_lr": 3e-3}, "lr_unet", 3e-3),
        ({"text_encoder_lr": 2e-3}, "lr_text", 2e-3),
    ],
)
def test_a_changed_rate_holds_and_is_reported(base: Path, more: dict[str, Any], column: str, want: float) -> None:
    run, said = resumed(base, **more)
    made = [float(row[column]) for row in rows(run)]
    assert made == pytest.approx([1e-2] * 3 + [want] * 5)
    ((name, value),) = more.items()
    assert f"{name} was " in said and f"and is {value!r}" in said


def test_the_smoothed_loss_continues(base: Path) -> None:
    run, _ = resumed(base)
    with (base / "a" / "last.csv").open(encoding="utf-8") as file:
        whole = [float(row["smoothed"]) for row in csv.DictReader(file)]
    assert [float(row["smoothed"]) for row in rows(run)] == pytest.approx(whole, rel=1e-4)
    assert run.progress.smoothed == pytest.approx(whole[-1], rel=1e-4)


def test_decay_and_betas_hold(base: Path) -> None:
    before = torch.load(base / "a" / STATE / training_state.STATE_TENSORS_NAME, weights_only=True)["optimizer"]
    run, said = resumed(base, optimizer_args="weight_decay=0.5 betas=0.8,0.9", max_train_epochs=None, max_train_steps=4)
    for group in run.stepper.optimizer.param_groups:
        assert group["weight_decay"] == 0.5 and group["betas"] == (0.8, 0.9)
    assert "optimizer_args was" in said and "starts anew" not in said
    steps = [float(s["step"]) for s in run.stepper.optimizer.state_dict()["state"].values()]
    assert set(steps) == {4.0} and {float(s["step"]) for s in before["state"].values()} == {3.0}, "its averages go on"


def test_the_decay_that_is_asked_for_is_the_one_that_acts(base: Path) -> None:
    """One step of AdamW by hand from the saved state, with the new rate and decay."""
    kept = torch.load(base / "a" / STATE / training_state.STATE_TENSORS_NAME, weights_only=True)
    run, _ = resumed(base, learning_rate=0.02, optimizer_args="weight_decay=0.7", max_train_epochs=None,
                     max_train_steps=4)  # fmt: skip
    for index, name in enumerate(kept["names"]):
        moments = run.stepper.optimizer.state_dict()["state"][index]
        mean, square = moments["exp_avg"] / (1 - 0.9**4), moments["exp_avg_sq"] / (1 - 0.999**4)
        want = kept["parameters"][index] * (1 - 0.02 * 0.7) - 0.02 * mean / (square.sqrt() + 1e-8)
        torch.testing.assert_close(run.stepper.parameters[index].detach(), want, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.long
@pytest.mark.parametrize(
    "more",
    [
        {"lr_scheduler": "linear"},
        {"lr_scheduler": "cosine", "max_train_epochs": 4},
        {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 2},
        {"lr_scheduler": "polynomial", "lr_scheduler_power": 2.0, "max_train_epochs": None, "max_train_steps": 10},
        {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 6},
    ],
)
def test_another_schedule_continues_at_the_step(base: Path, more: dict[str, Any]) -> None:
    run, _ = resumed(base, **more)
    steps = {None: 10, 2: 8, 4: 16}[run.recipe.max_train_epochs]
    made = [float(row["lr_unet"]) for row in rows(run)]
    assert len(made) == steps
    assert made[3:] == pytest.approx(
        [1e-2 * learning_rate_factor(run.recipe, step, steps) for step in range(3, steps)], rel=1e-5
    )


@pytest.mark.long
def test_the_same_recipe_continues_bit_for_bit_with_a_schedule_and_blocks(tmp_path: Path) -> None:
    more = {
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 2,
        "up_lr_weight": "sine",
        "optimizer_args": "weight_decay=0.1",
    }
    out = begin(tmp_path, **more)
    run, said = resumed(tmp_path, **more)
    assert "another recipe" not in said and "anew" not in said and "again" not in said
    with (out / "last.csv").open(encoding="utf-8") as file:
        whole = [(row["loss"], row["lr_unet"], row["lr_text"]) for row in csv.DictReader(file)]
    assert [(row["loss"], row["lr_unet"], row["lr_text"]) for row in rows(run)] == whole
    first, second = load_lora_file(out / "last.safetensors"), load_lora_file(run.folder / "last.safetensors")
    for layer_id, adapter in first.adapters.items():
        assert all(torch.equal(t, second.adapters[layer_id].tensors[name]) for name, t in adapter.tensors.items())


def test_block_rates_that_group_the_network_otherwise_hold(base: Path) -> None:
    """The groups of the optimizer are others then; every parameter keeps its own averages."""
    kept = torch.load(base / "a" / STATE / training_state.STATE_TENSORS_NAME, weights_only=True)
    run, _ = resumed(base, up_lr_weight="0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5", max_train_epochs=None,
                     max_train_steps=3)  # fmt: skip
    mine = run.stepper.optimizer.state_dict()["state"]
    assert run.stepper.names != kept["names"] and sorted(run.stepper.names) == sorted(kept["names"])
    for place, name in enumerate(run.stepper.names):
        then = kept["names"].index(name)
        assert torch.equal(mine[place]["exp_avg"], kept["optimizer"]["state"][then]["exp_avg"])
        assert torch.equal(run.stepper.parameters[place].detach(), kept["parameters"][then])
    halved = [group["lr"] for group in run.stepper.optimizer.param_groups if "OUT" in group["name"]]
    assert halved and set(halved) == {5e-3}


@pytest.mark.long
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"network_dim": 8}, "network_dim was 4 and is 8"),
        ({"network_alpha": 1}, r"network_alpha was 4.0 and is 1.0 \(.* has alpha 4"),
        ({"network_train_unet_only": True}, "network_train_unet_only was False and is True"),
        ({"network_train_text_encoder_only": True}, "network_train_text_encoder_only was False and is True"),
        ({"network_module": "c3lier", "conv_dim": 4}, "network_module was 'lierla' and is 'c3lier'"),
        ({"network_module": "dylora", "unit": 2}, "unit was 4 and is 2"),
        ({"block_dims": ",".join(["2"] * 25)}, "block_dims was None and is "),
        ({"down_lr_weight": "zeros"}, "down_lr_weight was None and is 'zeros'"),
        ({"token_string": "sks", "inversion_steps": 1}, "token_string was None and is 'sks'"),
    ],
)
def test_another_network_is_refused_with_what_to_do(base: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainError, match=message) as caught:
        resumed(base, **more)
    assert "leave resume out" in str(caught.value) and STATE in str(caught.value)


@pytest.mark.long
@pytest.mark.parametrize("name", ["SGD", "SGDNesterov", "Adafactor", "Lion", "Prodigy", "AdamWScheduleFree"])
def test_another_optimizer_starts_anew_on_the_learned_network(base: Path, name: str) -> None:
    if not has(name):
        pytest.skip(f"{OPTIMIZERS[name].package} is not installed")
    kept = torch.load(base / "a" / STATE / training_state.STATE_TENSORS_NAME, weights_only=True)
    run, said = resumed(base, optimizer_type=name, max_train_epochs=None, max_train_steps=3)
    assert f"optimizer_type was 'AdamW' and is '{name}'" in said and f"{name} starts anew" in said
    for mine, then in zip(run.stepper.parameters, kept["parameters"], strict=True):
        assert torch.equal(mine.detach(), then)
    run, _ = resumed(base, optimizer_type=name, max_train_epochs=None, max_train_steps=5)
    assert len(rows(run)) == 5


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "then", "now"),
    [
        ("AdamW", "", "amsgrad=True"),
        ("Adafactor", "", "beta1=0.9"),
        ("SGD", "momentum=0.9", "momentum=0.9 nesterov=True"),
        ("Prodigy", "", "d0=1e-5"),
    ],
)
def test_an_argument_that_the_averages_are_made_with_starts_anew(
    kind: str, then: str, now: str, tmp_path: Path
) -> None:
    if not has(kind):
        pytest.skip(f"{OPTIMIZERS[kind].package} is not installed")
    begin(tmp_path, optimizer_type=kind, optimizer_args=then)
    run, said = resumed(tmp_path, optimizer_type=kind, optimizer_args=now)
    assert f"{kind} starts anew" in said and len(rows(run)) == 8
    name, _, value = now.split()[-1].partition("=")
    assert str(run.stepper.optimizer.param_groups[0][name]) == value or float(value) == 1e-5


@pytest.mark.long
@pytest.mark.parametrize("kind", ["SGD", "Adafactor", "Lion", "Prodigy", "DAdaptAdam", "AdamWScheduleFree"])
def test_a_number_among_the_arguments_holds(kind: str, tmp_path: Path) -> None:
    if not has(kind):
        pytest.skip(f"{OPTIMIZERS[kind].package} is not installed")
    momentum = "momentum=0.9 " if kind == "SGD" else ""
    begin(tmp_path, optimizer_type=kind, optimizer_args=momentum.strip(), learning_rate=0.5)
    kept = torch.load(tmp_path / "a" / STATE / training_state.STATE_TENSORS_NAME, weights_only=True)["optimizer"]
    run, said = resumed(tmp_path, optimizer_type=kind, optimizer_args=f"{momentum}weight_decay=0.25",
                        learning_rate=0.25, max_train_epochs=None, max_train_steps=3)  # fmt: skip
    now = run.stepper.optimizer.state_dict()
    assert "anew" not in said
    assert [(g["lr"], g["weight_decay"]) for g in now["param_groups"]] == [(0.25, 0.25)] * len(now["param_groups"])
    for mine, then in zip(now["param_groups"], kept["param_groups"], strict=True):
        for name in ("d", "k", "d_numerator", "numerator_weighted", "weight_sum", "lr_max"):
            assert mine.get(name) == then.get(name), "what the optimizer has found out so far stays"
    assert now["state"].keys() == kept["state"].keys()


def test_leaving_a_schedule_free_optimizer_takes_the_weights_that_its_files_have(tmp_path: Path) -> None:
    if not has("AdamWScheduleFree"):
        pytest.skip("schedulefree is not installed")
    out = begin(tmp_path, optimizer_type="AdamWScheduleFree")
    run, _ = resumed(tmp_path, max_train_epochs=None, max_train_steps=3)
    saved, mine = load_lora_file(out / "last-step00000003.safetensors"), run.network.to_lora_file()
    for layer_id, adapter in saved.adapters.items():
        torch.testing.assert_close(mine.adapters[layer_id].low_rank().delta(), adapter.low_rank().delta())


@pytest.mark.long
@pytest.mark.parametrize("more", [{"train_batch_size": 1}, {"gradient_accumulation_steps": 2}, {"seed": 6}])
def test_other_batches_begin_the_epoch_again(base: Path, more: dict[str, Any]) -> None:
    run, said = resumed(base, **more, save_state=True)
    assert "the batches of epoch 1 are not those of the state, so this epoch starts again" in said
    epochs = [int(row["epoch"]) for row in rows(run)]
    a_epoch = {"train_batch_size": 8, "gradient_accumulation_steps": 2, "seed": 4}[next(iter(more))]
    assert epochs == [1] * (3 + a_epoch) + [2] * a_epoch
    assert training_state.load_training_state(run.folder / "last-state").seed == more.get("seed", 5)


@pytest.mark.long
def test_more_pictures_begin_the_epoch_again_and_a_moved_folder_does_not(tmp_path: Path) -> None:
    begin(tmp_path)
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    run, said = resumed(tmp_path, train_data_dir=str(tmp_path / "moved"))
    assert "train_data_dir was" in said and "starts again" not in said and len(rows(run)) == 8
    Image.new("RGB", (64, 64), "#808080").save(tmp_path / "data" / "2_thing" / "more.png")
    run, said = resumed(tmp_path)
    assert "this epoch starts again" in said and len(rows(run)) == 3 + 5 + 5


def test_all_steps_asked_for_are_made_where_epochs_are_longer_now(base: Path) -> None:
    """Step 3 of 12 lay in an epoch of 4 steps; epochs of 8 steps would end in the second one."""
    run, _ = resumed(base, train_batch_size=1, max_train_epochs=None, max_train_steps=12)
    assert [int(row["step"]) for row in rows(run)] == list(range(1, 13))


@pytest.mark.parametrize("steps", [2, 3])
def test_no_step_is_made_where_none_is_left_and_that_is_reported(base: Path, steps: int) -> None:
    run, said = resumed(base, max_train_epochs=None, max_train_steps=steps)
    assert f"the state is at step 3 of {steps}, so no step is left; raise max_train_steps" in said
    assert len(rows(run)) == 3 and (run.folder / "last.safetensors").is_file()


def test_what_acts_before_the_first_step_is_reported_to_stay(base: Path) -> None:
    run, said = resumed(base, network_weights=str(base / "a" / "last.safetensors"), max_train_epochs=None,
                        max_train_steps=3)  # fmt: skip
    assert "network_weights was None and is " in said
    assert "only has an effect before the first step, so it is ignored" in said
    kept = torch.load(base / "a" / STATE / training_state.STATE_TENSORS_NAME, weights_only=True)["parameters"]
    assert all(torch.equal(a.detach(), b) for a, b in zip(run.stepper.parameters, kept, strict=True))


# --- states that are not whole, or older ------------------------------------------------------------------------------


def _without(folder: Path, name: str, *, file: str = training_state.STATE_NUMBERS_NAME) -> None:
    if file == training_state.STATE_NUMBERS_NAME:
        numbers = json.loads((folder / file).read_text(encoding="utf-8"))
        del numbers[name]
        (folder / file).write_text(json.dumps(numbers), encoding="utf-8")
        return
    tensors = torch.load(folder / file, weights_only=True)
    del tensors[name]
    torch.save(tensors, folder / file)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "half a file of tensors": lambda f: (f / training_state.STATE_TENSORS_NAME).write_bytes(
        (f / training_state.STATE_TENSORS_NAME).read_bytes()[:999]
    ),
    "an empty file of tensors": lambda f: (f / training_state.STATE_TENSORS_NAME).write_bytes(b""),
    "no tensors": lambda f: (f / training_state.STATE_TENSORS_NAME).unlink(),
    "no numbers": lambda f: (f / training_state.STATE_NUMBERS_NAME).unlink(),
    "half the numbers": lambda f: (f / training_state.STATE_NUMBERS_NAME).write_text(
        '{"step": 3, "epo', encoding="utf-8"
    ),
    "numbers that are a list": lambda f: (f / training_state.STATE_NUMBERS_NAME).write_text("[1, 2]", encoding="utf-8"),
    "no smoothed": lambda f: _without(f, "smoothed"),
    "a step that is text": lambda f: (f / training_state.STATE_NUMBERS_NAME).write_text(
        (f / training_state.STATE_NUMBERS_NAME).read_text(encoding="utf-8").replace('"step": 3,', '"step": "3",'),
        encoding="utf-8",
    ),
    "a batch below 0": lambda f: (f / training_state.STATE_NUMBERS_NAME).write_text(
        (f / training_state.STATE_NUMBERS_NAME).read_text(encoding="utf-8").replace('"batch": 3,', '"batch": -3,'),
        encoding="utf-8",
    ),
    "a list of tensors": lambda f: torch.save([torch.ones(2)], f / training_state.STATE_TENSORS_NAME),
    "no optimizer": lambda f: _without(f, "optimizer", file=training_state.STATE_TENSORS_NAME),
    "no scheduler": lambda f: _without(f, "scheduler", file=training_state.STATE_TENSORS_NAME),
    "no parameters": lambda f: _without(f, "parameters", file=training_state.STATE_TENSORS_NAME),
}


@pytest.mark.long
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_reported(base: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(base / "a" / STATE, tmp_path / STATE)
    DAMAGE[damage](tmp_path / STATE)
    made = recipe(base / "data", tmp_path / "out", resume=str(tmp_path / STATE))
    with pytest.raises(TrainError, match=r"damaged|incomplete") as caught:
        TrainingRun(tiny_model(), made, RecordingHost()).run()
    assert "\n" not in str(caught.value)
    with pytest.raises(TrainError, match=r"damaged|incomplete|no saved state"):
        TrainingRun(tiny_model(), recipe(base / "data", tmp_path / "out", resume=str(tmp_path)), RecordingHost()).run()


def test_another_state_is_offered_where_one_is_damaged(base: Path, tmp_path: Path) -> None:
    for step in (3, 6):
        name = f"last-step{step:08}-state"
        shutil.copytree(base / "a" / name, tmp_path / name)
    (tmp_path / "last-step00000006-state" / training_state.STATE_TENSORS_NAME).write_bytes(b"")
    with pytest.raises(TrainError, match=rf"step00000006-state is damaged .*other states are in .*{STATE}"):
        TrainingRun(tiny_model(), recipe(base / "data", tmp_path / "out", resume=str(tmp_path)), RecordingHost()).run()


def test_a_state_of_another_name_is_named(base: Path, tmp_path: Path) -> None:
    made = recipe(base / "data", tmp_path / "out", resume=str(base / "a"), output_name="other")
    with pytest.raises(
        TrainError, match=rf"no saved state of a run called 'other', .*{STATE}.* or set output_name last"
    ):
        TrainingRun(tiny_model(), made, RecordingHost()).run()


def _as_before(folder: Path) -> None:
    """A state as versions before this one saved it."""
    for name in ("names", "alphas"):
        _without(folder, name, file=training_state.STATE_TENSORS_NAME)
    for name in ("order", "batches"):
        _without(folder, name)


@pytest.mark.long
def test_an_older_state_continues_and_is_refused_where_it_does_not_fit(tmp_path: Path) -> None:
    out = begin(tmp_path)
    _as_before(out / STATE)
    run, said = resumed(tmp_path)
    assert "again" not in said and "anew" not in said
    with (out / "last.csv").open(encoding="utf-8") as file:
        assert [row["loss"] for row in csv.DictReader(file)] == [row["loss"] for row in rows(run)]
    run, _ = resumed(tmp_path, learning_rate=1e-5)
    assert float(rows(run)[-1]["lr_unet"]) == pytest.approx(1e-5)
    assert "starts again" in resumed(tmp_path, train_batch_size=1)[1]
    for more in ({"network_dim": 8}, {"network_alpha": 1}, {"network_train_unet_only": True}):
        with pytest.raises(TrainError, match="has another network"):
            resumed(tmp_path, **more)


@pytest.mark.long
def test_a_state_removes_no_files_but_its_own_runs(tmp_path: Path) -> None:
    """The names of files in a state come from a file that anyone may have written."""
    out = begin(tmp_path, save_last_n_steps=3)
    mine, foreign = out / "mine.txt", tmp_path / "last-step00000001.safetensors"
    for path in (mine, foreign):
        path.write_text("x", encoding="utf-8")
    numbers = json.loads((out / STATE / training_state.STATE_NUMBERS_NAME).read_text(encoding="utf-8"))
    numbers["kept"]["step"] += [[1, str(mine)], [1, str(foreign)]]
    (out / STATE / training_state.STATE_NUMBERS_NAME).write_text(json.dumps(numbers), encoding="utf-8")
    made = recipe(tmp_path / "data", out, resume=str(out / STATE), save_every_n_steps=1, save_last_n_steps=1)
    TrainingRun(tiny_model(), made, RecordingHost()).run()
    assert mine.is_file() and foreign.is_file()
    assert not (out / "last-step00000003.safetensors").exists(), "the run's own file of before is let go"


# --- a new word ------------------------------------------------------------------------------------------------------

WORD: dict[str, Any] = {"token_string": "sks", "init_word": "thing", "inversion_steps": 2, "inversion_lr": 0.1}


@pytest.mark.long
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"token_string": "zz"}, "token_string was 'sks' and is 'zz'"),
        ({"num_vectors_per_token": 2}, "num_vectors_per_token was 1 and is 2"),
        ({"token_string": None, "init_word": None}, "token_string was 'sks' and is None"),
    ],
)
def test_another_word_is_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    begin(tmp_path, **WORD)
    with pytest.raises(TrainError, match=message):
        resumed(tmp_path, **{**WORD, **more})


@pytest.mark.long
@pytest.mark.parametrize("then", [False, True])
def test_a_word_may_continue_learning_or_stop(then: bool, tmp_path: Path) -> None:
    begin(tmp_path, **WORD, inversion_continue=then)
    (vector,) = torch.load(tmp_path / "a" / STATE / training_state.STATE_TENSORS_NAME, weights_only=True)["word"]
    run, said = resumed(tmp_path, **WORD, inversion_continue=not then)
    assert "inversion_continue was" in said and "anew" not in said
    assert run.embedding is not None and torch.equal(run.embedding.vectors[0].detach(), vector) is then


@pytest.mark.long
def test_a_finished_words_rate_is_reported_to_stay(tmp_path: Path) -> None:
    begin(tmp_path, **WORD)
    _, said = resumed(tmp_path, **{**WORD, "inversion_lr": 0.2, "inversion_steps": 5})
    assert "inversion_lr was 0.1 and is 0.2; it only has an effect before the first step" in said
    assert "inversion_steps was 2 and is 5; it only has an effect before the first step" in said
