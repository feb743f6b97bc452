"""What of the text on the screen comes from the translation tables: they are sent with marks around each text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from lora_ext.web.page_files import page_folder

BEGIN, END = "\u2063", "\u2064"
"""Invisible characters without a width that no text has."""
TABLES = {"en-GB": "", "ja-JP": "ja_JP", "zh-CN": "zh_CN", "zh-TW": "zh_TW"}
"""A browser's language → the translation table; English is its keys."""
_MARKED = re.compile(f"{BEGIN}[^{BEGIN}{END}]*{END}")
_SHOWN = """() => {
    const root = document.querySelector('#lora-ext');
    const found = new Set();
    const seen = element => element.checkVisibility({ visibilityProperty: true });
    for (const element of root.querySelectorAll('*')) {
        if (!seen(element) && !element.closest('option')) continue;
        if (element.closest('option') && !seen(element.closest('select'))) continue;
        for (const name of ['title', 'aria-label', 'placeholder', 'alt', 'aria-description', 'aria-valuetext'])
            if (element.getAttribute(name)) found.add(element.getAttribute(name));
        for (const child of element.childNodes)
            if (child.nodeType === Node.TEXT_NODE && child.data.trim()) found.add(child.data.trim());
    }
    return [...found];
}"""


def marked_table(locale: str) -> dict[str, str]:
    """English → the text in a language, between marks; what is filled in stands outside them."""
    name = TABLES[locale] or "ja_JP"
    table = json.loads((page_folder() / "localizations" / f"{name}.json").read_text(encoding="utf-8"))
    texts = table if TABLES[locale] else {key: key for key in table}
    return {key: BEGIN + re.sub(r"(\{\d\})", f"{END}\\1{BEGIN}", text) + END for key, text in texts.items()}


def mark_texts(page: Any, locale: str) -> None:
    """Makes a page, before it is loaded, get its texts with marks."""
    table = json.dumps(marked_table(locale))
    page.route("**/v1/strings*", lambda route: route.fulfill(body=table, content_type="application/json"))


def unmarked_texts(page: Any) -> Iterator[str]:
    """Each text, tooltip, label and placeholder on the screen, without what comes from the tables."""
    for text in page.evaluate(_SHOWN):
        left = " ".join(_MARKED.sub(" ", text).split())
        if re.search(r"[^\W\d_]", left):
            yield left
