"""mkdocs hook: the API reference, a page for each package, made from the docstrings of `lora_ext`.

No page of it is written by hand and none is committed: a new module or package appears by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PACKAGE = "lora_ext"


def _modules_by_page() -> dict[str, list[str]]:
    """Page name -> dotted module names. The top-level modules share the page `lora_ext`."""
    pages: dict[str, list[str]] = {PACKAGE: [PACKAGE]}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        if is_package:
            parts.pop()
        name, page = ".".join(parts), ".".join(parts if is_package else parts[:-1])
        if name != PACKAGE and parts[-1] != "__main__":
            pages.setdefault(page, []).append(name)
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages to the navigation."""
    if config.nav is not None:
        entries: list[Any] = [{page: f"reference/{page}.md"} for page in sorted(_modules_by_page())]
        next(section["Reference"] for section in config.nav if "Reference" in section).append({"Python API": entries})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages themselves: a heading, and one mkdocstrings directive for each module."""
    for page, modules in _modules_by_page().items():
        content = f"# {page}\n\n" + "\n\n".join(f"::: {module}" for module in modules) + "\n"
        files.append(File.generated(config, f"reference/{page}.md", content=content))
    return files
