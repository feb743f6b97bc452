"""Training on the model that the web UI holds: files come of it, and the model is the very one it was."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from server import CAT, SIDE, WebUI

pytestmark = pytest.mark.usefixtures("same_settings")
API = "/lora-ext/v1"
SHORT: dict[str, Any] = {
    "train_data_dir": "shapes", "resolution": "64", "train_batch_size": 2, "max_train_steps": 4, "seed": 5,
    "network_module": "c3lier", "network_dim": 4, "network_alpha": 2, "conv_dim": 2, "learning_rate": 0.01,
    "max_data_loader_n_workers": 0,
}  # fmt: skip


def ended(webui: WebUI, job: Mapping[str, Any], seconds: float = 600) -> dict[str, Any]:
    """The job when it is over."""
    end = time.time() + seconds
    while time.time() < end:
        now: dict[str, Any] = webui.call(f"{API}/jobs/{job['id']}")
        if now["state"] in ("done", "failed", "cancelled"):
            return now
        time.sleep(0.3)
    raise AssertionError(f"still {now['state']}: {now['text']}\n{webui.log()[-2000:]}")


def train(webui: WebUI, name: str, prompts: str = "", **changes: Any) -> dict[str, Any]:
    """A finished run. Fails with the job's error."""
    wish = {"settings": {**SHORT, "output_name": name, **changes}, "prompts": prompts}
    job = ended(webui, webui.call(f"{API}/train", wish))
    assert job["state"] == "done", f"{job['error']}\n{job['log']}\n{webui.log()[-3000:]}"
    return job


def file_of(webui: WebUI, name: str) -> Path:
    assert webui.data is not None
    return webui.data / "models" / "Lora" / f"{name}.safetensors"


@pytest.mark.parametrize(
    ("name", "changes"),
    {
        "c3lier": {},
        "dylora": {"network_module": "dylora", "unit": 2, "conv_dim": None},
        "checkpointing": {"gradient_checkpointing": True, "network_train_unet_only": True},
        "text-only": {"network_module": "lierla", "network_train_text_encoder_only": True, "conv_dim": None},
        "prior": {"reg_data_dir": "shapes", "prior_loss_target": "model", "prior_loss_weight": 2.0},
        "cached": {"cache_latents": True, "mixed_precision": "bf16", "network_train_unet_only": True},
    }.items(),
)
def test_the_next_picture_is_the_same_bit_for_bit(trained_on: WebUI, name: str, changes: dict[str, Any]) -> None:
    """Also with a file applied before and after; and what was trained changes the picture."""
    webui = trained_on
    plain, weights, applied = webui.make(""), webui.weights(), webui.make("<lora:lierla:0.8>")
    job = train(webui, name, **changes)
    assert job["result"]["steps"] == 4 and job["result"]["files"] and not job["result"]["stopped"]
    after, again = webui.make("<lora:lierla:0.8>"), webui.make("")
    assert (again.pixels == plain.pixels).all() and (after.pixels == applied.pixels).all()
    assert webui.weights() == weights
    assert file_of(webui, name).is_file()
    assert (webui.make(f"<lora:{name}:1>").pixels != plain.pixels).any()


def test_samples_are_drawn_by_the_web_ui_while_it_trains(trained_on: WebUI) -> None:
    webui = trained_on
    plain = webui.make("")
    job = train(webui, "sampled", f"{CAT} --w 64 --h 64 --s 3 --d 1", sample_every_n_steps=2, sample_at_first=True)
    assert len(job["live"]["samples"]) == 3
    assert webui.data is not None
    made = [webui.data / "lora_ext" / "outputs" / name for name in job["live"]["samples"]]
    first, *_, last = (np.asarray(Image.open(path).convert("RGB"), dtype=int) for path in made)
    assert first.shape == (64, 64, 3) and (first != last).any()
    assert (webui.make("").pixels == plain.pixels).all()


def test_a_run_that_is_stopped_is_saved_and_leaves_nothing(trained_on: WebUI) -> None:
    webui = trained_on
    plain, weights = webui.make(""), webui.weights()
    wish = {"settings": {**SHORT, "output_name": "stopped", "max_train_steps": 400}, "prompts": ""}
    job = webui.call(f"{API}/train", wish)
    while not webui.call(f"{API}/jobs/{job['id']}")["live"].get("rows"):
        time.sleep(0.2)
    webui.call(f"{API}/jobs/{job['id']}/cancel", {})
    job = ended(webui, job)
    assert job["result"]["stopped"] and 0 < job["result"]["steps"] < 400 and job["result"]["state"]
    assert (webui.make("").pixels == plain.pixels).all() and webui.weights() == weights
    resumed = train(webui, "resumed", resume=job["result"]["state"], max_train_steps=job["result"]["steps"] + 2)
    assert resumed["result"]["steps"] == job["result"]["steps"] + 2


def test_the_web_uis_interrupt_button_stops_a_run(trained_on: WebUI) -> None:
    webui = trained_on
    plain = webui.make("")
    wish = {"settings": {**SHORT, "output_name": "interrupted", "max_train_steps": 400}, "prompts": ""}
    job = webui.call(f"{API}/train", wish)
    while not webui.call(f"{API}/jobs/{job['id']}")["live"].get("rows"):
        time.sleep(0.2)
    webui.call("/sdapi/v1/interrupt", {})
    job = ended(webui, job)
    assert job["result"]["stopped"] and 0 < job["result"]["steps"] < 400
    assert (webui.make("").pixels == plain.pixels).all()


def test_a_new_word_travels_in_the_file(trained_on: WebUI) -> None:
    """Pivotal tuning in place: the word is the web UI's while its file is in use, and unknown before and after."""
    webui = trained_on
    plain, weights, word = webui.make(""), webui.weights(), webui.make("zqxdisc")
    job = train(webui, "pivot", token_string="zqxdisc", init_word="disc", inversion_steps=3, inversion_lr=0.01)
    assert job["result"]["steps"] == 4 and webui.weights() == weights
    assert (webui.make("").pixels == plain.pixels).all() and (webui.make("zqxdisc").pixels == word.pixels).all()
    learned = webui.make("zqxdisc <lora:pivot:0>")
    assert (learned.pixels != word.pixels).any() and "zqxdisc" in learned.embeddings
    assert "zqxdisc" in webui.call("/probe/embeddings")
    webui.make("")
    assert "zqxdisc" not in webui.call("/probe/embeddings")


def test_a_new_word_with_punctuation_is_learned(trained_on: WebUI) -> None:
    """The web UI's tokenizer does not find `<s1>` in `<s1>,` either; captions get blanks, prompts need them."""
    job = train(trained_on, "punctuated", token_string="<s1>", init_word="disc", inversion_steps=3, inversion_lr=0.01)
    assert job["result"]["steps"] == 4
    plain = trained_on.make("<s1>")
    learned = trained_on.make("<s1> <lora:punctuated:0>")
    assert (learned.pixels != plain.pixels).any() and "<s1>" in learned.embeddings
    trained_on.make("")


def test_a_picture_waits_for_its_turn(trained_on: WebUI) -> None:
    """One that is asked for during a run is made after it, on the model as it was."""
    webui = trained_on
    plain = webui.make("<lora:lierla:0.8>")
    job = webui.call(f"{API}/train", {"settings": {**SHORT, "output_name": "waited"}, "prompts": ""})
    assert (webui.make("<lora:lierla:0.8>").pixels == plain.pixels).all()
    assert ended(webui, job)["state"] == "done"


def test_reload_ui_lets_runs_go_on(trained_on: WebUI) -> None:
    """The one at work, and the one that waits behind it; the next picture is bit-identical."""
    webui = trained_on
    weights, plain, registry = webui.weights(), webui.make("<lora:lierla:0.8>"), webui.call("/probe/registry")
    jobs = [
        webui.call(f"{API}/train", {"settings": {**SHORT, "output_name": name, "max_train_steps": steps}})
        for name, steps in (("reloaded", 100_000), ("behind", 4))
    ]
    while not webui.call(f"{API}/jobs/{jobs[0]['id']}")["live"].get("rows"):
        time.sleep(0.2)
    webui.reload()
    now = webui.call(f"{API}/jobs/{jobs[0]['id']}")
    assert now["state"] == "running" and not now["stopping"]
    while webui.call(f"{API}/jobs/{jobs[0]['id']}")["done"] < now["done"] + 5:
        time.sleep(0.2)
    webui.call(f"{API}/jobs/{jobs[0]['id']}/cancel", {})
    first, second = (ended(webui, job)["result"] for job in jobs)
    assert first["stopped"] and first["steps"] >= now["done"] + 5
    assert second["steps"] == 4 and not second["stopped"]
    assert (webui.make("<lora:lierla:0.8>").pixels == plain.pixels).all()
    none = webui.make("")
    assert webui.weights() == weights
    assert (webui.make(f"<lora:{first['files'][0]}:1>").pixels != none.pixels).any()
    webui.reload()
    assert webui.call("/probe/registry") == registry


def test_a_sheet_over_reload_ui_is_the_same(trained_on: WebUI) -> None:
    """Cells that were at work when LoRA files were taken off the model are drawn again."""
    webui = trained_on
    wish = {"prompt": CAT, "lora": "lierla", "x": "weight:0.5,1", "y": "seed:1,2,3,4,5,6", "steps": 8, "batch": 2,
            "width": SIDE, "height": SIDE, "cfg": 7, "sampler": "Euler"}  # fmt: skip
    job = webui.call(f"{API}/compare", wish)
    while not webui.call(f"{API}/jobs/{job['id']}")["live"].get("newest"):
        time.sleep(0.05)
    webui.reload()
    found = ended(webui, job)
    assert found["state"] == "done", found["error"]
    assert webui.data is not None
    for cell in found["result"]["cells"]:
        by_hand = webui.make(cell["tag"], seed=cell["seed"], steps=8, negative_prompt="")
        with Image.open(webui.data / "lora_ext" / "outputs" / cell["file"]) as image:
            assert np.abs(np.asarray(image.convert("RGB"), dtype=int) - by_hand.pixels[0]).max() <= 1, cell["tag"]


def test_preflight_and_nonsense(trained_on: WebUI) -> None:
    webui = trained_on
    job = ended(webui, webui.call(f"{API}/train/preflight", {"settings": {**SHORT, "output_name": "x"}}))
    assert job["state"] == "done" and "4" in job["result"]["text"]
    with pytest.raises(AssertionError, match="400"):
        webui.call(f"{API}/train", {"settings": {**SHORT, "optimizer_type": "AdanW"}})
    assert webui.data is not None
    (webui.data / "lora_ext" / "datasets" / "empty" / "1_x").mkdir(parents=True, exist_ok=True)
    job = ended(webui, webui.call(f"{API}/train", {"settings": {**SHORT, "train_data_dir": "empty"}}))
    assert job["state"] == "failed" and job["error"]
    assert webui.make("").pixels.shape == (1, SIDE, SIDE, 3) and not webui.weights()["hooks"]
