"""Regions by output masks: the laws, for every kind of adapter, and the region's own text in cross-attention."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_generate import folder, settings
from test_per_image_weights import norms
from test_regional_sampling import _draw, model
from tiny import Tiny, check_nothing_left, lora_file

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.errors import FitError
from lora_ext.generate import generate
from lora_ext.host.standalone.loader import StandaloneModel
from lora_ext.inject.place import LatentGrid
from lora_ext.regions import Region, parse_region

__all__ = ["folder", "model"]
KINDS = ("lora", "loha", "lokr", "ia3-out", "norm", "lora-dora-out", "full")
EVERYWHERE = Region()


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(autouse=True)
def _nothing_left(tiny: Tiny) -> Iterator[None]:
    yield from check_nothing_left(tiny)


def _predict(tiny: Tiny, specs: list[AdapterSpec], texts: list[torch.Tensor] | None = None) -> torch.Tensor:
    """The U-Net's output for a latent that is not square."""
    torch.manual_seed(5)
    x, text = torch.randn(2, 4, 8, 16), torch.randn(2, 7, 16)
    with AppliedNetworks(tiny, "live") as applied, torch.no_grad():
        applied.apply(specs)
        if texts is not None:
            applied.places.set_texts(texts)
        found: torch.Tensor = tiny.unet(x, 3, text).sample
        return found


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_ones_equal_no_mask_and_zeros_equal_no_lora(tiny: Tiny, kind: str) -> None:
    file = norms(tiny) if kind == "norm" else lora_file(tiny, kind, wide=True, std=0.3)
    plain, live = _predict(tiny, []), _predict(tiny, [AdapterSpec(file)])
    black = Region(mask_name="black", pixels=torch.zeros(4, 4))
    assert torch.equal(_predict(tiny, [AdapterSpec(file, region=EVERYWHERE)]), live)
    assert torch.equal(_predict(tiny, [AdapterSpec(file, region=black)]), plain)
    left = _predict(tiny, [AdapterSpec(file, region=parse_region("left"))])
    assert not torch.equal(left, live) and not torch.equal(left, plain)


def test_regions_in_either_order_and_files_beside_each_other(tiny: Tiny) -> None:
    a, b, c = (lora_file(tiny, seed=seed, name=name, std=0.3) for seed, name in ((1, "a"), (2, "b"), (3, "c")))
    specs = [AdapterSpec(a, region=parse_region("left")), AdapterSpec(b, region=parse_region("right")), AdapterSpec(c)]
    torch.testing.assert_close(_predict(tiny, specs), _predict(tiny, specs[::-1]), atol=1e-5, rtol=1e-5)
    same = [
        AdapterSpec(a, unet=0.5, region=parse_region("left")),
        AdapterSpec(a, unet=0.5, region=parse_region("left")),
    ]
    once = [AdapterSpec(a, region=parse_region("left"))]
    torch.testing.assert_close(_predict(tiny, same), _predict(tiny, once), atol=1e-5, rtol=1e-5)


def test_each_region_reads_its_own_text(tiny: Tiny) -> None:
    file = lora_file(tiny, std=0.3)
    torch.manual_seed(5)
    torch.randn(2, 4, 8, 16)
    text = torch.randn(2, 7, 16)
    left = [AdapterSpec(file, unet=0.3, region=parse_region("left"))]
    assert torch.equal(_predict(tiny, left, [text]), _predict(tiny, left)), "the same text as the whole picture's"
    other = torch.randn(2, 7, 16)
    assert not torch.equal(_predict(tiny, left, [other]), _predict(tiny, left))
    everywhere = [AdapterSpec(file, unet=0.3, region=EVERYWHERE)]
    with AppliedNetworks(tiny, "live") as applied, torch.no_grad():
        applied.apply([AdapterSpec(file, unet=0.3)])
        torch.manual_seed(5)
        expected = tiny.unet(torch.randn(2, 4, 8, 16), 3, other).sample
    assert torch.equal(_predict(tiny, everywhere, [other]), expected)


def test_an_exception_in_a_call_leaves_nothing(tiny: Tiny) -> None:
    left = [AdapterSpec(lora_file(tiny), region=parse_region("left"))]
    with pytest.raises(FitError, match="no resolution"):
        LatentGrid().layer_size(3)
    with AppliedNetworks(tiny) as applied:
        applied.apply(left)
        assert applied.injection.live_reason == ""
        handle = tiny.unet.mid_block.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError), torch.no_grad():
            tiny.unet(torch.randn(1, 4, 8, 8), 3, torch.randn(1, 7, 16))
        handle.remove()
    with pytest.raises(FitError, match="part of the picture"), AppliedNetworks(tiny, "baked") as baked:
        baked.apply(left)


def test_a_picture_without_regions_after_one_with_them(tiny: Tiny) -> None:
    file = lora_file(tiny, std=0.3)
    live = _predict(tiny, [AdapterSpec(file)])
    with AppliedNetworks(tiny, "live") as applied, torch.no_grad():
        for region in (None, parse_region("left"), None):
            applied.apply([AdapterSpec(file, region=region)])
        torch.manual_seed(5)
        assert torch.equal(tiny.unet(torch.randn(2, 4, 8, 16), 3, torch.randn(2, 7, 16)).sample, live)


def test_layer_sizes() -> None:
    grid = LatentGrid()
    grid.size = (9, 13)
    assert [grid.layer_size(n) for n in (117, 35, 12)] == [(9, 13), (5, 7), (3, 4)]


@pytest.mark.long
def test_generate_by_output_masks(folder: Path, model: StandaloneModel) -> None:
    """Everywhere is the plain tag bit for bit, the text encoder included; other lengths of texts work too."""
    tag = "a b<lora:other:1:at={}:way=output>".format
    plain = _draw(folder, model, "a b<lora:other:1>", mode="live", batch=2)
    assert np.array_equal(_draw(folder, model, tag("0-1;0-1"), batch=2), plain)
    left = _draw(folder, model, tag("left"), batch=2)
    assert not np.array_equal(left, plain) and not np.array_equal(left, _draw(folder, model, "a b", batch=2))
    one = _draw(folder, model, tag("left"), seed=4)
    assert np.abs(left[1:] - one).max() <= 1
    _draw(folder, model, tag("left") + "<lora:strong:1:at=right:way=output>", negative_prompt="a BREAK b", hr_scale=1.5)
    with pytest.raises(FitError, match="regions need"):
        generate(settings(folder, prompt=tag("left"), mode="baked"), model=model)
