"""What is asked of a run at work: other learning rates, a save, the end; by a program or by the control file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_train_resume import RecordingHost, rows
from tiny_trainable_model import pictures, recipe, tiny_model

from lora_ext.cli import main
from lora_ext.errors import TrainError
from lora_ext.file.loading import load_lora_file
from lora_ext.train.config.lr_schedules import learning_rate_factor
from lora_ext.train.run.run_requests import ControlFile, RunRequest, RunRequests, control_path, write_control_file
from lora_ext.train.run.training_run import TrainingRun

HALF = RunRequest(lr_factor=0.5)


class At:
    """Asks something after a step, counted from 1."""

    def __init__(self, requests: dict[int, RunRequest]) -> None:
        self.requests, self.step = requests, 0

    def __call__(self) -> RunRequest:
        self.step += 1
        return self.requests.get(self.step, RunRequest())


def run(data: Path, out: Path, take: Callable[[], RunRequest] = RunRequest, **more: Any) -> tuple[TrainingRun, str]:
    host = RecordingHost()
    made = TrainingRun(tiny_model(), recipe(data, out, lr_scheduler="cosine", **more), host, take_request=take)
    made.run()
    return made, "\n".join(host.said)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "last.safetensors")


@pytest.mark.long
def test_changed_rates_are_logged_noted_and_resumed_bit_for_bit(tmp_path: Path) -> None:
    """The schedule goes on with the changed rates; a run resumed after the change is the one that went through."""
    data = tmp_path / "data"
    pictures(data)
    plain, _ = run(data, tmp_path / "plain")
    whole, said = run(data, tmp_path / "whole", At({2: HALF, 4: RunRequest(save=True)}))
    assert "learning rates x 0.5 from step 3" in said
    rates = [float(row["lr_unet"]) for row in rows(whole)]
    factors = [learning_rate_factor(whole.recipe, step, 8) for step in range(8)]
    expected = [whole.recipe.rate("unet") * at * (0.5 if step >= 2 else 1) for step, at in enumerate(factors)]
    assert rates == pytest.approx(expected, abs=1e-9)
    state = tmp_path / "whole" / "last-step00000004-state"
    resumed, said = run(data, tmp_path / "resumed", resume=str(state))
    assert "learning rates x 0.5, as set during the run" in said
    mine, theirs = tensors(resumed.folder), tensors(whole.folder)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert not all(torch.equal(found, tensors(plain.folder)[name]) for name, found in mine.items())
    noted = load_lora_file(resumed.folder / "last.safetensors").metadata
    assert json.loads(noted["ss_learning_rate_changes"]) == [[2, 0.5]]
    assert "ss_learning_rate_changes" not in load_lora_file(plain.folder / "last.safetensors").metadata
    other, said = run(data, tmp_path / "other", resume=str(state), learning_rate=1e-3)
    assert "the factor 0.5 that was set during the run is left out" in said
    assert float(rows(other)[-1]["lr_unet"]) == pytest.approx(1e-3 * factors[7], abs=1e-9)


def test_the_control_file_is_taken_once(tmp_path: Path, capsys: Any) -> None:
    said: list[str] = []
    control_path(tmp_path, "last").write_text('{"stop": true}', encoding="utf-8")  # of a run before
    control = ControlFile(tmp_path, "last", said.append)
    assert control.take() == RunRequest()
    write_control_file(tmp_path, "last", HALF)
    assert main(["control", str(tmp_path), "--save"]) == 0
    assert "No run of that name" in capsys.readouterr().out
    (tmp_path / "last.csv").touch()
    assert main(["control", str(tmp_path), "--save"]) == 0 and "No run" not in capsys.readouterr().out
    assert main(["control", str(tmp_path), "--save", "--output_name", "lost"]) == 0
    assert "did you mean 'last'" in capsys.readouterr().out
    assert control.take() == RunRequest(save=True, lr_factor=0.5)
    assert control.take() == RunRequest() and not said


@pytest.mark.parametrize("text", ["{", "[]", '{"lr": 1}', '{"lr_factor": "1"}', '{"lr_factor": 0}', '{"stop": 1}'])
def test_a_bad_control_file_is_told_and_ignored(tmp_path: Path, text: str) -> None:
    said: list[str] = []
    control = ControlFile(tmp_path, "last", said.append)
    control.path.write_text(text, encoding="utf-8")
    assert control.take() == RunRequest() and "it is ignored" in said[0] and not control.path.exists()


def test_a_run_is_stopped_and_saved(tmp_path: Path) -> None:
    data = tmp_path / "data"
    pictures(data)
    made, said = run(data, tmp_path / "out", At({3: RunRequest(stop=True)}))
    assert made.state.step == 3 and "stopped at step 3" in said


def test_requests_that_wait_are_merged_and_checked(capsys: Any) -> None:
    waiting = RunRequests()
    for request in (RunRequest(sample=True), HALF, RunRequest(lr_factor=2.0)):
        waiting.add(request)
    assert waiting.take() == RunRequest(sample=True, lr_factor=2.0)
    assert waiting.take() == RunRequest()
    with pytest.raises(TrainError, match="is not in"):
        RunRequest(lr_factor=1e9)
    assert main(["control", "."]) == 2 and "nothing is asked" in capsys.readouterr().err
