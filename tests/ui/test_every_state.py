"""Every panel, dialog and state: axe-core finds nothing, and every text comes from the translation tables but for data.

The tables are sent with marks around each text (`screen_texts`); what stands outside them is a file's name, a number, a
technical name such as `adamw`, or a text that somebody forgot to give to `t`. axe-core is left out by name where it is
not there (`npm install`). LORA_EXT_ALL_LOOKS=1: all combinations of theme, language, width and size of text, on each
page; else a few in which each of them occurs.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from chromium import fresh
from page_states import page_states
from program import ROOT, Server
from screen_texts import TABLES, mark_texts, unmarked_texts

from lora_ext.block_weights import BLOCK_PRESETS
from lora_ext.blocks import BLOCK_LABELS
from lora_ext.file.loading import load_lora_file

SAMPLES = ROOT / "lora_ext" / "embedded" / "loras"
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
ALL = list(itertools.product(("light", "dark"), TABLES, (1280, 400), (100, 200)))
LOOKS = {
    "alone": [
        ("light", "en-GB", 1280, 200),
        ("dark", "zh-CN", 1280, 100),
        ("dark", "ja-JP", 400, 100),
        ("light", "zh-TW", 400, 200),
    ],
    "gradio": [("dark", "en-GB", 400, 100)],
    "gradio 4": [("light", "ja-JP", 1280, 200)],
}
_PARTS = (".lx-top", ".lx-panel:not([hidden])", ".lx-job-menu", ".lx-toasts", ".lx-dialog[open]")
SHOWN = [f"#lora-ext {part}" for part in _PARTS]
VIOLATIONS = """async shown => (await axe.run(
    { include: shown.filter(one => document.querySelector(one)).map(one => [one]) }, { resultTypes: ['violations'] }
)).violations.map(found => [found.id, found.nodes.slice(0, 3).map(node => node.html.slice(0, 160))])"""
TOO_WIDE = """() => {
    const root = document.querySelector('#lora-ext');
    return Math.max(document.documentElement.scrollWidth - innerWidth, root.scrollWidth - root.clientWidth);
}"""
NAMES = {
    *("LoRA", "SD1", "SD2", "SDXL", "KB", "MB", "GB", "AM", "PM", "kohya", "diffusers", "ComfyUI", "AdamW", "mycat"),
    *("float32", "float16", "bfloat16", "fp16", "bf16", "last", "IN", "MID", "OUT", "S", "F", "scores", "csv"),
}
"""What all languages write alike, the letters of pictures that are missing, and names in empty fields."""
EXAMPLES = (
    "weight:0.2-1.0(+0.2)",
    "seed:1,2,3",
    "<lora:one:0.8> <lora:two:lbw=FACE>",
    "python -m lora_ext caption --recursive DIR",
)
_WORDS = r"\d*[^\W\d_][^\W_]*"

pytestmark = [pytest.mark.long, pytest.mark.flaky(reruns=1)]


def words(text: str) -> set[str]:
    """The words of a text, without numbers and dates, whose hour may have a word for the part of the day."""
    return set(re.findall(_WORDS, re.sub(r"\d+年\d+月\d+日(?: [^\W\d]{2}(?=\d))?|\d[\d.]*e[-+]?\d+", " ", text)))


@pytest.fixture(scope="module")
def known(server: Server) -> set[str]:
    """The words of what the program is told and holds: files, pictures, options, choices."""
    form, choices = server.api("/train/form"), server.api("/choices")
    fields = [{name: value for name, value in field.items() if name != "help"} for field in form["fields"]]
    rows = server.api("/library")["rows"]
    held = [fields, form["datasets"], choices["samplers"], choices["schedulers"], choices["checkpoints"], rows]
    held += [server.api(f"/inspect?name={row['name']}") for row in rows]
    held += [server.api(f"/dataset?name={name}") for name in form["datasets"]]
    held += [job["title"] for job in server.api("/jobs")["jobs"] if job["title"] != job["kind"]]
    layers = {str(layer) for path in SAMPLES.glob("*.safetensors") for layer in load_lora_file(path).adapters}
    told = json.dumps(held, ensure_ascii=False) + " ".join([*EXAMPLES, *BLOCK_LABELS, *BLOCK_PRESETS, *layers])
    return NAMES | words(told.replace("\\n", " ").replace('\\"', " "))


def opened(page: Any, server: Server, theme: str, locale: str, size: int) -> Iterator[str]:
    """The page's states, with marks around its texts. size: of the text, in percent."""
    mark_texts(page, locale)
    page.goto(f"{server.url}/?__theme={theme}")
    page.wait_for_selector("#lora-ext .lx-tabs")
    page.evaluate("size => (document.documentElement.style.fontSize = `${size}%`)", size)
    if AXE.is_file():
        page.evaluate(AXE.read_text(encoding="utf-8"))
    yield from page_states(page)


@pytest.mark.parametrize("number", range(len(ALL) if os.environ.get("LORA_EXT_ALL_LOOKS") else 4))
def test_every_state(
    server: Server, browser: Any, known: set[str], request: pytest.FixtureRequest, number: int
) -> None:
    looks = LOOKS[str(request.node.callspec.params["server"])]
    looks = ALL if os.environ.get("LORA_EXT_ALL_LOOKS") else looks
    if number >= len(looks):
        pytest.skip("this page has fewer looks")
    theme, locale, width, size = looks[number]
    found: dict[str, Any] = {}
    server.idle()
    server.clean()
    with fresh(browser, 60_000, locale=locale if TABLES[locale] else "ja-JP", width=width) as (page, errors):
        for state in opened(page, server, theme, locale, size):
            if AXE.is_file() and (wrong := page.evaluate(VIOLATIONS, SHOWN)):
                found[f"{state}: axe"] = wrong
            if unknown := [text for text in unmarked_texts(page) if not words(text) <= known]:
                found[f"{state}: texts in no table"] = unknown
            if (wide := page.evaluate(TOO_WIDE)) > 1:
                found[f"{state}: wider than the window"] = wide
    assert not errors
    assert found == {}, json.dumps(found, indent=1, ensure_ascii=False)
