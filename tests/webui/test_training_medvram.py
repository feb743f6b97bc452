"""Training under --medvram, which keeps only one network at a time where the web UI computes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from server import WebUI, dataset, launch, prepare
from test_training import API, CAT, SHORT, ended, train


@pytest.fixture(scope="module")
def medvram(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    data = tmp_path_factory.mktemp("medvram")
    prepare(data)
    dataset(data)
    webui = launch(folder, data, "--medvram")
    yield webui
    webui.stop()


def test_the_next_picture_is_the_same_bit_for_bit(medvram: WebUI) -> None:
    """Also where samples were drawn in between, which moves the networks about."""
    webui = medvram
    plain, weights = webui.make(""), webui.weights()
    for name, more in (("cached", {"cache_latents": True}), ("plain", {"gradient_checkpointing": True})):
        prompts = f"{CAT} --w 64 --h 64 --s 2 --d 1"
        job = train(webui, name, prompts, network_train_unet_only=True, sample_every_n_steps=2, **more)
        assert job["result"]["steps"] == 4 and len(job["live"]["samples"]) == 2
        assert (webui.make("").pixels == plain.pixels).all() and webui.weights() == weights
        assert (webui.make(f"<lora:{name}:1>").pixels != plain.pixels).any()
    assert (webui.make("").pixels == plain.pixels).all()


def test_the_text_encoder_cannot_stay_beside_it(medvram: WebUI) -> None:
    webui = medvram
    plain = webui.make("")
    job = ended(webui, webui.call(f"{API}/train", {"settings": {**SHORT, "output_name": "both"}, "prompts": ""}))
    assert job["state"] == "failed" and "network_train_unet_only" in job["error"]
    assert (webui.make("").pixels == plain.pixels).all()
