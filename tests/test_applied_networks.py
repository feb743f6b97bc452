"""Adapter specs → applied adapters: weights, schedules, what is touched, and the reports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tiny import Tiny, check_nothing_left, layer_ids_in, lora_file, text_encoder

from lora_ext.adapter_spec import AdapterSpec, Presets, resolve_block_weights, resolve_tag
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.block_weights import parse_block_weights, parse_element_rules
from lora_ext.blocks import BLOCK_LABELS
from lora_ext.file.lora_file import LoraFile
from lora_ext.inject import MODES
from lora_ext.lora_tags import LoraTag


@pytest.fixture(scope="module")
def model() -> Tiny:
    return Tiny()


@pytest.fixture(autouse=True)
def nothing_left(model: Tiny) -> Iterator[None]:
    yield from check_nothing_left(model)


def same(one: tuple[torch.Tensor, ...], two: tuple[torch.Tensor, ...], tolerance: float = 2e-4) -> bool:
    return all(torch.allclose(a, b, atol=tolerance, rtol=tolerance) for a, b in zip(one, two, strict=True))


def drawn(model: Tiny, *specs: AdapterSpec, mode: str = "auto") -> tuple[torch.Tensor, ...]:
    with AppliedNetworks(model, mode) as applied:
        applied.apply(specs)
        return model.draw()


@pytest.mark.parametrize("wide", [False, True])
def test_modes_agree(model: Tiny, wide: bool) -> None:
    spec = AdapterSpec(lora_file(model, wide=wide), te=0.5, unet=0.8)
    live, baked, auto = (drawn(model, spec, mode=mode) for mode in ("live", "baked", "auto"))
    assert same(live, baked) and same(auto, baked)
    assert not same(live, model.draw())


@pytest.mark.parametrize("mode", MODES)
def test_te_and_unet_weights_are_separate(model: Tiny, mode: str) -> None:
    file = lora_file(model)
    plain = model.draw()
    text, image = drawn(model, AdapterSpec(file, te=0.0, unet=1.0), mode=mode)
    assert torch.equal(text, plain[0]) and not torch.allclose(image, plain[1])
    text, _ = drawn(model, AdapterSpec(file, te=1.0, unet=0.0), mode=mode)
    assert not torch.allclose(text, plain[0])


class TwoTexts(Tiny):
    """With a second text encoder, as SDXL has one."""

    def __init__(self) -> None:
        super().__init__()
        self.second = text_encoder(seed=5)

    def parts(self) -> dict[str, torch.nn.Module]:
        return {**super().parts(), "te2": self.second}

    def texts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both text encoders' output."""
        with torch.no_grad():
            first, second = (m(torch.arange(7)[None]).last_hidden_state for m in (self.text_encoder, self.second))
        return first, second


@pytest.mark.parametrize("mode", MODES)
def test_both_text_encoders_take_the_weight_of_the_text(mode: str) -> None:
    model = TwoTexts()
    file = lora_file(model)
    plain = model.texts()

    def texts(*specs: AdapterSpec, step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        with AppliedNetworks(model, mode) as applied:
            applied.apply(specs)
            applied.at_step(step, 8)
            return model.texts()

    assert all(map(torch.equal, texts(AdapterSpec(file, te=0.0, unet=1.0)), plain))
    half = texts(AdapterSpec(file, te=0.5, unet=0.0))
    assert same(texts(AdapterSpec(file, te=0.5, unet=-2.0)), half)
    assert not any(map(torch.allclose, half, plain))
    for step in (0, 5):  # a schedule is the U-Net's alone
        assert all(map(torch.equal, texts(AdapterSpec(file, te=0.5, unet=2.0, start=2, stop=4), step=step), half))
    for number, part in enumerate(("te", "te2")):
        only = LoraFile({layer_id: a for layer_id, a in file.adapters.items() if layer_id.part == part})
        made = texts(AdapterSpec(only))
        assert torch.equal(made[1 - number], plain[1 - number]) and not torch.allclose(made[number], plain[number])


@pytest.mark.parametrize("mode", MODES)
def test_the_same_file_twice_adds_up_and_opposites_cancel(model: Tiny, mode: str) -> None:
    file = lora_file(model)
    once = AdapterSpec(file, 0.4, 0.4)
    assert same(drawn(model, once, once, mode=mode), drawn(model, replace(once, te=0.8, unet=0.8), mode=mode))
    minus = AdapterSpec(file, -0.4, -0.4)
    assert same(drawn(model, once, minus, mode=mode), model.draw())


def test_block_weights(model: Tiny) -> None:
    file = lora_file(model)
    plain = drawn(model, AdapterSpec(file))
    ones = parse_block_weights(",".join(["1"] * 26))
    assert all(map(torch.equal, drawn(model, AdapterSpec(file, blocks=ones)), plain))
    zero = AdapterSpec(file, blocks=parse_block_weights(",".join(["0"] * 26)))
    with AppliedNetworks(model) as applied:
        applied.apply([zero])
        outside = {layer_id for layer_id in file.adapters if not layer_id.block}
        assert applied.changed == len(outside)  # time embedding and output lie outside every block
    only = AdapterSpec(
        file, te=0, blocks=parse_block_weights(",".join("1" if name == "OUT05" else "0" for name in BLOCK_LABELS))
    )
    with AppliedNetworks(model) as applied:
        applied.apply([only])
        assert applied.changed == len(layer_ids_in(file, "OUT05")) + len(outside)
    ruled = AdapterSpec(file, blocks=replace(ones, rules=parse_element_rules(":attn2:0")))
    with AppliedNetworks(model) as applied:
        applied.apply([ruled])
        assert applied.changed == sum("attn2" not in layer_id.layer for layer_id in file.adapters)
    assert not same(drawn(model, ruled), plain)


@pytest.mark.parametrize("mode", MODES)
def test_only_what_changed_is_touched(model: Tiny, mode: str) -> None:
    file, other = lora_file(model), lora_file(model, seed=1, name="b")
    with AppliedNetworks(model, mode) as applied:
        specs = [AdapterSpec(file, 0.5, 0.5), AdapterSpec(other, 0.5, 0.5)]
        applied.apply(specs)
        assert applied.changed == len(file.adapters)
        applied.apply(specs)
        assert applied.changed == 0
        applied.apply([specs[0], replace(specs[1], te=0.7)])
        assert applied.changed == len(layer_ids_in(file, "BASE"))
        ones = dict.fromkeys(BLOCK_LABELS, 1.0) | {"IN04": 0.5}
        applied.apply(
            [replace(specs[0], blocks=parse_block_weights(",".join(str(v) for v in ones.values()))), specs[1]]
        )
        assert applied.changed == len(layer_ids_in(file, "IN04")) + len(layer_ids_in(file, "BASE"))
        applied.apply([specs[1]])
        assert same(model.draw(), drawn_alone(model, specs[1], applied))


def drawn_alone(model: Tiny, spec: AdapterSpec, applied: AppliedNetworks) -> tuple[torch.Tensor, ...]:
    applied.close()
    return drawn(model, spec)


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_schedules(model: Tiny, mode: str) -> None:
    file = lora_file(model)
    spec = AdapterSpec(file, start=3, stop=0.75)
    on, off = drawn(model, AdapterSpec(file)), drawn(model, AdapterSpec(file, unet=0.0))
    assert not torch.allclose(on[1], off[1])
    with AppliedNetworks(model, mode) as applied:
        applied.apply([spec])
        for step in range(8):
            applied.at_step(step, 8)
            assert same(model.draw(), on if 3 <= step < 6 else off), step


def test_fit_names_what_does_not_apply(model: Tiny) -> None:
    file = lora_file(model)
    layer_id = next(iter(file.adapters))
    strange = layer_id._replace(part="te2", block="BASE", layer="layers.0.mlp.fc1")
    other = layer_id._replace(block="OUT05", layer="attention.transformer_blocks.9.attn1.to_q")
    adapters = {strange: file.adapters[layer_id], other: file.adapters[layer_id]}
    with AppliedNetworks(model) as applied:
        (fit,) = applied.apply([AdapterSpec(LoraFile(adapters), name="sdxl-only")])
        assert not fit.ok and "sdxl-only" in str(fit) and "none of its 2 layers" in str(fit)
        wrong = dict(list(file.adapters.items())[:3])
        big = next(a for s, a in file.adapters.items() if not a.fits(applied.targets[layer_id].shape))
        wrong[layer_id] = big
        (fit,) = applied.apply([AdapterSpec(LoraFile(wrong, unrecognized={"x": torch.zeros(1)}))])
        assert (fit.matched, len(fit.wrong_shape), fit.unrecognized) == (2, 1, 1)
        assert "2 of 3 layers apply" in str(fit) and "another size" in str(fit)
        (fit,) = applied.apply([AdapterSpec(file)])
        assert fit.ok and fit.matched == len(file.adapters)
        (fit,) = applied.apply([AdapterSpec(file, blocks=parse_block_weights(",".join(["1"] * 12)))])
        assert "IN01" in fit.blocks_without_weight and "MID" not in fit.blocks_without_weight
        middle = LoraFile({layer_id: file.adapters[layer_id] for layer_id in layer_ids_in(file, "MID")})
        (fit,) = applied.apply([AdapterSpec(middle, blocks=parse_block_weights(",".join(["1"] * 12)))])
        assert fit.blocks_without_weight == ()


def test_loading_weights_takes_everything_off_first(model: Tiny) -> None:
    state = {name: t.clone() for name, t in model.unet.state_dict().items()}
    changed = {name: t + 1 for name, t in state.items()}
    with AppliedNetworks(model, "baked") as applied, AppliedNetworks(model, "baked") as other:
        applied.apply([AdapterSpec(lora_file(model))])
        other.apply([AdapterSpec(lora_file(model, seed=1))])
        model.unet.load_state_dict(changed)
        assert applied.specs == other.specs == ()
        assert all(torch.equal(t, changed[name]) for name, t in model.unet.state_dict().items())
    model.unet.load_state_dict(state)


def test_drawn_weights_are_the_same_for_the_same_seed(model: Tiny) -> None:
    class Folder:
        def load(self, name: str) -> LoraFile:
            return lora_file(model, name=name)

        def ambiguity(self, name: str) -> str:
            return ""

    request = LoraTag("a", lbw=",".join(["R"] * 12))
    one, two, other = (resolve_tag(request, Folder(), seed=seed).blocks for seed in (1, 1, 2))
    assert one == two != other
    values = [resolve_block_weights(replace(request, name=name), Presets(), seed=1) for name in "ab"]
    assert values[0] != values[1], "two files of one prompt draw for themselves"
    again = resolve_block_weights(LoraTag("a", lbw=one.format_weights()), Presets())
    assert again == one


def test_an_interrupt_leaves_the_model_clean(model: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_ext.inject import live_layer

    count = 0

    def interrupted(*args: object) -> torch.Tensor:
        nonlocal count
        count += 1
        if count == 20:
            raise KeyboardInterrupt
        return original(*args)  # type: ignore[arg-type]

    original = live_layer.add_delta
    monkeypatch.setattr(live_layer, "add_delta", interrupted)
    with AppliedNetworks(model, "baked") as applied, pytest.raises(KeyboardInterrupt):
        applied.apply([AdapterSpec(lora_file(model))])
