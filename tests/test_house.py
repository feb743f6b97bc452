"""The house: a file imports only from lower floors, or from its own room without a circle; one home a dependency."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import lora_ext

ROOT = Path(lora_ext.__file__).parent
FLOORS = (
    ("__init__", "console", "errors", "spectrum"),
    ("blocks", "lowrank"),
    ("address", "ports"),
    ("adapters", "embedded"),
    ("file",),
    ("prompt", "prompt_line", "inject", "fit"),
    ("stack", "prompt_notes"),
    ("tools", "idle"),
    ("train", "compare"),
    ("host",),
    ("api", "jobs", "generate", "inspect_file"),
    ("training",),
    ("demo", "web"),
    ("ui",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ONLY_IN = {  # outside package -> the rooms that may import it
    "modules": {"host"},
    "diffusers": {"host", "embedded"},
    "transformers": {"host", "embedded"},
    "gradio": {"ui", "host"},
    "fastapi": {"ui", "web"},
    "starlette": {"ui", "web"},
    "pydantic": {"web"},
}


def _files() -> dict[str, Path]:
    return {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in sorted(ROOT.rglob("*.py"))}


def _imports(name: str, path: Path) -> list[str]:
    """Absolute dotted names of what a file imports at any depth of its code."""
    package = ["lora_ext", *name.split(".")]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: -node.level] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            found += [".".join([*module, alias.name]) for alias in node.names]
    return found


def _room(name: str) -> str:
    return name.split(".")[0]


def test_every_room_has_a_floor() -> None:
    assert {_room(name) for name in _files()} <= set(FLOOR)


def test_imports_go_down() -> None:
    for name, path in _files().items():
        for imported in _imports(name, path):
            if imported.startswith("lora_ext."):
                room = _room(imported.removeprefix("lora_ext."))
                if room in FLOOR and room != _room(name) and name != "__init__":
                    assert FLOOR[room] < FLOOR[_room(name)], f"{name} imports {imported}: not a lower floor"


def test_no_circle() -> None:
    files = _files()
    graph: dict[str, set[str]] = {name: set() for name in files}
    for name, path in files.items():
        for imported in _imports(name, path):
            inner = imported.removeprefix("lora_ext.")
            for target in (inner, inner.rpartition(".")[0], f"{inner}.__init__"):
                if target in files and target != name and name != "__init__":
                    graph[name].add(target)
                    break
    tuple(TopologicalSorter(graph).static_order())


def test_one_home_for_each_dependency() -> None:
    for name, path in _files().items():
        for imported in _imports(name, path):
            homes = ONLY_IN.get(imported.split(".")[0])
            assert homes is None or _room(name) in homes, f"{name} imports {imported}"


def test_files_stay_small() -> None:
    long = {name: n for name, p in _files().items() if (n := len(p.read_text(encoding="utf-8").splitlines())) > 340}
    assert not long


def test_the_formula_has_one_home() -> None:
    """Only lowrank.py multiplies U, g and D into a matrix; kinds outside adapters/ have no factors of their own."""
    for name, path in _files().items():
        if _room(name) not in ("adapters", "file", "lowrank", "address", "embedded"):
            assert "lora_down.weight" not in path.read_text(encoding="utf-8"), name
