"""Learning from prompts alone: what is refused, what a step computes, and that a resumed run is the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trainable_model import pictures, recipe, tiny_model

from lora_ext.errors import TrainError
from lora_ext.file.loading import load_lora_file
from lora_ext.protocols import TrainingModelOptions
from lora_ext.train.config.prompt_tasks import PromptTask, prompt_tasks
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.data.training_data import load_training_data
from lora_ext.train.network.trainable_network import TrainableNetwork
from lora_ext.train.run.cost_estimate import passes_without_gradients
from lora_ext.train.run.objectives import build_objective
from lora_ext.train.run.training_run import TrainingRun
from lora_ext.training.standalone_run import SilentHost, train
from lora_ext.web.training_runs import form_fields

ILECO = {"mode": "ileco", "original_prompt": "red", "target_prompt": "blue", "keep_prompts": "green | a cat"}
SLIDER = {"mode": "slider", "original_prompt": "shape", "positive_prompt": "large", "negative_prompt": "small"}


def prompts_recipe(out: Path, **more: Any) -> Recipe:
    settings = {"train_data_dir": None, "max_train_epochs": None, "max_train_steps": 4, **more}
    return recipe(Path("none"), out, **settings)


def test_the_form_knows_which_options_a_mode_uses() -> None:
    modes = {field.name: field.modes for field in form_fields()}
    assert modes["positive_prompt"] == ["slider"] and modes["train_data_dir"] == ["pictures", "multi-addift"]
    assert modes["reg_data_dir"] == ["pictures"] and modes["network_dim"] == modes["learning_rate"] == []
    for name in ("original_prompt", "positive_prompt", "negative_prompt", "keep_prompts", "slider_guidance"):
        assert "slider" in modes[name]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mode": "ileco"}, "mode ileco needs original_prompt"),
        ({"mode": "slider"}, "mode slider needs positive_prompt"),
        ({"original_prompt": "red"}, "original_prompt belongs to mode ileco or slider or addift"),
        ({**ILECO, "positive_prompt": "large"}, "positive_prompt belongs to mode slider, not to ileco"),
        ({**ILECO, "train_data_dir": "somewhere"}, "train_data_dir belongs to mode pictures"),
        ({**ILECO, "target_prompt": "a|b"}, "target_prompt has 2 prompts and original_prompt 1"),
        ({**SLIDER, "target_guidance": 1.5}, "target_guidance belongs to mode ileco, not to slider"),
        ({**ILECO, "keep_prompts": "red"}, "'red' is in original_prompt and in keep_prompts"),
        ({**ILECO, "network_train_text_encoder_only": True}, "network_train_text_encoder_only belongs to mode"),
    ],
)
def test_what_does_not_belong_to_a_mode_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        recipe_from_settings(settings)


def test_prompts_become_tasks() -> None:
    keep = {text: PromptTask(text) for text in ("green", "a cat", "")}
    assert prompt_tasks(Recipe(**ILECO)) == {**keep, "red": PromptTask("blue")}  # type: ignore[arg-type]
    assert prompt_tasks(Recipe(mode="ileco", original_prompt="a|b")) == {"a": PromptTask(""), "b": PromptTask("")}
    beyond = prompt_tasks(Recipe(**ILECO, target_guidance=1.5))  # type: ignore[arg-type]
    assert beyond == {**keep, "red": PromptTask("red", "blue", "red")}
    two = prompt_tasks(Recipe(**SLIDER, kept_attributes="old | young"))  # type: ignore[arg-type]
    assert two["old shape"] == PromptTask("old shape", "old large", "old small") and len(two) == 2


@pytest.mark.parametrize("settings", [ILECO, {**ILECO, "target_guidance": 1.5}, SLIDER, {**SLIDER, "denoise_steps": 2}])
def test_the_loss_of_an_untrained_network_is_the_distance_of_the_base_predictions(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slider moves by guidance · (plus − minus); a network that is not trained yet has not moved."""
    made, host = prompts_recipe(tmp_path, train_batch_size=3, **settings), tiny_model()
    seen: list[tuple[Any, ...]] = []
    predict = type(host).predict

    def recorded(model: Any, *args: Any) -> torch.Tensor:
        seen.append(args)
        return predict(model, *args)

    monkeypatch.setattr(type(host), "predict", recorded)
    with host.prepared_for_training(TrainingModelOptions("no")), TrainableNetwork(host.parts(), made) as network:
        objective = build_objective(host, made, network, trains_text=False)
        batch = next(iter(load_training_data(made, 1).epoch_batches(0)))
        loss = objective(batch)
        assert loss.requires_grad and len(seen) == made.denoise_steps + 2
        x, steps = seen[-1][:2]
        tasks = [prompt_tasks(made)[caption] for caption in batch.captions]
        texts = [t.start for t in tasks], [t.plus or "" for t in tasks], [t.minus for t in tasks], batch.captions
        start, plus, minus, now = (predict(host, x, steps, objective.encode_captions(row), None) for row in texts)
        moved = torch.tensor([t.plus is not None for t in tasks]).view(-1, 1, 1, 1)
        wanted = start + moved * (1.5 if made.mode == "ileco" else 4.0) * (plus - minus)
        assert loss.item() == pytest.approx(((now - wanted) ** 2).mean().item(), rel=1e-4)


@pytest.mark.parametrize("more", [{}, {"algo": "loha"}, {"algo": "ia3"}])
def test_a_negative_weight_subtracts_until_the_next_step(tmp_path: Path, more: dict[str, Any]) -> None:
    """Also in the kinds that run a layer with its weight changed: the output is that of −½ ΔW of the file's adapter."""
    host, made = tiny_model(), prompts_recipe(tmp_path, **SLIDER, **more)
    with TrainableNetwork({"unet": host.parts()["unet"]}, made) as network:
        for tensor in network.parameters():
            torch.nn.init.normal_(tensor, std=0.1)
        layer_id, layer = next((k, v) for k, v in network.factors_by_layer.items() if str(k).endswith("to_k"))
        module = network.targets_by_layer[layer_id].module
        x, base = torch.randn(2, 3, module.in_features), module.weight.detach().clone()
        network.set_weight(-0.3)
        network.set_weight(-0.5)
        for weight in (-0.5, 1.0):
            delta = layer.to_adapter().delta(base)
            torch.testing.assert_close(module(x), x @ (base + weight * delta).t(), rtol=1e-4, atol=1e-5)
            network.begin_step()


@pytest.mark.long
@pytest.mark.parametrize("settings", [ILECO, {**SLIDER, "network_module": "dylora", "unit": 2}])
def test_a_resumed_run_is_the_same_and_the_file_says_how_it_was_trained(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    more = {**settings, "save_every_n_steps": 2, "save_state": True}
    whole = TrainingRun(tiny_model(), prompts_recipe(tmp_path / "a", **more), SilentHost()).run()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    state = str(next((tmp_path / "b").glob("*0002-state")))
    again = TrainingRun(tiny_model(), prompts_recipe(tmp_path / "b", resume=state, **more), SilentHost()).run()
    assert whole.file is not None and again.file is not None
    first, second = load_lora_file(whole.file), load_lora_file(again.file)
    for layer_id, adapter in first.adapters.items():
        assert all(torch.equal(t, second.adapters[layer_id].tensors[n]) for n, t in adapter.tensors.items())
    assert any(t.any() for a in first.adapters.values() for name, t in a.tensors.items() if "up" in name)
    assert {layer_id.part for layer_id in first.adapters} == {"unet"}
    assert first.metadata["ss_mode"] == settings["mode"]


@pytest.mark.parametrize(
    "settings",
    [
        SLIDER,
        {**SLIDER, "denoise_steps": 3, "keep_prompts": "a | b"},
        ILECO,
        {**ILECO, "target_guidance": 2.0},
        {"mode": "addift", "original_image": "2_thing/0.png", "target_image": "2_thing/1.png"},
        {"reg_data_dir": ""},
        {"reg_data_dir": "", "prior_loss_target": "model"},
    ],
    ids=lambda settings: "-".join(settings.values() if isinstance(settings, str) else map(str, settings.values())),
)
def test_a_step_has_the_passes_that_its_time_is_estimated_by(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures(tmp_path / "in", 3)
    settings = {k: str(folder / v) if k.endswith(("_image", "_dir")) else v for k, v in settings.items()}
    steps = {"max_train_steps": 24, "max_train_epochs": None, "train_batch_size": 1, "sdpa": True}
    of_pictures = {} if "mode" in settings else {"train_data_dir": str(folder)}
    made = recipe_from_settings({**vars(prompts_recipe(tmp_path / "out")), **steps, **settings, **of_pictures})
    model, rows = tiny_model(), {True: 0, False: 0}
    predict = type(model).predict

    def counted(self: Any, latents: torch.Tensor, *rest: Any) -> torch.Tensor:
        rows[torch.is_grad_enabled()] += len(latents)
        return predict(self, latents, *rest)

    monkeypatch.setattr(type(model), "predict", counted)
    train(made, model=model, host=SilentHost())
    assert rows[True] == 24
    assert rows[False] / 24 == pytest.approx(passes_without_gradients(made, 0.5), rel=0.1)
