"""Training on the model that the web UI holds: a file comes of it, and everything is put back, also after an error."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import state
from PIL import Image
from stand_in_webui import StandIn
from test_a1111_memory import fail, part_of
from test_a1111_tags import apart

SHORT: dict[str, Any] = {
    "train_data_dir": "shapes", "resolution": "64", "train_batch_size": 2, "max_train_steps": 4, "seed": 5,
    "network_module": "c3lier", "network_dim": 4, "network_alpha": 2, "conv_dim": 2, "learning_rate": 0.05,
    "max_data_loader_n_workers": 0,
}  # fmt: skip
UNET = {"network_train_unet_only": True}


@pytest.fixture(scope="module", autouse=True)
def shapes(webui: StandIn) -> None:
    """Four small pictures, twice an epoch."""
    folder = webui.data / "lora_ext" / "datasets" / "shapes" / "2_shape"
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    for number in range(4):
        Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a red disc, number {number}", encoding="utf-8")


def settings() -> dict[str, Any]:
    """What training changes in the web UI for a while."""
    from modules import devices, sd_hijack, sd_hijack_optimizations, shared

    packages = (sd_hijack_optimizations.ldm.modules, sd_hijack_optimizations.sgm.modules)
    forwards = [p.attention.CrossAttention.forward for p in packages]
    forwards += [p.diffusionmodules.model.AttnBlock.forward for p in packages]
    names = ("dtype", "dtype_unet", "dtype_inference", "dtype_vae", "unet_needs_upcast", "device")
    job = ("job", "job_count", "interrupted", "skipped", "stopping_generation")
    return {
        "devices": {name: getattr(devices, name) for name in names}, "options": dict(shared.opts.data),
        "forwards": forwards, "hypernetworks": shared.loaded_hypernetworks,
        "job": {name: getattr(shared.state, name) for name in job},
        "embeddings": dict(sd_hijack.model_hijack.embedding_db.word_embeddings), "grad": torch.is_grad_enabled(),
    }  # fmt: skip


def train(webui: StandIn, name: str, prompts: str = "", **changes: Any) -> dict[str, Any]:
    return webui.job("/train", {"settings": {**SHORT, "output_name": name, **changes}, "prompts": prompts})


@pytest.fixture
def put_back(webui: StandIn) -> Iterator[None]:
    """With a file applied before: the next picture is the same bit for bit, as is all that training changes."""
    none, tagged = (webui.make(text) for text in ("a cat", "a cat <lora:one:1>"))
    before = settings()
    yield
    assert settings() == before
    assert apart(webui.make("a cat <lora:one:1>"), tagged) == 0
    assert apart(webui.make("a cat"), none) == 0


RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "checkpointing": {"gradient_checkpointing": True, "sdpa": True, **UNET},
    "text-only": {
        "network_module": "lierla", "conv_dim": None, "network_train_text_encoder_only": True, "clip_skip": 2,
        "max_token_length": 150,
    },
    "cached": {"cache_latents": True, "mixed_precision": "bf16", "no_half_vae": True, **UNET},
}  # fmt: skip


@pytest.mark.long
@pytest.mark.usefixtures("put_back")
@pytest.mark.parametrize("name", RUNS)
def test_a_run(webui: StandIn, name: str) -> None:
    job = train(webui, name, **RUNS[name])
    assert job["state"] == "done", job
    assert job["result"]["steps"] == 4 and job["result"]["files"] and not job["result"]["stopped"]
    assert apart(webui.make(f"a cat <lora:{name}:1>"), webui.make("a cat")) > 0


@pytest.mark.long
@pytest.mark.usefixtures("put_back")
def test_samples_are_made_by_the_web_ui_while_it_trains(webui: StandIn) -> None:
    from modules import shared

    job = train(webui, "sampled", "a cat --w 64 --h 64 --s 3 --d 1 --ss euler", sample_every_n_steps=2,
                sample_at_first=True, learning_rate=0.2)  # fmt: skip
    assert job["state"] == "done", job
    made = [Image.open(webui.data / "lora_ext" / "outputs" / name) for name in job["live"]["samples"]]
    first, *_, last = (np.asarray(image.convert("RGB"), dtype=int) for image in made)
    assert len(made) == 3 and first.shape == (64, 64, 3) and (first != last).any()
    assert shared.state.current_image.size == (64, 64), "shown as the live preview"
    assert np.abs(first - webui.make("a cat", steps=3, seed=1, cfg_scale=7.5).pixels[0]).max() == 0


@pytest.mark.long
@pytest.mark.usefixtures("put_back")
def test_a_new_word_travels_in_the_file(webui: StandIn) -> None:
    from modules import sd_hijack

    database = sd_hijack.model_hijack.embedding_db
    word = webui.make("a zqxdisc cat")
    job = train(webui, "pivot", token_string="zqxdisc", init_word="disc", inversion_steps=3, inversion_lr=0.1)
    assert job["state"] == "done" and job["result"]["steps"] == 4, job
    assert "zqxdisc" not in database.word_embeddings
    assert apart(webui.make("a zqxdisc cat <lora:pivot:0>"), word) > 0
    assert "zqxdisc" in database.word_embeddings
    assert apart(webui.make("a zqxdisc cat"), word) == 0 and "zqxdisc" not in database.word_embeddings


@pytest.mark.long
@pytest.mark.usefixtures("put_back")
@pytest.mark.parametrize("how", ["cancel", "interrupt"])
def test_a_run_that_is_stopped_is_saved(webui: StandIn, how: str) -> None:
    from modules import shared

    begun = threading.Event()
    part_of("U-Net").register_forward_hook(lambda *_: begun.set())
    job = webui.call("/train", {"settings": {**SHORT, "output_name": how, "max_train_steps": 4000}, "prompts": ""})
    assert begun.wait(60)
    while not webui.call(f"/jobs/{job['id']}")["live"].get("rows"):
        pass
    if how == "cancel":
        webui.call(f"/jobs/{job['id']}/cancel", {})
    else:
        shared.state.interrupt()
    ended = webui.ended(job)
    part_of("U-Net")._forward_hooks.popitem()
    assert ended["result"]["stopped"] and 0 < ended["result"]["steps"] < 4000 and ended["result"]["state"]


ERRORS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "at the first latent": ("encoder", 1, {}),
    "at the first text": ("text encoder", 1, {}),
    "in the first step": ("U-Net", 1, {}),
    "in a later step": ("U-Net", 3, {"gradient_checkpointing": True, "mixed_precision": "bf16", "sdpa": True}),
}


@pytest.mark.long
@pytest.mark.usefixtures("put_back")
@pytest.mark.parametrize("name", ERRORS)
def test_an_error(webui: StandIn, name: str) -> None:
    part, call, more = ERRORS[name]
    fail(part, call, RuntimeError("made to raise"))
    job = train(webui, "failed", **more)
    assert job["state"] == "failed" and "made to raise" in job["error"], job


@pytest.mark.long
@pytest.mark.usefixtures("put_back")
def test_reload_ui_lets_a_run_go_on(webui: StandIn) -> None:
    from modules import shared

    asked = {"settings": {**SHORT, "output_name": "reloaded", "max_train_steps": 100_000}, "prompts": ""}
    entry, job = webui.entry, webui.call("/train", asked)
    while not webui.call(f"/jobs/{job['id']}")["live"].get("rows"):
        pass
    webui.reload()
    assert not shared.state.interrupted
    now = webui.call(f"/jobs/{job['id']}")
    assert now["state"] == "running" and not now["stopping"]
    assert type(webui.entry.extension) is type(entry.extension), "the code that is at work stays"
    while webui.call(f"/jobs/{job['id']}")["done"] < now["done"] + 3:
        pass
    webui.call(f"/jobs/{job['id']}/cancel", {})
    assert webui.ended(job)["result"]["stopped"]
    webui.reload()
    assert type(webui.entry.extension) is not type(entry.extension)
    shared.state.begin()  # as the next picture does: Reload UI interrupts where no job of ours is at work
    shared.state.end()


@pytest.mark.long
@pytest.mark.usefixtures("put_back")
def test_a_picture_waits_for_its_turn(webui: StandIn) -> None:
    plain = webui.make("a cat <lora:one:1>")
    job = webui.call("/train", {"settings": {**SHORT, "output_name": "waited"}, "prompts": ""})
    assert apart(webui.make("a cat <lora:one:1>"), plain) == 0
    assert webui.ended(job)["state"] == "done"


@pytest.fixture
def medvram(webui: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """--medvram: which network is on the device, as it is asked for."""
    from modules import lowvram, shared

    moved: list[str] = []
    model = shared.sd_model
    model.lowvram = True
    monkeypatch.setattr(lowvram, "send_everything_to_cpu", lambda: moved.append("nothing"))
    to = model.model.to
    model.model.to = lambda device: moved.append(f"U-Net on {device}") or to(device)
    yield moved
    del model.lowvram, model.model.to


@pytest.mark.long
@pytest.mark.usefixtures("put_back")
def test_medvram(webui: StandIn, medvram: list[str]) -> None:
    job = train(webui, "medvram", "a cat --w 64 --h 64 --s 2 --ss euler", sample_every_n_steps=2, **UNET)
    assert job["state"] == "done", job
    assert medvram[:2] == ["nothing", "U-Net on cpu"] and medvram[-1] == "nothing"
    job = train(webui, "both")
    assert job["state"] == "failed" and "network_train_unet_only" in job["error"]


def _refused(webui: StandIn, reason: str, **changes: Any) -> None:
    job = train(webui, "refused", **changes)
    assert job["state"] == "failed" and reason in job["error"], job["error"]


@pytest.mark.usefixtures("put_back")
def test_what_cannot_be_trained_is_told(webui: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import sd_models, shared

    model = shared.sd_model
    _refused(webui, "xformers cannot be used here", xformers=True, **UNET)
    _refused(webui, "leave it out", torch_compile=True, **UNET)
    _refused(webui, "fp8_base is for training without the web UI", fp8_base=True, mixed_precision="bf16", **UNET)
    _refused(webui, "blocks_to_swap is for training without the web UI", blocks_to_swap=2, **UNET)
    for owner, name, value, reason in (
        (type(model), "is_sd3", True, "SD1.x, SD2.x and SDXL can"),
        (type(model), "is_sdxl", True, "network_train_unet_only"),
        (type(part_of("U-Net")), "in_channels", 9, "inpainting"),
        (shared.cmd_opts, "lowvram", True, "start it with --medvram to train"),
        (sd_models.model_data, "sd_model", None, ""),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            if value is None:
                patch.setattr(sd_models, "load_model", lambda: None)
                reason = "no model"
            _refused(webui, reason)
    sampled = webui.job("/train", {"settings": {**SHORT, "output_name": "x", "sample_every_n_steps": 2},
                                   "prompts": "a cat --ss nonsense"})  # fmt: skip
    assert sampled["state"] == "failed" and "unknown sampler 'nonsense'" in sampled["error"]


@pytest.mark.usefixtures("put_back")
def test_preflight(webui: StandIn) -> None:
    job = webui.job("/train/preflight", {"settings": {**SHORT, "output_name": "x"}})
    assert job["state"] == "done" and "4" in job["result"]["text"]


@pytest.mark.long
def test_the_file_names_the_base_model(webui: StandIn) -> None:
    from safetensors import safe_open

    assert train(webui, "named", **UNET)["state"] == "done"
    with safe_open(webui.data / "models" / "Lora" / "named.safetensors", "pt") as file:
        told = file.metadata()
    assert told["ss_sd_model_name"] == "tiny-sd15.safetensors" and told["ss_base_model_version"] == "sd_v1"
    assert told["ss_new_sd_model_hash"] == f"{1:064x}" and told["ss_sd_model_hash"] == f"{1:08x}"
    assert state(webui)["training"] is False


def test_the_web_uis_interrogators_describe_pictures(webui: StandIn) -> None:
    folder = webui.data / "lora_ext" / "datasets" / "plain"
    folder.mkdir()
    for number, text in enumerate(("", "mine")):
        Image.new("RGB", (16 * (number + 1), 16)).save(folder / f"{number}.png")
        if text:
            (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    assert webui.call("/train/form")["captioners"] == ["clip", "blip", "deepbooru"]
    job = webui.job("/dataset/describe", {"dataset": "plain", "captioner": "blip"})
    assert job["state"] == "done" and job["result"] == {"written": 1, "had": 1, "skipped": []}, job
    captions = [(folder / f"{number}.txt").read_text(encoding="utf-8").strip() for number in (0, 1)]
    assert captions == ["a picture of 16 pixels", "mine"]
    job = webui.job("/dataset/describe", {"dataset": "plain", "captioner": "deepbooru", "overwrite": True})
    assert job["result"]["written"] == 2 and (folder / "1.txt").read_text(encoding="utf-8") == "tags, 32x16\n"
    with pytest.raises(AssertionError, match=r"400.*did you mean 'clip'"):
        webui.call("/dataset/describe", {"dataset": "plain", "captioner": "clp"})
    with pytest.raises(AssertionError, match="400"):
        webui.call("/dataset/describe", {"dataset": "nowhere", "captioner": "clip"})
    tagger = webui.data / "lora_ext" / "captioners" / "my-tagger"
    tagger.mkdir(parents=True)
    (tagger / "model.onnx").touch()
    try:
        assert webui.call("/train/form")["captioners"][3:] == ["my-tagger"]
        job = webui.job("/dataset/describe", {"dataset": "plain", "captioner": "my-tagger", "overwrite": True})
        assert "selected_tags.csv cannot be read as a table of tags" in job["error"], job
    finally:
        shutil.rmtree(tagger.parent)
