"""W + ΔW in blocks of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from makers import make
from reference import reference
from torch import nn

from lora_ext.adapters import adapter_from_tensors
from lora_ext.inject import BAKED, AppliedAdapter, Injection, LayerTarget
from lora_ext.inject import baking as bake_module
from lora_ext.inject import live_layer as layer_module
from lora_ext.inject.baking import add_delta
from lora_ext.inject.live_layer import LIVE_LAYERS


def applied_adapter(kind: str, shape: tuple[int, ...], weight: float = 0.7) -> tuple[AppliedAdapter, np.ndarray]:
    """An applied adapter, and its weight·ΔW for a weight of ones in float64."""
    tensors = make(kind, torch.Size(shape), rank=3, dtype=torch.float32, rng=np.random.default_rng(3))
    adapter = adapter_from_tensors(tensors)
    assert adapter is not None
    return AppliedAdapter(adapter, weight), weight * (reference(kind, tensors, np.ones(shape)) - 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(200, 24), (130, 8, 3, 3)])
def test_many_blocks_are_one_sum(shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place or not, the bits are the same; and whatever a block's rows, it is W + ΔW."""
    acting, delta = applied_adapter("lora", shape)
    weight = torch.ones(shape, dtype=dtype)
    results = []
    for block in (1, 1 << 18):
        monkeypatch.setattr(bake_module, "_BLOCK", block)
        seen: list[torch.Size] = []
        results.append(add_delta(weight, (acting,), on_rows=lambda rows, seen=seen: seen.append(rows.shape)))
        assert sum(rows[0] for rows in seen) == shape[0] and (len(seen) == 1) == (block > 1)
        own = weight.clone()
        assert add_delta(own, (acting,), own) is own and torch.equal(own, results[-1])
    wanted = torch.from_numpy(1 + delta)
    for result in results:
        assert result.dtype == dtype
        assert torch.allclose(result.double(), wanted, atol=float(torch.finfo(dtype).eps) + 1e-6)


def test_into_a_result_of_another_dtype() -> None:
    acting, delta = applied_adapter("lora", (96, 24))
    out = torch.empty(96, 24)
    add_delta(torch.ones(96, 24, dtype=torch.float16), (acting,), out)
    assert torch.allclose(out.double(), torch.from_numpy(1 + delta), atol=1e-6)


@pytest.mark.parametrize("height", [1, 4, 7, 8, 12, 16, 64])
@pytest.mark.parametrize("chosen", [(0, 2), (2, 0), (1,), (1, 3), (3, 1)])
def test_rows_that_nothing_acts_on_stay(height: int, chosen: tuple[int, ...]) -> None:
    """Pieces on some parts of a stacked weight, in any order; the other parts are copied."""
    acting, delta = applied_adapter("lora", (height, 6))
    applied_adapters = [
        AppliedAdapter(acting.adapter, acting.weight, rows=(n * height, (n + 1) * height)) for n in chosen
    ]
    out = add_delta(torch.ones(4 * height, 6), tuple(applied_adapters))
    for number, part in enumerate(out.double().split(height)):
        assert torch.allclose(part, torch.from_numpy(1 + delta * (number in chosen)), atol=1e-6), number


def test_low_rank_and_dense_kinds_together() -> None:
    (one, first), (two, second) = applied_adapter("lora", (96, 24)), applied_adapter("loha", (96, 24))
    out = add_delta(torch.ones(96, 24), (one, two))
    assert torch.allclose(out.double(), torch.from_numpy(1 + first + second), atol=1e-5)


def test_a_model_that_goes_to_channels_last_meanwhile() -> None:
    """What was swapped in has other strides then; a new weight still arrives, and the original comes back."""
    module = nn.Conv2d(8, 130, 3)
    original, before = module.weight, module.weight.detach().clone()
    acting, _ = applied_adapter("lora", (130, 8, 3, 3))
    target = LayerTarget(module, "weight", module.weight.shape)
    with Injection(BAKED) as injection:
        injection.apply({target: (acting,)})
        module.to(memory_format=torch.channels_last)
        stronger, _ = applied_adapter("lora", (130, 8, 3, 3), 1.5)
        injection.apply({target: (AppliedAdapter(acting.adapter, 1.5),)})
        assert torch.equal(module.weight, add_delta(before, (stronger,)))
    assert module.weight is original and torch.equal(original, before)


def test_a_schedule_switches_without_summing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off and on again are swaps; a changed original or another weight is summed, and the original always returns."""
    sums: list[tuple[AppliedAdapter, ...]] = []

    def counted(
        weight: torch.Tensor, applied_adapters: tuple[AppliedAdapter, ...], out: torch.Tensor | None = None
    ) -> torch.Tensor:
        sums.append(applied_adapters)
        return add_delta(weight, applied_adapters, out)

    monkeypatch.setattr(layer_module, "add_delta", counted)
    module = nn.Linear(24, 96)
    original, target = module.weight, LayerTarget(module, "weight", module.weight.shape)
    adapter = applied_adapter("lora", (96, 24))[0].adapter
    on, off = AppliedAdapter(adapter, 0.7, is_scheduled=True), AppliedAdapter(adapter, 0.0, is_scheduled=True)
    with Injection(BAKED) as injection:
        for attempt in range(3):
            injection.apply({target: (on,)})
            assert module.weight is not original
            assert torch.equal(module.weight, add_delta(original.detach(), (on,)))
            injection.apply({target: (off,)})
            assert module.weight is original and len(sums) == 1, attempt
        with torch.no_grad():
            original.mul_(2)
        injection.apply({target: (on,)})
        assert len(sums) == 2 and torch.equal(module.weight, add_delta(original.detach(), (on,)))
        injection.apply({target: (AppliedAdapter(adapter, 0.5, is_scheduled=True),)})
        assert len(sums) == 3
        beside, gone = AppliedAdapter(adapter, 0.3), AppliedAdapter(adapter, 0.0)
        for acting, added in (((on, beside), 1), ((beside,), 2)):  # one of them has a schedule, or none
            before = len(sums)
            for _ in range(2):
                injection.apply({target: acting})
                assert torch.equal(module.weight, add_delta(original.detach(), acting))
                injection.apply({target: (off, gone)})
                assert module.weight is original
            assert len(sums) == before + added
        sums[:] = sums[:3]
        module.double()
        injection.apply({target: (off,)})
        injection.apply({target: (on,)})
        assert len(sums) == 4 and module.weight.dtype == torch.float64
    assert module.weight is original


def test_what_a_schedule_keeps_goes_with_it() -> None:
    module = nn.Linear(24, 96)
    target, adapter = LayerTarget(module, "weight", module.weight.shape), applied_adapter("lora", (96, 24))[0].adapter
    with Injection(BAKED) as injection:
        injection.apply({target: (AppliedAdapter(adapter, 0.7, is_scheduled=True),)})
        layer = LIVE_LAYERS[module]
        injection.apply({target: (AppliedAdapter(adapter, 0.0, is_scheduled=True),)})
        assert layer.buffers
        injection.apply({target: (AppliedAdapter(adapter, 0.0),)})
        assert not layer.buffers and not layer.cached_sums
