"""Borrowing networks for training: what is changed for a run, and everything put back after it."""

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
    """No parameter of these collects gradients; `train` sets the mode (gradient checkpointing acts in it alone).

    Afterwards every parameter's `requires_grad` and `grad`, and every module's mode, are as before.
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
    """The networks' floating parameters and buffers as `dtype`; the very tensors that were there come back afterwards.

    norms: the dtype of normalising layers, where theirs is another. Nothing is copied where the dtype fits already.
    Frozen networks only: what is computed inside is thrown away.
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


@contextmanager
def restored_attributes(networks: Iterable[nn.Module], names: Sequence[str]) -> Iterator[None]:
    """Puts the named attributes of every module back, and takes away those that were not there."""
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
    """`call` compiled for a device; it is compiled when first called, and again for other sizes and hooks.

    Raises TrainError where nothing can be compiled: no C++ compiler, no Triton, a Python that torch cannot read.
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
"""How many forms of one function may be kept: each size of pictures and each rank that DyLoRA draws is one."""


def _probe_function(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1


def autocast_for_precision(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Autocast for a precision; nothing for float32. Raises TrainError where this torch has none for the device."""
    dtype = compute_dtype(precision)
    if dtype == torch.float32:
        return nullcontext()
    try:
        # the networks are in this precision already; casts that were kept would hide the optimizer's steps
        return torch.autocast(device.type, dtype=dtype, cache_enabled=False)
    except RuntimeError as error:
        raise TrainError(f"mixed_precision {precision} does not work on {device}: {error}; use no") from None


def autocast_disabled(device: torch.device) -> AbstractContextManager[object]:
    """No autocast inside, where there could be one."""
    return torch.autocast(device.type, enabled=False) if device.type in ("cuda", "cpu", "xpu") else nullcontext()
