"""Conditions of web UIs that order the rows of the U-Net's batch themselves, on a stand-in of Forge's sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from tiny import Tiny, check_nothing_left, lora_file
from torch import Tensor

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.conditions import NEGATIVE, Condition, ConditionScope
from lora_ext.host.patched.row_conditions import NegativeOfRegion, RowNumbering

LEFT, RIGHT = Condition(0, region=0), Condition(0, region=1)
NEGATIVES = tuple(Condition(None, is_negative=True, region=number) for number in range(2))
CONDITIONS = (LEFT, RIGHT, NEGATIVE, *NEGATIVES)


class Text:
    """A text among the web UI's conditions."""

    def __init__(self, cond: Tensor) -> None:
        self.cond = cond

    def process_cond(self, batch_size: int, device: Any, **_: Any) -> Text:
        return Text(self.cond.expand(batch_size, -1, -1))

    def can_concat(self, other: Text) -> bool:
        return self.cond.shape == other.cond.shape

    def concat(self, others: Sequence[Text]) -> Tensor:
        return torch.cat([self.cond, *(other.cond for other in others)])

    def size(self) -> list[int]:
        return list(self.cond.size())


class Half:
    """The weight of a half of the picture."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __rmul__(self, ones: Tensor) -> Tensor:
        mask = torch.zeros_like(ones)
        mask.chunk(2, -1)[self.side].fill_(1.0)
        return ones * mask


@pytest.fixture(scope="module")
def model() -> Tiny:
    return Tiny()


@pytest.fixture(autouse=True)
def nothing_left(model: Tiny) -> Iterator[None]:
    yield from check_nothing_left(model)


def condition(text: Tensor, strength: Any = 1.0) -> dict[str, Any]:
    return {"strength": strength, "model_conds": {"c_crossattn": Text(text)}}


@torch.no_grad()
def sampled(model: Tiny, options: dict[str, Any], x: Tensor, uncond: Any, cond: Any, each: int) -> list[Tensor]:
    """The predictions of prompt and negative prompt, `each` conditions in one call, from the last one to the first."""
    arguments: tuple[Any, ...] = (model, x, None, uncond, cond, 7.0, options, 1)
    for modifier in options.get("conditioning_modifiers", []):
        arguments = modifier(*arguments)
    _, x, _, uncond, cond, *_ = arguments
    rows = [(one, 0) for one in cond] + [(one, 1) for one in uncond or ()]
    totals, counts = [torch.zeros_like(x) for _ in range(2)], [torch.zeros_like(x) for _ in range(2)]
    rows.reverse()
    for first in range(0, len(rows), each):
        part = rows[first : first + each]
        found = [{k: v.process_cond(len(x), x.device) for k, v in one["model_conds"].items()} for one, _ in part]
        sizes = [{name: value.size() for name, value in one.items()} for one in found]  # reForge estimates memory
        assert all(size[0] == len(x) for one in sizes for size in one.values())
        joined = {name: found[0][name].concat([one[name] for one in found[1:]]) for name in found[0]}
        text = joined.pop("c_crossattn")
        outs = model.unet(torch.cat([x] * len(part)), 3, encoder_hidden_states=text, **joined).sample.chunk(len(part))
        for (one, kind), out in zip(part, outs, strict=True):
            weight = torch.ones_like(x) * one["strength"]
            totals[kind] += out * weight
            counts[kind] += weight
    return [total / count for total, count in zip(totals, counts, strict=True)]


@torch.no_grad()
def alone(model: Tiny, specs: list[AdapterSpec], x: Tensor, text: Tensor) -> Tensor:
    with AppliedNetworks(model, "live") as networks:
        networks.apply(specs)
        return model.unet(x, 3, text.expand(len(x), -1, -1)).sample


def halves(left: Tensor, right: Tensor) -> Tensor:
    return torch.cat([left.chunk(2, -1)[0], right.chunk(2, -1)[1]], -1)


@pytest.mark.parametrize("each", [1, 3, 4])
def test_rows_are_told_apart_in_any_groups(model: Tiny, each: int) -> None:
    file = lora_file(model, std=0.3)
    torch.manual_seed(3)
    x, text, negative, own = torch.randn(2, 4, 8, 8), *(torch.randn(1, 7, 16) for _ in range(3))
    options: dict[str, Any] = {}
    cond = [condition(text, Half(side)) for side in range(2)]
    with AppliedNetworks(model) as networks:
        networks.conditions = CONDITIONS
        networks.apply([AdapterSpec(file, scope=ConditionScope(regions=frozenset({0})))])
        texts = {"context": own.expand(2, -1, -1)}
        by_region = [NegativeOfRegion(3, Half(0), texts), NegativeOfRegion(4, Half(1), {"y": own})]
        RowNumbering(options, [0, 1], 2, by_region)
        positive, unconditional = sampled(model, options, x, [condition(negative)], cond, each)
        assert options == {}
        RowNumbering(options, [0, 1], 2)
        _, shared = sampled(model, options, x, [condition(negative)], cond, each)
    plain, acting = [], [AdapterSpec(file)]
    close = {"atol": 1e-4, "rtol": 1e-3}
    wanted = halves(alone(model, acting, x, text), alone(model, plain, x, text))
    torch.testing.assert_close(positive, wanted, **close)
    wanted = halves(alone(model, acting, x, own), alone(model, plain, x, negative))
    torch.testing.assert_close(unconditional, wanted, **close)
    torch.testing.assert_close(shared, alone(model, acting, x, negative), **close)


def test_what_others_have_in_the_list_stays() -> None:
    """Also parts that others have added, and a step without a negative prompt."""

    def other(*arguments: Any) -> tuple[Any, ...]:
        return arguments

    options: dict[str, Any] = {"conditioning_modifiers": [other]}
    numbering = RowNumbering(options, [0, 1], 2)
    assert options["conditioning_modifiers"] == [other, numbering]
    assert RowNumbering.remove(options) and options == {"conditioning_modifiers": [other]}
    assert not RowNumbering.remove(options)
    cond = [condition(torch.zeros(1, 2, 4)) for _ in range(3)]
    found = numbering(None, None, None, None, cond, 7.0)
    assert [one["model_conds"]["lora_ext_rows"].cond.item() for one in found[4]] == [0, 1, 1]
    assert found[3] is None and found[5] == 7.0 and "lora_ext_rows" not in cond[0]["model_conds"]
