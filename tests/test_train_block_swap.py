"""Blocks that wait in main memory: the same bits, each loaded once for each pass, and nothing computes without them.

No GPU is at hand here. The blocks that wait are filled with NaN instead, so that whatever computes with one shows.
"""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from test_train_run import one_thread  # noqa: F401
from tiny_trainable_model import pictures, recipe, tiny_model

from lora_ext.errors import TrainError
from lora_ext.host.standalone.block_swap import BlockSwap
from lora_ext.protocols import TrainingModelOptions
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.network.stored_weights import swappable_blocks
from lora_ext.train.network.trainable_network import TrainableNetwork
from lora_ext.training.standalone_run import train

CPU = torch.device("cpu")


class Poisoned(BlockSwap):
    """A swap whose waiting blocks hold NaN. outputs: how many outputs of blocks are in a graph."""

    outputs = 0

    def rest_value(self, waiting: torch.Tensor) -> torch.Tensor:
        return torch.full_like(waiting, float("nan"))

    def _after_forward(self, *args: Any) -> Any:
        output = super()._after_forward(*args)
        self.outputs += output is not None
        return output


@pytest.mark.long
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "more",
    [{}, {"network_module": "c3lier", "conv_dim": 2}, {"algo": "lokr", "dora_wd": True, "network_targets": "all"}],
)
def test_loss_and_gradients_have_the_same_bits(more: dict[str, Any], checkpointing: bool) -> None:
    """Two passes in one graph, another without gradients between them; an exception leaves nothing loaded."""
    host = tiny_model()
    made = recipe_from_settings({"network_dim": 2, "network_train_unet_only": True, **more})
    results: list[list[Any]] = []
    moved: list[weakref.ref[Any]] = []

    def move(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        copy = tensor.numpy().copy()
        moved.append(weakref.ref(copy))
        return torch.from_numpy(copy)

    options = TrainingModelOptions(gradient_checkpointing=checkpointing, train_text_encoders=False)
    with host.prepared_for_training(options):
        blocks = swappable_blocks(host.model.unet)
        network = TrainableNetwork({"unet": host.model.unet}, made, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
        context = host.encode_text(["a thing"])
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
        for count in (0, 3, len(blocks)):
            swap = Poisoned(blocks[:count], CPU, move)
            with swap.attached(), network:
                if count:
                    assert blocks[0].norm1.weight.isnan().all()
                    with pytest.raises((RuntimeError, TypeError)):
                        blocks[0](torch.zeros(1, 3, 5))
                    assert blocks[0].norm1.weight.isnan().all()
                moved.clear()  # the error's traceback keeps some
                first = host.predict(x, torch.tensor([500]), context)
                with torch.no_grad():
                    host.predict(x, torch.tensor([3]), context)
                second = host.predict(x * 2, torch.tensor([20]), context)
                assert all(copy() is None for copy in moved), "the graph keeps the weights of blocks that wait"
                before, outputs = swap.loads, swap.outputs
                (first - second).square().mean().backward()
                # once for each pass that is in the graph; the first blocks are in none without trained layers
                assert swap.loads - before == outputs and 2 * count - 4 <= outputs <= 2 * count
            results.append([first.detach(), second.detach(), *(p.grad for p in network.parameters())])
            network.zero_grad(set_to_none=True)
            assert not any(p.isnan().any() for p in host.model.unet.parameters())
    assert len(moved) > 100 and len(results[0]) > 10
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.long
def test_a_run_with_all_that_saves_memory(tmp_path: Any) -> None:
    """Options together: the run with swapped blocks has the file of the run without; the model comes back."""
    data, host = pictures(tmp_path / "data"), tiny_model()
    before = [(p.data_ptr(), p.clone()) for p in host.model.unet.parameters()]
    both = {"mixed_precision": "bf16", "full_bf16": True, "fp8_base": True, "gradient_checkpointing": True,
            "fused_backward_pass": True, "max_train_epochs": None, "max_train_steps": 2}  # fmt: skip
    files = [
        train(recipe(data, tmp_path / str(count), blocks_to_swap=count, no_metadata=True, **both), model=host).file
        for count in (0, 5)
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    after = [(p.data_ptr(), p) for p in host.model.unet.parameters()]
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in zip(before, after, strict=True))


def test_more_blocks_than_there_are() -> None:
    host = tiny_model()
    count = len(swappable_blocks(host.model.unet))
    with (
        pytest.raises(TrainError, match=f"blocks_to_swap 99 is more than this U-Net's {count} blocks"),
        host.prepared_for_training(TrainingModelOptions(blocks_to_swap=99)),
    ):
        pass
