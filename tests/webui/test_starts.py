"""Other ways to start and store: little memory, fp8, the built-in extension switched off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import WebUI, apart, dataset, launch, prepare
from test_tags import check_weights_of_the_hires_pass
from test_training import API, SHORT, ended

TAGS = "<lora:lierla:0.8> <lora:c3lier:0.5:start=1:stop=3>"
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}
STARTS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "medvram": (("--medvram",), {}),
    "lowvram": (("--lowvram",), {}),
    "no built-in": ((), {"disabled_extensions": ["Lora"]}),
}


@pytest.fixture(scope="module", params=STARTS)
def other(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: Any) -> Iterator[tuple[str, WebUI]]:
    """A second web UI, started another way."""
    flags, config = STARTS[request.param]
    data = tmp_path_factory.mktemp("other")
    prepare(data)
    dataset(data)
    (data / "config.json").write_text(json.dumps(config))
    webui = launch(folder, data, *flags)
    yield request.param, webui
    webui.stop()


def test_same_pictures_however_it_is_started(webui: WebUI, other: tuple[str, WebUI]) -> None:
    name, second = other
    webui.options(lora_ext_in_charge="LoRA ext", lora_ext_mode="auto")
    clean, before = second.make(""), second.weights()
    for prompt, more in ((TAGS, {}), ("<lora:c3lier:0.8:lbw=IND>", {}), ("<lora:lierla:0.6>", HIRES)):
        assert apart(second.make(prompt, **more), webui.make(prompt, **more)) <= 2
        way = second.call("/probe/way")
        assert bool(way["baked"]) == (name == "no built-in")
    assert "nowhere" in second.make("<lora:nowhere:1>").comments
    assert apart(second.make(""), clean) == 0
    after = second.weights()
    assert (after["hash"], after["hooks"]) == (before["hash"], before["hooks"])
    webui.make("")


def test_forced_baked_with_little_memory(other: tuple[str, WebUI]) -> None:
    _, second = other
    clean, before = second.make(""), second.weights()
    made = second.make("<lora:c3lier:0.8>")
    second.options(lora_ext_mode="baked")
    assert apart(second.make("<lora:c3lier:0.8>"), made) <= 2
    assert apart(second.make(""), clean) == 0
    assert second.weights()["hash"] == before["hash"]
    second.options(lora_ext_mode="auto")


def test_weights_of_the_hires_pass(other: tuple[str, WebUI]) -> None:
    """With little memory the web UI encodes its prompt before the first pass, with the first pass's weights of tags."""
    check_weights_of_the_hires_pass(other[1])


def test_training_is_refused_where_single_layers_move(other: tuple[str, WebUI]) -> None:
    """The sentence says which option to start with instead; the model is as it was."""
    name, second = other
    if name != "lowvram":
        pytest.skip(f"started with {name}, which trains")
    clean = second.make("")
    settings = {**SHORT, "network_train_unet_only": True, "output_name": "refused"}
    job = ended(second, second.call(f"{API}/train", {"settings": settings}))
    assert job["state"] == "failed" and "--lowvram" in job["error"] and "start it with --medvram" in job["error"]
    assert apart(second.make(""), clean) == 0


@pytest.fixture(scope="module")
def for_fp8(folder: Path, tmp_path_factory: Any) -> Iterator[WebUI]:
    """A web UI of its own: the way back from fp8 rounds its tables for as long as its model lives."""
    data = tmp_path_factory.mktemp("fp8")
    prepare(data)
    webui = launch(folder, data)
    for storage in ("Enable", "Disable"):
        webui.options(fp8_storage=storage)
        webui.make("")
    yield webui
    webui.stop()


@pytest.mark.parametrize("cache", [False, True])
def test_fp8(for_fp8: WebUI, cache: bool) -> None:
    """fp8 weights stay as they are, with the web UI's fp16 copies beside them or without."""
    webui = for_fp8
    plain, before = webui.make(""), webui.weights()
    webui.options(fp8_storage="Enable", cache_fp16_weight=cache, lora_ext_mode="auto")
    try:
        clean, stored = webui.make(""), webui.weights()
        assert stored["hash"] != before["hash"]
        made = webui.make(TAGS)
        assert apart(made, clean) > 2
        assert webui.call("/probe/way")["baked"] == 0
        webui.options(lora_ext_mode="baked")
        assert apart(webui.make(TAGS), made) == 0  # fp8 is never baked: a small ΔW would be rounded away
        assert apart(webui.make(""), clean) == 0
        assert webui.weights()["hash"] == stored["hash"]
    finally:
        webui.options(fp8_storage="Disable", cache_fp16_weight=False, lora_ext_mode="auto")
    assert apart(webui.make(""), plain) == 0
    assert webui.weights()["hash"] == before["hash"]
