"""mkdocs hook: the pages that are made from the code, and their place in the navigation. None of them is committed."""

from __future__ import annotations

import command_pages
import http_pages
import panel_pages
import reference_pages
import root_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PARTS = (panel_pages, command_pages, http_pages, reference_pages, root_pages)
"""Each has TITLE, a heading of the navigation's "Reference", and pages(): address → (title, Markdown)."""
_pages: dict[str, tuple[str, str]] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Makes the pages and adds them to the navigation."""
    reference = next(section["Reference"] for section in config.nav or [] if "Reference" in section)
    for part in PARTS:
        made = part.pages()
        _pages.update(made)
        entries = [{title: address} for address, (title, _) in made.items()]
        reference.extend([{part.TITLE: entries}] if len(entries) > 1 else entries)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages themselves."""
    for address, (_, text) in _pages.items():
        files.append(File.generated(config, address, content=text))
    return files
