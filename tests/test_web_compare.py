"""Sheets, block analysis and what follows a training run, through the HTTP API."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from PIL import Image
from test_web import Client, lora

from lora_ext.embedded import CHECKPOINT

if not Path(CHECKPOINT).is_file():
    pytest.skip("no embedded model in this installation", allow_module_level=True)
ONE_STEP = {"steps": 1, "cfg": 1.0, "sampler": "Euler", "seed": 5}
SETTINGS = {"output_name": "mine", "train_data_dir": "star", "resolution": "64", "network_dim": 1,
            "max_train_epochs": 2, "save_every_n_epochs": 1}  # fmt: skip
PROMPTS = "a red circle --s 1 --l 1\na [blue|red] square --s 1 --l 1 --n green"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(tmp_path_factory.mktemp("root"))
    folder = client.root / "datasets" / "star" / "1_star"
    folder.mkdir(parents=True)
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (64, 64), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {colour} star", encoding="utf-8")
    yield client
    client.app_state.jobs.close()


def ended(api: Client, job: str) -> dict[str, Any]:
    assert api.app_state.jobs.get(job).ended_event.wait(300)
    found: dict[str, Any] = api("GET", f"/jobs/{job}")
    assert found["state"] == "done", found
    return found


@pytest.fixture(scope="module")
def trained(api: Client) -> dict[str, Any]:
    """What came of a run that compares its epochs by itself."""
    body = {"settings": SETTINGS, "prompts": PROMPTS, "compare": True}
    result: dict[str, Any] = ended(api, api("POST", "/train", 202, json=body)["id"])["result"]
    return result


@pytest.mark.long
def test_a_run_compares_its_epochs_at_its_end(api: Client, trained: dict[str, Any]) -> None:
    sheet = ended(api, trained["sheet"])["result"]
    assert sheet["axes"]["x"]["labels"] == ["epoch 1", "last"] and len(sheet["axes"]["y"]["labels"]) == 5
    assert sheet["axes"]["z"]["labels"] == ["a red circle", "a [blue|red] square"]
    assert len(sheet["cells"]) == 20 and all(cell["file"] for cell in sheet["cells"])
    assert {cell["negative_prompt"] for cell in sheet["cells"] if cell["z"]} == {"green"}
    assert sheet["cells"][0]["tag"] == "<lora:mine-000001:0.2>" and sheet["cells"][0]["steps"] == 1
    assert all(cell["score"]["likeness"] is not None for cell in sheet["cells"]) and sheet["measured"]
    assert sheet["asked"]["run"] == trained["name"]
    table = api("GET", f"/compare/{sheet['folder']}/scores.csv").text
    assert len(table.splitlines()) == 21


@pytest.mark.long
def test_a_second_run_of_the_name_has_names_of_its_own(api: Client, trained: dict[str, Any]) -> None:
    body = {"settings": {**SETTINGS, "max_train_epochs": 1, "save_every_n_epochs": None}}
    again = ended(api, api("POST", "/train", 202, json=body)["id"])["result"]
    assert trained["files"] == ["mine-000001", "mine"] and again["files"] == ["mine-2"] and "sheet" not in again
    sheet = ended(api, api("POST", f"/train/{again['name']}/compare", 202)["id"])["result"]
    assert [cell["tag"] for cell in sheet["cells"][:2]] == ["<lora:mine-2:0.2>", "<lora:mine-2:0.4>"]
    assert sheet["axes"]["y"]["labels"] == [""] and len(sheet["axes"]["z"]["labels"]) == 2  # two captions
    assert "no 'nothing'" in api("POST", "/train/nothing/compare", 400)["error"]


def test_a_file_leads_back_to_its_run_whatever_it_is_called(api: Client, trained: dict[str, Any]) -> None:
    found = api("GET", "/train/run?name=mine-000001")
    assert found["run"] == trained["name"] and [row[0] for row in found["rows"]] == [1, 2, 3, 4]
    api("POST", "/rename", json={"name": "mine-000001", "to": "sub/other"})
    assert api("GET", "/train/run?name=sub/other") == found
    api("POST", "/rename", json={"name": "sub/other", "to": "mine-000001"})
    assert api("GET", "/train/run?name=framed") == {"run": None, "rows": []}


def test_a_run_that_is_dropped_saves_nothing_and_is_no_failure(api: Client) -> None:
    body = {"settings": {**SETTINGS, "output_name": "dropped", "max_train_epochs": 500, "save_every_n_epochs": None}}
    job = api.app_state.jobs.get(api("POST", "/train", 202, json=body)["id"])
    end = time.monotonic() + 200
    while not job.live.get("rows") and time.monotonic() < end:
        time.sleep(0.02)
    api("POST", f"/jobs/{job.id}/cancel?save=false")
    assert job.ended_event.wait(60) and (job.state, job.error) == ("cancelled", None)
    run = api("GET", "/train/history")["runs"][0]
    assert run["stopped"] and run["files"] == [] and run["state"] is None and "error" not in run
    assert not list(api.root.glob("loras/dropped*")) and not list(api.root.glob("outputs/train/dropped*/*.safetensors"))


def test_a_sheet_whose_prompt_names_no_file_is_refused_before_the_model_is_loaded(api: Client) -> None:
    """It was an error of the job, once the model was loaded; weight 0 was drawn."""
    for tag in ("<lora:frame:1>", "<lora:frame:0>"):
        asked = {**ONE_STEP, "prompt": f"a circle {tag}", "x": "seed:1-2"}
        said = api("POST", "/compare", 400, json=asked)["error"]
        assert said.startswith("no LoRA is called 'frame'; did you mean 'framed'? Correct the tag, or take it out")


@pytest.mark.long
def test_a_sheet_fills_while_it_is_drawn_and_is_gone_on_with(api: Client, trained: dict[str, Any]) -> None:
    asked = {
        **ONE_STEP,
        "lora": "mine",
        "prompt": "a circle",
        "x": "weight:0.2-1.0(+0.1)",
        "y": "seed:1-12",
        "batch": 1,
    }
    job = api("POST", "/compare", 202, json=asked)["id"]
    end = time.monotonic() + 200
    while not api("GET", f"/jobs/{job}")["live"].get("done") and time.monotonic() < end:
        time.sleep(0.02)
    live = api("GET", f"/jobs/{job}")["live"]
    partly = api("GET", f"/compare/{live['folder']}")
    assert 0 < sum(bool(cell["file"]) for cell in partly["cells"]) < 108 and not partly["complete"]
    api("POST", f"/jobs/{job}/cancel")
    assert api.app_state.jobs.get(job).ended_event.wait(60)
    stopped = api("GET", f"/compare/{live['folder']}")
    assert stopped["asked"]["x"] == asked["x"] and stopped["pages"] and not stopped["complete"]
    kept = sum(bool(cell["file"]) for cell in stopped["cells"])
    whole = ended(
        api, api("POST", "/compare", 202, json={**stopped["asked"], "folder": live["folder"], "batch": 32})["id"]
    )
    assert whole["result"]["complete"] and 0 < kept < 108
    cells = list((api.root / "outputs" / "compare" / live["folder"] / "cells").glob("*.png"))
    assert len(cells) == 108 + 12  # each once, and once without a LoRA for each seed


def test_a_cells_tag_goes_into_a_prompt(api: Client) -> None:
    for prompt, expected in (
        ("a cat", "a cat <lora:mine-000001:0.4>"),
        ("a <lora:mine:1:lbw=ALL> cat <lora:other:1>", "a <lora:mine-000001:0.4> cat <lora:other:1>"),
    ):
        made = api("POST", "/compare/prompt", json={"tag": "<lora:mine-000001:0.4>", "prompt": prompt})
        assert made == {"prompt": expected}
    api("POST", "/compare/prompt", 400, json={"tag": "none"})
    lora(api.root / "loras" / "star.safetensors", **{"modelspec.trigger_phrase": "<lora:other:5>, red star"})
    api.app_state.refresh_library()
    for prompt, expected in (
        ("a cat", "a cat <lora:star:1> red star"),
        ("a Red Star <lora:star:0.4>", "a Red Star <lora:star:1>"),
    ):
        made = api("POST", "/compare/prompt", json={"tag": "<lora:star:1>", "prompt": prompt})
        assert made == {"prompt": expected}


def test_a_trigger_word_that_is_the_files_name_is_inserted_beside_the_tag(api: Client) -> None:
    """Start here takes the name where no trigger word is given, and the tag has the name in it."""
    lora(api.root / "loras" / "glim-000007.safetensors", **{"modelspec.trigger_phrase": "glim"})
    api.app_state.refresh_library()
    for prompt, expected in (
        ("a cat", "a cat <lora:glim-000007:0.6> glim"),
        ("a Glim in snow", "a Glim in snow <lora:glim-000007:0.6>"),
        ("glim <lora:glim-000003:1>", "glim <lora:glim-000007:0.6>"),
    ):
        made = api("POST", "/compare/prompt", json={"tag": "<lora:glim-000007:0.6>", "prompt": prompt})
        assert made == {"prompt": expected}
    made = api("POST", "/library/insert", json={"name": "glim-000007", "prompt": "a cat", "negative": ""})
    assert made["prompt"] == "a cat <lora:glim-000007:1> glim"


@pytest.mark.parametrize("way", ["norms", "raised"])
def test_blocks(api: Client, trained: dict[str, Any], way: str) -> None:
    body = {**ONE_STEP, "prompt": "a circle", "lora": "mine", "way": way, "name": "FACE", "layout": 12}
    found = ended(api, api("POST", "/compare/blocks", 202, json=body)["id"])["result"]
    assert found["layout"] == 12 and found["preset"].startswith("FACE:") and set(found["shares"]) >= {"BASE", "OUT03"}
    assert api("GET", "/pictures", params={"name": found["map"]}).content[:4] == b"\x89PNG"
    name, _, values = found["preset"].partition(":")
    api("PUT", "/presets", json={"name": name, "values": values})
    assert "unknown way" in api("POST", "/compare/blocks", 400, json={**body, "way": "up"})["error"]
