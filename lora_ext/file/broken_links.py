"""Links to files and folders that do not exist: what a scan of a folder would else pass over without a word."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..console import print_text, replace_lone_surrogates


def is_broken_link(path: Path) -> bool:
    """Whether a path is a link whose target does not exist, or a link to itself."""
    return path.is_symlink() and not path.exists()


def may_be_folder_link(name: str) -> bool:
    """Whether a link of this name may have led to a folder: it is not hidden and has no suffix of letters."""
    return not name.startswith(".") and not Path(name).suffix[1:].isalpha()


def broken_links_note(links: Sequence[Path]) -> str:
    """Names links whose targets do not exist, in one sentence.

    Args:
        links: at least one.
    """
    first, target = links[0], link_target(links[0])
    if len(links) == 1:
        return f"the link {first} leads nowhere (to {target})"
    return f"there are {len(links)} links that lead nowhere, the first is {first} (to {target})"


def broken_links_ending(links: Sequence[Path]) -> str:
    """The same as the end of another sentence, behind a semicolon; "" without links."""
    return f"; {broken_links_note(links)}" if links else ""


def tell_broken_links(links: Sequence[Path]) -> None:
    """Says on standard error that links are left out; nothing without links."""
    if links:
        print_text(f"left out: {broken_links_note(links)}", file=sys.stderr)


def link_target(link: Path) -> str:
    """What a link leads to, as it is written in it; the reason where that cannot be read."""
    try:
        return replace_lone_surrogates(os.readlink(link))  # noqa: PTH115 (as it is written, without a change)
    except OSError as error:
        return error.strerror or str(error)
