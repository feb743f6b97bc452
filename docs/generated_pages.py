"""mkdocs hook: the pages that are made from the code, and their place in the navigation. None of them is committed.

Pictures of all pages get their dark or still variant, each page the description that search engines show, and Chinese
pages their language.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

import command_pages
import http_pages
import panel_pages
import reference_pages
import root_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PARTS = (panel_pages, command_pages, http_pages, reference_pages, root_pages)
"""Each has TITLE, a heading of the navigation's "Reference", and pages(): address → (title, Markdown)."""
VARIANTS = (("-dark", "#only-light", "#only-dark"), ("-still", "#moving", "#still"))
"""(ending of the name of another picture, what follows the picture's address, and the other's): the theme shows one of
them, by the reader's colours; site.css by whether the reader wants motion."""
DESCRIPTION = 160
HAN = r"[\u3400-\u9fff\u3001\u3002\uff08-\uff0c\uff1a\uff1b]"
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


def page_description(markdown: str) -> str:
    """The first sentences of a page in about 160 characters, as the value of an attribute."""
    paragraphs = re.split(r"\n\s*\n", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL))
    prose = (one.strip() for one in paragraphs if not re.match(r"\s*(#|\||!\[|<|::|---|\[[^]]*\]\([^)]*\)\s*$)", one))
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)|[*`\\]|^[-\d.]+ ", r"\1", next(prose, ""), flags=re.MULTILINE)
    text = " ".join(text.split())
    sentences = re.findall(r".+?(?:[.:!?](?=\s|$)|[。：！？]|$)", text)
    while len(sentences) > 1 and (len("".join(sentences)) > DESCRIPTION or sentences[-1].endswith((":", "："))):
        sentences.pop()
    return escape("".join(sentences).strip())


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adds the page's description, and to each picture its dark or its still one, where there is one."""
    page.meta.setdefault("description", page_description(markdown))
    if page.file.src_uri.endswith(".zh.md"):  # browsers show a line's end as a blank, which Chinese has none of
        parts = re.split(r"(```.*?```)", markdown, flags=re.DOTALL)
        parts[::2] = [re.sub(rf"(?<={HAN})\n *(?={HAN})", "", part) for part in parts[::2]]
        markdown = "".join(parts)
    folder = Path(page.file.abs_src_path or config.docs_dir).parent

    def with_variant(found: re.Match[str]) -> str:
        text, name, suffix = found.groups()
        for ending, usual, other in VARIANTS:
            if (folder / f"{name}{ending}.{suffix}").is_file():
                return f"![{text}]({name}.{suffix}{usual})\n![{text}]({name}{ending}.{suffix}{other})"
        return found[0]

    return re.sub(r"!\[([^]]*)\]\(([^)\s]+)\.(png|webp)\)", with_variant, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Marks the tables of options, for site.css."""
    is_generated = page.file.src_uri.startswith(("commands/", "panels/"))
    return html.replace("<table>", "<table data-options>") if is_generated else html


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Says that a Chinese page is Chinese: browsers choose the font by it, and screen readers the voice."""
    chinese = page.file.src_uri.endswith(".zh.md")
    return output.replace('<html lang="en"', '<html lang="zh-CN"', 1) if chinese else output
