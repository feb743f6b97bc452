"""The settings that the report proposes where memory does not suffice: the fewest that fit, by the same estimate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_trainable_model import pictures, recipe, tiny_model

from lora_ext.inject.free_memory import free_bytes
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.data.dataset import Dataset
from lora_ext.train.run import memory_plan
from lora_ext.train.run.cost_estimate import UNET_COSTS
from lora_ext.train.run.memory_plan import (
    PartSize,
    RunSize,
    available_bytes,
    memory_need,
    size_of_part,
    sizes_of_blocks,
    smallest_fitting_set,
)
from lora_ext.train.run.preflight import run_preflight

GIB = 2.0**30
SDXL = RunSize(
    {"unet": PartSize(2_567_000_000, 2_560_000_000), "te": PartSize(123_000_000, 85_000_000)},
    tuple([30_000_000] * 60 + [8_000_000] * 20), 23_000_000, 1.0, UNET_COSTS["SDXL"].activation_bytes, (1024, 1024),
    torch.device("cuda"), UNET_COSTS["SDXL"].checkpointed_share,
)  # fmt: skip
HALF = Recipe(mixed_precision="bf16", network_train_unet_only=True)


def test_each_setting_lowers_what_it_is_for() -> None:
    base = memory_need(HALF, SDXL)

    def of(**more: object) -> memory_plan.MemoryNeed:
        return memory_need(replace(HALF, **more), SDXL)  # type: ignore[arg-type]

    assert of(fp8_base=True).weights < 0.55 * base.weights < of(fp8_base_unet=True).weights + 0.05 * base.weights
    assert of(blocks_to_swap=60).weights == base.weights - 59 * 30e6 * 2
    assert of(blocks_to_swap=1) == base and of(blocks_to_swap=10, fp8_base=True).weights < of(fp8_base=True).weights
    assert of(full_bf16=True).training == base.training / 2
    assert base.training - of(fused_backward_pass=True).training == 4 * SDXL.trained
    assert of(gradient_checkpointing=True).activations < 0.5 * base.activations
    assert memory_need(replace(HALF, blocks_to_swap=60), replace(SDXL, device=torch.device("cpu"))) == base


def test_the_fewest_settings_that_fit_are_proposed() -> None:
    need = memory_need(HALF, SDXL).total
    assert smallest_fitting_set(HALF, SDXL, need - 1).startswith("fused_backward_pass: about ")
    limits = (11, 6, 4, 3)
    told = [smallest_fitting_set(HALF, SDXL, gib * GIB) for gib in limits]
    assert told[0].startswith("gradient_checkpointing: ")
    assert [len(text.split(", ")) for text in told] == sorted(len(text.split(", ")) for text in told)
    assert any("fp8_base" in text for text in told) and any("blocks_to_swap" in text for text in told)
    for text, gib in zip(told, limits, strict=True):
        given = dict((part.split(" ") + ["1"])[:2] for part in text.partition(":")[0].split(", "))
        changed = replace(HALF, **{k: int(v) if k == "blocks_to_swap" else True for k, v in given.items()})
        assert memory_need(changed, SDXL).total <= gib * GIB
    assert smallest_fitting_set(HALF, SDXL, GIB).startswith("a smaller resolution beside ")
    large = replace(HALF, train_batch_size=4, gradient_checkpointing=True)
    one = memory_need(replace(large, train_batch_size=1), SDXL).total
    assert smallest_fitting_set(large, SDXL, one).startswith("train_batch_size 1, gradient_accumulation_steps 4: ")


def test_what_a_model_has_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU the machine's memory counts; the report has the proposal where it does not suffice."""
    host = tiny_model()
    unet = host.model.unet
    size = size_of_part(unet)
    assert size.numbers == sum(p.numel() for p in unet.parameters()) > size.in_layers > 0.8 * size.numbers
    assert len(sizes_of_blocks(unet)) > 10 and sum(sizes_of_blocks(unet)) < size.numbers
    free = free_bytes(torch.device("cpu"))
    assert free is None or available_bytes(host) > 0.2 * free
    monkeypatch.setattr(memory_plan, "free_bytes", lambda device: 0)
    data = Dataset.from_recipe(recipe(pictures(tmp_path / "data"), tmp_path / "out"))
    text = run_preflight(data, host, parameter_count=1000).text()
    assert "GiB that are free; use a smaller resolution beside mixed_precision bf16, " in text
    assert "blocks_to_swap" not in text, "it saves nothing on the CPU"
