"""What is counted before baking, and when it gives way to live: in numbers, without a model."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lora_ext.errors import FitError
from lora_ext.inject import free_memory
from lora_ext.inject.fallback import CHANGING_WEIGHTS_REASON, LiveFallback, WeightChanges
from lora_ext.inject.free_memory import GIB, MemoryBudget, accelerated, format_bytes, free_bytes, is_out_of_memory
from lora_ext.inject.rounding import (
    Rounding,
    combined_surviving_share,
    is_lossy_dtype,
    measuring_stride,
    sample_numbers,
)

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Files of a system: name → text; what is not among them is not there."""
    files: dict[str, str] = {}

    def read_text(path: Path) -> str:
        if path.name not in files:
            raise FileNotFoundError(path)
        return files[path.name]

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(sys, "platform", "linux")
    return files


def test_free_memory_of_linux(system: dict[str, str]) -> None:
    assert free_bytes(CPU) is None  # no /proc
    system["meminfo"] = "MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:    1000 kB\n"
    assert free_bytes(CPU) == 1_024_000
    system |= {"memory.max": "500000\n", "memory.current": "300000\n", "memory.stat": "anon 7\ninactive_file 50000\n"}
    assert free_bytes(CPU) == 250_000
    system["memory.stat"] = "anon 7\n"
    assert free_bytes(CPU) == 200_000
    system["memory.max"] = "max\n"
    assert free_bytes(CPU) == 1_024_000
    system["memory.max"] = "5000000\n"
    assert free_bytes(CPU) == 1_024_000
    system["meminfo"] = "MemTotal:  9000 kB\n"
    assert free_bytes(CPU) is None and free_bytes(META) is None


@pytest.mark.parametrize(("platform", "name"), [("win32", "_free_windows"), ("darwin", "_free_macos")])
def test_free_memory_of_other_systems(platform: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> int:
        raise OSError("not told")

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(free_memory, name, lambda: 7)
    assert free_bytes(CPU) == 7
    monkeypatch.setattr(free_memory, name, unknown)
    assert free_bytes(CPU) is None


def test_free_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch keeps and does not use counts as free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 400)
    assert free_bytes(torch.device("cuda")) == 1300
    assert [accelerated(torch.device(name)) for name in ("cuda", "mps", "cpu", "meta")] == [True, True, False, False]


def test_free_memory_of_an_apple_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 900, raising=False)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 300)
    assert free_bytes(torch.device("mps")) == 600


def test_free_memory_that_windows_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """MEMORYSTATUSEX has 64 bytes, which the call checks, and ullAvailPhys at byte 16."""

    def status_of(pointer: Any) -> int:
        memory = (ctypes.c_ubyte * 64).from_buffer(pointer._obj)
        assert int.from_bytes(memory[:4], sys.byteorder) == ctypes.sizeof(pointer._obj) == 64
        memory[8:24] = (9000).to_bytes(8, sys.byteorder) + (7000).to_bytes(8, sys.byteorder)
        return answers.pop()

    kernel = SimpleNamespace(GlobalMemoryStatusEx=status_of)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    answers = [0, 1]
    assert free_memory._free_windows() == 7000
    with pytest.raises(OSError, match="GlobalMemoryStatusEx"):
        free_memory._free_windows()


def test_free_memory_that_macos_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {b"vm.page_free_count": 5, b"vm.page_speculative_count": 20, b"vm.page_purgeable_count": 300}

    def sysctlbyname(name: bytes, value: Any, size: Any, new: object, new_size: Any) -> int:
        assert size._obj.value == ctypes.sizeof(value._obj) == 4 and new is None and new_size.value == 0
        value._obj.value = pages.get(name, 0)
        return 0 if name in pages else -1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(sysctlbyname=sysctlbyname))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096}.get, raising=False)
    assert free_memory._free_macos() == 325 * 4096
    del pages[b"vm.page_speculative_count"]
    with pytest.raises(OSError, match="speculative"):
        free_memory._free_macos()


def test_what_fits_to_the_byte() -> None:
    budget = MemoryBudget(free=lambda device: 5 * GIB, image_bytes=2 * GIB)
    assert budget.lacking({CPU: 3 * GIB}) == "" and budget.lacking({}) == ""
    said = budget.lacking({CPU: 3 * GIB + 1})
    assert said == "baking takes 3.0 GiB more beside 2.0 GiB for generating an image, 5.0 GiB are free on cpu"
    assert budget.lacking({CPU: 5 * GIB}, drawing=False) == ""
    said = budget.lacking({CPU: 5 * GIB + 1}, drawing=False)
    assert said == "baking takes 5.0 GiB more, 5.0 GiB are free on cpu"
    some = MemoryBudget(free={CPU: 10 * GIB, META: 50 << 20}.get)
    said = some.lacking({CPU: GIB, META: 60 << 20})
    assert said == "baking takes 60.0 MiB more, 50.0 MiB are free on meta"
    assert MemoryBudget(free=lambda device: None, image_bytes=GIB).lacking({CPU: 1 << 60}) == ""
    assert MemoryBudget(free=lambda device: -5).lacking({CPU: 0}) == ""
    assert "0.0 MiB are free" in MemoryBudget(free=lambda device: -(1 << 20)).lacking({CPU: 1})
    assert [format_bytes(size) for size in (GIB // 10, GIB // 10 + 1, 0)] == ["102.4 MiB", "0.1 GiB", "0.0 MiB"]


def test_when_weights_are_taken_to_keep_changing() -> None:
    changes = WeightChanges()
    seen = [changes.note_weights("a", weight) for weight in (1, 2, 3, 3, 3, 4, 4, 4, 4, 5, 6)]
    assert seen == [False, False, True, True, True, True, True, True, False, False, True]
    assert not changes.note_weights("b", 7) and not changes.note_weights("b", 8)  # other files: counted anew
    assert changes.note_weights("b", 9)


class Baked:
    """Stands for an injection that holds so many bytes."""

    def __init__(self, mode: str = "auto", held: int = 3 * GIB) -> None:
        self.mode, self.held, self.forced_live_reason = mode, held, ""

    def baked_bytes(self) -> int:
        return self.held


def _fallback(injection: Baked, *fails: BaseException) -> tuple[LiveFallback, list[bool]]:
    moved: list[bool] = []
    left = list(fails)

    def move(anew: bool) -> None:
        moved.append(anew)
        if left:
            raise left.pop(0)

    return LiveFallback(injection, move), moved  # type: ignore[arg-type]


def test_live_while_weights_change_on_a_gpu() -> None:
    injection = Baked()
    fallback, _ = _fallback(injection)
    for weight in range(3):
        assert not fallback.note_weights("a", weight, True)
    assert injection.forced_live_reason == CHANGING_WEIGHTS_REASON
    assert [fallback.note_weights("a", 2, True) for _ in range(4)] == [False, False, True, False]
    assert injection.forced_live_reason == ""
    for weight in range(5):  # on the CPU a picture takes far longer than baking
        assert not fallback.note_weights("b", weight, False) and injection.forced_live_reason == ""
    injection.forced_live_reason = "another reason"
    for weight in range(5):
        assert not fallback.note_weights("c", weight, True)
    assert injection.forced_live_reason == "another reason"


def test_memory_that_runs_out_while_baking() -> None:
    injection = Baked()
    fallback, moved = _fallback(injection, MemoryError())
    assert not fallback.apply(True) and moved == [True]
    assert fallback.note == injection.forced_live_reason == "memory ran out while baking: live from now on"
    assert fallback.apply() and moved == [True, False]
    for again in (Baked("live"), Baked()):
        fallback, _ = _fallback(again, MemoryError(), MemoryError())
        if again.mode == "auto":
            assert not fallback.apply()  # once; then there is nothing left to give
        with pytest.raises(MemoryError):
            fallback.apply()
    fallback, _ = _fallback(Baked("baked"), MemoryError())
    with pytest.raises(FitError, match="memory ran out while baking"):
        fallback.apply()
    fallback, _ = _fallback(Baked(), ValueError("else"))
    with pytest.raises(ValueError, match="else"):
        fallback.apply()
    assert fallback.note == ""


def test_memory_that_runs_out_in_a_picture() -> None:
    def failing(*errors: BaseException):  # type: ignore[no-untyped-def]
        left = list(errors)

        def work() -> str:
            if left:
                raise left.pop(0)
            return "picture"

        return work

    injection = Baked()
    fallback, moved = _fallback(injection)
    assert fallback.retry_when_out_of_memory(failing()) == "picture" and moved == []
    assert fallback.retry_when_out_of_memory(failing(MemoryError())) == "picture" and moved == [True]
    assert fallback.note == injection.forced_live_reason == "memory ran out while 3.0 GiB were baked: live from now on"
    with pytest.raises(MemoryError):
        fallback.retry_when_out_of_memory(failing(MemoryError(), MemoryError()))
    for baked, error, kind in ((Baked(held=0), MemoryError(), MemoryError), (Baked(), ValueError(), ValueError),
                               (Baked("baked"), MemoryError("all gone"), FitError)):  # fmt: skip
        fallback, moved = _fallback(baked)
        with pytest.raises(kind):
            fallback.retry_when_out_of_memory(failing(error))
        assert moved == [] and fallback.note == ""
    assert not _fallback(Baked("baked"))[0].go_live() and not _fallback(Baked(held=0))[0].go_live()
    fallback, moved = _fallback(Baked())
    assert fallback.go_live() and moved == [True]


def test_errors_below_errors() -> None:
    error = ValueError("no")
    error.__cause__ = RuntimeError("CUDA OUT OF MEMORY")
    for text in ("can't start new thread", "could not create a primitive"):
        assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a convolution"))
    assert is_out_of_memory(error) and not is_out_of_memory(ValueError("out of memory"))


# --- what rounding leaves


def test_which_dtypes_lose_something() -> None:
    lossy = {torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}
    for dtype in (*lossy, torch.float32, torch.float64, torch.int8, torch.int64):
        assert is_lossy_dtype(dtype) == (dtype in lossy)


@pytest.mark.parametrize("size", [1, 100, 1 << 14, (1 << 15) - 1, 1 << 15, 1 << 18, 1 << 20, 5 << 20])
def test_every_how_many_numbers_one_is_looked_at(size: int) -> None:
    step = measuring_stride(size)
    least = max(1, size // (1 << 14))
    wanted = next(n for n in range(least, 2 * least + 7) if n == 1 or all(n % prime for prime in (2, 3, 5)))
    assert step == wanted
    numbers = sample_numbers(torch.arange(size).view(1, -1))
    runs = [torch.arange(at, at + 16) for at in range(0, size - 16 * step + 1, 16 * step)]
    assert torch.equal(numbers, torch.arange(size) if step == 1 else torch.cat(runs))


def test_the_share_that_rounding_leaves() -> None:
    torch.manual_seed(0)
    weight, delta = torch.randn(32, 24), torch.randn(32, 24) * 1e-2
    measured = Rounding()
    assert (measured.share, measured.squared_norm) == (1.0, 0.0)
    measured.measure(weight, weight + delta, torch.bfloat16)
    exact = weight + delta
    left = ((exact.bfloat16().float() - weight) * (exact - weight)).sum() / (exact - weight).square().sum()
    assert measured.share == pytest.approx(1 - abs(1 - float(left)), abs=1e-5)
    assert measured.squared_norm == pytest.approx(float(delta.square().sum()), rel=1e-3)
    both = Rounding()
    both.add_measured(torch.tensor([2.0]), torch.tensor([-1.0]), 3)  # ‖ΔW‖² 12, of which 6 is lost
    both.add_measured(torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]), 4)  # 4, and 2 too much
    assert (both.squared_norm, both.share) == (16.0, 1 - 4 / 16)
    gone, broken = Rounding(), Rounding()
    gone.add_measured(torch.tensor([1.0]), torch.tensor([-3.0]), 1)
    broken.add_measured(torch.tensor([1.0]), torch.tensor([float("nan")]), 1)
    assert gone.share == broken.share == 0.0
    assert combined_surviving_share([both, gone]) == pytest.approx(12 / 17) and combined_surviving_share([]) == 1.0
