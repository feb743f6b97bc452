"""The Python API, a page for each package, made from the docstrings of `lora_ext`: a new module appears by itself."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = "lora_ext"
TITLE = "Python API"


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


def pages() -> dict[str, tuple[str, str]]:
    """Address → (title in the navigation, Markdown): a heading, and one mkdocstrings directive for each module."""
    return {
        f"reference/{page}.md": (page, f"# {page}\n\n" + "\n\n".join(f"::: {module}" for module in modules) + "\n")
        for page, modules in sorted(_modules_by_page().items())
    }
