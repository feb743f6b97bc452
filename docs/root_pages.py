"""The changelog and the page for contributors, which stand at the top of the project, as pages of the site."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TITLE = "Project"
_PAGES = {"changelog.md": ("Changelog", "CHANGELOG.md"), "contributing.md": ("Contributing", "CONTRIBUTING.md")}


def pages() -> dict[str, tuple[str, str]]:
    """Address → (title in the navigation, Markdown)."""
    return {
        address: (title, re.sub(r"\]\(docs/", "](", (ROOT / name).read_text(encoding="utf-8")))
        for address, (title, name) in _PAGES.items()
    }
