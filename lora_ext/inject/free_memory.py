"""What memory is free, what baking may take of it, and errors that say it has run out."""

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

_OUT_OF_MEMORY_TEXTS = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
"""What torch says where it has no class for the error: on the CPU (`DefaultCPUAllocator`) and on MPS."""


def free_bytes(device: torch.device) -> int | None:
    """Bytes that a new tensor may take on `device`: free, or kept by torch for tensors to come. None: not known."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps" and hasattr(torch.mps, "recommended_max_memory"):  # since torch 2.5
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return _free_ram() if device.type == "cpu" else None


def _free_ram() -> int | None:
    """Bytes of main memory that programs may still take, without swapping."""
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
    """What a container's limit leaves (cgroup v2); page cache that can be dropped is not counted as taken."""
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
    """What baking may take. free: bytes that are free on a device, None where that is not known (then it has room).

    image_bytes: bytes that must stay free for making a picture, where the model is.
    """

    free: Callable[[torch.device], int | None] = free_bytes
    image_bytes: int = 0

    def lacking(self, needed: Mapping[torch.device, int], drawing: bool = True) -> str:
        """Why so many bytes more do not fit, in words; "" where they do. drawing: beside what a picture takes."""
        for device, size in needed.items():
            free = self.free(device) if size else None
            kept = self.image_bytes if drawing else 0
            if free is not None and size + kept > free:
                beside = f" beside {format_bytes(kept)} for making a picture" if kept else ""
                return (
                    f"baking takes {format_bytes(size)} more{beside}, {format_bytes(max(0, free))} are free on {device}"
                )
        return ""


def format_bytes(size: int) -> str:
    """Bytes as text, in GiB, below a tenth of one in MiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def accelerated(device: torch.device) -> bool:
    """Whether a picture takes seconds there, so that baking at every change would take as long as the picture does."""
    return device.type not in ("cpu", "meta")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether the error, or the one that it was raised from, is that memory has run out, on whatever device."""
    if error is None:
        return False
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    said = isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY_TEXTS)
    return said or is_out_of_memory(error.__cause__)


def release_memory() -> None:
    """Gives memory that nothing uses back to the device, after an error that held tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
