"""What the tab and the settings ask of the web UI: folders, choices, users, names, kinds of models, captions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from stand_in_webui import StandIn
from torch import nn


@pytest.mark.long
def test_choices(webui: StandIn) -> None:
    found = webui.call("/choices")
    assert found["samplers"] == ["Euler", "Euler a", "Heun"]
    assert found["schedulers"] == ["Automatic", "Uniform", "Karras"]
    assert "other.safetensors" in found["checkpoints"] and "tiny-sd15.ckpt" in found["checkpoints"]


def test_schedules_where_the_web_ui_has_no_list_of_them(webui: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "modules.sd_schedulers", None)
    monkeypatch.delattr(sys.modules["modules"], "sd_schedulers", raising=False)
    assert webui.call("/choices")["schedulers"] == ["Automatic"]


def test_folders(webui: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from modules import shared

    shell = webui.entry.extension.host_interface
    models = webui.data / "models"
    assert shell.lora_dirs() == (models / "Lora", models / "LyCORIS")
    assert shell.data_dir() == webui.data / "lora_ext"
    monkeypatch.setattr(shared.cmd_opts, "lora_dir", None)
    monkeypatch.setattr(shared.cmd_opts, "lyco_dir_backcompat", None)
    assert shell.lora_dirs() == (models / "Lora",)
    monkeypatch.setattr(shared.cmd_opts, "lora_dirs", [str(tmp_path), str(tmp_path), ""], raising=False)
    assert shell.lora_dirs() == (tmp_path,)


def test_insertion_by_the_web_uis_settings(webui: StandIn) -> None:
    webui.options(extra_networks_add_text_separator=", ", extra_networks_default_multiplier=0.8)
    made = webui.call("/library/insert", {"name": "one", "prompt": "a park"})
    webui.options(extra_networks_add_text_separator=" ", extra_networks_default_multiplier=1.0)
    assert made["prompt"].startswith("a park, <lora:one:0.8>")


def test_the_settings(webui: StandIn) -> None:
    from modules import shared

    labels = {name: info for name, info in shared.opts.data_labels.items() if name.startswith("lora_ext_")}
    assert {name: info.default for name, info in labels.items()} == {
        "lora_ext_in_charge": "LoRA ext", "lora_ext_mode": "auto", "lora_ext_keep_files": 4,
        "lora_ext_warnings": ["under the picture", "console"], "lora_ext_show_curve": False,
        "lora_ext_and_parts": "all parts", "lora_ext_on_negative": True,
        "lora_ext_region_ratios": "", "lora_ext_base_ratio": 0.2,
    }  # fmt: skip
    assert {info.section for info in labels.values()} == {("lora_ext", "LoRA ext")}
    webui.options(lora_ext_keep_files=1)
    webui.reload()
    assert shared.opts.lora_ext_keep_files == 1, "what the user chose stays"
    assert webui.entry.extension.library.max_loaded == 1
    webui.options(lora_ext_keep_files=4)


def test_progress_and_cancel_are_the_web_uis(webui: StandIn) -> None:
    from modules import shared

    shell = webui.entry.extension.host_interface
    shell.progress(3, 7, "working")
    assert (shared.state.sampling_step, shared.state.sampling_steps, shared.state.textinfo) == (3, 7, "working")
    assert not shell.cancelled()
    shared.state.skipped = True
    assert shell.cancelled()
    shared.state.begin()
    shared.state.end()


def test_users_and_addresses(webui: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from modules import shared

    backend, options = webui.entry.backend, shared.cmd_opts
    assert (
        backend.configured_users() == {}
        and backend.bound_address() == "127.0.0.1"
        and list(backend.tunnel_host_names()) == []
    )
    (tmp_path / "users").write_text("carol:three:3,dave:4\neve:5\n", encoding="utf-8")
    monkeypatch.setattr(options, "gradio_auth", "alice:1, bob:2")
    monkeypatch.setattr(options, "api_auth", "api:key")
    monkeypatch.setattr(options, "gradio_auth_path", str(tmp_path / "users"))
    given = {"alice": "1", "bob": "2", "api": "key", "carol": "three:3", "dave": "4", "eve": "5"}
    assert backend.configured_users() == given
    monkeypatch.setattr(options, "listen", True)
    assert backend.bound_address() == "0.0.0.0"
    monkeypatch.setattr(options, "server_name", "10.0.0.7")
    assert backend.bound_address() == "10.0.0.7"
    monkeypatch.setattr(shared.demo, "share_url", "https://abc.example.org/path")
    monkeypatch.setattr(options, "ngrok", "token")
    names = list(backend.tunnel_host_names())
    assert names[0] == "abc.example.org" and "*.ngrok-free.app" in names


def test_pictures_are_not_drawn_in_the_tab(webui: StandIn) -> None:
    from fastapi.testclient import TestClient

    assert isinstance(webui.client, TestClient)
    backend = webui.entry.tab.app_state.backend
    with pytest.raises(Exception, match="generates images in txt2img and img2img"):
        backend.generate({}, None, None)
    assert webui.client.post("/lora-ext/v1/generate", json={}).status_code == 404


def test_the_tab_is_there(webui: StandIn) -> None:
    ((page, title, name),) = webui.tabs[0]
    assert name == "lora_ext" and "LoRA" in title and "the-token-of-the-tests" in str(page.get_config_file())


# --- kinds of models


class Holder:
    """A model manager's objects, as in Forge: SDXL's, or SD1's."""

    is_sdxl = True

    def __init__(self, two: bool) -> None:
        def wrapped(**parts: nn.Module) -> SimpleNamespace:
            return SimpleNamespace(**parts)

        self.forge_objects = SimpleNamespace(
            unet=SimpleNamespace(model=wrapped(diffusion_model=nn.Linear(1, 1))),
            clip=SimpleNamespace(cond_stage_model=wrapped(clip_l=wrapped(transformer=nn.Linear(1, 2)))),
        )
        if two:
            self.forge_objects.clip.cond_stage_model.clip_g = wrapped(transformer=nn.Linear(1, 3))


def _model(webui: StandIn, sd_model: Any) -> Any:
    return webui.module("models").A1111Model(sd_model)


def test_parts_of_every_kind_of_model(webui: StandIn) -> None:
    from modules import shared

    model = shared.sd_model
    assert {name: id(part) for name, part in _model(webui, model).parts().items()} == {
        "unet": id(model.model.diffusion_model), "te": id(model.cond_stage_model.wrapped.transformer)
    }  # fmt: skip
    clip, open_clip = SimpleNamespace(transformer=nn.Linear(1, 1)), SimpleNamespace(model=nn.Linear(1, 2))
    unet = SimpleNamespace(diffusion_model=nn.Linear(1, 3))
    sdxl = SimpleNamespace(
        model=unet, conditioner=SimpleNamespace(embedders=[SimpleNamespace(wrapped=clip), open_clip])
    )
    assert list(_model(webui, sdxl).parts()) == ["unet", "te", "te2"]
    assert _model(webui, sdxl).parts()["te2"] is open_clip.model
    sd2 = SimpleNamespace(model=unet, cond_stage_model=SimpleNamespace(wrapped=open_clip))
    assert _model(webui, sd2).parts()["te"] is open_clip.model
    assert _model(webui, SimpleNamespace(model=unet, is_sd3=True)).parts() == {}
    assert [part.out_features for part in _model(webui, Holder(True)).parts().values()] == [1, 2, 3]
    assert list(_model(webui, Holder(False)).parts()) == ["unet", "te"]


def test_files_of_the_built_in_extension_with_a_model_manager(webui: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """There they are patches: the built-in extension is told to load none, and layers are left alone."""
    import networks

    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr(networks, "load_networks", lambda *args: told.append(args))
    monkeypatch.setattr(networks, "loaded_networks", ["one"])
    monkeypatch.setattr(webui.module("models"), "find_spec", lambda name: True)
    webui.make("a cat")
    assert told[0] == ([], [], [])  # Neo takes no fourth


# --- captions by the web UI's own interrogators


def test_interrogators(webui: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import deepbooru, shared

    makers = webui.module("interrogators").interrogators()
    images = [Image.new("RGB", (8, 8)), Image.new("RGB", (16, 8))]
    assert makers["clip"](images) == ["a picture of 8 pixels, in colour", "a picture of 16 pixels, in colour"]
    assert makers["blip"](images) == ["a picture of 8 pixels", "a picture of 16 pixels"]
    assert makers["deepbooru"](images) == ["tags, 8x8", "tags, 16x8"]
    assert not shared.interrogator.loaded and not deepbooru.model.started
    monkeypatch.setattr(shared.interrogator, "interrogate", lambda image: "a picture <error>")
    with pytest.raises(Exception, match="interrogator failed"):
        makers["clip"](images)


# --- training on SDXL: two text encoders, and the sizes as conditions


class Sizes(nn.Module):
    """SDXL's embedder of two numbers."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.input_key = key

    def forward(self, sizes: torch.Tensor) -> torch.Tensor:
        return torch.cat([sizes, sizes + 0.5], dim=-1)


def sdxl(webui: StandIn) -> Any:
    """A model with SDXL's conditioner, whose U-Net gives back what it is given."""
    from modules import sd_hijack

    class Second(sd_hijack.TextEncoder):  # type: ignore[misc, name-defined]
        def forward(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
            states = super().forward(texts)
            return states * 2, states[:, 0]

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor, y: Any = None) -> Any:
            self.given = {"timesteps": timesteps, "context": context, "y": y}
            return x * self.weight

    keys = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
    embedders = [sd_hijack.TextEncoder(), Second(), *map(Sizes, keys)]
    network = SimpleNamespace(diffusion_model=UNet())
    return SimpleNamespace(
        is_sdxl=True, model=network, conditioner=SimpleNamespace(embedders=embedders), cond_stage_model=embedders[0]
    )


def _trainable(webui: StandIn, sd_model: Any) -> Any:
    """The class that training gets, made for a model."""
    from modules import call_queue

    with call_queue.queue_lock, webui.entry.tab.app_state.backend.open_trainable_model(None) as found:
        return type(found)(sd_model)


def test_sdxl_in_training(webui: StandIn) -> None:
    from modules import shared

    trainable = _trainable(webui, sdxl(webui))
    kinds = [trainable.family, trainable.prediction, trainable.native_size]
    assert kinds == ["SDXL", "epsilon", 1024]
    assert webui.entry.tab.app_state.backend.native_size("") == 512  # of the web UI's own model
    context = trainable.encode_text(["a cat", "a dog"], clip_skip=2)
    assert context.states.shape == (2, 77, 32) and context.pooled.shape == (2, 16)
    assert shared.opts.data["CLIP_stop_at_last_layers"] == 1, "put back"
    noisy, steps = torch.ones(2, 4, 8, 8), torch.tensor([1, 2])
    sizes = torch.arange(12.0).reshape(2, 6)
    assert torch.equal(trainable.predict(noisy, steps, context, sizes), noisy)
    y = trainable.unet.given["y"]
    assert (
        y.shape == (2, 16 + 12)
        and torch.equal(y[:, 16:18], sizes[:, :2])
        and torch.equal(y[:, -2:], sizes[:, 4:] + 0.5)
    )
    vectors = trainable.token_embeddings("a cat", 3)
    assert [tuple(v.shape) for v in vectors] == [(3, 16), (3, 16)] and torch.equal(vectors[0][1], vectors[0][2])
    with trainable.with_token_embedding("zqx", vectors):
        assert trainable.count_token_uses("zqx", "a zqx and a zqx", 75) == 2 and trainable.token_count("a zqx cat") == 5
    assert trainable.count_token_uses("zqx", "a zqx", 75) == 0
    with pytest.raises(Exception, match="no token to begin with"):
        trainable.token_embeddings("", 2)


def test_kinds_of_models_in_training(webui: StandIn) -> None:
    from modules import shared

    info = shared.sd_model.sd_checkpoint_info
    alphas = torch.linspace(0.9, 0.1, 1000)
    sd2 = SimpleNamespace(is_sd2=True, parameterization="v", sd_checkpoint_info=info, alphas_cumprod=alphas.half())
    trainable = _trainable(webui, sd2)
    assert (trainable.family, trainable.prediction, trainable.native_size) == ("SD2", "v", 768)
    assert trainable.metadata()["ss_base_model_version"] == "sd_v2_v" and trainable.metadata()["ss_v2"] == "True"
    assert trainable.alphas_cumprod.dtype == torch.float32
    sd2.alphas_cumprod_original = alphas
    assert torch.equal(trainable.alphas_cumprod, alphas), "before what a picture's settings make of it"
    assert _trainable(webui, SimpleNamespace(is_sd3=True)).native_size == 1024


def test_a_half_precision_encoder_that_overflows_computes_once_more(webui: StandIn) -> None:
    from modules import shared

    model = shared.sd_model
    trainable = _trainable(webui, model)
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    wanted = trainable.encode_images(pixels)
    assert wanted.shape == (2, 4, 8, 8) and wanted.dtype == torch.float32
    calls = []

    def overflow(module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
        calls.append(out.dtype)
        return out * float("inf") if out.dtype == torch.float16 else out

    original = model.first_stage_model
    with torch.no_grad():
        model.first_stage_model = type(original)().half()
        model.first_stage_model.load_state_dict(original.state_dict())
        handle = model.first_stage_model.encoder.register_forward_hook(overflow)
        made = trainable.encode_images(pixels)
    handle.remove()
    assert calls == [torch.float16, torch.float32] and bool(made.isfinite().all())
    assert next(model.first_stage_model.parameters()).dtype == torch.float16
    model.first_stage_model = original
    torch.testing.assert_close(made, wanted, rtol=0.01, atol=0.01)


def test_what_fits_is_told_by_the_chosen_checkpoint_before_it_is_loaded(
    webui: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import sd_models

    from lora_ext.embedded import CHECKPOINT

    def none() -> None:
        raise FileNotFoundError("No checkpoints found")

    backend = webui.entry.tab.app_state.backend
    monkeypatch.setattr(sd_models.model_data, "sd_model", None)
    for select, width in (
        (lambda: SimpleNamespace(filename=str(CHECKPOINT)), 128),
        (lambda: None, 0),
        (none, 0),
    ):
        monkeypatch.setattr(sd_models, "select_checkpoint", select)
        assert backend.cross_attention_dim("another that the page names") == width
    assert sd_models.model_data.sd_model is None
