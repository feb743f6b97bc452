"""Previews: a picture without a LoRA and one with it, from one seed; the first is drawn once."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageChops

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from test_web import Client

from lora_ext.web import preview_routes

pytestmark = pytest.mark.long


def test_a_preview_has_one_seed_without_and_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview_routes, "_KEPT_PICTURES", 2)
    api = Client(tmp_path)
    body = {"lora": "striped", "prompt": "a red circle <lora:framed:0.5> <lora:striped:1>", "seed": 3, "steps": 4}
    outputs = api.app_state.folders.outputs
    first = api.done("/preview", body)["result"]
    drawn = {name: Image.open(outputs / path).convert("RGB") for name, path in first.items()}
    assert ImageChops.difference(drawn["without"], drawn["applied"]).getbbox() is not None
    assert "<lora:striped" not in Image.open(outputs / first["without"]).info["parameters"]
    assert "<lora:framed:0.5>" in Image.open(outputs / first["without"]).info["parameters"]
    before = (outputs / first["without"]).stat().st_mtime_ns
    other = api.done("/preview", {**body, "prompt": body["prompt"].replace("striped:1", "striped:0.4")})["result"]
    assert other["without"] == first["without"] and (outputs / other["without"]).stat().st_mtime_ns == before
    assert other["applied"] != first["applied"]
    assert "no LoRA is called" in api("POST", "/preview", 400, json={**body, "lora": "nothing"})["error"]
    api.app_state.jobs.close()
