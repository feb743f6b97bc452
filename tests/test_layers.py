"""Layers: a file imports only from lower layers, or from its own package without a circle; one home each dependency."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import lora_ext

ROOT = Path(lora_ext.__file__).parent
LAYERS = (  # from the lowest; what is in one package, or in a group of one line, must not form a circle
    (
        "__init__",
        "bounded_matching",
        "console",
        "counted_words",
        "csv_rows",
        "data_folder",
        "errors",
        "json_text",
        "message_help",
        "singular_values",
    ),
    (
        "argument_errors",
        "blocks",
        "composition",
        "conditions",
        "ldm_keys",
        "lowrank",
        "help_search",
        "message_help",
        "precisions",
        "zero_terminal_snr",
    ),
    ("block_weights", "rank_reduction", "layer_names", "protocols"),
    ("layer_keys", "adapters", "embedded", "progress", "weight_curve", "weight_trace", "regions"),
    ("file",),
    ("lora_tags", "kohya_prompt_line", "inject", "fit_report", "command_line"),
    ("adapter_spec", "prompt_parts", "prompt_warnings", "prompt_regions"),
    ("applied_networks",),
    ("tools", "no_effect_reasons", "job_history"),
    ("train.config",),
    ("train.data",),
    ("train.network",),
    ("train.run", "train", "compare", "region_masks"),
    ("host",),
    ("host.standalone",),
    ("host.a1111",),
    ("api", "jobs", "generate", "inspect_file"),
    ("training",),
    ("demo", "web"),
    ("ui",),
    ("cli",),
    ("__main__", "help_command"),
)
LAYER = {package: number for number, packages in enumerate(LAYERS) for package in packages}
ONLY_IN = {  # outside package -> the packages that may import it
    "modules": {"host.a1111"},
    "diffusers": {"host.standalone", "embedded"},
    "transformers": {"host.standalone", "embedded"},
    "gradio": {"ui", "host.a1111"},
    "fastapi": {"ui", "web"},
    "starlette": {"ui", "web"},
    "pydantic": {"web"},
    "einops": {"adapters", "embedded", "compare"},
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


def _package(name: str) -> str:
    """The package of LAYERS that a module belongs to: its two first names where they are one, else the first."""
    two = ".".join(name.split(".")[:2])
    return two if two in LAYER else name.split(".")[0]


def test_every_package_has_a_layer() -> None:
    assert {_package(name) for name in _files()} <= set(LAYER)


def test_imports_go_down() -> None:
    for name, path in _files().items():
        for imported in _imports(name, path):
            if imported.startswith("lora_ext."):
                package = _package(imported.removeprefix("lora_ext."))
                if package in LAYER and package != _package(name) and name != "__init__":
                    assert LAYER[package] < LAYER[_package(name)], f"{name} imports {imported}: not a lower layer"


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
            assert homes is None or _package(name) in homes, f"{name} imports {imported}"


def test_a_public_name_is_in_one_module() -> None:
    """One name for one thing in the whole package; `main` is what every command has."""
    homes: dict[str, set[str]] = {}
    for name, path in _files().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            named = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            for public in [*named, *(t.id for t in targets if isinstance(t, ast.Name))]:
                if not public.startswith("_") and public != "main":
                    homes.setdefault(public, set()).add(name)
    assert not {public: modules for public, modules in homes.items() if len(modules) > 1}


def _lines_of_code(text: str) -> int:
    """Lines that are not blank, a comment or part of a docstring: what a docstring explains is not to be saved on."""
    strings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") and n not in strings for n, line in lines)


def test_files_stay_small() -> None:
    sizes = {name: _lines_of_code(path.read_text(encoding="utf-8")) for name, path in _files().items()}
    assert not {name: size for name, size in sizes.items() if size > 300}


def test_the_formula_has_one_home() -> None:
    """Only lowrank.py multiplies U, g and D into a matrix; kinds outside adapters/ have no factors of their own."""
    for name, path in _files().items():
        if _package(name) not in ("adapters", "file", "lowrank", "layer_keys", "embedded"):
            assert "lora_down.weight" not in path.read_text(encoding="utf-8"), name
