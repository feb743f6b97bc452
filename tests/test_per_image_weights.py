"""A batch whose pictures have LoRA weights of their own is the same as one picture at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from makers import make
from tiny import Tiny, lora_file

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.adapters import adapter_from_tensors
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.block_weights import parse_block_weights
from lora_ext.compare.per_image_weights import PerImageNetworks
from lora_ext.file.lora_file import LoraFile
from lora_ext.inject import find_layer_targets

KINDS = ("lora", "loha", "lokr", "ia3-out", "norm", "lora-dora-out", "full")


@pytest.fixture(scope="module")
def model() -> Tiny:
    return Tiny()


def norms(model: Tiny) -> LoraFile:
    """A file that changes every norm."""
    rng = np.random.default_rng(0)
    layer_ids = ((s, t) for part, root in model.parts().items() for s, t in find_layer_targets(part, root).items())
    return LoraFile(
        {
            layer_id: adapter_from_tensors(make("norm", t.shape, rng=rng))
            for layer_id, t in layer_ids
            if len(t.shape) == 1
        }
    )


def _text(model: Tiny, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.text_encoder(ids).last_hidden_state


def _both(model: Tiny, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The text encoder's states, and the U-Net's guess for x and those states, side by side."""
    text = _text(model, ids)
    with torch.no_grad():
        return torch.cat([text.flatten(1), model.unet(x, 3, text).sample.flatten(1)], dim=1)


def _compare(model: Tiny, pictures: list[list[AdapterSpec]], step: tuple[int, int] | None = None) -> None:
    torch.manual_seed(5)
    ids, x = torch.randint(0, 64, (len(pictures), 7)), torch.randn(len(pictures), 4, 8, 8)
    plain = _both(model, ids, x)
    with PerImageNetworks(model) as networks:
        networks.apply_each(pictures)
        if step:
            networks.at_step(*step)
        together = _both(model, ids, x)
        twice = _both(model, ids.repeat(2, 1), x.repeat(2, 1, 1, 1))
    torch.testing.assert_close(twice, together.repeat(2, 1), atol=1e-4, rtol=1e-3)
    assert torch.equal(_both(model, ids, x), plain)
    for i, specs in enumerate(pictures):
        with AppliedNetworks(model, "baked") as one:
            one.apply(specs)
            if step:
                one.at_step(*step)
            alone = _both(model, ids[i : i + 1], x[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=1e-3)
        if any(spec.te and spec.unet for spec in specs) and not step:
            assert (together[i] - plain[i]).abs().max() > 1e-3


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_may_differ_from_picture_to_picture(model: Tiny, kind: str) -> None:
    file = norms(model) if kind == "norm" else lora_file(model, kind, wide=True, std=0.3)
    _compare(model, [[AdapterSpec(file, 0.5, 1.0)], [], [AdapterSpec(file, -0.4, 0.3)], [AdapterSpec(file, 1.0, 0.0)]])


@pytest.mark.long
def test_files_ranks_and_blocks_beside_each_other(model: Tiny) -> None:
    a, b = (lora_file(model, seed=seed, name=name, std=0.3) for seed, name in ((1, "a"), (2, "b")))
    c = lora_file(model, "loha", seed=3, name="c", std=0.3)
    half = parse_block_weights("OUTALL")
    pictures = [
        [AdapterSpec(a), AdapterSpec(b, 0.3, 0.6)],
        [AdapterSpec(b, blocks=half)],
        [AdapterSpec(a, dyn=2), AdapterSpec(a, 0.2, 0.2)],
        [AdapterSpec(c, 0.5, 0.5), AdapterSpec(a, 0.1, 0.1)],
        [],
    ]
    _compare(model, pictures)


@pytest.mark.long
def test_schedules_of_single_pictures(model: Tiny) -> None:
    file = lora_file(model, std=0.3)
    pictures = [
        [AdapterSpec(file, start=5)],
        [AdapterSpec(file, stop=5)],
        [AdapterSpec(file)],
        [AdapterSpec(file, start=0.25, stop=0.5)],
    ]
    for step in (0, 3, 5, 9):
        _compare(model, pictures, (step, 10))


def test_equal_weights_are_one_number_and_moves_touch_only_what_differs(model: Tiny) -> None:
    file = lora_file(model, std=0.3)
    with PerImageNetworks(model) as networks:
        networks.apply_each([[AdapterSpec(file, 0.5)], [AdapterSpec(file, 0.5)]])
        assert all(
            isinstance(p.weight, float) for applied_adapters in networks._current.values() for p in applied_adapters
        )
        networks.apply_each([[AdapterSpec(file, 0.5)], [AdapterSpec(file, 0.7)]])
        assert 0 < networks.changed < len(networks._current)  # the U-Net's weights stayed
        networks.apply_each([[AdapterSpec(file, 0.5)], [AdapterSpec(file, 0.7)]])
        assert networks.changed == 0


def test_one_report_a_file(model: Tiny) -> None:
    a, b = (lora_file(model, seed=seed, name=name) for seed, name in ((1, "a"), (2, "b")))
    with PerImageNetworks(model) as networks:
        assert [fit.name for fit in networks.apply_each([[AdapterSpec(a)], [AdapterSpec(b), AdapterSpec(a)], []])] == [
            "a",
            "b",
        ]
