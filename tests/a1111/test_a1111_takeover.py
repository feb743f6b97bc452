"""Who applies `<lora:…>`: we, the built-in Lora extension, or another one; and that each finds what it left."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import state
from patched_laws import small_clip, small_unet
from stand_in_patchers import FLAVOURS, StandInHost
from stand_in_webui import StandIn
from test_a1111_tags import apart
from torch import zeros


def tables() -> dict[str, str]:
    """Who is called for `lora` and `lyco`, by the module of its class."""
    from modules import extra_networks

    networks, aliases = extra_networks.extra_network_registry, extra_networks.extra_network_aliases
    return {"lora": type(networks["lora"]).__module__, "lyco": type(aliases["lyco"]).__module__}


def ours() -> bool:
    return all(module.startswith("sd_webui_lora_ext.") for module in tables().values())


def builtins() -> bool:
    return set(tables().values()) == {"extra_networks_lora"}


@pytest.fixture
def built_in(webui: StandIn) -> Iterator[Any]:
    """The built-in Lora extension with our files; nothing of it is on the model or its layers afterwards."""
    import networks
    from modules import shared

    networks.available_networks.update(one=1, two=2)
    yield networks
    networks.load_networks([])
    networks.apply_to_all()
    networks.available_networks.clear()
    for module in shared.sd_model.modules():
        for name in ("network_current_names", "network_weights_backup"):
            vars(module).pop(name, None)


def test_tags_come_to_us_from_the_start(webui: StandIn) -> None:
    assert ours() and webui.entry.extension.other_tag_owner() == ""


def test_the_setting_hands_tags_back_and_takes_them_again(webui: StandIn, built_in: Any) -> None:
    before, with_us = state(webui), webui.make("a cat <lora:one:1>")
    webui.options(lora_ext_in_charge="built-in")
    assert builtins() and state(webui) == before, "handing back removes what was applied"
    assert "built-in" in webui.entry.extension.other_tag_owner()
    with_it = webui.make("a cat <lora:one:1>")
    assert apart(with_us, with_it) > 0 and "Lora hashes" not in with_it.told
    assert "built-in" in webui.make("a cat <lora:one:1:lbw=OUTD>").comments, "it does not know block weights"
    assert not webui.make("a cat <lora:one:1>").comments
    webui.options(lora_ext_in_charge="LoRA ext")
    assert ours() and webui.entry.extension.other_tag_owner() == ""
    assert apart(webui.make("a cat <lora:one:1>"), with_us) == 0, "what it had written into weights is gone"


def test_a_request_that_holds_the_queue_may_change_the_setting(webui: StandIn, built_in: Any) -> None:
    """Forge does so for `override_settings`: waiting for the queue there would never end."""
    from modules import call_queue

    with call_queue.queue_lock:
        change = Thread(target=webui.options, kwargs={"lora_ext_in_charge": "built-in"}, daemon=True)
        change.start()
        change.join(30)
        assert not change.is_alive() and ours(), "it waits for the queue"
    for _ in range(300):
        if builtins():
            break
        time.sleep(0.1)
    assert builtins()
    webui.options(lora_ext_in_charge="LoRA ext")
    assert ours()


def test_files_that_someone_made_the_built_in_extension_load_are_taken_off(webui: StandIn, built_in: Any) -> None:
    none, with_us = webui.make("a cat"), webui.make("a cat <lora:one:1>")
    webui.make("a cat")
    built_in.load_networks(["two"])
    built_in.apply_to_all()
    assert apart(webui.make("a cat <lora:one:1>"), with_us) == 0 and not built_in.loaded_networks
    assert apart(webui.make("a cat"), none) == 0


def test_the_web_uis_setting_add_network_to_prompt(webui: StandIn, built_in: Any) -> None:
    wanted = webui.make("a cat <lora:one:1> <lora:two:1.0>")
    webui.options(sd_lora="two")
    made = webui.make("a cat <lora:one:1>")
    assert apart(made, wanted) == 0
    assert made.infotexts[0].startswith("a cat <lora:one:1><lora:two:1.0>\n")
    named = webui.make("a cat <lora:two:0.5>")
    assert named.infotexts[0].startswith("a cat <lora:two:0.5>\n"), "the prompt's own weight counts"
    webui.options(sd_lora="missing")
    assert webui.make("a cat").infotexts[0].startswith("a cat\n")


class Other:
    """An extension that takes `lora` over at the first picture after its box was ticked."""

    def __init__(self) -> None:
        from modules import extra_networks

        self.calls: list[int] = []
        calls = self.calls

        class Network(extra_networks.ExtraNetwork):  # type: ignore[misc]
            def activate(self, p: Any, params_list: Any) -> None:
                calls.append(len(params_list))

            def deactivate(self, p: Any) -> None:
                pass

        self.network = Network("lora")
        extra_networks.register_extra_network(self.network)


def test_another_extension_takes_tags_over_at_a_picture(webui: StandIn, built_in: Any) -> None:
    """Nothing of ours stays on the model then, also in a picture without a tag; `<lyco:…>` says who applies tags."""
    from modules import extra_networks

    before = webui.entry.extension.tag_ownership.previous_owner
    plain, none = state(webui), webui.make("a cat")
    with_us = webui.make("a cat <lora:one:1>")
    other = Other()
    assert apart(webui.make("a cat"), none) == 0 and state(webui) == plain and other.calls == [0]
    made = webui.make("a cat <lora:one:1:lbw=OUTD> <lyco:two:1>")
    assert other.calls[-1] == 1
    assert "<lyco:two:1> is not applied" in made.comments and "lbw" in made.comments
    assert webui.entry.extension.other_tag_owner() not in ("", "the built-in Lora extension")
    extra_networks.register_extra_network(before)  # its box is empty again: it hands tags to the built-in extension
    assert apart(webui.make("a cat <lora:one:1>"), with_us) == 0, "they come to us again, at this picture"
    assert ours()


def test_the_extension_name_who_applies_tags(webui: StandIn) -> None:
    extension_name = webui.module("tag_owner").extension_name
    assert extension_name(None) == "no extension" and extension_name(3) == "builtins"
    assert extension_name(webui.entry.extension.tag_ownership.previous_owner) == "the built-in Lora extension"
    assert extension_name(SimpleNamespace()) == "types"


def test_nothing_is_told_where_the_block_weight_extension_is_on(webui: StandIn, built_in: Any) -> None:
    from modules import extensions

    webui.options(lora_ext_in_charge="built-in")
    extensions.extensions.append(SimpleNamespace(name="SD-WebUI-LoRA-Block-Weight", path="/", enabled=True))
    assert not webui.make("a cat <lora:one:1:lbw=OUTD>").comments
    extensions.extensions[-1].enabled = False
    assert webui.make("a cat <lora:one:1:lbw=OUTD>").comments
    extensions.extensions.pop()


def test_a_model_of_another_kind_is_left_to_the_built_in_extension(
    webui: StandIn, built_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import shared

    webui.make("a cat <lora:one:1>")
    monkeypatch.setattr(type(shared.sd_model), "is_sd3", True)
    assert "built-in" in webui.entry.extension.other_tag_owner()
    made = webui.make("a cat <lora:one:1:lbw=OUTD>")
    assert "built-in" in made.comments and "Lora hashes" not in made.told
    monkeypatch.undo()
    assert webui.entry.extension.other_tag_owner() == ""


def test_a_tag_that_the_built_in_extension_fails_on_does_not_disable_the_others(
    webui: StandIn, built_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Forge with Flux: there a missing file or a word in the place of a number ends the whole activation."""
    from modules import shared

    monkeypatch.setattr(type(shared.sd_model), "is_sd3", True)
    monkeypatch.setattr(webui.module("models"), "find_spec", lambda name: True)
    monkeypatch.setattr(built_in, "list_available_networks", lambda: None, raising=False)
    given: list[list[str]] = []
    owner = webui.entry.extension.tag_ownership.previous_owner
    monkeypatch.setattr(owner, "activate", lambda p, params: given.append([":".join(one.items) for one in params]))
    made = webui.make("a cat <lora:one:1:FACE><lora:nowhere:1><lora:two:te=loud:unet=0.5>")
    assert given == [["one:1", "two:unet=0.5"]]
    for text in ("FACE has no effect", "te=loud has no effect", "no file has the name nowhere"):
        assert text in made.comments


def test_reload_ui(webui: StandIn) -> None:
    from modules import processing, script_callbacks, sd_models, shared

    entry, tagged = webui.entry, webui.make("a cat <lora:one:1>")
    webui.make("a cat")
    before, count = state(webui), {k: len(v) for k, v in script_callbacks._callbacks.items()}
    webui.make("a cat <lora:one:1>")
    webui.reload()
    assert webui.entry is not entry and type(webui.entry.extension) is not type(entry.extension), (
        "the code is loaded again"
    )
    assert state(webui) == before, "what was applied is removed"
    assert ours() and {k: len(v) for k, v in script_callbacks._callbacks.items()} == count
    for function in (
        sd_models.reload_model_weights, sd_models.send_model_to_cpu, processing.decode_latent_batch,
        processing.StableDiffusionProcessingTxt2Img.sample, shared.state.request_restart,
    ):  # fmt: skip
        assert not hasattr(function.__wrapped__, "__wrapped__"), f"{function} is wrapped once"
    assert apart(webui.make("a cat <lora:one:1>"), tagged) == 0


def test_unloading_leaves_the_web_ui_as_it_was(webui: StandIn) -> None:
    from modules import extra_networks, processing, rng, sd_models, shared

    def places() -> list[Any]:
        kinds = (processing.StableDiffusionProcessingTxt2Img, processing.StableDiffusionProcessingImg2Img)
        functions = [vars(kind).get(name) for kind in kinds for name in ("sample", "sample_hr_pass")]
        names = ("reload_model_weights", "send_model_to_cpu", "send_model_to_trash", "send_model_to_device")
        functions += [getattr(sd_models, name) for name in names]
        return [*functions, processing.decode_latent_batch, rng.ImageRNG, "request_restart" in vars(shared.state)]

    with_us = places()
    webui.entry.extension.unload()
    without = places()
    assert builtins() and "lora_ext" not in extra_networks.extra_network_registry
    assert without[-1] is False and not any(hasattr(function, "__wrapped__") for function in without)
    assert sum(a is not b for a, b in zip(with_us, without, strict=True)) == 8
    webui.reload()
    assert ours()


def test_a_function_that_another_extension_wrapped_since_stays_wrapped(webui: StandIn) -> None:
    from modules import processing, sd_models, shared

    places: list[tuple[Any, str]] = [(sd_models, "reload_model_weights"), (processing, "decode_latent_batch")]
    for owner, name in places:
        ours = getattr(owner, name)
        setattr(owner, name, lambda *args, inner=ours, **kwargs: inner(*args, **kwargs))
    restart = shared.state.request_restart
    shared.state.request_restart = around = lambda: restart()
    wrapped = [getattr(owner, name) for owner, name in places]
    made = webui.make("a cat <lora:one:1>")
    webui.reload()
    assert sd_models.reload_model_weights is not wrapped[0], "ours is around it again"
    assert apart(webui.make("a cat <lora:one:1>"), made) == 0
    webui.entry.extension.unload()
    assert [getattr(owner, name) for owner, name in places] == wrapped
    assert vars(shared.state)["request_restart"] is around
    for owner, name in places:  # what the other extension wrapped: our first replacement, around the web UI's own
        setattr(owner, name, getattr(owner, name).__kwdefaults__["inner"].__wrapped__)
    del shared.state.request_restart
    webui.reload()


def test_a_step_that_fails_does_not_keep_the_next_from_running(
    webui: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    extension, before = webui.entry.extension, state(webui)
    webui.make("a cat <lora:one:1>")

    def fail(*_: Any) -> None:
        raise RuntimeError("made to raise")

    monkeypatch.setattr(extension.embeddings, "set_files", fail)
    webui.options(lora_ext_in_charge="built-in")
    assert "made to raise" in capsys.readouterr().err
    assert builtins() and state(webui) == before
    monkeypatch.undo()


def test_loading_a_model_asks_for_nothing(webui: StandIn) -> None:
    """A model that was just loaded is given to extra networks without a picture: what a picture has stays on."""
    from modules import extra_networks, processing, shared

    webui.make("a cat <lora:one:1>")
    before = state(webui)
    kept = vars(shared.sd_model).pop("cond_stage_model_empty_prompt")
    extra_networks.activate(processing.StableDiffusionProcessingTxt2Img(), {})
    shared.sd_model.cond_stage_model_empty_prompt = kept
    assert state(webui)["bytes"] == before["bytes"] and state(webui)["hooks"] == before["hooks"]


def test_pictures_are_deterministic(webui: StandIn) -> None:
    """What all comparisons here rest on."""
    one, two = webui.make("a cat", seed=7), webui.make("a cat", seed=7)
    assert apart(one, two) == 0 and np.std(one.pixels) > 5


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_in_forge_patches_are_found_without_their_names(
    webui: StandIn, monkeypatch: pytest.MonkeyPatch, flavour: str
) -> None:
    """sd-webui-lora-block-weight clears after each image what the model and the built-in extension tell of files."""
    import networks

    builtin, models, find = webui.module("builtin_lora"), webui.module("models"), importlib.util.find_spec
    calls: list[tuple[list[Any], ...]] = []
    with StandInHost(flavour, small_unet(), small_clip()).loaded() as host:
        monkeypatch.setattr(models, "find_spec", lambda name: name == "modules_forge" or find(name))
        monkeypatch.setattr(models, "loaded_sd_models", lambda: [host.sd_model])
        monkeypatch.setattr(networks, "load_networks", lambda *lists: calls.append(lists))
        host.sd_model.current_lora_hash = None
        builtin.remove_builtin_loras()
        assert not calls, "there is nothing to remove"
        after = host.sd_model.forge_objects_after_applying_lora
        after.unet = after.unet.clone()
        name, weight = next(iter(after.unet.model.named_parameters()))
        file = {"filename": "one.safetensors"} if hasattr(after.unet, "lora_patches") else {}
        after.unet.add_patches(patches={name: (zeros(weight.shape),)}, **file)
        builtin.remove_builtin_loras()
        assert calls == [([], [], [])]
        host.sd_model.current_lora_hash = "[]"
        builtin.remove_builtin_loras()
        assert len(calls) == 1, "the patch is another extension's"
