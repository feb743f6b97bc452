"""The rows of a batch in which each file acts: nothing is computed for the others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Tiny, lora_file
from torch import Tensor, nn

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.adapters import Lora
from lora_ext.compare.per_image_weights import PerImageNetworks
from lora_ext.inject.applied_adapter import AppliedAdapter
from lora_ext.inject.forward_hook import ForwardHook
from lora_ext.inject.row_groups import JoinedFactors, slices_of
from lora_ext.lowrank import LowRank

CPU = (torch.device("cpu"), torch.float32)
RANKS = (2, 3, 4)


@pytest.fixture(scope="module")
def model() -> Tiny:
    return Tiny()


def factors() -> tuple[list[LowRank], JoinedFactors]:
    torch.manual_seed(0)
    forms = [LowRank(torch.randn(5, rank), torch.rand(rank) + 0.5, torch.randn(rank, 6)) for rank in RANKS]
    return forms, JoinedFactors(forms)


@given(st.sets(st.integers(0, 40)))
def test_slices_are_the_rows(rows: set[int]) -> None:
    numbers = list(range(41))
    assert [number for part in slices_of(sorted(rows)) for number in numbers[part]] == sorted(rows)


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, -1.0])] * 3), min_size=2, max_size=4), st.integers(1, 3))
def test_groups_are_the_files_of_each_row(weights: list[tuple[float, ...]], images: int) -> None:
    forms, joined = factors()
    joined.set_weights([torch.tensor(column) for column in zip(*weights, strict=True)])
    sets = tuple(range(len(weights))) * images
    x, seen = torch.randn(len(sets), 6), set[int]()
    result = torch.zeros(len(sets), 5)
    for group in joined.groups(CPU, sets):
        rows = list(range(len(sets)))[group.rows]
        assert not seen & set(rows) and len(group.down) == sum(RANKS[form] for form in group.forms)
        assert all(bool(weights[sets[row]][form]) == (form in group.forms) for row in rows for form in range(3))
        seen |= set(rows)
        thin = x[group.rows] @ group.down.T
        result[group.rows] = (thin if group.gain is None else thin * group.gain) @ group.up.T * group.scale
    for row, own in enumerate(sets):
        delta = sum(form.times(weight).delta() for form, weight in zip(forms, weights[own], strict=True))
        torch.testing.assert_close(result[row], delta @ x[row], atol=1e-4, rtol=1e-4)


def test_a_file_that_is_alone_has_its_own_columns_and_no_copy_of_d() -> None:
    _, joined = factors()
    joined.set_weights([0.0, 0.5, 0.0])
    (group,) = joined.groups(CPU, None)
    assert group.forms == (1,) and group.gain is None and group.up.shape == (5, 3)
    joined.set_weights([0.5, 0.5, 0.5])
    (whole,) = joined.groups(CPU, None)
    assert group.down.data_ptr() == whole.down[2:5].data_ptr()


@pytest.mark.parametrize("scattered", [(0, 1, 3), (1,)])
def test_rows_without_a_file_are_bit_for_bit_as_without_it(model: Tiny, scattered: tuple[int, ...]) -> None:
    file = lora_file(model, wide=True, std=0.3)
    x, text = torch.randn(5, 4, 8, 8), torch.randn(5, 7, 16)
    with torch.no_grad():
        plain = model.unet(x, 3, text).sample
        with PerImageNetworks(model, "live") as applied:
            applied.apply_each([[AdapterSpec(file)] if row in scattered else [] for row in range(5)])
            output = model.unet(x, 3, text).sample
    for row in range(5):
        assert torch.equal(output[row], plain[row]) == (row not in scattered)


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv2d(6, 5, 3, padding=1)])
def test_gradients_pass_and_the_layers_own_output_stays(layer: nn.Module) -> None:
    _, width, *kernel = layer.weight.shape
    up, down = torch.randn(5, 2, *[1 for _ in kernel]), torch.randn(2, width, *kernel)
    adapter = Lora({"lora_up.weight": up, "lora_down.weight": down})
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, __, output: kept.append(output))
    hook = ForwardHook(layer)
    hook.update((AppliedAdapter(adapter, torch.tensor([0.5, 0.0])),), lambda: None)
    x = torch.randn((2, 6) if layer.weight.dim() == 2 else (2, 6, 4, 4), requires_grad=True)
    output = layer(x)
    output.square().sum().backward()
    hook.remove()
    handle.remove()
    assert torch.equal(kept[0], layer(x))
    with torch.no_grad():
        layer.weight += 0.5 * adapter.delta(layer.weight)
    first = x.detach()[:1].requires_grad_()
    layer(first).square().sum().backward()
    torch.testing.assert_close(x.grad[0], first.grad[0], atol=1e-4, rtol=1e-3)


def test_another_weight_makes_no_factors_anew_where_the_gain_is_one_number() -> None:
    """Sliders change a number, and no tensor of any layer."""
    low = LowRank(torch.randn(5, 3), torch.full((3,), 0.5), torch.randn(3, 4))
    factors, target = JoinedFactors([low]), (torch.device("cpu"), torch.float64)
    found = []
    for weight in (0.8, -2.0):
        factors.set_weights([weight])
        (group,) = factors.groups(target, None)
        torch.testing.assert_close(group.up @ group.down * group.scale, low.times(weight).delta().double())
        found.append((group.up, group.down))
    assert found[0][0] is found[1][0] and found[0][1] is found[1][1]
    factors.set_weights([0.0])
    assert factors.groups(target, None) == []
