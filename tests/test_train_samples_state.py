"""Prompt files of samples, saved states, and the table of losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lora_ext.errors import PromptError, TrainError
from lora_ext.protocols import SampleSpec
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.run import sample_images, training_state
from lora_ext.train.run.training_log import PendingNumbers, TrainingLog, format_clock

USUAL = SampleSpec("", width=64, height=64)


def test_a_line_of_a_prompt_file() -> None:
    line = "a cat, sitting --n ugly, bad --w 96 --h 128 --d 7 --s 12 --l 5.5"
    assert sample_images.parse_sample_prompt(line, USUAL) == SampleSpec(
        "a cat, sitting", "ugly, bad", 96, 128, 7, 12, 5.5
    )
    assert sample_images.parse_sample_prompt("well--done", USUAL).prompt == "well--done"


def test_mistakes_in_a_prompt_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="unknown option --q"):
        sample_images.parse_sample_prompt("a cat --q 3", USUAL)
    with pytest.raises(PromptError, match="'many' is not a number for steps"):
        sample_images.parse_sample_prompt("a cat --s many", USUAL)
    with pytest.raises(TrainError, match="cannot be read"):
        sample_images.load_sample_prompts(tmp_path / "none.txt", USUAL)
    (tmp_path / "empty.txt").write_text("# only a remark\n", encoding="utf-8")
    assert sample_images.load_sample_prompts(tmp_path / "empty.txt", USUAL) == []


def test_prompts_in_toml_and_json(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(
        '[prompt]\nwidth = 96\nsample_steps = 4\n[[prompt.subset]]\nprompt = "a"\n'
        '[[prompt.subset]]\nprompt = "b"\nscale = 3\n',
        encoding="utf-8",
    )
    (tmp_path / "p.json").write_text(json.dumps([{"prompt": "a", "negative_prompt": "x"}]), encoding="utf-8")
    first, second = sample_images.load_sample_prompts(tmp_path / "p.toml", USUAL)
    assert (first.prompt, first.width, first.steps, second.cfg) == ("a", 96, 4, 3.0)
    assert sample_images.load_sample_prompts(tmp_path / "p.json", USUAL)[0].negative == "x"


def made(step: int) -> training_state.TrainingState:
    return training_state.TrainingState(
        step=step,
        epoch=1,
        batch=2,
        seed=3,
        recipe=training_state.recipe_as_json(Recipe()),
        tensors={"x": torch.ones(2)},
    )


def test_the_newest_state_is_found_and_read(tmp_path: Path) -> None:
    for step in (5, 10):
        training_state.save_training_state(made(step), tmp_path / f"last-step{step:08}-state")
    training_state.save_training_state(made(99), tmp_path / "other-state")
    found = training_state.load_training_state(tmp_path, "last")
    assert (found.step, found.epoch, found.batch, found.smoothed) == (10, 1, 2, (0.0, 1.0))
    assert torch.equal(found.tensors["x"], torch.ones(2))
    assert training_state.load_training_state(tmp_path / "last-step00000005-state").step == 5
    with pytest.raises(TrainError, match="no saved state"):
        training_state.load_training_state(tmp_path, "third")


def test_a_kill_while_a_state_is_replaced_leaves_the_old_one(tmp_path: Path) -> None:
    training_state.save_training_state(made(7), tmp_path / "last-state")
    (tmp_path / "last-state").rename(
        tmp_path / f"{training_state.REPLACED_STATE_PREFIX}last-state"
    )  # between the two renames
    (tmp_path / ".last-state.part").mkdir()
    assert training_state.load_training_state(tmp_path, "last").step == 7
    training_state.save_training_state(made(8), tmp_path / "last-state")
    assert training_state.load_training_state(tmp_path, "last").step == 8
    assert not (tmp_path / ".last-state.part").exists()


def test_a_damaged_state_is_reported_and_runs_nothing(tmp_path: Path) -> None:
    folder = training_state.save_training_state(made(7), tmp_path / "last-state")
    (folder / training_state.STATE_TENSORS_NAME).write_bytes(b"cos\nsystem\n(S'echo'\ntR.")
    with pytest.raises(TrainError, match="cannot be read"):
        training_state.load_training_state(folder)


def test_another_recipe_is_reported() -> None:
    saved = made(1)
    assert training_state.describe_changed_settings(saved, Recipe()) == []
    assert (
        training_state.describe_changed_settings(saved, Recipe(max_train_steps=3, output_name="x", save_state=True))
        == []
    )
    assert training_state.describe_changed_settings(saved, Recipe(learning_rate=1.0)) == [
        "learning_rate was 0.0001 and is 1.0"
    ]


def taken(step: int, loss: float) -> PendingNumbers:
    return PendingNumbers.start_copy(
        step, 1, [torch.tensor(loss), torch.tensor(2.0), torch.tensor(float("nan"))], (1e-3, 1e-4), 2
    )


def test_the_table_continues_after_the_step_that_was_resumed_from(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "a.csv")
    log.open()
    for step in range(1, 6):
        log.add(taken(step, float(step)))
    rows = log.collect_rows(everything=True)
    assert rows[0].smoothed == pytest.approx(1.0) and 1 < rows[-1].smoothed < 5
    log.close()
    again = TrainingLog(tmp_path / "a.csv", smoothed=(log.loss_mean, log.initial_weight))
    again.open(3)
    again.add(taken(4, 40.0))
    again.collect_rows(everything=True)
    again.close()
    lines = (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [
        ["1", "1", "1.0"],
        ["2", "1", "2.0"],
        ["3", "1", "3.0"],
        ["4", "1", "40.0"],
    ]
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_that_is_gone_is_reported(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="cannot be written"):
        TrainingLog(tmp_path / "gone" / "a.csv").open()
    with pytest.raises(TrainError, match="cannot be written"):
        (tmp_path / "file").write_text("x", encoding="utf-8")
        training_state.save_training_state(made(1), tmp_path / "file" / "last-state")


def test_clock() -> None:
    assert (format_clock(61), format_clock(3661)) == ("1:01", "1:01:01")
