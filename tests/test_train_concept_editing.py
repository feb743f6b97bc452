"""Unified Concept Editing as the start of a run: its least squares, and what the factors make of the model's layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_trainable_model import recipe, tiny_model

from lora_ext.errors import TrainError
from lora_ext.protocols import TrainingModelOptions
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.network.trainable_network import TrainableNetwork
from lora_ext.train.run.concept_editing import RIDGE, edit_states
from lora_ext.train.run.objectives import build_objective


def test_the_edit_is_the_least_squares_solution_and_its_cut_the_best_of_its_rank() -> None:
    rng = np.random.default_rng(2)
    now, wanted = rng.normal(size=(40, 6)), rng.normal(size=(40, 6))
    a, b = (t.numpy() for t in edit_states([(torch.tensor(now), torch.tensor(wanted))]))
    square = now.T @ now
    ridge = RIDGE * np.trace(square) / 6 * np.eye(6)
    np.testing.assert_allclose(a @ b, np.linalg.solve(square + ridge, now.T @ (wanted - now)), atol=1e-10)

    def error(change: np.ndarray) -> float:
        """What the edit minimises: the distance of the moved states, and the ridge."""
        return float(((now @ change - (wanted - now)) ** 2).sum() + (ridge @ (change**2)).sum())

    cut = a[:, :2] @ b[:2]
    noise = 1e-3 * rng.normal(size=(2, 6, 2))
    assert error(a @ b) < error(cut) < error(a[:, :1] @ b[:1])
    assert error(cut) <= min(error((a[:, :2] + d) @ b[:2]) for d in (*noise, *-noise))


def words(out: Path, **more: object) -> object:
    settings = {"mode": "ileco", "original_prompt": "red", "target_prompt": "blue", "keep_prompts": "green | a cat"}
    settings |= {"train_data_dir": None, "max_train_epochs": None, "max_train_steps": 1, "uce_start": True}
    return recipe(Path("none"), out, **{**settings, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("more", [{}, {"network_module": "dylora", "unit": 2}, {"network_alpha": 1}])
def test_the_first_prediction_is_nearly_the_targets(tmp_path: Path, more: dict[str, object]) -> None:
    made, host = words(tmp_path, network_dim=32, **{"network_alpha": 32, **more}), tiny_model()
    with host.prepared_for_training(TrainingModelOptions("no")), TrainableNetwork(
        {"unet": host.parts()["unet"]}, made  # type: ignore[arg-type]
    ) as network:  # fmt: skip
        objective = build_objective(host, made, network, trains_text=False)  # type: ignore[arg-type]
        network.train(False)
        x, steps = torch.randn(1, 4, 8, 8), torch.tensor([500])

        def predicted(prompt: str) -> torch.Tensor:
            with torch.no_grad():
                return host.predict(x, steps, objective.encode_captions([prompt]), None)

        red, cat = predicted("red"), predicted("a cat")
        with network.detached():
            before, wanted, same = (predicted(prompt) for prompt in ("red", "blue", "a cat"))
    moved = (before - wanted).norm()
    assert (red - wanted).norm() < 0.2 * moved and (cat - same).norm() < 0.2 * moved


def test_where_the_start_has_no_meaning_a_sentence_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="uce_start belongs to mode ileco or slider, not to pictures"):
        recipe_from_settings({"uce_start": True})
    for other in ({"network_weights": "a.safetensors"}, {"init_lora_weights": "pissa"}):
        with pytest.raises(TrainError, match="uce_start is where a new LoRA starts"):
            words(tmp_path, **other)
    for more in ({"algo": "loha"}, {"network_targets": "self_attention"}):
        made, host = words(tmp_path, **more), tiny_model()
        network = TrainableNetwork({"unet": host.parts()["unet"]}, made)  # type: ignore[arg-type]
        with pytest.raises(TrainError, match="uce_start needs a LoRA on cross-attention's to_k and to_v"):
            build_objective(host, made, network, trains_text=False)  # type: ignore[arg-type]
