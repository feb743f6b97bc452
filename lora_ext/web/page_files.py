"""Where the page's files are: its scripts, style sheet and translations."""

from __future__ import annotations

from pathlib import Path

from ..errors import LoraError

PACKAGE = Path(__file__).parent.parent


def page_folder() -> Path:
    """The folder that holds `javascript/`, `localizations/` and `style.css`.

    The web UI wants them at the top of an extension, beside the package. In an installed wheel they are inside the
    package (`setup.py` copies them to `page/`), because the folder beside it is everybody's `site-packages`.

    Raises: LoraError where neither has them.
    """
    for folder in (PACKAGE / "page", PACKAGE.parent):
        if (folder / "style.css").is_file() and (folder / "javascript" / "lora_ext.js").is_file():
            return folder
    raise LoraError(
        f"the page's files (style.css, javascript/, localizations/) are neither in {PACKAGE / 'page'} nor in "
        f"{PACKAGE.parent}: install lora-ext again, or use a complete clone"
    )


def page_scripts() -> list[Path]:
    """The page's scripts in the order in which they are loaded."""
    return sorted((page_folder() / "javascript").glob("lora_ext*.js"))
