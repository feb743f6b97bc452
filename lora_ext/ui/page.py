"""The tab's element, and the page around it in the standalone program. Knows no gradio."""

from __future__ import annotations

from html import escape
from pathlib import Path

from ..web.page_files import MODULES, page_folder, page_modules
from ..web.routing import API_PREFIX

TAB_TITLE, ROOT_ID = "LoRA", "lora-ext"
ASSETS_PATH = "/lora-ext/assets"
STANDALONE_PAGE_FOLDER = Path(__file__).parent / "standalone_page"
"""What only the standalone page has."""
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "media-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Scripts and styles are files of ours only, nothing is asked of another host, and no text becomes markup."""


def root_element(token: str, language: str = "") -> str:
    """The empty element that the page's scripts fill. token: by which this page may call the API."""
    return (
        f'<div id="{ROOT_ID}" class="notranslate" translate="no" data-token="{escape(token)}" '
        f'data-language="{escape(language)}"></div>'
    )


def page_assets() -> dict[str, Path]:
    """File name → file of what the standalone page loads besides the modules of `javascript/`."""
    files = (*sorted(STANDALONE_PAGE_FOLDER.iterdir()), page_folder() / "style.css")
    return {path.name: path for path in files if path.suffix in (".css", ".js", ".svg")}


def page_html(token: str, language: str = "") -> str:
    """The standalone page. Addresses in it are relative, so that a proxy may give it below a path of its own."""
    at = ASSETS_PATH.removeprefix("/")
    styles = "".join(f'<link rel="stylesheet" href="{at}/{name}">\n' for name in ("page.css", "style.css"))
    modules = [path.relative_to(page_folder() / MODULES).as_posix() for path in page_modules()]
    below = f"{API_PREFIX.removeprefix('/')}/modules"
    # all at once, not each when the one that imports it has come
    scripts = "".join(f'<link rel="modulepreload" href="{below}/{name}">\n' for name in modules)
    scripts += f'<script type="module" src="{below}/main.mjs"></script>\n'
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>LoRA ext</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" type="image/svg+xml" href="{at}/icon.svg">\n'
        f'<script src="{at}/page.js"></script>\n{styles}{scripts}</head>\n<body>\n'
        f"<main>{root_element(token, language)}</main>\n"
        f"<noscript>This page needs JavaScript.</noscript>\n</body>\n</html>\n"
    )
