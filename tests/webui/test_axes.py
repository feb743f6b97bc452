"""Our axes in the web UI's X/Y/Z plot: cells are the pictures of the prompts written by hand."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image
from server import CAT, PLOT, REQUEST, WebUI, plot_arguments, plot_choices

pytestmark = pytest.mark.usefixtures("same_settings")
TITLES = (
    "LoRA epoch",
    "LoRA file",
    "LoRA weight",
    "LoRA text encoder weight",
    "LoRA U-Net weight",
    "LoRA block preset",
    "LoRA one block's weight",
    "LoRA rank (DyLoRA)",
    "LoRA start step",
    "LoRA stop step",
    "LoRA weight curve",
    "LoRA composition",
)


def _plot(webui: WebUI, prompt: str, *axes: tuple[str, str]) -> list[np.ndarray]:
    """The plot's single pictures, x fastest."""
    args = plot_arguments(webui, *axes, single=True)
    body = {**REQUEST, "prompt": prompt, "script_name": PLOT, "script_args": args}
    images = webui.call("/sdapi/v1/txt2img", body)["images"]
    pictures = [Image.open(io.BytesIO(base64.b64decode(image))) for image in images]
    size = (REQUEST["width"], REQUEST["height"])
    return [np.asarray(picture.convert("RGB"), dtype=int) for picture in pictures if picture.size == size]


def _by_hand(webui: WebUI, prompt: str) -> np.ndarray:
    return webui.make(prompt).pixels[0]


def _same(plotted: Sequence[np.ndarray], by_hand: Sequence[np.ndarray]) -> None:
    assert len(plotted) == len(by_hand)
    assert max(int(abs(a - b).max()) for a, b in zip(plotted, by_hand, strict=True)) == 0


def test_they_are_offered_once(webui: WebUI) -> None:
    types = plot_choices(webui)
    assert [types.count(title) for title in TITLES] == [1] * len(TITLES)


def test_three_by_three_is_the_nine_prompts_by_hand(webui: WebUI) -> None:
    plotted = _plot(webui, CAT, ("LoRA weight", "0.2-1.0 (+0.4)"), ("LoRA file", "lierla,c3lier,lierla"))
    hand = [
        _by_hand(webui, f"{CAT} <lora:{name}:{weight}>")
        for name in ("lierla", "c3lier", "lierla")
        for weight in (0.2, 0.6, 1)
    ]
    _same(plotted, hand)
    assert abs(plotted[0] - plotted[2]).max() > 2


CASES = {
    "found, other tags kept": (
        f"{CAT} <lora:c3lier:0.3> <lora:lierla:0.9>",
        (("LoRA weight", "lierla: 0,1"),),
        [f"{CAT} <lora:c3lier:0.3> <lora:lierla:0>", f"{CAT} <lora:c3lier:0.3> <lora:lierla:1>"],
    ),
    "te and U-Net": (
        f"{CAT} <lora:lierla:0.5>",
        (("LoRA text encoder weight", "0,1"), ("LoRA U-Net weight", "0.3,0.8")),
        [f"{CAT} <lora:lierla:te={te}:unet={unet}>" for unet in (0.3, 0.8) for te in (0, 1)],
    ),
    "presets": (
        f"{CAT} <lora:lierla:1>",
        (("LoRA block preset", "ALL,OUTALL,NONE"),),
        [f"{CAT} <lora:lierla:1:lbw={name}>" for name in ("ALL", "OUTALL", "NONE")],
    ),
    "one block": (
        f"{CAT} <lora:lierla:1>",
        (("LoRA one block's weight", "OUT05: 0-1 [2]"),),
        [f"{CAT} <lora:lierla:1:lbwe=OUT05::0>", f"{CAT} <lora:lierla:1>"],
    ),
    "rank and steps": (
        f"{CAT} <lora:lierla:1>",
        (("LoRA rank (DyLoRA)", "1,4"), ("LoRA stop step", "2,none")),
        [f"{CAT} <lora:lierla:1:dyn={rank}{stop}>" for stop in (":stop=2", "") for rank in (1, 4)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_axes(webui: WebUI, name: str) -> None:
    prompt, axes, hand = CASES[name]
    _same(_plot(webui, prompt, *axes), [_by_hand(webui, text) for text in hand])


def test_epochs_of_a_run(own: WebUI) -> None:
    assert own.data is not None
    folder = own.data / "models" / "Lora"
    made = {"run-000001": "lierla", "run-000002": "c3lier", "run": "lierla"}
    for name, source in made.items():
        shutil.copyfile(folder / f"{source}.safetensors", folder / f"{name}.safetensors")
    plotted = _plot(own, f"{CAT} <lora:run:0.7>", ("LoRA epoch", "all"))
    _same(plotted, [_by_hand(own, f"{CAT} <lora:{name}:0.7>") for name in made])
    for name in made:  # a pasted hash would find these instead
        (folder / f"{name}.safetensors").unlink()
    own.call("/sdapi/v1/refresh-loras", {})
