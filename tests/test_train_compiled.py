"""torch_compile: the same losses as without, nothing left behind, a sentence where there is no compiler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from test_train_run import one_thread, rows  # noqa: F401
from tiny_trainable_model import pictures, recipe, tiny_model

from lora_ext.errors import TrainError
from lora_ext.host.standalone.trainable_model import StandaloneTrainableModel
from lora_ext.host.training_context import compiled_for_device
from lora_ext.protocols import TrainingModelOptions
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.training.standalone_run import train


@pytest.fixture
def traced(monkeypatch: Any) -> None:
    """Graphs are traced, not turned into machine code: that takes minutes and is torch's work."""
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call: plain(call, backend="eager"))
    try:
        with compiled_for_device(torch.sin, torch.device("cpu")):
            pass
    except TrainError as error:
        pytest.skip(str(error))


def small() -> StandaloneTrainableModel:
    """The tiny model with a U-Net of one level: compilers take long."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(16,), down_block_types=("CrossAttnDownBlock2D",), up_block_types=("UpBlock2D",),
        mid_block_type=None, layers_per_block=1, cross_attention_dim=16, attention_head_dim=4, norm_num_groups=8,
    )  # fmt: skip
    return StandaloneTrainableModel(replace(tiny_model().model, unet=unet.eval().requires_grad_(False)))


@pytest.mark.long
@pytest.mark.usefixtures("traced")
def test_the_same_losses(tmp_path: Path) -> None:
    """Also where hooks come after the first compiled step (a new word is learned without them)."""
    data = pictures(tmp_path / "data")
    more = {"max_train_epochs": None, "max_train_steps": 3, "network_train_unet_only": True, "network_module": "dylora",
            "unit": 2, "train_batch_size": 1, "token_string": "sks", "inversion_steps": 2}  # fmt: skip
    host = small()
    train(recipe(data, tmp_path / "plain", **more), model=small())
    train(recipe(data, tmp_path / "fast", torch_compile=True, **more), model=host)
    assert not host.compiled_unets
    near = 1e-3
    for one, two in zip(rows(tmp_path / "plain"), rows(tmp_path / "fast"), strict=True):
        assert float(two["loss"]) == pytest.approx(float(one["loss"]), rel=near)
        assert float(two["grad_norm"]) == pytest.approx(float(one["grad_norm"]), rel=10 * near)
        assert float(one["grad_norm"]) > 0


def test_the_compiled_unet_is_what_is_called(monkeypatch: Any) -> None:
    host = tiny_model()
    monkeypatch.setattr(
        "lora_ext.host.standalone.trainable_model.compiled_for_device", lambda call, device: _Recorder()
    )
    with host.prepared_for_training(TrainingModelOptions(compile_unet=True)):
        context = host.encode_text(["a"])
        assert host.predict(torch.zeros(1, 4, 8, 8), torch.tensor([3]), context).tolist() == [7.0]
    assert host.predict(torch.zeros(1, 4, 8, 8), torch.tensor([3]), context).shape == (1, 4, 8, 8)


class _Recorder:
    def __enter__(self) -> Any:
        return lambda *_: torch.tensor([7.0])

    def __exit__(self, *_: object) -> None:
        pass


def test_no_compiler_is_reported(monkeypatch: Any, tmp_path: Path) -> None:
    def broken(_: object) -> Any:
        raise RuntimeError("Compiler: cl is not found.\nmore")

    monkeypatch.setattr(torch, "compile", broken)
    made = recipe(pictures(tmp_path / "data"), tmp_path / "out", torch_compile=True)
    with pytest.raises(TrainError, match=r"cannot be used on cpu here \(Compiler: cl is not found.\); leave it out"):
        train(made, model=tiny_model())


@pytest.mark.parametrize(
    "more",
    [{"rank_dropout": 0.1}, {"gradient_checkpointing": True}, {"module_dropout": 0.1},
     {"network_module": "dylora", "dylora_draw": "module"},
     {"network_train_text_encoder_only": True}, {"prior_loss_target": "model"}],
)  # fmt: skip
def test_what_is_drawn_anew_is_not_compiled(more: dict[str, Any]) -> None:
    with pytest.raises(TrainError, match="leave"):
        recipe_from_settings({"torch_compile": True, **more})
