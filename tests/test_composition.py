"""Files that take turns: the text of `compose=`, LoRA Switch as a schedule, LoRA Composite as averaged predictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Tiny, check_nothing_left, lora_file
from torch import Tensor, nn

from lora_ext import api
from lora_ext.adapter_spec import AdapterSpec, with_turns
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.compare.axes import parse_axis
from lora_ext.compare.image_spec import ImageSpec
from lora_ext.compare.per_image_weights import PerImageNetworks
from lora_ext.composition import Turn, assign_turns, parse_composition, predictions_per_call
from lora_ext.conditions import NEGATIVE, Condition, ConditionScope
from lora_ext.errors import PromptError
from lora_ext.inject import MODES
from lora_ext.inject.averaged_predictions import AveragedPredictions
from lora_ext.lora_tags import parse_tag_items
from lora_ext.regions import parse_region

CLOSE = 2e-5


@pytest.fixture(scope="module")
def model() -> Tiny:
    return Tiny()


@pytest.fixture(autouse=True)
def _nothing_left(model: Tiny) -> Iterator[None]:
    yield from check_nothing_left(model)
    assert not model.unet._forward_hooks and not model.unet._forward_pre_hooks


# --- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["turns", "switch/0", "switch/-1", "composite/2", "sum/2", "switch/", "", "switch/2.5"]
)
def test_other_texts_are_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(PromptError, match="write sum, switch, switch/5 or composite"):
        parse_composition(text)


def test_a_tag_keeps_its_text() -> None:
    tag = parse_tag_items(["cat", "0.5", "compose=switch/3", "lbw=OUTALL"])
    assert tag.compose == "switch/3" and parse_tag_items(tag.format_tag()[6:-1].split(":")) == tag
    with pytest.raises(PromptError, match="did you mean 'switch'"):
        parse_tag_items(["cat", "compose=swich"])


TEXTS = st.lists(st.sampled_from([None, "sum", "switch", "switch/3", "composite"]), min_size=1, max_size=6)


@given(TEXTS, st.integers(0, 60))
def test_one_file_of_each_group_acts_at_a_time(texts: list[str | None], step: int) -> None:
    turns = assign_turns(texts)
    usual = next((text for text in texts if text not in (None, "sum")), "sum")
    by_text: dict[str, list[Turn | None]] = {}
    for text, turn in zip(texts, turns, strict=True):
        by_text.setdefault(text or usual, []).append(turn)
    predictions = predictions_per_call(turns)
    for text, group in by_text.items():
        if text == "sum" or len(group) == 1:
            assert group == [None] * len(group)
            continue
        acting = [[t.acts_at(step, prediction) for t in group if t] for prediction in range(predictions)]
        assert all(sum(row) == 1 for row in acting)
        if text == "composite":  # each equally often in the mean of a step
            assert {sum(column) for column in zip(*acting, strict=True)} == {predictions // len(group)}
        else:
            assert acting[0].index(True) == step // (3 if "/" in text else 1) % len(group)


def test_the_axis_of_a_sheet_changes_the_tag() -> None:
    context = SimpleNamespace(library=None, presets=None, image_spec=None)
    axis = parse_axis("compose:sum, switch/2, composite", context)  # type: ignore[arg-type]
    spec = ImageSpec(prompt="x <lora:cat:1> <lora:dog:1>", seed=1, lora="cat")
    prompts = [value.edit(spec).prompt for value in axis.values]
    assert prompts == [f"x <lora:cat:1:compose={text}> <lora:dog:1>" for text in ("sum", "switch/2", "composite")]
    with pytest.raises(PromptError, match="compose=other"):
        parse_axis("compose:other", context)  # type: ignore[arg-type]


# --- on a model ------------------------------------------------------------------------------------------------------


def specs_of(model: Tiny, compose: str | None, count: int = 2, **fields: Any) -> list[AdapterSpec]:
    """Files for the U-Net and the text encoder; the first one says how all act together."""
    files = [lora_file(model, seed=seed, name=f"file{seed}", std=0.3) for seed in range(count)]
    return [
        AdapterSpec(file, te=0.3, unet=0.7 - 0.2 * i, compose=compose if i == 0 else None, **fields)
        for i, file in enumerate(files)
    ]


def alone(model: Tiny, specs: list[AdapterSpec], acting: int, mode: str = "live") -> Tensor:
    """The U-Net's output with one file, and the text encoder's parts of all."""
    with AppliedNetworks(model, mode) as applied:
        applied.apply([replace(s, compose=None, unet=s.unet if i == acting else 0.0) for i, s in enumerate(specs)])
        return model.draw()[1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("compose", ["switch", "composite"])
def test_one_file_alone_is_as_without_it(model: Tiny, compose: str, mode: str) -> None:
    """Bit for bit."""
    (spec,) = specs_of(model, compose, 1)
    with AppliedNetworks(model, mode) as applied:
        applied.apply([spec])
        applied.at_step(1, 4)
        drawn = model.draw()
        applied.apply([replace(spec, compose=None)])
        assert all(map(torch.equal, drawn, model.draw()))


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_a_step_of_switch_is_one_file_alone(model: Tiny, mode: str) -> None:
    specs = specs_of(model, "switch/2", 3)
    with AppliedNetworks(model, mode) as applied:
        applied.apply(specs)
        drawn = []
        for step in range(7):
            applied.at_step(step, 7)
            drawn.append(model.draw()[1])
    files = [alone(model, specs, acting) for acting in range(3)]
    for step, output in enumerate(drawn):
        assert torch.allclose(output, files[step // 2 % 3], atol=CLOSE), step
    assert not torch.allclose(files[0], files[1], atol=1e-3)


@pytest.mark.long
@pytest.mark.parametrize(("kind", "mode"), [("lora", "live"), ("loha", "auto"), ("lora", "baked")])
def test_composite_is_the_mean_of_each_file_alone(model: Tiny, kind: str, mode: str) -> None:
    specs = specs_of(model, "composite", 2)
    specs[0] = replace(specs[0], file=lora_file(model, kind, std=0.3))
    files = [alone(model, specs, acting) for acting in range(2)]
    with AppliedNetworks(model, mode) as applied:
        applied.apply(specs)
        for step in (0, 3):
            applied.at_step(step, 4)
            text, output = model.draw()
            assert torch.allclose(output, (files[0] + files[1]) / 2, atol=CLOSE)
        applied.apply([replace(spec, compose="sum") for spec in specs])
        assert torch.equal(model.draw()[0], text)  # the text encoder has all files in either case
        assert not torch.allclose(model.draw()[1], output, atol=1e-3)


def test_schedules_and_a_file_that_stays_go_on_beside_composite(model: Tiny) -> None:
    first, second, third = specs_of(model, "composite", 3)
    specs = [replace(first, start=2), second, replace(third, compose="sum")]
    with AppliedNetworks(model) as applied:
        applied.apply(specs)
        for step, weights in ((0, [(0.0, 0.3), (0.5, 0.3)]), (3, [(0.7, 0.3), (0.5, 0.3)])):
            applied.at_step(step, 4)
            output = model.draw()[1]
            parts = []
            for i, (unet, stays) in enumerate(weights):
                own = [replace(s, compose=None, start=None, unet=0.0) for s in specs]
                own[i], own[2] = replace(own[i], unet=unet), replace(own[2], unet=stays)
                with AppliedNetworks(model, "live") as other:
                    applied.apply([])
                    other.apply(own)
                    parts.append(model.draw()[1])
            assert torch.allclose(output, torch.stack(parts).mean(0), atol=CLOSE), step
            applied.apply(specs)


def test_images_of_a_batch_have_turns_of_their_own(model: Tiny) -> None:
    """One image composes two files, one has a single file, one none: each is as by itself."""
    specs = specs_of(model, "composite", 2)
    rows = [specs, [replace(specs[1], compose="composite")], []]
    text, x = torch.randn(1, 7, 16).expand(3, -1, -1), torch.randn(1, 4, 8, 8).expand(3, -1, -1, -1)
    with torch.no_grad():
        with PerImageNetworks(model) as applied:
            applied.apply_each(rows)
            together = model.unet(x, 3, text).sample
        for image, row in enumerate(rows):
            with AppliedNetworks(model, "live") as applied:
                applied.apply(row)
                assert torch.allclose(together[image], model.unet(x[:1], 3, text[:1]).sample[0], atol=CLOSE), image


@pytest.mark.parametrize(("mode", "failing"), [("baked", 2), ("auto", 1)])
def test_an_exception_within_a_prediction_leaves_the_next_call_right(model: Tiny, mode: str, failing: int) -> None:
    specs = specs_of(model, "composite", 2)
    calls = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) == failing:
            raise ZeroDivisionError

    with AppliedNetworks(model, mode) as applied:
        applied.apply(specs)
        expected = model.draw()[1]
        handle = model.unet.conv_out.register_forward_pre_hook(fail)
        with pytest.raises(ZeroDivisionError):
            model.draw()
        handle.remove()
        assert torch.equal(model.draw()[1], expected)


def batches_of_calls(model: Tiny, applied: AppliedNetworks) -> tuple[list[int], Tensor]:
    """The batch of each call that one call of the U-Net becomes, and its output."""
    batches: list[int] = []
    handle = model.unet.conv_in.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    output = model.draw()[1]
    handle.remove()
    return batches, output


def test_live_predictions_are_rows_of_one_batch(model: Tiny) -> None:
    specs = specs_of(model, "composite", 3, start=1)
    with AppliedNetworks(model, "live") as applied:
        applied.apply(specs)
        applied.at_step(1, 4)
        together, output = batches_of_calls(model, applied)
        applied.at_step(0, 4)
        idle = model.draw()[1]
    with AppliedNetworks(model, "baked") as applied:
        applied.apply(specs)
        applied.at_step(1, 4)
        one_by_one, wanted = batches_of_calls(model, applied)
        applied.at_step(0, 4)
        wanted_idle = model.draw()[1]
    assert together == [3 * one_by_one[0]] and len(one_by_one) == 3
    assert torch.allclose(output, wanted, atol=CLOSE) and torch.allclose(idle, wanted_idle, atol=CLOSE)


def test_conditions_and_output_masks_have_a_call_for_each_prediction(model: Tiny) -> None:
    for change in ({"scope": ConditionScope(frozenset({0}))}, {"region": parse_region("left")}):
        specs = [replace(spec, **change) for spec in specs_of(model, "composite", 2)]
        with AppliedNetworks(model) as applied:
            applied.conditions = (Condition(0), NEGATIVE)
            applied.apply(specs)
            assert len(batches_of_calls(model, applied)[0]) == 2


def test_predictions_are_made_one_by_one_where_memory_runs_out(model: Tiny) -> None:
    batches: list[int] = []

    def run_out(_: object, args: tuple[Tensor]) -> None:
        batches.append(len(args[0]))
        if len(batches) == 1:
            raise MemoryError

    with AppliedNetworks(model, "live") as applied:
        applied.apply(specs_of(model, "composite", 2))
        expected = model.draw()[1]
        handle = model.unet.conv_in.register_forward_pre_hook(run_out)
        output = applied.retry_when_out_of_memory(lambda: model.draw()[1])
        handle.remove()
    assert batches[0] == 2 * batches[1] == 2 * batches[2] and torch.allclose(output, expected, atol=CLOSE)


def test_from_python(model: Tiny) -> None:
    files = [spec.file for spec in specs_of(model, None)]
    with api.apply(
        model, {files[0]: {"te": 0.0, "unet": 1.0, "compose": "switch"}, files[1]: {"te": 0, "unet": 1}}
    ) as lora:
        first = model.draw()[1]
        lora.at_step(1, 2)
        assert not torch.allclose(model.draw()[1], first, atol=1e-3)
    with pytest.raises(PromptError, match="compose=often"):
        api.apply(model, {files[0]: {"compose": "often"}})


def test_turns_do_not_make_specs_different(model: Tiny) -> None:
    """A host that compares specs with those that are applied does not apply them again."""
    specs = specs_of(model, "switch")
    assert with_turns(specs) == tuple(specs) and with_turns(specs)[1].turn == Turn(1, 2, 1)
    assert with_turns(with_turns(specs)[:1])[0].turn is None


# --- repeated calls --------------------------------------------------------------------------------------------------


class TakesFromLists(nn.Module):
    """As Forge's U-Net, which takes ControlNet's outputs off their lists."""

    def forward(self, x: Tensor, control: dict[str, list[Tensor]], as_tuple: bool = False) -> Any:
        out = x + control["middle"].pop()
        return (out,) if as_tuple else out


@pytest.mark.parametrize("as_tuple", [False, True])
def test_arguments_are_the_same_in_each_prediction(as_tuple: bool) -> None:
    network, selected = TakesFromLists(), list[int]()
    averaged = AveragedPredictions(selected.append)
    averaged.set_count(network, 3)
    out = network(torch.ones(2).half(), control={"middle": [torch.ones(2).half()]}, as_tuple=as_tuple)
    out = out[0] if as_tuple else out
    assert torch.equal(out, torch.full((2,), 2.0).half()) and out.dtype == torch.float16
    assert selected == [1, 2, 0]
    averaged.close()
    assert not network._forward_hooks and not network._forward_pre_hooks
