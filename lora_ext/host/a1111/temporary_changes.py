"""What a training run changes in the web UI for a while: devices, settings, attributes; each puts back what it took."""

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
    """The U-Net on the device that computes, where --medvram keeps it off; nothing else changes its place."""
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
    """Where --medvram moves networks when they are called: the U-Net and nothing else is on the device now."""
    if getattr(sd_model, "lowvram", False):
        _everything_to_cpu()
        sd_model.model.to(devices.device)


def _everything_to_cpu() -> None:
    from modules import lowvram  # absent in forks that never move networks this way, which still load this file

    lowvram.send_everything_to_cpu()


@contextmanager
def temporary_attention(kind: str) -> Iterator[None]:
    """The web UI's "sdpa" or "xformers" attention for a while; "" leaves the user's. Raises TrainError."""
    if not kind:
        yield
        return
    from modules import sd_hijack_optimizations as hijack

    chosen = hijack.SdOptimizationXformers() if kind == "xformers" else hijack.SdOptimizationSdp()
    if not chosen.is_available():
        raise TrainError(f"{kind} cannot be used here; leave it out: the web UI's own attention is taken")
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
    """A network on the device that computes for a while, and then where it was."""
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
    """An attribute for a while; taken away again where there was none."""
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
    """The user's settings for a while; nothing is saved, no callback runs."""
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
    """Transformer and residual blocks compute again in the backward pass, by torch's way.

    LDM's own way asks for gradients of the block's Parameters alone: those of hooks would get none.
    """
    blocks = [m for m in unet.modules() if hasattr(m, "_forward") and type(m).__name__ in _CHECKPOINTED_CLASSES]
    with restored_attributes(blocks, ("forward",)):
        for block in blocks:
            vars(block)["forward"] = partial(_checkpointed_forward, block._forward)
        yield


_CHECKPOINTED_CLASSES = ("BasicTransformerBlock", "ResBlock")


def _checkpointed_forward(forward: Any, *args: Any, **kwargs: Any) -> Any:
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
