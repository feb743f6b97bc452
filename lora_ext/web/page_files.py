"""Where the page's files are: its scripts, style sheet and translations."""

from __future__ import annotations

import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from ..errors import LoraError

PACKAGE_FOLDER = Path(__file__).parent.parent
REGULARISATION_PICTURE = Path("docs", "guide", "images", "regularisation.png")
MODULES = Path("javascript", "lora_ext")
"""Where the page's modules are, below `page_folder()`. The web UI loads no subfolder of `javascript/` by itself."""


def page_folder() -> Path:
    """The folder that holds `javascript/`, `localizations/` and `style.css`.

    The web UI wants them at the top of an extension, beside the package. In an installed wheel they are inside the
    package (`setup.py` copies them to `page/`), because the folder beside it is everybody's `site-packages`.

    Returns:
        The folder.

    Raises:
        LoraError: Neither has them.
    """
    for folder in (PACKAGE_FOLDER / "page", PACKAGE_FOLDER.parent):
        if (folder / "style.css").is_file() and (folder / MODULES / "main.mjs").is_file():
            return folder
    raise LoraError(
        f"the page's files (style.css, javascript/, localizations/) are neither in {PACKAGE_FOLDER / 'page'} nor in "
        f"{PACKAGE_FOLDER.parent}: install lora-ext again, or use a complete clone"
    )


def page_modules() -> list[Path]:
    """The page's JavaScript modules; `main.mjs` imports all others.

    Returns:
        The files, sorted.

    Raises:
        LoraError: The page's files are missing.
    """
    return sorted((page_folder() / MODULES).rglob("*.mjs"))


def module_response(name: str, request: Request) -> Response | None:
    """A module for a browser, which asks each time whether it has changed: after an update none of before is used.

    Args:
        name: The module's path below `javascript/lora_ext/`, as `main.mjs`.
        request: The browser's, which may say which version it has.

    Returns:
        The module, or 304 where the browser has it; None where there is no such module.
    """
    path = page_folder() / MODULES / name
    if not re.fullmatch(r"(?:[a-z_]+/)*[a-z_]+\.mjs", name) or not path.is_file():
        return None
    # said outright: Windows may take .mjs for text, which browsers do not run
    response = FileResponse(
        path, media_type="text/javascript", headers={"Cache-Control": "no-cache"}, stat_result=path.stat()
    )
    if request.headers.get("if-none-match") == response.headers["etag"]:
        kept = {key: response.headers[key] for key in ("etag", "cache-control")}
        return Response(status_code=304, headers=kept)
    return response
