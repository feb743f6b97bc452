"""Warning signs, which the small model was never shown: 20 pictures to drop onto Start here, and what was learned."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dropped_pictures import send
from PIL import Image

from lora_ext.embedded import shapes
from lora_ext.training import toy_task

SEEDS = (7, 107)
"""Each prompt of the sign is drawn from both, others from the first."""
LEARNT, KEPT = 0.8, 0.85
"""The least shares: of prompts of the sign, and of unrelated prompts that were obeyed without the LoRA."""
DrawPrompts = Callable[[Sequence[str], int], Sequence[Image.Image]]
"""(prompts with tags, seed) → an image for each."""


def sign_files() -> list[tuple[str, bytes]]:
    """The pictures and their captions, as they lie in a person's folder."""
    with tempfile.TemporaryDirectory() as folder:
        pictures, _ = toy_task.save_toy_dataset(Path(folder))
        return [(path.name, path.read_bytes()) for path in sorted(next(pictures.iterdir()).iterdir())]


def teach_the_sign(page: Any, panel: Any, insert: str, patience: float) -> int:
    """What a person does who sees nothing but the page, and changes no setting; returns the number of clicks."""
    page.evaluate(
        "() => { window.clicks = 0; document.addEventListener('click', event => "
        "{ window.clicks += event.isTrusted && event.detail > 0; }, true); }"
    )
    panel.get_by_role("radio", name="Object").click()
    panel.get_by_label("Name", exact=True).fill("sign")
    send(page, sign_files())
    panel.get_by_text("20 pictures added").wait_for()
    panel.get_by_text("20 pictures × 5 repeats × 10 epochs = 1000 samples; 1000 suit an object").first.wait_for()
    assert panel.get_by_role("checkbox", name=re.compile("regularisation")).is_checked()
    panel.get_by_role("button", name="Train", exact=True).click()
    panel.get_by_text("sheet-1.png").wait_for(timeout=patience)  # a page for each sample prompt
    panel.locator(".lx-sheet td.chosen").first.wait_for()
    panel.get_by_role("button", name=insert).last.click()
    page.get_by_text("with the seed: ").wait_for()
    return int(page.evaluate("window.clicks"))


def judge_the_sign(prompt: str, draw: DrawPrompts) -> tuple[float, float]:
    """What the tag of a prompt does.

    Args:
        prompt: What the page wrote.
        draw: Draws prompts.

    Returns:
        (share of prompts of the sign that are obeyed, share of the unrelated prompts obeyed without it that still are).
    """
    found = re.search(r"<lora:[^>]+>", prompt)
    assert found, prompt

    def obeyed(texts: Sequence[str], tag: str, seeds: Sequence[int] = SEEDS[:1]) -> list[bool]:
        made = [draw([f"{text} {tag}".strip() for text in texts], seed) for seed in seeds]
        return [shapes.obeys(image, text) for images in made for image, text in zip(images, texts, strict=True)]

    learnt = obeyed(toy_task.TOY_PROMPTS, found[0], SEEDS)
    before, after = (obeyed(toy_task.UNRELATED_PROMPTS, tag) for tag in ("", found[0]))
    kept = sum(map(min, before, after)) / sum(before)
    print(f"{found[0]}: {sum(learnt)} of {len(learnt)} signs, {kept:.0%} of {sum(before)} other prompts kept")
    return sum(learnt) / len(learnt), kept
