"""Mutation run: how many small wrong changes of the core do the tests notice?

    python benchmarks/mutation.py [lowrank blocks …] [--sample 100] [--seed 0] [--json results.json]

Each change (`mutants.py`) is tried alone by the tests that run the changed lines, quick and narrow ones first, until
one fails. Nothing is written into the source files.

A server imports and collects once; a fork of it then takes one mutant: the changed function's code is put into the
module that is there, and caches are emptied. Code that runs at import (tables, defaults) goes another way: a fork of a
process that has torch but not this package imports it anew.
It needs `fork`, so Linux or macOS. docs/MUTATION.md has the figures and what survives.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import pickle
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

sys.dont_write_bytecode = True
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from _pytest.runner import runtestprotocol  # noqa: E402
from mutants import Mutant, mutants  # noqa: E402

PACKAGE = ROOT / "lora_ext"
TARGETS: dict[str, tuple[str, str]] = {
    "lowrank": ("lowrank rank_reduction", "test_lowrank test_rank_reduction"),
    "adapters": ("adapters/*", "test_adapters"),
    "blocks": ("blocks block_weights", "test_blocks"),
    "lora_tags": (
        "lora_tags",
        "test_lora_tags test_train_textual_inversion::test_a_word_is_apart_from_punctuation",
    ),
    "inject": (
        "inject/*",
        "test_inject_baking test_inject_free_memory test_inject_quantized_weight test_inject test_inject_rounding",
    ),
    "layer_names": ("layer_names layer_keys", "test_layer_names"),
    "loss": ("train/run/loss", "test_train_loss"),
    "buckets": ("train/data/buckets", "test_train_buckets"),
}
"""Name → the modules, and the test files that are to notice; the first two for code that runs at import."""
ELSEWHERE = 2
OUTCOME = {0: "survived", None: "timeout", ELSEWHERE: ""}
"""Exit status of a fork → what became of its mutant. ELSEWHERE: it cannot be put into what is imported."""
ENOUGH = 20.0
"""Seconds after which a mutant counts as survived though more tests run its lines. The times that `traced` measures are
longer: every line is traced, and each test makes its tables anew."""


class Server:
    """Has collected the tests; tries mutants in forks of itself. Runs inside pytest, as its loop over the tests."""

    def __init__(self, chosen: Sequence[Mutant], results: Path) -> None:
        self.chosen, self.results = chosen, results
        self.fine: set[Path] = set()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Instead of running the tests once."""
        files = {str(mutant.path) for mutant in self.chosen}
        with tempfile.TemporaryDirectory() as folder:
            ran = Path(folder) / "ran"
            forked(lambda: ran.write_bytes(pickle.dumps(traced(session.items, files))), 3600)
            seconds, covering = pickle.loads(ran.read_bytes())
        broad = Counter(number for numbers in covering.values() for number in numbers)
        with self.results.open("a", encoding="utf-8") as out:
            for mutant in self.chosen:
                places = {n for line in range(mutant.lines[0], mutant.lines[1] + 1)
                          for n in covering.get((str(mutant.path), line), ())}  # fmt: skip
                if not places:  # runs at import alone
                    continue
                order = sorted(places, key=lambda number: seconds[number] * broad[number])
                found = self._tried(mutant, [session.items[n] for n in order], [seconds[n] for n in order])
                if found:
                    tell(out, mutant, found)
        return True

    def _tried(self, mutant: Mutant, items: Sequence[pytest.Item], seconds: Sequence[float]) -> str:
        limit = 10 + 5 * min(sum(seconds), ENOUGH + max(seconds))
        if mutant.path not in self.fine:  # the way itself is tried: with no change no test may fail
            code = forked(lambda: self._child(replace(mutant, variant=-1), items), limit)
            assert code == 0, f"with no change at all {mutant.path} fails: {code}"
            self.fine.add(mutant.path)
        return OUTCOME.get(forked(lambda: self._child(mutant, items), limit), "killed")

    def _child(self, mutant: Mutant, items: Sequence[pytest.Item]) -> int:
        try:
            put(mutant)
        except (AssertionError, KeyError, ValueError):
            return ELSEWHERE
        clear_caches()
        end = time.monotonic() + ENOUGH
        return int(any(failed(item) for item in items if time.monotonic() < end))


def clear_caches() -> None:
    """Empties what functions of this repository keep."""
    ours = [m for m in list(sys.modules.values()) if str(getattr(m, "__file__", "")).startswith(str(ROOT))]
    for value in [value for module in ours for value in vars(module).values()]:
        if callable(getattr(value, "cache_clear", None)):
            value.cache_clear()


def failed(item: pytest.Item) -> bool:
    """Whether a test fails, with fixtures of its own."""
    return any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


def traced(items: Sequence[pytest.Item], files: set[str]) -> tuple[list[float], dict[tuple[str, int], set[int]]]:
    """(seconds of each test, (file, line) → the tests that run it). Tests that fail as things are are left out."""
    seconds, covering = [], {}
    for number, item in enumerate(items):
        lines: set[tuple[str, int]] = set()

        def local(frame: FrameType, event: str, arg: Any, lines: set[tuple[str, int]] = lines) -> Any:
            lines.add((frame.f_code.co_filename, frame.f_lineno))
            return local

        clear_caches()
        begun = time.monotonic()
        sys.settrace(lambda frame, event, arg: local if frame.f_code.co_filename in files else None)
        bad = failed(item)
        sys.settrace(None)
        seconds.append(time.monotonic() - begun)
        if bad:
            print(f"left out, it fails as things are: {item.nodeid}", file=sys.stderr)
        for place in () if bad else lines:
            covering.setdefault(place, set()).add(number)
    return seconds, covering


def put(mutant: Mutant) -> None:
    """Gives the function that the mutant changes its new code."""
    module = importlib.import_module(module_name(mutant.path))
    value: Any = module
    for name in mutant.function:
        value = vars(value)[name]
    value = getattr(value, "fget", None) or getattr(value, "func", None) or value
    value = getattr(value, "__func__", value)
    while hasattr(value, "__wrapped__"):
        value = value.__wrapped__
    assert isinstance(value, FunctionType)
    code = compile(mutant.tree(), str(mutant.path), "exec", dont_inherit=True)
    for name in mutant.function:
        code = [c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name][-1]
    value.__code__ = code


def module_name(path: Path) -> str:
    """`lora_ext.inject` of lora_ext/inject/__init__.py."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


class Changed(SourceFileLoader):
    """Imports one module from a changed syntax tree."""

    def __init__(self, mutant: Mutant) -> None:
        super().__init__(module_name(mutant.path), str(mutant.path))
        self.mutant = mutant

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """For `sys.meta_path`."""
        found = name == self.name
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if found else None

    def get_code(self, fullname: str) -> CodeType:
        """Of the changed tree."""
        return compile(self.mutant.tree(), self.path, "exec", dont_inherit=True)  # type: ignore[no-any-return]


def at_import(chosen: Sequence[Mutant], tests: Sequence[str], results: Path) -> None:
    """Tries mutants of code that runs at import; the package must not have been imported yet."""
    with results.open("a", encoding="utf-8") as out:
        for mutant in chosen:

            def child(mutant: Mutant = mutant) -> int:
                sys.meta_path.insert(0, Changed(mutant))  # type: ignore[arg-type]
                return int(pytest.main(arguments(tests)) != 0)

            tell(out, mutant, OUTCOME.get(forked(child, 300), "killed"))


def forked(work: Callable[[], Any], limit: float) -> int | None:
    """The exit status of `work` in a fork of this process (1 where it raises), None after `limit` seconds."""
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        try:
            code = work()
        except BaseException:
            code = 1
        os._exit(code if isinstance(code, int) else 0)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def described(mutant: Mutant) -> list[Any]:
    """[file, line, change]."""
    return [mutant.path.relative_to(PACKAGE).as_posix(), mutant.lines[0], mutant.change]


def tell(out: Any, mutant: Mutant, found: str) -> None:
    """Notes what became of a mutant."""
    out.write(json.dumps([*described(mutant), found], ensure_ascii=False) + "\n")
    out.flush()


def arguments(tests: Sequence[str]) -> list[str]:
    """Of pytest."""
    files = [f"{ROOT / 'tests' / file}.py{colons}{test}" for file, colons, test in (t.partition("::") for t in tests)]
    off = [f"-pno:{name}" for name in ("cacheprovider", "xdist", "rerunfailures")]
    base = Path(tempfile.gettempdir()) / f"mutation-{os.getpid()}"
    return ["-x", "-q", "-s", *off, "--hypothesis-profile=mutation", f"--basetemp={base}", *files]


def run(name: str, sample: int, seed: int) -> list[list[Any]]:
    """All that became of a target's mutants, or of a sample of them."""
    modules, files = TARGETS[name]
    paths, tests = [path for glob in modules.split() for path in sorted(PACKAGE.glob(f"{glob}.py"))], files.split()
    every = [mutant for path in paths for mutant in mutants(path)]
    chosen = every if not sample else random.Random(f"{seed} {name}").sample(every, min(sample, len(every)))
    print(f"{name}: {len(chosen)} of {len(every)} mutants", flush=True)
    results = Path(tempfile.mkstemp(suffix=".jsonl")[1])
    server = Server([mutant for mutant in chosen if mutant.function], results)
    with_server: Callable[[], Any] = lambda: pytest.main(arguments(tests), plugins=[server])  # noqa: E731
    forked(with_server, 24 * 3600)
    done = [json.loads(line)[:3] for line in results.read_text(encoding="utf-8").splitlines()]
    rest = [mutant for mutant in chosen if not mutant.function or described(mutant) not in done]
    at_import(rest, tests[:2], results)
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len(chosen), f"{len(chosen) - len(rows)} mutants were not tried: run its tests by themselves"
    results.unlink()
    for where, line, change, became in sorted(rows):
        if became == "survived":
            print(f"  {became}: {where}:{line} {change}", flush=True)
    return rows


def main() -> None:
    """Runs the targets and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="all without one")
    parser.add_argument("--sample", type=int, default=0, help="mutants of each target, drawn at random; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--json", type=Path, help="where all results go")
    args = parser.parse_args()
    torch.set_num_threads(1)
    hypothesis.settings.register_profile("mutation", derandomize=True, database=None, deadline=None)
    found = {name: run(name, args.sample, args.seed) for name in args.targets or TARGETS}
    if args.json:
        args.json.write_text(json.dumps(found, ensure_ascii=False, indent=1), encoding="utf-8")
    print(f"\n{'target':10} {'mutants':>8} {'noticed':>8} {'survived':>8} {'share':>6}")
    for name, rows in found.items():
        noticed = sum(row[3] in ("killed", "timeout") for row in rows)
        print(f"{name:10} {len(rows):8} {noticed:8} {len(rows) - noticed:8} {noticed / max(1, len(rows)):6.1%}")


if __name__ == "__main__":
    main()
