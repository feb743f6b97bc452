"""Weights that change from step to step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Tiny, check_nothing_left, lora_file

import lora_ext
from lora_ext.adapter_spec import (
    AdapterSpec,
    Presets,
    resolve_block_weights,
    spec_from_tag,
    text_encoder_curve_note,
)
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.block_weights import BLOCK_PRESETS, BlockWeights, parse_block_weights
from lora_ext.blocks import BASE, BLOCK_LABELS
from lora_ext.compare.image_spec import ImageSpec
from lora_ext.compare.per_image_weights import PerImageNetworks
from lora_ext.errors import BlockError, PromptError
from lora_ext.inject import MODES
from lora_ext.lora_tags import LoraTag, parse_lora_tags, parse_tag_items
from lora_ext.weight_curve import EASINGS, parse_block_curve, parse_curve, parse_weight
from lora_ext.weight_trace import WeightTrace

WEIGHTS = st.floats(-4, 4, allow_nan=False).map(lambda value: float(f"{value:g}"))
PLACES = st.floats(0, 1, allow_nan=False).map(lambda value: float(f"{value:g}"))


@pytest.fixture(scope="module")
def model() -> Tiny:
    return Tiny()


@pytest.fixture(autouse=True)
def nothing_left(model: Tiny) -> Iterator[None]:
    yield from check_nothing_left(model)


def tag(text: str) -> LoraTag:
    """The one tag of a text."""
    _, tags, errors = parse_lora_tags(text)
    assert not errors, errors
    return tags[0]


# --- the curve -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(PLACES, WEIGHTS), min_size=1, max_size=6, unique_by=lambda row: row[0]), st.integers(1, 60))
def test_shares_are_numpys_interpolation(rows: list[tuple[float, float]], total: int) -> None:
    """0 is the first step and 1 the last one; sd-webui-loractl's step is one behind: its 0 is the first two steps."""
    curve = parse_curve(",".join(f"{value:g}@{place:g}" for place, value in rows))
    places, values = zip(*sorted(rows), strict=True)
    steps = np.arange(total) / max(total - 1, 1)
    assert np.allclose([curve.at(step, total) for step in range(total)], np.interp(steps, places, values), atol=1e-9)
    assert parse_curve(curve.format_curve()) == curve


def test_places_above_one_are_steps() -> None:
    curve = parse_curve("0@0; 1~10; 0.5@20")
    assert [curve.at(step, 999) for step in (0, 5, 10, 15, 20, 500)] == [0.0, 0.5, 1.0, 0.75, 0.5, 0.5]
    assert parse_curve("1@1,0@0").at(1, 3) == 0.5  # the last place is 1: shares


def test_a_keyframe_without_a_place_is_at_the_end() -> None:
    assert parse_curve("0.2@0,1").at(9, 10) == 1.0


def test_two_keyframes_at_one_place_are_a_jump() -> None:
    curve = parse_curve("0@0,0@0.5,1@0.5")
    assert [curve.at(step, 5) for step in range(5)] == [0.0, 0.0, 1.0, 1.0, 1.0]


def test_places_with_an_s_are_noise_levels() -> None:
    """Linear in log sigma, in the order of time, whatever the number of steps."""
    curve = parse_curve("0@S0.1, 1~s10 , 0.5@ s1")
    assert curve.format_curve() == "1@s10,0.5@s1,0@s0.1" and parse_curve(curve.format_curve()) == curve
    levels = (math.inf, 20.0, 10.0, 10**0.5, 1.0, 0.1**0.5, 0.1, 0.01, 0.0)
    wanted = [1, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0]
    for step, total in ((0, 1), (3, 8), (39, 40)):
        assert [curve.at(step, total, level) for level in levels] == pytest.approx(wanted, abs=1e-12)
    jump = parse_curve("0@s5,1@s5,1@s1")
    assert [jump.at(0, 1, level) for level in (5.1, 5.0, 4.9)] == [0, 1, 1]
    with pytest.raises(BlockError, match=r"needs the noise level; pass at_step\(…, sigma=…\)"):
        curve.at(0, 8)


def test_easings_go_from_one_value_to_the_next() -> None:
    for name, ease in EASINGS.items():
        curve = parse_curve(f"2@0,4@1 {name}")
        assert curve.at(0, 11) == 2 and curve.at(10, 11) == 4
        assert [curve.at(step, 11) for step in range(10)] == pytest.approx([2 + 2 * ease(i / 10) for i in range(10)])
    middle = {name: parse_curve(f"0@0,1@1 {name}").at(1, 3) for name in EASINGS}
    assert middle == pytest.approx({"linear": 0.5, "ease-in": 0.25, "ease-out": 0.75, "cosine": 0.5, "step": 0.0})


def test_a_curve_that_never_changes_is_a_number() -> None:
    assert parse_weight("0.8@0,0.8@1", "") == (0.8, None) == parse_weight("0.8", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@0", "'@0' in '@0' is not a keyframe VALUE@PLACE"),
        ("1@0,x@1", "'x' in '1@0,x@1' is not a number"),
        ("1@0,2@x", "'x' in '1@0,2@x' is not a number"),
        ("1@-1,2@1", "place -1 in '1@-1,2@1' is negative"),
        ("1@0,2@1 cosin", "unknown easing 'cosin' .* did you mean 'cosine'"),
        ("nan@0", "not finite"),
        (";,", "has no keyframe"),
        ("1@s14,0@1", r"'1@s14,0@1' mixes noise levels \(@s14.6\) with other places"),
        ("1@s14,0", "mixes noise levels"),
        ("1@s14,0@s0", "noise level 0 in '1@s14,0@s0' is not above 0; Stable Diffusion goes from about 14.6"),
        ("1@s14,0@s-1", "noise level -1 in"),
        ("1@s,0@s1", "'' in '1@s,0@s1' is not a number"),
        ("1@s14,0@s1x", "'1x' in"),
    ],
)
def test_errors_quote_what_was_given(text: str, message: str) -> None:
    with pytest.raises(BlockError, match=message):
        parse_curve(text)


# --- in tags ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lora", "lyco", "loractl"])
def test_a_tag_takes_a_curve_where_a_weight_stands(name: str) -> None:
    plain = tag(f"<{name}:cat:0@0,1@0.5>")
    assert plain.unet_curve == plain.te_curve == parse_curve("0@0,1@0.5") and plain.te == plain.unet == 1
    both = tag(f"<{name}:cat:0.5:unet=1@0;0@1>")
    assert (both.te, both.te_curve, both.unet_curve) == (0.5, None, parse_curve("1@0,0@1"))


@pytest.mark.parametrize(
    "text",
    [
        "<lora:cat:0@0,1@0.5 cosine>",
        "<lora:cat:0.5:1@0,0@20>",
        "<lora:cat:0.5:1@s14.6,0@s0.5 cosine>",
        "<lora:cat:1:lbw=INALL@s14,OUTALL@s1>",
        "<lora:cat:1:hr=0.5>",
        "<lora:cat:1:hrte=1:hrunet=0@0,1@1:lbw=INALL@0,OUTALL@0.5>",
    ],
)
def test_a_tag_with_curves_is_formatted_as_written(text: str) -> None:
    assert tag(text).format_tag() == text


def test_weights_of_the_hires_pass() -> None:
    assert tag("<lora:cat:0.5>").for_hires_pass() == tag("<lora:cat:0.5>")
    assert tag("<lora:cat:0.5:0.8:hr=0.2>").for_hires_pass() == tag("<lora:cat:0.2>")
    assert tag("<lora:cat:0.5:0.8:hrunet=0.2>").for_hires_pass() == tag("<lora:cat:0.5:0.2>")
    assert tag("<lora:cat:0@0,1@1:hrte=0.2>").for_hires_pass() == tag("<lora:cat:0.2:0@0,1@1>")


def test_a_bad_curve_quotes_it_and_leaves_other_tags() -> None:
    _, tags, errors = parse_lora_tags("<lora:cat:1@0,2@x> <lora:dog>")
    assert [one.name for one in tags] == ["dog"] and "'x' in '1@0,2@x'" in str(errors[0])


def test_a_picture_with_a_curve_is_another_picture() -> None:
    """The key of a sheet's cell: what is drawn already is not drawn again."""
    keys = {
        ImageSpec(prompt=f"x <lora:cat:{weight}>", seed=1).key() for weight in ("1", "0@0,1@1", "0@0,1@0.5", "1:hr=0.5")
    }
    assert len(keys) == 4


# --- block weights ---------------------------------------------------------------------------------------------------


def blocks_of(text: str, **presets: str) -> BlockWeights:
    return resolve_block_weights(parse_tag_items(["cat", "1", f"lbw={text}"]), Presets(BLOCK_PRESETS | presets))


def test_block_weights_between_keyframes() -> None:
    curve = blocks_of("INALL@0,OUTALL@0.5")
    first, last = parse_block_weights("INALL"), parse_block_weights("OUTALL")
    for step, share in enumerate((0.0, 0.5, 1.0, 1.0, 1.0)):
        now = curve.at(step, 5)
        for name in BLOCK_LABELS:
            value = (1 - share) * first.weight_of(name) + share * last.weight_of(name)
            assert now.weight_of(name) == (first.weight_of(BASE) if name == BASE else value)


def test_vectors_are_separated_by_semicolons() -> None:
    ones, zeros = ",".join("1" * 17), ",".join("0" * 17)
    curve = blocks_of(f"{ones}@0;{zeros}@10 step;FACE@20", FACE=ones)
    assert [curve.at(step, 21).weight_of("MID") for step in (0, 9, 10, 15, 20)] == [1, 1, 0, 0.5, 1]


def test_the_text_encoders_weight_is_the_first_keyframes() -> None:
    ones = ",".join("1" * 17)
    curve = blocks_of(f"0,{ones[2:]}@0;{ones}@1")
    assert [curve.at(step, 3).weight_of(BASE) for step in range(3)] == [0, 0, 0]


def test_block_weights_over_noise_levels() -> None:
    curve = blocks_of("INALL@s16,OUTALL@s1")
    first, last = parse_block_weights("INALL"), parse_block_weights("OUTALL")
    now = curve.at(0, 1, 4.0)
    assert [now.weight_of(name) for name in BLOCK_LABELS if name != BASE] == pytest.approx(
        [(first.weight_of(name) + last.weight_of(name)) / 2 for name in BLOCK_LABELS if name != BASE]
    )


def test_errors_in_block_curves_name_tag_and_preset() -> None:
    with pytest.raises(PromptError, match=r"<lora:cat>.*'OUTAL'.*OUTALL"):
        blocks_of("INALL@0,OUTAL@1")
    with pytest.raises(BlockError, match="not a keyframe"):
        parse_block_curve("@0;INALL@1", parse_block_weights)


# --- on a model ------------------------------------------------------------------------------------------------------


CURVE = parse_curve("0@0,0.8@2,-0.5@3")
BLOCKS = parse_block_curve("INALL@0,OUTALL@4", parse_block_weights)


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_each_step_is_that_of_its_weights(model: Tiny, mode: str) -> None:
    """Bit for bit the same as the file applied anew at the constant weights of that step."""
    spec = AdapterSpec(lora_file(model), te=0.3, unet=0.5, blocks=BLOCKS.at(0, 1), curve=CURVE, block_curve=BLOCKS)
    seen = {}
    with AppliedNetworks(model, mode) as applied:
        applied.apply([spec])
        for step in (0, 1, 2, 3, 4, 2, 0):
            applied.at_step(step, 6)
            seen[step] = model.draw()
    for step, drawn in seen.items():
        # A range of steps that does not end before: as live as a curve in the mode "auto".
        constant = AdapterSpec(spec.file, te=0.3, unet=0.5 * CURVE.at(step, 6), blocks=BLOCKS.at(step, 6), stop=99)
        with AppliedNetworks(model, mode) as applied:
            applied.apply([constant])
            assert all(map(torch.equal, drawn, model.draw())), step
    assert len({drawn[1].sum().item() for drawn in seen.values()}) == 5
    assert all(torch.equal(drawn[0], seen[0][0]) for drawn in seen.values())  # the text encoder's


def scheduled_specs(model: Tiny) -> list[AdapterSpec]:
    """One constant file, two with curves of their own, and one that is switched on and off, at the same layers."""
    files = [lora_file(model, seed=seed, name=f"file{seed}", wide=seed == 1) for seed in range(4)]
    return [
        AdapterSpec(files[0], te=0.3, unet=0.7),
        AdapterSpec(files[1], te=0.0, unet=0.3, curve=CURVE),
        AdapterSpec(files[2], te=0.1, unet=-0.9, blocks=parse_block_weights("OUTALL"), curve=parse_curve("0.3@0,1@5")),
        AdapterSpec(files[3], te=0.0, unet=0.1, start=2, stop=4),
    ]


def at_constant_weights(specs: list[AdapterSpec], step: int) -> list[AdapterSpec]:
    """Each file with its weight at a step of 6, as live as a schedule: its ranks stay also where the weight is 0."""
    return [replace(spec.at_step(step, 6), stop=99) if spec.is_scheduled else spec for spec in specs]


@pytest.mark.long
def test_a_step_touches_no_layer_and_equals_constant_weights(model: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Live, a step changes one number for each file; it is bit for bit the files applied anew without a schedule."""
    specs = scheduled_specs(model)
    seen = {}
    with AppliedNetworks(model, "live") as applied:
        applied.apply(specs)
        with monkeypatch.context() as patched:
            patched.setattr(applied.injection, "apply", lambda wanted: pytest.fail("layers are applied anew"))
            for step in (0, 1, 3, 2, 5, 0):
                applied.at_step(step, 6)
                seen[step] = model.draw()
    for step, drawn in seen.items():
        with AppliedNetworks(model, "live") as applied:
            applied.apply(at_constant_weights(specs, step))
            assert all(map(torch.equal, drawn, model.draw())), step
    assert len({drawn[1].sum().item() for drawn in seen.values()}) == 5


def test_a_curve_alone_equals_plain_weights(model: Tiny) -> None:
    """Bit for bit, live: the number in the tag, without any schedule."""
    spec = scheduled_specs(model)[1]
    with AppliedNetworks(model, "live") as applied, AppliedNetworks(model, "live") as plain:
        for step in (3, 2, 1):
            applied.apply([spec])
            applied.at_step(step, 6)
            drawn = model.draw()
            applied.apply([])
            plain.apply([AdapterSpec(spec.file, te=0.0, unet=0.3 * CURVE.at(step, 6))])
            assert all(map(torch.equal, drawn, model.draw())), step
            plain.apply([])


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_files_change_between_steps(model: Tiny, mode: str) -> None:
    """Another order or another weight, after steps that touched no layer: each file keeps its own curve."""
    specs = scheduled_specs(model)
    lists = [specs, specs[::-1], specs[1:3], [specs[2], replace(specs[1], unet=0.5)], specs[:2]]
    others = [specs[2:][: number % 2] for number in range(len(lists))]
    seen = []
    with AppliedNetworks(model, mode) as applied, AppliedNetworks(model, "live") as other:
        for number, chosen in enumerate(lists):
            applied.apply(chosen)
            other.apply(others[number])  # joins the hooks of the first one
            for step in (3, 1, 0, number):
                applied.at_step(step, 6)
            seen.append(model.draw())
    for number, (chosen, drawn) in enumerate(zip(lists, seen, strict=True)):
        with AppliedNetworks(model, mode) as applied, AppliedNetworks(model, "live") as other:
            applied.apply(at_constant_weights(chosen, number))
            other.apply(others[number])
            assert all(map(torch.equal, drawn, model.draw())), number


@pytest.mark.long
def test_block_curves_and_dense_kinds_are_applied_at_each_step(model: Tiny) -> None:
    """LoHa has no low-rank form, and each block's weight is another one: the step is still that of its weights."""
    spec = AdapterSpec(lora_file(model, "loha"), te=0.0, unet=0.3, curve=CURVE)
    both = [spec, AdapterSpec(lora_file(model, seed=1), te=0.0, unet=0.3, curve=CURVE), scheduled_specs(model)[1]]
    with AppliedNetworks(model, "live") as applied:
        applied.apply(both)
        for step in (1, 3, 2):
            applied.at_step(step, 6)
            drawn = model.draw()
            with AppliedNetworks(model, "live") as fresh:
                applied.apply([])
                fresh.apply(at_constant_weights(both, step))
                assert all(map(torch.equal, drawn, model.draw())), step
            applied.apply(both)


def test_a_curve_in_the_middle_of_an_exception(model: Tiny) -> None:
    """What the fixture checks: the model is as it was."""
    with pytest.raises(ZeroDivisionError), AppliedNetworks(model) as applied:
        applied.apply([AdapterSpec(lora_file(model), curve=CURVE)])
        applied.at_step(1, 6)
        raise ZeroDivisionError


@pytest.mark.long
def test_images_of_a_batch_have_curves_of_their_own(model: Tiny) -> None:
    file, other = lora_file(model), parse_curve("1@0,0@4")
    rows = [[AdapterSpec(file, curve=CURVE)], [AdapterSpec(file, 0.5, 0.5, curve=other)], []]
    torch.manual_seed(3)
    text, x = torch.randn(1, 7, 16).expand(3, -1, -1), torch.randn(1, 4, 8, 8).expand(3, -1, -1, -1)

    def predict(count: int) -> torch.Tensor:
        with torch.no_grad():
            return model.unet(x[:count], 3, text[:count]).sample

    with PerImageNetworks(model) as applied:
        applied.apply_each(rows)
        together = {}
        for step in range(5):
            applied.at_step(step, 6)
            together[step] = predict(3)
    for step, batch in together.items():
        for image, weight in enumerate((CURVE.at(step, 6), 0.5 * other.at(step, 6), 0.0)):
            with AppliedNetworks(model, "live") as applied:
                applied.apply([AdapterSpec(file, unet=weight)])
                torch.testing.assert_close(batch[image], predict(1)[0], atol=1e-4, rtol=1e-3)


def test_the_text_encoder_keeps_its_weight_and_says_so(model: Tiny) -> None:
    file, curved = lora_file(model), tag("<lora:cat:0.25@0,1@1>")
    assert spec_from_tag(curved, file, Presets()).te == 0.25
    assert "0.25" in text_encoder_curve_note(curved, file)
    assert text_encoder_curve_note(tag("<lora:cat:0.25:0@0,1@1>"), file) == ""


def test_a_curve_over_noise_levels(model: Tiny) -> None:
    """Before the first step it has its first value, which the text encoder keeps; then each noise level's."""
    curved = tag("<lora:cat:0.5@s16,1@s1>")
    spec = spec_from_tag(curved, lora_file(model), Presets())
    assert spec.needs_sigma and spec.te == 0.5 and not replace(spec, curve=CURVE).needs_sigma
    assert replace(
        spec, curve=None, block_curve=parse_block_curve("INALL@s9,OUTALL@s4", parse_block_weights)
    ).needs_sigma
    with AppliedNetworks(model, "live") as applied:
        applied.apply([spec])
        drawn = [model.draw()]
        for sigma in (16.0, 4.0, 1.0, 0.1):
            applied.at_step(0, 8, sigma)
            drawn.append(model.draw())
        with pytest.raises(BlockError, match="needs the noise level"):
            applied.at_step(1, 8)
    for made, weight in zip(drawn, (0.5, 0.5, 0.75, 1.0, 1.0), strict=True):
        with AppliedNetworks(model, "live") as applied:
            applied.apply([AdapterSpec(spec.file, te=0.5, unet=weight)])
            assert all(map(torch.equal, made, model.draw())), weight


class Scheduler:
    """Of a diffusers pipeline; with ᾱ alone, as DDIM's."""

    timesteps = torch.tensor([900, 600, 300, 0])
    alphas_cumprod = torch.linspace(0.99, 0.001, 1000)


class SigmaScheduler(Scheduler):
    """With noise levels, as Euler's."""

    sigmas = torch.tensor([16.0, 4.0, 1.0, 0.1, 0.0])


@pytest.mark.parametrize("total", [4, 2])
def test_a_pipelines_steps_have_the_schedulers_noise_levels(model: Tiny, total: int) -> None:
    """The last `total` of the scheduler's steps, as where an image is changed; after the last one, the next image's."""
    for scheduler in (Scheduler(), SigmaScheduler()):
        pipe = SimpleNamespace(num_timesteps=total, scheduler=scheduler)
        if isinstance(scheduler, SigmaScheduler):
            levels = scheduler.sigmas[4 - total : 4].tolist()
        else:
            shares = scheduler.alphas_cumprod[scheduler.timesteps[4 - total :]].double()
            levels = ((1 - shares) / shares).sqrt().tolist()
        with lora_ext.apply(model, {lora_file(model): {"te": 0, "unet": "0@s16,1@s0.1"}}, mode="live") as loras:
            for step in (*range(total), *range(total - 1)):
                assert loras.on_step_end(pipe, step, None, {"latents": 1}) == {"latents": 1}
                wanted = parse_curve("0@s16,1@s0.1").at(0, 1, levels[(step + 1) % total])
                assert loras._applied._current_specs[0].unet == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_the_weights_that_acted(model: Tiny) -> None:
    """Files without a schedule have no line; with block weights over the steps it is the mean over the layers."""
    specs = [*scheduled_specs(model), AdapterSpec(lora_file(model), unet=0.5, block_curve=BLOCKS, name="blocks")]
    layers = [layer_id for layer_id in specs[-1].file.adapters if layer_id.part == "unet"]
    trace = WeightTrace()
    with AppliedNetworks(model, "live") as applied:
        applied.apply(specs)
        for step in range(6):
            applied.at_step(step, 6)
            trace.record(step, applied.scheduled_weights())
            mean = sum(specs[-1].at_step(step, 6).weight_at(layer_id) for layer_id in layers) / len(layers)
            assert applied.scheduled_weights()[-1] == ("blocks", pytest.approx(mean))
    lines = trace.lines()
    assert lines[0] == "file1: weight at each of 6 U-Net calls ▄▆█▁▁▁ 0, 0.12, 0.24, -0.15, -0.15, -0.15"
    assert lines[2] == "file3: weight at each of 6 U-Net calls ▁▁██▁▁ 0, 0, 0.1, 0.1, 0, 0"
    assert len(lines) == 4 and lines[3].startswith("blocks: ")


def test_a_trace_has_a_line_for_each_pass_and_not_for_each_batch() -> None:
    trace = WeightTrace()
    for _ in range(2):
        for count in (100, 2):
            for step in range(count):
                trace.record(step, [("cat", step / 99), ("cat", -1.0)])
    long, same, short, _ = trace.lines()
    assert long.startswith("cat: weight at each of 100 U-Net calls ") and long.endswith(", 0.98, 1")
    assert long.count(",") == 59 and set("▁▂▃▄▅▆▇█") <= set(long)
    assert same.count("-1") == 60 and short == "cat: weight at each of 2 U-Net calls ▁█ 0, 0.0101"
    assert WeightTrace().lines() == []


def test_curves_from_python(model: Tiny) -> None:
    file = lora_file(model)
    with lora_ext.apply(model, {file: {"te": 0.3, "unet": "0@0,1@4"}}, mode="live") as loras:
        loras.at_step(1, 5)
        drawn = model.draw()
    with lora_ext.apply(model, {file: {"te": 0.3, "unet": 0.25}}, mode="live"):
        assert all(map(torch.equal, drawn, model.draw()))
