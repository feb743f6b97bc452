"""Context managers around training: each changes networks for a run and restores them afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from ..errors import TrainError
from ..precisions import MIXED_PRECISIONS, parse_precision_name


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype that the frozen networks compute in; what is trained stays in float32. Raises TrainError."""
    return parse_precision_name(precision, MIXED_PRECISIONS, TrainError, "mixed_precision")


@contextmanager
def frozen(networks: Sequence[nn.Module], *, train: bool) -> Iterator[None]:
    """Freezes networks: no parameter collects gradients.

    Afterwards every parameter's `requires_grad` and `grad`, and every module's mode, are restored.

    Args:
        networks: the networks.
        train: whether they are in training mode, which gradient checkpointing needs; dropout stays off.
    """
    parameters = [(p, p.requires_grad, p.grad) for network in networks for p in network.parameters()]
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        for parameter, _, _ in parameters:
            parameter.requires_grad_(False)
        for module, _ in modes:
            # what drops values at random would make the frozen network another one
            module.training = train and not isinstance(module, nn.modules.dropout._DropoutNd)
        yield
    finally:
        for parameter, wanted, grad in parameters:
            parameter.requires_grad_(wanted)
            parameter.grad = grad
        for module, mode in modes:
            module.training = mode


@contextmanager
def in_dtype(networks: Iterable[nn.Module], dtype: torch.dtype, *, norms: torch.dtype | None = None) -> Iterator[None]:
    """Converts floating-point parameters and buffers to `dtype`, and restores the original tensors afterwards.

    For frozen networks only: changes made inside are lost. Tensors that have the dtype already are not copied.

    Args:
        networks: the networks.
        dtype: of all layers but, where `norms` is given, the normalisation layers.
        norms: the dtype of normalisation layers.
    """
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for network in networks:
            for module in network.modules():
                wanted = norms if norms is not None and isinstance(module, (nn.GroupNorm, nn.LayerNorm)) else dtype
                for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                    if tensor.is_floating_point() and tensor.dtype != wanted:
                        kept.append((tensor, tensor.data))
                        tensor.data = tensor.data.to(wanted)
        yield
    finally:
        for tensor, data in reversed(kept):
            tensor.data = data


_CHANNELS_LAST_WIDTH = 64
"""Channels from which on a network's convolutions are quicker with the channels last."""


@contextmanager
def convolutions_channels_last(network: nn.Module) -> Iterator[None]:
    """Stores the weights of a frozen network's convolutions with the channels last, and as they were afterwards.

    Images then keep that layout from layer to layer. On a CPU oneDNN would else rearrange weights and images at every
    convolution. Numbers stay the same but for the order of sums. Networks in half precision, on other devices, or of
    few channels are left as they are.

    Args:
        network: The network.
    """
    weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d)]
    wide = max((len(weight) for weight in weights), default=0) >= _CHANNELS_LAST_WIDTH
    changed: list[Any] = [
        w for w in weights if wide and w.device.type == "cpu" and w.dtype == torch.float32 and w.is_contiguous()
    ]
    try:
        for weight in changed:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        for weight in changed:
            weight.data = weight.data.contiguous()


@contextmanager
def restored_attributes(networks: Iterable[nn.Module], names: Sequence[str]) -> Iterator[None]:
    """Restores the named attributes of every module afterwards, and deletes those that did not exist before."""
    found: list[tuple[nn.Module, str, Any, bool]] = []
    for network in networks:
        for module in network.modules():
            found += [(module, name, module.__dict__.get(name), name in module.__dict__) for name in names]
    try:
        yield
    finally:
        for module, name, value, there in found:
            if there:
                module.__dict__[name] = value
            else:
                module.__dict__.pop(name, None)


@contextmanager
def compiled_for_device(call: Callable[..., Any], device: torch.device) -> Iterator[Callable[..., Any]]:
    """Compiles a function with `torch.compile`, at its first call and again for other sizes and hooks.

    Raises:
        TrainError: nothing can be compiled here: no C++ compiler, no Triton, or a Python that torch does not support.
    """
    from torch._dynamo import config, reset  # slow to import

    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    # as torch comes, it does not notice hooks that come or go after a function was compiled: ours do both
    with config.patch({limit: _COMPILED_VARIANTS, "skip_nnmodule_hook_guards": False}):
        try:
            if not hasattr(torch.compiler, "is_compiling"):
                raise RuntimeError(f"torch {torch.__version__} is too old")
            torch.compile(_probe_function)(torch.ones(3, device=device))
        except Exception as error:  # compilers fail in many ways
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise TrainError(f"torch_compile cannot be used on {device} here ({first}); leave it out") from None
        try:
            yield torch.compile(call)
        finally:
            reset()


_COMPILED_VARIANTS = 64
"""Compiled variants of one function to keep: each bucket size and each rank that DyLoRA draws needs one."""


def _probe_function(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1


def autocast_for_precision(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Returns autocast for a precision, a context without effect for float32.

    Raises:
        TrainError: this torch has no autocast of this precision for the device.
    """
    dtype = compute_dtype(precision)
    if dtype == torch.float32:
        return nullcontext()
    try:
        # the networks are in this precision already; casts that were kept would hide the optimizer's steps
        return torch.autocast(device.type, dtype=dtype, cache_enabled=False)
    except RuntimeError as error:
        raise TrainError(f"mixed_precision {precision} does not work on {device}: {error}; use no") from None


def autocast_disabled(device: torch.device) -> AbstractContextManager[object]:
    """Returns a context without autocast."""
    return torch.autocast(device.type, enabled=False) if device.type in ("cuda", "cpu", "xpu") else nullcontext()
