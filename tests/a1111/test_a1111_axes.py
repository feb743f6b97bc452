"""Our axes in the X/Y/Z plot, infotexts that are pasted, and embeddings that travel in LoRA files."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import lora
from stand_in_webui import Made, StandIn
from test_a1111_tags import HIRES, apart

TITLES = (
    "LoRA epoch", "LoRA file", "LoRA weight", "LoRA text encoder weight", "LoRA U-Net weight", "LoRA block preset",
    "LoRA one block's weight", "LoRA rank (DyLoRA)", "LoRA start step", "LoRA stop step",
    "LoRA weight curve", "LoRA composition",
)  # fmt: skip


def options() -> list[Any]:
    """What the plot offers."""
    from modules import scripts

    plot = next(data for data in scripts.scripts_data if data.script_class.__module__ == "xyz_grid.py")
    return list(plot.module.axis_options)


def same(plotted: Made, hand: Sequence[Made]) -> None:
    assert len(plotted.images) == len(hand)
    assert max(int(np.abs(plotted.pixels[i] - one.pixels[0]).max()) for i, one in enumerate(hand)) == 0


@pytest.mark.long
def test_they_are_offered_once_also_after_reload_ui(webui: StandIn) -> None:
    assert [option.label for option in options()] == list(TITLES)
    webui.entry.axes.add_to_plot()
    assert [option.label for option in options()] == list(TITLES)
    webui.reload()
    assert [option.label for option in options()] == list(TITLES)
    choices = {option.label: option.choices for option in options() if option.choices}
    assert choices["LoRA file"]() == ["one", "two"] and "OUTALL" in choices["LoRA block preset"]()
    costs = {option.label: option.cost for option in options()}
    assert costs["LoRA file"] > costs["LoRA weight"], "files change least often"


CASES: dict[str, tuple[str, str, str, list[str]]] = {
    "no tag yet": ("a cat", "LoRA file", "one, two", ["a cat <lora:one:1>", "a cat <lora:two:1>"]),
    "a range": (
        "a cat <lora:one:1>", "LoRA weight", "0.2-1.0 (+0.4)", [f"a cat <lora:one:{w}>" for w in (0.2, 0.6, 1)],
    ),
    "one of two tags": (
        "a cat <lora:two:0.3> <lora:one:0.9>", "LoRA weight", "one: 0,1",
        [f"a cat <lora:two:0.3> <lora:one:{w}>" for w in (0, 1)],
    ),
    "text encoder": (
        "a cat <lora:one:0.5>", "LoRA text encoder weight", "0,8",
        [f"a cat <lora:one:te={te}:unet=0.5>" for te in (0, 8)],
    ),
    "presets": (
        "a cat <lora:one:1>", "LoRA block preset", "ALL,OUTALL,NONE",
        [f"a cat <lora:one:1:lbw={name}>" for name in ("ALL", "OUTALL", "NONE")],
    ),
    "one block": (
        "a cat <lora:one:1>", "LoRA one block's weight", "OUT05: 0-1 [2]",
        ["a cat <lora:one:1:lbwe=OUT05::0>", "a cat <lora:one:1>"],
    ),
    "steps": ("a cat <lora:one:1>", "LoRA stop step", "2,none", ["a cat <lora:one:1:stop=2>", "a cat <lora:one:1>"]),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_cells_are_the_pictures_of_the_prompts_by_hand(webui: StandIn, name: str) -> None:
    prompt, label, values, hand = CASES[name]
    plotted = webui.plotted(prompt, label, values)
    same(plotted, [webui.make(text) for text in hand])
    assert plotted.infotexts[0].splitlines()[0].startswith("a cat"), "the prompt of the cell"


def test_the_hires_prompt_follows(webui: StandIn) -> None:
    more = {**HIRES, "hr_prompt": "a big cat <lora:one:0.3>"}
    plotted = webui.plotted("a cat <lora:one:1>", "LoRA weight", "0.5", **more)
    same(plotted, [webui.make("a cat <lora:one:0.5>", **{**more, "hr_prompt": "a big cat <lora:one:0.5>"})])


@pytest.mark.long
def test_epochs_of_a_run(webui: StandIn) -> None:
    folder = webui.data / "models" / "Lora"
    made = {"run-000001": "one", "run-000002": "two", "run": "one"}
    for name, source in made.items():
        shutil.copyfile(folder / f"{source}.safetensors", folder / f"{name}.safetensors")
    plotted = webui.plotted("a cat <lora:run:0.7>", "LoRA epoch", "all")
    same(plotted, [webui.make(f"a cat <lora:{source}:0.7>") for source in made.values()])
    for name in made:
        (folder / f"{name}.safetensors").unlink()


def test_mistakes_are_told_before_anything_is_drawn(webui: StandIn) -> None:
    with pytest.raises(Exception, match="missing"):
        webui.plotted("a cat", "LoRA file", "one, missing")
    webui.options(lora_ext_in_charge="built-in")
    with pytest.raises(Exception, match="the built-in Lora extension applies LoRA tags here"):
        webui.plotted("a cat <lora:one:1>", "LoRA block preset", "ALL")


# --- pasting


def test_a_preset_that_changed_since_is_pasted_as_numbers(webui: StandIn) -> None:
    presets = webui.data / "lora_ext" / "presets.txt"
    presets.parent.mkdir(exist_ok=True)
    presets.write_text(f"FACE:{','.join(['1', '0.25'] * 8 + ['1'])}\n", encoding="utf-8")
    made = webui.make("a cat <lora:one:0.8:lbw=FACE>")
    read = {"Prompt": "a cat <lora:one:0.8:lbw=FACE>", "Lora block weights": made.told["Lora block weights"]}
    assert webui.paste("", read)["Prompt"] == read["Prompt"], "it still means the same"
    presets.write_text(f"FACE:{','.join(['0.5'] * 17)}\n", encoding="utf-8")
    hires = {"Hires prompt": "a big cat <lora:one:1:lbw=FACE>"}
    pasted = webui.paste("", {**read, **hires})
    assert "lbw=1,0.25,1" in pasted["Prompt"] and "lbw=1,0.25,1" in pasted["Hires prompt"]
    assert apart(webui.make(pasted["Prompt"]), made) == 0
    own = webui.paste("", {**read, **hires, "Lora hires block weights": made.told["Lora block weights"]})
    assert own["Hires prompt"] == pasted["Hires prompt"]
    presets.unlink()


def test_an_infotext_without_block_weights_is_left_alone(webui: StandIn) -> None:
    read = {"Prompt": "a cat <lora:one:0.8>", "Lora block weights": None}
    assert webui.paste("", read)["Prompt"] == read["Prompt"]


def test_presets_of_the_block_weight_extension_are_read(webui: StandIn) -> None:
    folder = webui.data / "extensions" / "sd-webui-lora-block-weight" / "scripts"
    folder.mkdir(parents=True)
    (folder / "lbwpresets.txt").write_text(f"MINE:{','.join(['0.5'] * 17)}\n", encoding="utf-8")
    (folder / "elempresets.txt").write_text("NOATTN:IN00-OUT11:attn ff proj:0\n", encoding="utf-8")
    assert apart(webui.make("a cat <lora:one:0.8:lbw=MINE>"), webui.make("a cat <lora:one:0.4>")) <= 1
    assert apart(webui.make("a cat <lora:one:0.8:lbwe=NOATTN>"), webui.make("a cat <lora:one:0.8:0>")) == 0
    shutil.rmtree(folder.parent)


# --- embeddings


@pytest.fixture(scope="module")
def bundled(webui: StandIn) -> Iterator[None]:
    """Files with an embedding `zqx` in two forms, and ones whose embeddings cannot be used."""
    vectors = torch.full((2, 16), 0.5)
    lora(webui, "bundle", 5, **{"bundle_emb.zqx.string_to_param.*": vectors})
    lora(webui, "single", 5, **{"bundle_emb.zqx.emb_params": vectors})
    lora(webui, "unread", 5, **{"bundle_emb.zqx.a": vectors, "bundle_emb.zqx.b": vectors.clone()})
    lora(webui, "wide", 5, **{"bundle_emb.zqx.emb_params": torch.ones(2, 24)})
    webui.entry.extension.library.refresh()
    yield
    for name in ("bundle", "single", "unread", "wide"):
        (webui.data / "models" / "Lora" / f"{name}.safetensors").unlink()


def database() -> Any:
    from modules import sd_hijack

    return sd_hijack.model_hijack.embedding_db


@pytest.mark.long
@pytest.mark.parametrize("name", ["bundle", "single"])
def test_an_embedding_is_there_while_its_file_is_in_use(webui: StandIn, bundled: None, name: str) -> None:
    none = webui.make("a zqx cat")
    made = webui.make(f"a zqx cat <lora:{name}:0>")
    assert apart(made, none) > 0
    found = database().word_embeddings["zqx"]
    assert found.loaded and found.filename is None and str(found.shorthash) == f"{found.shorthash}" == name
    webui.options(lora_bundled_ti_to_infotext=False)
    assert not found.shorthash and str(found.shorthash) == ""
    webui.options(lora_bundled_ti_to_infotext=True)
    again = webui.make(f"a zqx cat <lora:{name}:0> <lora:one:0>")
    assert database().word_embeddings["zqx"] is found and apart(again, made) == 0
    assert apart(webui.make("a zqx cat"), none) == 0 and "zqx" not in database().word_embeddings


def test_the_users_own_embedding_stays(webui: StandIn, bundled: None) -> None:
    from modules import shared
    from modules.textual_inversion import textual_inversion

    own = textual_inversion.create_embedding_from_data({"a": torch.full((1, 16), -0.5)}, "zqx")
    database().register_embedding(own, shared.sd_model)
    wanted = webui.make("a zqx cat")
    made = webui.make("a zqx cat <lora:bundle:0>")
    assert "zqx" in made.comments and "embeddings folder" in made.comments and apart(made, wanted) == 0
    webui.make("a cat")
    assert database().word_embeddings["zqx"] is own
    database().register_embedding_by_name(None, shared.sd_model, "zqx")


def test_embeddings_that_cannot_be_used(webui: StandIn, bundled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made = webui.make("a zqx cat <lora:unread:0>")
    assert "zqx" in made.comments and "cannot be read" in made.comments
    monkeypatch.setattr(database(), "expected_shape", 16)
    none = webui.make("a zqx cat")
    assert apart(webui.make("a zqx cat <lora:wide:0>"), none) == 0
    assert "zqx" in database().skipped_embeddings and "zqx" not in database().word_embeddings
    database().skipped_embeddings.clear()
    webui.make("a cat")
    without = SimpleNamespace(model_hijack=SimpleNamespace())  # Forge's has no such table
    monkeypatch.setattr(importlib.import_module("modules"), "sd_hijack", without)
    assert "cannot be used in this web UI" in webui.make("a cat <lora:bundle:1>").comments


class ForgeDatabase:
    """The embeddings of one text encoder in Forge, whose functions take no model."""

    def __init__(self, expected_shape: int) -> None:
        self.expected_shape = expected_shape
        self.word_embeddings: dict[str, Any] = {}
        self.skipped_embeddings: dict[str, Any] = {}

    def register_embedding(self, embedding: Any) -> None:
        self.word_embeddings[embedding.name] = embedding

    def register_embedding_by_name(self, embedding: Any, name: str) -> None:
        assert embedding is None
        del self.word_embeddings[name]


def test_embeddings_in_forge(webui: StandIn, bundled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text encoder has a table; a new model has new ones, and before the first image there is none."""
    module = webui.module("bundled_embeddings")
    hijack = SimpleNamespace(model_hijack=SimpleNamespace())
    monkeypatch.setattr(importlib.import_module("modules"), "sd_hijack", hijack)
    file, width = webui.entry.extension.library.load("bundle"), 16
    sd1 = SimpleNamespace(text_processing_engine=SimpleNamespace(embeddings=ForgeDatabase(width)))
    sdxl = SimpleNamespace(
        text_processing_engine_l=SimpleNamespace(embeddings=ForgeDatabase(width)),
        text_processing_engine_g=SimpleNamespace(embeddings=ForgeDatabase(width)),
    )
    tables = [engine.embeddings for model in (sd1, sdxl) for engine in vars(model).values()]
    ours = module.BundledEmbeddings()
    assert ours.set_files(sd1, [file]) == [] and [list(t.word_embeddings) for t in tables] == [["zqx"], [], []]
    assert ours.set_files(sdxl, [file]) == [] and all("zqx" in t.word_embeddings for t in tables)
    assert ours.set_files(sdxl, []) == [] and [list(t.word_embeddings) for t in tables] == [["zqx"], [], []]
    mine = tables[1].word_embeddings["zqx"] = object()
    assert "is skipped" in ours.set_files(sdxl, [file])[0] and tables[1].word_embeddings["zqx"] is mine
    assert "cannot be used" in ours.set_files(SimpleNamespace(), [file])[0]
    small = SimpleNamespace(text_processing_engine=SimpleNamespace(embeddings=ForgeDatabase(width + 1)))
    assert ours.set_files(small, [file]) == [] and list(small.text_processing_engine.embeddings.skipped_embeddings)
