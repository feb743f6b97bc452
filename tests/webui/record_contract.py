"""Records what the real web UI does: `python tests/webui/record_contract.py` writes tests/data/webui_contract.json.

Takes the environment variables of `conftest.py`. Facts only: names, signatures, types, orders of calls. The web UI's
code (AGPL) is neither copied nor needed afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from safetensors.torch import load_file, save_file
from server import GOLDEN, REQUEST, WebUI, launch, prepare
from webui_contract import FILE, FIRST, OWN_CONFIG, SAME_CONFIG, record


class Recorded:
    """The real web UI, over HTTP. See `webui_contract.Driven`."""

    def __init__(self, webui: WebUI) -> None:
        self.webui, self.picture = webui, ""

    def events(self, *, fail: str = "") -> list[str]:
        return list(self.webui.call(f"/contract/events?begin=true&fail={fail.replace(' ', '%20')}", {}))

    def describe(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return dict(self.webui.call("/contract/describe", wanted))

    def txt2img(self, **request: Any) -> bool:
        return self._made("/sdapi/v1/txt2img", request)

    def img2img(self, **request: Any) -> bool:
        return self._made("/sdapi/v1/img2img", {**request, "init_images": [self.picture]})

    def _made(self, path: str, request: dict[str, Any]) -> bool:
        with suppress(AssertionError):
            answer = self.webui.call(path, {**REQUEST, **request})
            self.picture = answer["images"][0]
            return True
        return False

    def plot(self, prompt: str, values: str) -> bool:
        place = self.webui.call("/contract/axis", {})
        nothing = [0, "", []]
        args = [place, values, [], *nothing, *nothing, False, True, False, False, False, False, False, 0, True]
        return self.txt2img(prompt=prompt, script_name="x/y/z plot", script_args=args)

    def options(self, **values: Any) -> None:
        self.webui.options(**values)

    def paste(self, infotext: str) -> None:
        from PIL import Image, PngImagePlugin

        told = PngImagePlugin.PngInfo()
        told.add_text("parameters", infotext)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pasted.png"
            Image.new("RGB", (8, 8)).save(path, pnginfo=told)
            import base64

            image = base64.b64encode(path.read_bytes()).decode()
        self.webui.call("/sdapi/v1/png-info", {"image": f"data:image/png;base64,{image}"})

    def reload(self) -> None:
        started = self.webui.log().count("Startup time")
        with suppress(OSError, AssertionError):
            self.webui.call("/contract/reload", {})
        while self.webui.log().count("Startup time") == started:
            time.sleep(0.5)
        time.sleep(1)


def checkpoints(data: Path) -> None:
    """Two more checkpoints, of other weights (see `webui_contract`)."""
    folder = data / "models" / "Stable-diffusion"
    tensors = load_file(GOLDEN / FIRST)
    for name, by in ((SAME_CONFIG, 0.97), (OWN_CONFIG, 1.03)):
        scaled = {key: t * by if t.dim() > 1 and t.is_floating_point() else t for key, t in tensors.items()}
        if name.endswith(".ckpt"):  # the web UI refuses what a new torch writes
            torch.save({"state_dict": scaled}, folder / name, _use_new_zipfile_serialization=False)
        else:
            save_file(scaled, folder / name)
    shutil.copyfile(GOLDEN / "tiny-sd15.yaml", folder / "other.yaml")


def recorded(folder: Path, data: Path) -> dict[str, Any]:
    """Starts the web UI of `folder` without our extension, records, and ends it."""
    prepare(data)
    checkpoints(data)
    shutil.rmtree(data / "extensions" / "lora-ext")
    shutil.copytree(Path(__file__).parent / "recorder", data / "extensions" / "zz-recorder")
    webui = launch(folder, data)
    try:
        return record(Recorded(webui))
    finally:
        webui.stop()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as where:
        found = recorded(Path(os.environ["LORA_EXT_WEBUI"]), Path(where))
    FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{FILE}: {sum(map(len, found['orders'].values()))} events, {len(found['names'])} names")
