"""Regularisation by what the model itself says (`prior_loss_target model`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_network import with_random_factors
from tiny_trainable_model import pictures, recipe, tiny_model

from lora_ext.host.standalone.trainable_model import StandaloneTrainableModel
from lora_ext.protocols import TrainingModelOptions
from lora_ext.train.data.batch import Batch
from lora_ext.train.data.dataset import Dataset
from lora_ext.train.network.trainable_network import TrainableNetwork
from lora_ext.train.run.objective import TrainingObjective

WEIGHT = 0.25


@pytest.fixture
def mixed(tmp_path: Path) -> Batch:
    """Four pictures in one batch, every other one for regularisation."""
    made = recipe(pictures(tmp_path / "data", 2), tmp_path, train_batch_size=4, prior_loss_weight=WEIGHT,
                  reg_data_dir=str(pictures(tmp_path / "reg", 4)))  # fmt: skip
    batches = list(Dataset.from_recipe(made, 5).epoch_batches(0))
    return next(batch for batch in batches if 0 < sum(batch.regularisation) < len(batch))


def made(**more: Any) -> Any:
    """A recipe that trains U-Net and text encoder on no folder."""
    return recipe(Path("none"), Path("none"), prior_loss_weight=WEIGHT, prior_loss_target="model", **more)


@pytest.fixture(params=["lierla", "dylora"])
def parts(request: Any) -> Iterator[tuple[StandaloneTrainableModel, TrainableNetwork, TrainingObjective]]:
    """A model, a network on it, and what is to be reached."""
    host, wanted = tiny_model(), made(network_module=request.param, unit=2)
    with host.prepared_for_training(TrainingModelOptions("no")), TrainableNetwork(host.parts(), wanted) as network:
        network.begin_step(torch.Generator().manual_seed(1))
        yield host, network, TrainingObjective(host, wanted, network, trains_text=True)


def only(batch: Batch, keeps: bool) -> Batch:
    """Its pictures of one sort, with the mean over the whole batch."""
    rows = [i for i, other in enumerate(batch.regularisation) if other == keeps]
    picked = {
        name: tuple(getattr(batch, name)[i] for i in rows)
        for name in ("captions", "regularisation", "paths", "original_sizes", "crops", "seeds")
    }
    assert batch.pixels is not None
    return replace(
        batch, pixels=batch.pixels[rows], weights=batch.weights[rows], scale=len(rows) / len(batch),
        **{**picked, "captions": list(picked["captions"])},
    )  # fmt: skip


def test_a_network_that_changes_nothing_has_nothing_to_mend(parts: Any, mixed: Batch) -> None:
    """At the beginning regularisation pictures have no loss and no gradient, where noise would give both."""
    host, network, objective = parts
    value = objective(only(mixed, True))
    value.backward()
    assert float(value.detach()) < 1e-12
    assert all(p.grad is None or float(p.grad.abs().max()) < 1e-7 for p in network.parameters())
    other = TrainingObjective(host, replace(objective.recipe, prior_loss_target="picture"), network, trains_text=True)
    assert float(other(only(mixed, True))) > 0.01


def test_training_pictures_are_learned_as_usual(parts: Any, mixed: Batch) -> None:
    """A batch's loss is that of its training pictures and that of the others; the first is as without the option."""
    host, network, objective = parts
    with_random_factors(network)
    other = TrainingObjective(host, replace(objective.recipe, prior_loss_target="picture"), network, trains_text=True)
    learned, kept = (float(objective(only(mixed, keeps))) for keeps in (False, True))
    assert learned == float(other(only(mixed, False)))
    assert float(objective(mixed)) == pytest.approx(learned + kept, rel=1e-5)
    assert kept > 1e-6


def test_the_loss_is_the_distance_from_the_model_alone(parts: Any, mixed: Batch) -> None:
    """Against both predictions, the text encoder's change in the one and not in the other; the network acts again."""
    host, network, objective = parts
    with_random_factors(network)
    batch, said = only(mixed, True), []
    predict = host.predict

    class Listening(StandaloneTrainableModel):
        def predict(self, noisy: Any, timesteps: Any, context: Any, sizes: Any = None) -> Any:
            said.append((noisy, timesteps, predict(noisy, timesteps, context, sizes).detach()))
            return predict(noisy, timesteps, context, sizes)

    objective.model = Listening(host.model)
    value = float(objective(batch))
    (noisy, steps, ours), (again, _, plain) = said
    assert torch.equal(noisy, again) and torch.equal(host.predict(noisy, steps, host.encode_text(batch.captions)), ours)
    with network.detached(), torch.no_grad():
        assert torch.equal(host.predict(noisy, steps, host.encode_text(batch.captions)), plain)
    assert value == pytest.approx(float((ours - plain).square().mean()) * WEIGHT * batch.scale, rel=1e-5)
