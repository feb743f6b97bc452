"""LoRAs that act on single conditions: parts of a prompt joined by AND, and the negative prompt."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny import Tiny, check_nothing_left, lora_file

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.conditions import (
    NEGATIVE,
    Condition,
    ConditionScope,
    and_conditions,
    images_in_turn,
    parts_in_turn,
)
from lora_ext.errors import FitError
from lora_ext.inject.averaged_predictions import AveragedPredictions
from lora_ext.inject.condition_rows import ROWS_ARGUMENT, ConditionRows, SplitRow
from lora_ext.lora_tags import LoraTag
from lora_ext.prompt_parts import ConditionSettings, split_prompt_parts, tag_scope
from lora_ext.weight_curve import parse_curve

FIRST, SECOND = (ConditionScope(frozenset({part}), negative=False) for part in range(2))
NO_NEGATIVE = ConditionScope(negative=False)


@pytest.fixture(scope="module")
def model() -> Tiny:
    return Tiny()


@pytest.fixture(autouse=True)
def nothing_left(model: Tiny) -> Iterator[None]:
    yield from check_nothing_left(model)
    assert not model.unet._forward_pre_hooks


def inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    return torch.randn(rows, 4, 8, 8), torch.randn(rows, 7, 16)


@torch.no_grad()
def unet(model: Tiny, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    return model.unet(x, 3, text).sample


def alone(model: Tiny, specs: list[AdapterSpec], x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    with AppliedNetworks(model, "live") as networks:
        networks.apply(specs)
        return unet(model, x, text)


@pytest.mark.long
@pytest.mark.parametrize(("kind", "mode"), [("lora", "auto"), ("lora", "baked"), ("lora-dora-out", "live")])
def test_each_row_has_the_files_of_its_condition(model: Tiny, kind: str, mode: str) -> None:
    a, b = (lora_file(model, kind, seed=seed, name=str(seed), std=0.3) for seed in range(2))
    x, text = inputs(3)
    with AppliedNetworks(model, mode) as networks:
        networks.conditions = and_conditions(2)
        networks.apply([AdapterSpec(a, unet=0.8, scope=FIRST), AdapterSpec(b, unet=0.6, scope=SECOND)])
        networks.begin_rows(images_in_turn([2]))
        together = unet(model, x, text)
    rows = [[AdapterSpec(a, unet=0.8)], [AdapterSpec(b, unet=0.6)], []]
    for row, specs in enumerate(rows):
        one = alone(model, specs, x[row : row + 1], text[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], one, atol=1e-4, rtol=1e-3)
    assert (together - unet(model, x, text)).abs().amax((1, 2, 3))[:2].min() > 1e-3


def test_a_row_without_a_file_is_as_without_it_bit_for_bit(model: Tiny) -> None:
    x, text = inputs(2)
    with AppliedNetworks(model) as networks:
        networks.conditions = and_conditions(1)
        networks.apply([AdapterSpec(lora_file(model, wide=True), scope=NO_NEGATIVE)])
        networks.begin_rows(images_in_turn([1]))
        together = unet(model, x, text)
    plain = unet(model, x, text)
    assert torch.equal(together[1], plain[1]) and not torch.allclose(together[0], plain[0])


def test_calls_take_their_rows_in_order(model: Tiny) -> None:
    """The web UI computes rows in one call or in several, and tiles of a picture several times."""
    spec, (x, text) = AdapterSpec(lora_file(model, wide=True, std=0.3), scope=FIRST), inputs(6)
    with AppliedNetworks(model) as networks:
        networks.conditions = and_conditions(2)
        networks.apply([spec])
        networks.begin_rows(images_in_turn([2, 2]))
        whole = unet(model, x, text)
        networks.begin_rows(images_in_turn([2, 2]))
        parts = torch.cat([unet(model, x[a:b], text[a:b]) for a, b in ((0, 2), (2, 4), (4, 6))])
        tiled = unet(model, x.repeat(2, 1, 1, 1), text.repeat(2, 1, 1))
        networks.begin_rows(images_in_turn([2, 2]))
        unet(model, x[:4], text[:4])  # the negative prompt is skipped in this step
        networks.begin_rows(images_in_turn([2, 2]))
        again = unet(model, x, text)
        unet(model, x[:5], text[:5])
        with pytest.raises(FitError, match="2 rows where a step has 1 left"):
            unet(model, x[:2], text[:2])
    for other in (parts, *tiled.chunk(2), again):
        torch.testing.assert_close(other, whole, atol=1e-4, rtol=1e-3)


def test_rows_may_come_with_the_call(model: Tiny) -> None:
    """Forge orders rows itself: they travel with its conditions as an argument that the network never sees."""
    rows = ConditionRows()
    seen: list[dict[str, object]] = []
    network = torch.nn.Identity()
    network.forward = lambda x, **more: seen.append(more)  # type: ignore[method-assign, assignment, return-value]
    rows.attach(network, AveragedPredictions(lambda _: None))
    network(torch.zeros(3, 1), **{ROWS_ARGUMENT: torch.tensor([[2.0], [0.0], [1.0]])})
    assert seen == [{}]
    assert rows.select(torch.tensor([[5.0], [6.0], [7.0]]), 3).flatten().tolist() == [7.0, 5.0, 6.0]
    given = torch.tensor([[2.0], [0.0], [1.0], [1.0]])  # of four rows that come in pairs
    for pair in ([7.0, 5.0], [6.0, 6.0]) * 2:
        network(torch.zeros(2, 1), **{ROWS_ARGUMENT: given})
        assert rows.select(torch.tensor([[5.0], [6.0], [7.0]]), 2).flatten().tolist() == pair


@pytest.mark.parametrize("mode", ["auto", "baked"])
def test_each_text_has_the_files_of_its_condition(model: Tiny, mode: str) -> None:
    files = [lora_file(model, seed=seed, name=str(seed), std=0.3) for seed in range(3)]
    scopes = [FIRST, SECOND, NO_NEGATIVE]
    specs = [AdapterSpec(file, te=0.7, scope=scope) for file, scope in zip(files, scopes, strict=True)]

    def text() -> torch.Tensor:
        with torch.no_grad():
            return model.text_encoder(torch.arange(7)[None]).last_hidden_state

    def wanted(*own: int) -> torch.Tensor:
        with AppliedNetworks(model, mode) as networks:
            networks.apply([AdapterSpec(files[i], te=0.7) for i in own])
            return text()

    plain, expected = text(), [wanted(0, 2), wanted(1, 2)]
    with AppliedNetworks(model, mode) as networks:
        networks.conditions = and_conditions(2)
        networks.apply(specs)
        for condition, states in zip(and_conditions(2), [*expected, plain], strict=True):
            networks.encode_as(condition)
            torch.testing.assert_close(text(), states, atol=1e-4, rtol=1e-3)
        assert torch.equal(text(), plain)
        networks.encode_as(None)
        assert not torch.allclose(text(), expected[0])


def test_schedules_of_conditions(model: Tiny) -> None:
    file, (x, text) = lora_file(model, std=0.3), inputs(3)
    specs = [
        AdapterSpec(file, curve=parse_curve("0@0,1@1"), scope=FIRST),
        AdapterSpec(file, 0.5, 0.5, stop=1, scope=SECOND),
    ]
    made = []
    with AppliedNetworks(model) as networks:
        networks.conditions = and_conditions(2)
        networks.apply(specs)
        for step in range(3):
            networks.at_step(step, 3)
            networks.begin_rows(images_in_turn([2]))
            made.append(unet(model, x, text))
    for step, weights in enumerate(((0.0, 0.5), (0.5, 0.0), (1.0, 0.0))):
        for row, weight in enumerate(weights):
            one = alone(model, [AdapterSpec(file, unet=weight)], x[row : row + 1], text[row : row + 1])
            torch.testing.assert_close(made[step][row : row + 1], one, atol=1e-4, rtol=1e-3)


def test_a_file_whose_weight_is_0_now_beside_one_that_acts_everywhere(model: Tiny) -> None:
    file, other = (lora_file(model, seed=seed, name=str(seed), std=0.3) for seed in range(2))
    x, text = inputs(3)
    with AppliedNetworks(model) as networks:
        networks.conditions = and_conditions(2)
        networks.apply([AdapterSpec(file, curve=parse_curve("0@0,1@1"), scope=FIRST), AdapterSpec(other)])
        networks.begin_rows(images_in_turn([2]))
        networks.at_step(0, 3)
        made = unet(model, x, text)
    torch.testing.assert_close(made, alone(model, [AdapterSpec(other)], x, text), atol=1e-4, rtol=1e-3)


def quarters(height: int, width: int) -> torch.Tensor:
    """Weights of two rows."""
    return torch.tensor([0.25, 0.75])[:, None, None].expand(2, height, width)


def test_a_row_of_several_conditions_is_the_sum_of_separate_calls(model: Tiny) -> None:
    """With the texts of each, wherever padding and marks of others have moved them; rows of one condition stay."""
    file, (x, text) = lora_file(model, std=0.3), inputs(2)
    first, second = (Condition(None, is_negative=True, region=number) for number in range(2))
    own = [text[1] * 0.5, text[1] * 2.0]
    marked = torch.cat([text.new_zeros(2, 1, 16), text, text.new_ones(2, 2, 16)], 1)
    outs = []
    for number, specs in enumerate(([AdapterSpec(file)], [])):
        there = torch.cat([marked[1, :1], own[number], marked[1, 8:]])[None]
        outs.append(alone(model, specs, x[1:], there))
    with AppliedNetworks(model) as networks:
        networks.conditions = (Condition(0), first, second)
        networks.apply([AdapterSpec(file, scope=ConditionScope(regions=frozenset({0})))])
        row = SplitRow((first, second), quarters, {"encoder_hidden_states": (text[1], own)})
        networks.begin_rows([Condition(0), row])
        with torch.no_grad():
            made = model.unet(x, 3, encoder_hidden_states=marked).sample
    torch.testing.assert_close(made[1:], outs[0] * 0.25 + outs[1] * 0.75, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(made[:1], alone(model, [AdapterSpec(file)], x[:1], marked[:1]), atol=1e-4, rtol=1e-3)


def test_predictions_that_are_averaged_have_rows_of_several_conditions(model: Tiny) -> None:
    a, b = (lora_file(model, seed=seed, name=str(seed), std=0.3) for seed in range(2))
    x, text = inputs(1)
    negatives = tuple(Condition(None, is_negative=True, region=number) for number in range(2))

    def both(scope: ConditionScope | None) -> list[AdapterSpec]:
        return [AdapterSpec(file, compose="composite", scope=scope) for file in (a, b)]

    with AppliedNetworks(model) as networks:
        networks.conditions = negatives
        networks.apply(both(ConditionScope(regions=frozenset({0}))))
        networks.begin_rows([SplitRow(negatives, quarters, {})])
        made = unet(model, x, text)
    composed = alone(model, both(None), x, text)
    torch.testing.assert_close(made, composed * 0.25 + unet(model, x, text) * 0.75, atol=1e-4, rtol=1e-3)


def test_scopes_that_include_all_conditions_are_plain_weights(model: Tiny) -> None:
    spec = AdapterSpec(lora_file(model), scope=ConditionScope(frozenset({0, 1})))
    with AppliedNetworks(model) as networks:
        networks.conditions = and_conditions(2)
        networks.apply([spec])
        adapters = [one for applied in networks._current.values() for one in applied]
        assert adapters and all(isinstance(one.weight, float) for one in adapters)


def test_scopes_without_conditions_mean_nothing(model: Tiny) -> None:
    file = lora_file(model)
    with AppliedNetworks(model) as networks:
        networks.apply([AdapterSpec(file, scope=FIRST)])
        scoped = model.draw()
        networks.apply([AdapterSpec(file)])
        assert all(map(torch.equal, scoped, model.draw()))


def test_orders_of_rows() -> None:
    assert images_in_turn([2, 1]) == [Condition(0), Condition(1), Condition(0), NEGATIVE, NEGATIVE]
    assert parts_in_turn(2, 2) == [Condition(0), Condition(0), Condition(1), Condition(1), NEGATIVE, NEGATIVE]


PROMPTS = {
    "a cat <lora:a:1>": (1, [0]),
    "<lora:a:1> a cat AND a dog<lora:b:1>": (2, [0, 1]),
    "a cat <lora:this AND that:1> AND a dog <lora:b:1> AND <lora:c:1>": (3, [0, 1, 2]),
    "a cat AND <hypernet:x AND y:1> <lora:b:1> :0.5": (2, [1]),
    "a BAND <lora:a:1> ANDROID": (1, [0]),
    "<lyco:a:1> AND <lora:b:1> AND <lyco:c:1>": (3, [0, 2, 1]),
    "<lora:a:1>AND a dog <lora:b:1>": (2, [0, 1]),
    "dog <lora:a:1> AND<lora:b:1>": (2, [0, 1]),
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_which_part_a_tag_stands_in(prompt: str) -> None:
    count, parts = PROMPTS[prompt]
    found = split_prompt_parts(prompt)
    assert (found.count, [part for _, part in found.tags]) == (count, parts)


def test_what_a_tag_acts_on() -> None:
    web_ui, own = ConditionSettings(), ConditionSettings(own_part=True)
    assert tag_scope(LoraTag("a"), 0, 2, web_ui) is None and tag_scope(LoraTag("a"), 0, 1, own) is None
    assert tag_scope(LoraTag("a"), 1, 2, own) == SECOND
    assert tag_scope(LoraTag("a", part="own"), 1, 2, web_ui) == SECOND
    assert tag_scope(LoraTag("a", part="all"), 1, 2, own) is None
    assert tag_scope(LoraTag("a", neg=False), 0, 1, web_ui) == NO_NEGATIVE
    assert tag_scope(LoraTag("a", neg=True), 1, 2, own) == ConditionScope(frozenset({1}), negative=True)
    no_negative = ConditionSettings(negative=False)
    assert tag_scope(LoraTag("a"), 0, 1, no_negative) == NO_NEGATIVE
    assert tag_scope(LoraTag("a", neg=True), 0, 1, no_negative) is None
    assert tag_scope(LoraTag("a"), None, 2, own) is None
