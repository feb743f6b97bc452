"""Context managers for what a training run changes in the web UI (devices, settings, attributes) and restores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from modules import devices, shared
from torch import nn
from torch.utils.checkpoint import checkpoint

from ...errors import TrainError
from ..training_context import restored_attributes


@contextmanager
def unet_on_device(sd_model: Any) -> Iterator[None]:
    """Keeps the U-Net on the compute device, where --medvram would move it away; other networks stay on the CPU."""
    if not getattr(sd_model, "lowvram", False):
        yield
        return
    try:
        move_unet_to_device(sd_model)
        yield
    finally:
        sd_model.model.to("cpu")
        _everything_to_cpu()


def move_unet_to_device(sd_model: Any) -> None:
    """With --medvram: moves the U-Net to the compute device and all other networks to the CPU."""
    if getattr(sd_model, "lowvram", False):
        _everything_to_cpu()
        sd_model.model.to(devices.device)


def _everything_to_cpu() -> None:
    from modules import lowvram  # missing in forks without this module, which import this file too

    lowvram.send_everything_to_cpu()


@contextmanager
def temporary_attention(kind: str) -> Iterator[None]:
    """Sets the web UI's attention while the context is open.

    Args:
        kind: "sdpa" or "xformers"; "" leaves the user's.

    Raises:
        TrainError: it is not available here.
    """
    if not kind:
        yield
        return
    from modules import sd_hijack_optimizations as hijack

    chosen = hijack.SdOptimizationXformers() if kind == "xformers" else hijack.SdOptimizationSdp()
    if not chosen.is_available():
        raise TrainError(f"{kind} cannot be used here; leave it out to use the web UI's attention")
    owners = (
        hijack.ldm.modules.attention.CrossAttention, hijack.ldm.modules.diffusionmodules.model.AttnBlock,
        hijack.sgm.modules.attention.CrossAttention, hijack.sgm.modules.diffusionmodules.model.AttnBlock,
    )  # fmt: skip
    before = [owner.forward for owner in owners]
    try:
        chosen.apply()
        yield
    finally:
        for owner, forward in zip(owners, before, strict=True):
            owner.forward = forward


@contextmanager
def temporarily_on_device(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Moves a network to a device while the context is open."""
    before = next(network.parameters()).device
    if before == device or (before.type == device.type and device.index is None):
        yield
        return
    network.to(device)
    try:
        yield
    finally:
        network.to(before)


@contextmanager
def temporary_attribute(owner: Any, name: str, value: object) -> Iterator[None]:
    """Sets an attribute while the context is open; deletes it afterwards where there was none."""
    kept = vars(owner)
    missing = object()
    before = kept.get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextmanager
def temporary_settings(**values: Any) -> Iterator[None]:
    """Changes the web UI's settings while the context is open. Nothing is saved, and no callback runs."""
    data = shared.opts.data
    before = {name: data[name] for name in values if name in data}
    data.update(values)
    try:
        yield
    finally:
        for name in values:
            data.pop(name, None)
        data.update(before)


@contextmanager
def gradient_checkpointed(unet: nn.Module) -> Iterator[None]:
    """Turns on torch's gradient checkpointing for transformer and ResNet blocks.

    LDM's own function (`ldm.modules.diffusionmodules.util.checkpoint`) computes gradients for the block's parameters
    alone, not for those of forward hooks.
    """
    blocks = [m for m in unet.modules() if hasattr(m, "_forward") and type(m).__name__ in _CHECKPOINTED_CLASSES]
    with restored_attributes(blocks, ("forward",)):
        for block in blocks:
            vars(block)["forward"] = partial(_checkpointed_forward, block._forward)
        yield


_CHECKPOINTED_CLASSES = ("BasicTransformerBlock", "ResBlock")


def _checkpointed_forward(forward: Any, *args: Any, **kwargs: Any) -> Any:
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
