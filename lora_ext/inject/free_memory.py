"""Free memory of a device, how much of it baking may take, and out-of-memory errors."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

GIB = 1 << 30

_OUT_OF_MEMORY_TEXTS = (
    "out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory",
    "can't start new thread",  # no room for its stack
)  # fmt: skip
"""torch's messages where it has no class for the error: on the CPU (`DefaultCPUAllocator`) and on MPS."""
_ONEDNN_TEXT = "could not create a primitive"
"""All that oneDNN says on the CPU; with more words it means an operation that it does not have."""


def free_bytes(device: torch.device) -> int | None:
    """Returns the bytes that a new tensor may take on a device: free ones, and those that torch has reserved.

    Args:
        device: the device.

    Returns:
        Bytes, or None where this is not known.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps" and hasattr(torch.mps, "recommended_max_memory"):  # since torch 2.5
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return _free_ram() if device.type == "cpu" else None


def _free_ram() -> int | None:
    """Bytes of main memory that are free without swapping."""
    try:
        if sys.platform == "win32":
            return _free_windows()
        if sys.platform == "darwin":
            return _free_macos()
        meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return min(int(meminfo["MemAvailable"].split()[0]) * 1024, _free_cgroup())
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def _free_cgroup() -> int:
    """Bytes that a container's limit leaves (cgroup v2). Page cache counts as free, since it can be dropped."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = int((folder / "memory.max").read_text())
        rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return limit - int((folder / "memory.current").read_text()) + int(rows.get("inactive_file", 0))
    except (OSError, ValueError):  # no container, or "max": no limit
        return sys.maxsize


def _free_windows() -> int:
    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_uint32), ("load", ctypes.c_uint32), *((n, ctypes.c_uint64) for n in "abcdefg")]

    status = Status(length=ctypes.sizeof(Status))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined]
        raise OSError("GlobalMemoryStatusEx")
    return int(status.b)  # ullAvailPhys: a is the total


def _free_macos() -> int:
    libc, pages = ctypes.CDLL(None), 0
    for name in (b"vm.page_free_count", b"vm.page_speculative_count", b"vm.page_purgeable_count"):
        value, size = ctypes.c_uint32(), ctypes.c_size_t(4)
        if libc.sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)):
            raise OSError(name)
        pages += value.value
    return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class MemoryBudget:
    """How much memory baking may take.

    Attributes:
        free: device → free bytes; None where they are not known, which counts as enough.
        image_bytes: bytes that must stay free for generating an image.
    """

    free: Callable[[torch.device], int | None] = free_bytes
    image_bytes: int = 0

    def lacking(self, needed: Mapping[torch.device, int], drawing: bool = True) -> str:
        """Checks whether baking fits.

        Args:
            needed: device → bytes that baking takes.
            drawing: whether `image_bytes` must stay free too.

        Returns:
            A sentence that says what is missing; "" where there is enough memory.
        """
        for device, size in needed.items():
            free = self.free(device) if size else None
            kept = self.image_bytes if drawing else 0
            if free is not None and size + kept > free:
                beside = f" beside {format_bytes(kept)} for generating an image" if kept else ""
                return (
                    f"baking takes {format_bytes(size)} more{beside}, {format_bytes(max(0, free))} are free on {device}"
                )
        return ""


def format_bytes(size: int) -> str:
    """Formats bytes in GiB, below 0.1 GiB in MiB.

    Example:
        >>> format_bytes(3 * 2**29), format_bytes(2**20)
        ('1.5 GiB', '1.0 MiB')
    """
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def accelerated(device: torch.device) -> bool:
    """Whether a device is an accelerator, where baking at every change would take as long as an image.

    Args:
        device: the device.

    Returns:
        False for the CPU and for meta tensors.
    """
    return device.type not in ("cpu", "meta")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or the one that it was raised from, says that memory has run out, on any device.

    Args:
        error: the error, or None.

    Returns:
        True for such an error.
    """
    if error is None:
        return False
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    said = str(error).lower() if isinstance(error, (RuntimeError, OSError)) else ""
    is_reported = said == _ONEDNN_TEXT or any(text in said for text in _OUT_OF_MEMORY_TEXTS)
    return is_reported or is_out_of_memory(error.__cause__)


def release_memory() -> None:
    """Frees unused memory that torch has reserved, after an error that kept tensors alive."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
