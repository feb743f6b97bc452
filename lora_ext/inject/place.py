"""LoRAs that act in a part of the picture: masks on the outputs of their layers, and the text of each region.

A layer's output has a place for each pixel of its resolution, so that ΔW·x is multiplied by the region's mask there.
Layers that read the text (`to_k`, `to_v` of cross-attention) have none: each region has keys and values of its own, and
the attention's outputs are put together by the masks ("attention couple").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..counted_words import counted
from ..errors import FitError
from ..regions import Region, combine_masks

CROSS_ATTENTION = "attn2"
"""The name of cross-attention modules, in diffusers and in LDM models."""
TEXT_LAYERS = (f"{CROSS_ATTENTION}.to_k", f"{CROSS_ATTENTION}.to_v")
"""Ends of the names of layers that read the text."""
_TEXT_ARGUMENTS = ("encoder_hidden_states", "context")
"""What hosts call the text in the arguments of cross-attention."""
_HALVINGS = 6


class PlaceGain(Protocol):
    """What the output of an adapter at a layer is multiplied by."""

    @property
    def state(self) -> object:
        """What the factor depends on beside the shape of the output."""
        ...

    def factor(self, output: Tensor) -> Tensor:
        """Returns a factor for an output of the layer that depends on the place alone.

        Args:
            output: (batch, channels, h, w), (batch, tokens, channels) or (batch, channels).

        Returns:
            (h, w), (tokens, 1) or (), on the output's device and in its dtype.
        """
        ...


class LatentGrid:
    """The size of the latent that the U-Net computes now.

    Attributes:
        size: (height, width).
    """

    def __init__(self) -> None:
        self.size: tuple[int, int] = (0, 0)

    def layer_size(self, tokens: int) -> tuple[int, int]:
        """Returns the (height, width) of a layer with so many tokens: the latent's, halved some times.

        Raises:
            FitError: no resolution has so many tokens, as where another extension merges tokens.
        """
        height, width = self.size
        for _ in range(_HALVINGS):
            if height * width == tokens:
                return height, width
            height, width = (height + 1) // 2, (width + 1) // 2
        raise FitError(
            f"a layer with {counted(tokens, 'token')} has no resolution of a {self.size[0]}x{self.size[1]} latent"
        )


class RegionPlace:
    """One region in one U-Net: the `PlaceGain` of its layers with a place.

    A layer without one, such as the embedding of the time, acts with the region's share of the picture.

    Args:
        region: the region, with its pixels where it is a mask.
        grid: the latent's size, shared by all regions.

    Attributes:
        text_gain: the `PlaceGain` of layers that read the text.
        text: (batch, tokens, width) of the region's own text states, None for the ones of the whole picture.
    """

    def __init__(self, region: Region, grid: LatentGrid) -> None:
        self.region, self._grid = region, grid
        self.text_gain = TextGain()
        self.text: Tensor | None = None
        self._masks: dict[tuple[object, ...], Tensor] = {}

    @property
    def state(self) -> object:
        """See `PlaceGain.state`: the size of the latent."""
        return self._grid.size

    def mask(self, height: int, width: int, like: Tensor) -> Tensor:
        """Returns the region's mask (height, width) on the device and in the dtype of a tensor."""
        key = (height, width, like.device, like.dtype)
        if key not in self._masks:
            self._masks[key] = self.region.mask(height, width).to(like.device, like.dtype)
        return self._masks[key]

    def factor(self, output: Tensor) -> Tensor:
        """See `PlaceGain.factor`."""
        if output.dim() == 4:
            return self.mask(output.shape[2], output.shape[3], output)
        if output.dim() == 3:
            return self.mask(*self._grid.layer_size(output.shape[1]), output).reshape(-1, 1)
        return self.mask(*self._grid.size, output.float()).mean().to(output)


class TextGain:
    """Switches an adapter of a text layer on while keys and values of its region are computed."""

    def __init__(self) -> None:
        self.is_on = False

    @property
    def state(self) -> object:
        """See `PlaceGain.state`."""
        return self.is_on

    def factor(self, output: Tensor) -> Tensor:
        """See `PlaceGain.factor`."""
        return output.new_ones(()) if self.is_on else output.new_zeros(())


class RegionPlaces:
    """The regions of one U-Net with their hooks: the latent's size, and the texts of regions in cross-attention."""

    def __init__(self) -> None:
        self._grid = LatentGrid()
        self._places: dict[Region, RegionPlace] = {}
        self._handles: list[RemovableHandle] = []
        self._is_inside = False
        self._weights: dict[tuple[object, ...], Tensor] = {}

    def place_of(self, region: Region) -> RegionPlace:
        """Returns the place of a region that `set_regions` was given."""
        return self._places[region]

    def set_regions(self, unet: nn.Module | None, regions: Sequence[Region]) -> None:
        """Replaces the regions.

        Args:
            unet: the U-Net; None where the model has none.
            regions: each once; without any the U-Net is left as it is.
        """
        if [(a, id(a.pixels)) for a in self._places] == [(b, id(b.pixels)) for b in regions]:
            return
        self.close()
        if unet is None or not regions:
            return
        self._places = {region: RegionPlace(region, self._grid) for region in regions}
        self._handles = [unet.register_forward_pre_hook(self._note_size, with_kwargs=True)]
        for name, module in unet.named_modules():
            if name.split(".")[-1] == CROSS_ATTENTION:
                self._handles.append(module.register_forward_hook(self._couple, with_kwargs=True))

    def set_texts(self, texts: Sequence[Tensor | None]) -> None:
        """Sets the text states of the regions for the next calls, in the order of `set_regions`."""
        for place, text in zip(self._places.values(), texts, strict=True):
            place.text = text

    def close(self) -> None:
        """Removes the hooks and forgets the regions."""
        while self._handles:
            self._handles.pop().remove()
        self._places, self._weights = {}, {}

    def _note_size(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        sample = args[0] if args else kwargs.get("sample", kwargs.get("x"))
        self._grid.size = (sample.shape[-2], sample.shape[-1])

    def _couple(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
        """Calls cross-attention once more for each region, with its text and its keys and values."""
        if self._is_inside:
            return None
        base, *weights = self._weights_at(output)
        total = output * base
        self._is_inside = True
        try:
            for place, weight in zip(self._places.values(), weights, strict=True):
                place.text_gain.is_on = True
                new_args, new_kwargs = _with_text(args, kwargs, place.text)
                total = total + module(*new_args, **new_kwargs) * weight
                place.text_gain.is_on = False
        finally:
            self._is_inside = False
            for place in self._places.values():
                place.text_gain.is_on = False
        return total

    def _weights_at(self, output: Tensor) -> Tensor:
        """(1 + regions, tokens, 1): the weights of the base's and the regions' outputs, which sum to 1."""
        height, width = self._grid.layer_size(output.shape[1])
        key = (height, width, output.device, output.dtype)
        if key not in self._weights:
            masks = torch.stack([place.region.mask(height, width) for place in self._places.values()])
            self._weights[key] = combine_masks(masks).reshape(len(masks) + 1, -1, 1).to(output.device, output.dtype)
        return self._weights[key]


def _with_text(args: Any, kwargs: Any, text: Tensor | None) -> tuple[Any, Any]:
    """The arguments of cross-attention with another text."""
    if text is None:
        return args, kwargs
    name = next((name for name in _TEXT_ARGUMENTS if kwargs.get(name) is not None), None)
    if name is not None:
        return args, {**kwargs, name: text.to(kwargs[name])}
    return (args[0], text.to(args[1]), *args[2:]), kwargs
