"""The library by hand: what others wrote, tags and stars, many files moved and moved back, sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from program import Server
from steps import go, small, until

from lora_ext.cli import main
from lora_ext.inspect_file import inspect_lora_file

pytestmark = [pytest.mark.flaky(reruns=2), pytest.mark.one_page]


def test_notes_marks_and_a_move_that_is_undone(page: Any, server: Server) -> None:
    loras = server.data / "loras"
    for rank in range(1, 6):
        small(loras / f"boat {rank}.safetensors", rank)
    about = {"activation text": "harbour", "preferred weight": 0.7, "mine": 1}
    (loras / "boat 1.json").write_text(json.dumps(about), encoding="utf-8")
    panel = go(page, "files")
    panel.get_by_label("Order").select_option("name")
    card = panel.locator(".lx-file[data-name='boat 1']")
    card.wait_for()
    panel.get_by_label("Search", exact=True).fill("harbour")
    panel.get_by_text("1 file", exact=True).wait_for()
    assert card.locator("mark").inner_text() == "harbour"
    card.click()
    panel.get_by_label("Notes", exact=True).fill("by the sea")
    panel.get_by_role("button", name="Save notes").click()
    page.get_by_text("Saved", exact=True).wait_for()
    assert json.loads((loras / "boat 1.json").read_text(encoding="utf-8")) == {**about, "notes": "by the sea"}
    panel.get_by_role("button", name="Favourite", exact=True).click()
    panel.locator(".lx-heart[aria-pressed=true]").wait_for()
    panel.get_by_role("button", name="Insert into prompt").click()
    page.get_by_text("Written into the prompt").wait_for()
    prompt = page.locator("#lx-panel-generate").get_by_label("Prompt", exact=True).input_value()
    assert prompt.endswith("<lora:boat 1:0.7> harbour")

    panel.get_by_label("Search", exact=True).fill("boat")
    panel.get_by_text("5 files", exact=True).wait_for()
    card.click(modifiers=["Control"])
    panel.locator(".lx-file[data-name='boat 4']").click(modifiers=["Shift"])
    panel.get_by_text("4 selected").wait_for()
    panel.get_by_role("button", name="Tag…").click()
    panel.get_by_label("Tag", exact=True).fill("boats")
    panel.get_by_role("button", name="Add tag").click()
    page.get_by_text("4 files marked").wait_for()
    panel.get_by_role("button", name="Move…").click()
    panel.get_by_label("Folder, empty for the top").fill("sea")
    panel.get_by_role("button", name="Move", exact=True).click()
    panel.get_by_text("4 files moved", exact=True).wait_for()
    assert {path.name for path in (loras / "sea").iterdir()} >= {"boat 1.safetensors", "boat 1.json"}
    panel.locator(".lx-file[data-name='sea/boat 1'][aria-pressed=true]").focus()
    page.keyboard.press("Control+z")
    panel.get_by_text("4 files moved back").wait_for()
    assert (loras / "boat 1.json").exists() and not (loras / "sea").exists()
    page.keyboard.press("Escape")
    panel.get_by_label("any tag").select_option("boats")
    panel.get_by_text("4 files", exact=True).wait_for()


def test_a_set_is_saved_and_inserted(page: Any) -> None:
    panel = go(page, "sets")
    panel.get_by_label("Tags").fill("<lora:striped:0.8> <lora:framed:0.5>")
    panel.get_by_label("Words for the prompt").fill("a harbour")
    panel.get_by_label("Name").fill("pair")
    panel.get_by_role("button", name="Save").click()
    card = panel.locator(".lx-card", has=page.get_by_role("heading", name="pair"))
    card.get_by_role("button", name="Insert into prompt").click()
    until(page, "() => document.querySelector('#lx-panel-generate textarea')?.value.endsWith('a harbour')")
    card.get_by_role("button", name="Delete").click()
    panel.get_by_text("No set was saved yet.").wait_for()
    page.get_by_role("button", name="Undo", exact=True).click()
    card.get_by_text("a harbour").wait_for()


def test_files_of_one_network_are_shown_together_and_deleted(page: Any, server: Server) -> None:
    loras = server.data / "loras"
    small(loras / "boat.safetensors", 4)
    for command, name, *more in (
        ("convert", "boat half", "--to", "diffusers", "--save_precision", "fp16"),
        ("resize", "boat r2", "--new_rank", "2"),
    ):
        main(
            [
                command,
                "--model",
                str(loras / "boat.safetensors"),
                "--save_to",
                str(loras / f"{name}.safetensors"),
                *more,
            ]
        )
    panel = go(page, "files")
    panel.locator(".lx-file[data-name='boat r2']").first.wait_for()
    panel.get_by_role("button", name="Find duplicates").click()
    found = panel.locator(".lx-duplicate", has_text="boat")
    panel.get_by_text("group of files that hold the same network").wait_for()
    assert [row.split("\n")[-1] for row in found.locator(".lx-hint").all_inner_texts()] == [
        "the highest rank and precision · float32",
        "the same weights in float16",
        f"a lower rank: {kept_share(loras):.2%} of the change · float32".replace("%", " %"),
    ]
    panel.get_by_role("button", name="Keep the first alone").click()
    panel.get_by_role("button", name="Keep all").click()
    assert panel.get_by_role("button", name="Move 0 files to the bin").is_disabled()
    panel.get_by_label("Delete boat half", exact=True).check()
    panel.get_by_role("button", name="Move 1 file to the bin").click()
    panel.get_by_text("1 file is in the bin").wait_for()
    assert found.count() == 2 and not (loras / "boat half.safetensors").exists()


def kept_share(loras: Path) -> float:
    """The share of ‖ΔW‖ that the resized file kept."""
    norms = [inspect_lora_file(loras / f"{name}.safetensors").blocks[0].norm for name in ("boat", "boat r2")]
    assert norms[0] and norms[1]
    return norms[1] / norms[0]
