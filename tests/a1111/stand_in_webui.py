"""Starts the stand-in of the web UI in this process, and drives it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from webui_contract import FIRST, OWN_CONFIG, SAME_CONFIG

HERE = Path(__file__).parent / "stand_in"
ROOT = Path(__file__).parents[2]
ENTRY = ROOT / "scripts" / "lora_ext_entry.py"
RECORDER = ROOT / "tests" / "webui" / "recorder" / "scripts" / "zz_contract_recorder.py"
REQUEST: dict[str, Any] = {
    "negative_prompt": "", "steps": 4, "width": 64, "height": 64, "seed": 42, "cfg_scale": 7, "sampler_name": "Euler",
    "scheduler": "Automatic",
}  # fmt: skip
CHECKPOINTS = {FIRST: "tiny.yaml", SAME_CONFIG: "tiny.yaml", OWN_CONFIG: "other.yaml"}
"""Name → configuration: models are made anew for another one."""
_OURS = ("modules", "networks", "extra_networks_lora", "tiny_ldm", "sd_webui_lora_ext", "zz_contract_record")


@dataclass
class Made:
    """Pictures of one request."""

    p: Any
    images: Sequence[Image.Image]
    infotexts: Sequence[str]

    @property
    def pixels(self) -> np.ndarray:
        """(n, height, width, 3) as integers."""
        return np.stack([np.asarray(image, dtype=int) for image in self.images])

    @property
    def comments(self) -> str:
        """What stands under the picture."""
        return "\n".join(self.p.comments)

    @property
    def told(self) -> dict[str, Any]:
        """The infotext's extra parameters."""
        return dict(self.p.extra_generation_params)


class StandIn:
    """A running web UI. scripts: the files of extensions, beside the built-in Lora and the plot."""

    def __init__(self, data: Path, scripts: Sequence[Path]) -> None:
        self.data, self.scripts = data, [HERE / "xyz_grid.py", HERE / "lora_script.py", *scripts]
        self.client: TestClient
        self._prepare()
        self._open(first=True)

    def _prepare(self) -> None:
        from modules import extensions, paths

        paths.data_path, paths.models_path = str(self.data), str(self.data / "models")
        paths.extensions_dir = str(self.data / "extensions")
        for name in ("Lora", "Stable-diffusion"):
            (self.data / "models" / name).mkdir(parents=True)
        from modules import call_queue, sd_models, shared

        for seed, (name, config) in enumerate(CHECKPOINTS.items(), 1):
            path = self.data / "models" / "Stable-diffusion" / name
            path.touch()
            sd_models.checkpoints[name] = sd_models.CheckpointInfo(path, seed, config)
        chosen = shared.OptionInfo(
            FIRST, onchange=call_queue.wrap_queued_call(lambda: sd_models.reload_model_weights())
        )
        shared.opts.data.pop("sd_model_checkpoint")
        shared.opts.add_option("sd_model_checkpoint", chosen)
        for name, path, builtin in (("Lora", HERE, True), ("lora-ext", ROOT / "scripts", False)):
            extensions.extensions.append(SimpleNamespace(name=name, path=str(path), is_builtin=builtin, enabled=True))

    def _open(self, first: bool) -> None:
        from modules import extra_networks, script_callbacks, scripts, sd_models

        scripts.load_scripts(self.scripts)
        if first:
            sd_models.load_model()
        extra_networks.initialize()
        script_callbacks.run("before_ui")
        self.tabs = script_callbacks.run("ui_tabs")
        app = FastAPI()
        script_callbacks.run("app_started", None, app)
        token = os.environ["LORA_EXT_TOKEN"]
        self.client = TestClient(app, base_url="http://127.0.0.1:7860", headers={"X-Lora-Ext": token})

    @property
    def entry(self) -> Any:
        """Our entry point as it was loaded last, with what it has made."""
        from modules import scripts

        return scripts.modules[ENTRY.name]

    def module(self, name: str) -> Any:
        """A module of `lora_ext/host/a1111` as it is loaded now."""
        return import_module(f"{self.entry.PACKAGE}.host.a1111.{name}")

    def call(self, path: str, body: object = None, method: str = "") -> Any:
        """The JSON answer of one request to our API. Raises AssertionError for an error."""
        method = method or ("GET" if body is None else "POST")
        answer = self.client.request(method, f"/lora-ext/v1{path}", json=body)
        assert answer.status_code < 400, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def job(self, path: str, body: object, seconds: float = 120) -> dict[str, Any]:
        """A job of ours when it is over."""
        return self.ended(self.call(path, body), seconds)

    def ended(self, job: Mapping[str, Any], seconds: float = 120) -> dict[str, Any]:
        """See `job`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = dict(self.call(f"/jobs/{job['id']}"))
            if now["state"] in ("done", "failed", "cancelled"):
                return now
            time.sleep(0.02)
        raise AssertionError(f"still {now['state']}: {now}")

    # --- what a user does

    def make(self, prompt: Any, *, kind: str = "Txt2Img", **request: Any) -> Made:
        """Pictures, as the HTTP API makes them."""
        from modules import call_queue, processing, shared

        with call_queue.queue_lock:
            p = getattr(processing, f"StableDiffusionProcessing{kind}")(**{**REQUEST, "prompt": prompt, **request})
            p.scripts = SimpleNamespace()
            try:
                shared.state.begin(job="scripts_txt2img")
                try:
                    made = processing.process_images(p)
                finally:
                    shared.state.end()
            finally:
                p.close()
        return Made(p, made.images, made.infotexts)

    def options(self, **values: Any) -> None:
        from modules import shared

        for name, value in values.items():
            shared.opts.set(name, value)

    def paste(self, infotext: str, changed: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the page's fields get: what the real web UI was recorded to read from an infotext, but for `changed`."""
        from modules import script_callbacks
        from webui_contract import recording

        params = {**recording()["pasted"], **(changed or {})}
        script_callbacks.run("infotext_pasted", infotext, params)
        return params

    def plotted(self, prompt: str, label: str, values: str, **request: Any) -> Made:
        """X/Y/Z plot along one axis."""
        from modules import call_queue, processing, scripts, shared

        with call_queue.queue_lock:
            p = processing.StableDiffusionProcessingTxt2Img(**{**REQUEST, "prompt": prompt, **request})
            p.scripts = SimpleNamespace()
            shared.state.begin(job="scripts_txt2img")
            try:
                plot = next(d for d in scripts.scripts_data if d.script_class.__module__ == "xyz_grid.py")
                images, infotexts = plot.script_class().run(p, label, values)
            finally:
                shared.state.end()
                p.close()
        return Made(p, images, infotexts)

    def reload(self) -> None:
        """Reload UI."""
        from modules import script_callbacks, shared

        shared.state.request_restart()
        shared.state.server_command = None
        script_callbacks.run("script_unloaded")
        self._open(first=False)


class Driver:
    """The stand-in as `webui_contract.record` drives it."""

    def __init__(self, webui: StandIn) -> None:
        self.webui, self.picture = webui, Image.new("RGB", (64, 64))

    def events(self, *, fail: str = "") -> list[str]:
        answer = self.webui.client.post("/contract/events", params={"begin": True, "fail": fail})
        return list(answer.json())

    def describe(self, wanted: dict[str, Any]) -> dict[str, Any]:
        answer = self.webui.client.post("/contract/describe", json=wanted)
        answer.raise_for_status()
        return dict(answer.json())

    def txt2img(self, **request: Any) -> bool:
        return self._came(**request)

    def img2img(self, **request: Any) -> bool:
        return self._came(kind="Img2Img", init_images=[self.picture], **request)

    def _came(self, **request: Any) -> bool:
        try:
            self.webui.make(**request)
        except RuntimeError:
            return False
        return True

    def plot(self, prompt: str, values: str) -> bool:
        self.webui.plotted(prompt, "Recorder", values)
        return True

    def options(self, **values: Any) -> None:
        self.webui.options(**values)

    def paste(self, infotext: str) -> None:
        self.webui.paste(infotext)

    def reload(self) -> None:
        self.webui.reload()


@contextmanager
def started(data: Path, *scripts: Path) -> Iterator[StandIn]:
    """A stand-in that is there in this block; afterwards no module of it, or of the extension in it, is left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        patch.setenv("LORA_EXT_TOKEN", "the-token-of-the-tests")
        try:
            yield StandIn(data, scripts)
        finally:
            for name in [name for name in sys.modules if name.split(".")[0] in _OURS]:
                del sys.modules[name]
