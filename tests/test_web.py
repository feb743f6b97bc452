"""The HTTP API: what it answers, who may call, and that nothing outside the user's folders is touched."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
import fastapi
from fastapi import FastAPI
from starlette.testclient import TestClient

from lora_ext.adapter_spec import Presets
from lora_ext.errors import FileError
from lora_ext.file import hashes
from lora_ext.precisions import SAVE_PRECISIONS
from lora_ext.tools.resize import resize_lora
from lora_ext.ui.standalone_backend import StandaloneBackend, standalone_folders
from lora_ext.web.app_state import AppState
from lora_ext.web.mount import mount_api
from lora_ext.web.page_files import MODULES, page_folder
from lora_ext.web.preset_store import PresetStore
from lora_ext.web.routing import API_PREFIX, AccessGuard
from lora_ext.web.user_paths import check_user_path, find_user_path, user_output_path

UNET = "lora_unet_down_blocks_{}_attentions_0_transformer_blocks_0_attn1_to_q"


def lora(path: Path, rank: int = 4, **metadata: str) -> Path:
    torch.manual_seed(rank)
    tensors = {}
    for block in range(3):
        key = UNET.format(block)
        tensors |= {
            f"{key}.lora_down.weight": torch.randn(rank, 32),
            f"{key}.lora_up.weight": torch.randn(32, rank),
            f"{key}.alpha": torch.tensor(float(rank)),
        }
    save_file(tensors, path, metadata=metadata or None)
    return path


class Client:
    """Calls the API below its prefix, with the token; waits for jobs."""

    def __init__(self, root: Path, guard: AccessGuard | None = None, *, token: bool = True) -> None:
        self.root = root
        self.guard = guard or AccessGuard()
        self.app_state = AppState(StandaloneBackend(standalone_folders(root)))
        app = FastAPI()
        mount_api(app, self.app_state, self.guard)
        headers = {"X-Lora-Ext": self.guard.token} if token else {}
        self.http = TestClient(app, base_url="http://127.0.0.1:7870", headers=headers)

    def __call__(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        answer = self.http.request(method, API_PREFIX + path, **more)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.headers["content-type"].startswith("application/json") else answer

    def done(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Starts a job, waits for its end."""
        job = self("POST", path, 202, json=body)
        assert self.app_state.jobs.get(job["id"]).ended_event.wait(60)
        found: dict[str, Any] = self("GET", f"/jobs/{job['id']}")
        return found


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path)
    lora(tmp_path / "loras" / "one.safetensors", 4, ss_output_name="one", note="<img src=x onerror=alert(1)>")
    (tmp_path / "loras" / "sub").mkdir()
    lora(tmp_path / "loras" / "sub" / "two.safetensors", 8)
    client.app_state.refresh_library()
    yield client
    client.app_state.jobs.close()


def test_library_lists_filters_and_pages(api: Client) -> None:
    found = api("GET", "/library")
    names = {row["name"] for row in found["rows"]}
    assert {"one", "sub/two"} <= names
    for _ in range(200):
        found = api("GET", "/library", params={"rank": 8, "search": "TWO"})
        if not found["pending"]:
            break
        time.sleep(0.02)
    assert [row["name"] for row in found["rows"]] == ["sub/two"]
    assert (found["rows"][0]["kind"], found["rows"][0]["rank"]) == ("LoRA-LierLa", 8)
    assert api("GET", "/library", params={"limit": 1, "offset": 1, "sort": "name"})["total"] == len(names)


def test_the_best_matches_of_a_search_come_first(api: Client) -> None:
    for age, name in enumerate(("stripe", "my-stripe", "Striped", "sub/stripe", "other-stripe")):
        path = api.root / "loras" / f"{name}.safetensors"
        lora(path, 2)
        os.utime(path, (1000 + age, 1000 + age))
    api.app_state.refresh_library()
    for search, wanted in (
        ("Stripe ", ["stripe", "sub/stripe", "Striped", "other-stripe", "my-stripe"]),
        ("striped", ["Striped"]),
    ):
        rows = api("GET", "/library", params={"search": search, "sort": "match"})["rows"]
        assert [row["name"] for row in rows if row["time"] < 2000] == wanted


def test_inspect_gives_blocks_layout_and_text_as_it_is(api: Client) -> None:
    found = api("GET", "/inspect", params={"name": "one"})
    assert found["layout"] == 17 and found["ranks"] == {"4": 3}
    assert {row["block"] for row in found["blocks"]} == {"IN01", "IN04", "IN07"}
    assert found["metadata"]["note"] == "<img src=x onerror=alert(1)>"
    assert str(api.root) not in json.dumps(found)


def test_an_unknown_name_is_reported_as_on_the_command_line(api: Client) -> None:
    said = api("GET", "/inspect", 400, params={"name": "onee"})
    assert said["error"] == "no LoRA is called 'onee'; did you mean 'one'?" and said["kind"] == "FileError"
    said = api("POST", "/preview", 422, json={"lora": "one", "promt": "a"})
    assert said["error"] == "promt is not a field of this request; did you mean 'prompt'?"
    said = api("POST", "/preview", 422, json={"lora": "one", "steps": 2.7})
    assert said["error"] == "steps must be a whole number"


@pytest.mark.long
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "<lora:one:1>"),
        ({"te": 0.5, "unet": 0.8}, "<lora:one:0.5:0.8>"),
        ({"lbw": "OUTALL", "start": 0.25}, "<lora:one:1:lbw=OUTALL:start=0.25>"),
        ({"step": "3-1.0"}, "<lora:one:1:start=3:stop=1.0>"),
        ({"step": "-5"}, "<lora:one:1:stop=5>"),
        ({"lbw": ",".join(["1"] * 12 + ["0.5"] * 5)}, "<lora:one:1:lbw=1,1,1,1,1,1,1,1,1,1,1,1,0.5,0.5,0.5,0.5,0.5>"),
    ],
)
def test_tag(api: Client, fields: dict[str, Any], expected: str) -> None:
    made = api("POST", "/tag", json={"name": "one", "prompt": "a cat", **fields})
    assert (made["tag"], made["prompt"]) == (expected, f"a cat {expected}")
    again = api("POST", "/tag", json={"name": "one", "te": 0.3, "prompt": made["prompt"] + " <lora:two:1> end"})
    assert again["prompt"] == "a cat <lora:one:0.3> <lora:two:1> end"


def test_a_tag_that_never_acts_is_reported(api: Client) -> None:
    placed = api("POST", "/tag", json={"name": "one", "te": 0.3, "prompt": "x <lora:one:1:at=left:compose=switch>"})
    assert placed["prompt"] == "x <lora:one:0.3:at=left:compose=switch>"

    made = api("POST", "/tag", json={"name": "one", "step": "9-2"})
    assert made["tag"] == "<lora:one:1:start=9:stop=2>" and len(made["notes"]) == 1
    assert "starts at step 9 and stops before step 2" in made["notes"][0]
    made = api("POST", "/tag", json={"name": "one", "lbw": ",".join(["0"] * 17)})
    assert "its weight is 0 in every layer" in made["notes"][0]
    assert api("POST", "/tag", json={"name": "not there", "step": "9-2"})["notes"] == []


def test_the_weights_panel_is_told_of_a_weight_far_outside_the_usual(api: Client) -> None:
    for fields in ({"te": 12.0}, {"curve": "0@0,12@1"}, {"hires": "12"}):
        notes = api("POST", "/tag", json={"name": "one", **fields})["notes"]
        assert notes == ["weight 12 is unusually strong: most files are made for about 1, sliders for at most 5"]
    assert api("POST", "/tag", json={"name": "one", "te": 3.0, "lbw": ",".join(["1"] * 17)})["notes"] == []


def test_a_share_of_all_steps_is_read_as_one(api: Client) -> None:
    assert api("POST", "/tag/read", json={"text": "<lora:one:1:step=1-1.0>"})["steps"] == {"start": "1", "stop": "1.0"}


@pytest.mark.parametrize(
    "tag",
    [
        "<lora:one:0.5:0@0,1@0.5 cosine>",
        "<lora:one:1:0@0,1@20:hr=0.5>",
        "<lora:one:1:hrte=0.5:hrunet=1@0,0@1:lbw=INALL@0,OUTALL@1>",
    ],
)
def test_a_tag_with_curves_is_read_and_written_again(api: Client, tag: str) -> None:
    read = api("POST", "/tag/read", json={"text": tag})
    fields = {name: read[name] for name in ("name", "te", "unet", "lbw", "curve", "hires")}
    assert api("POST", "/tag", json=fields)["tag"] == tag


def test_the_picture_of_a_curve_is_the_weight_at_each_place(api: Client) -> None:
    shares = api("POST", "/tag", json={"name": "one", "unet": 0.5, "curve": "0@0,1@0.5,0@1"})
    assert shares["tag"] == "<lora:one:1:0@0,0.5@0.5,0@1>"
    assert [shares["curve"][i] for i in (0, 25, 50, 100)] == [[0.0, 0.0], [0.25, 0.25], [0.5, 0.5], [1.0, 0.0]]
    steps = api("POST", "/tag", json={"name": "one", "unet": 1.0, "curve": "0@0,1@4"})
    assert steps["curve"] == [[0, 0], [1, 0.25], [2, 0.5], [3, 0.75], [4, 1]]
    assert (shares["curve_over"], steps["curve_over"]) == ("shares", "steps")
    levels = api("POST", "/tag", json={"name": "one", "unet": 0.5, "curve": "1@s14.6,0@s0.03"})
    assert levels["curve_over"] == "noise levels" and levels["tag"] == "<lora:one:1:0.5@s14.6,0@s0.03>"
    assert [levels["curve"][i] for i in (0, 50, 100)] == [
        pytest.approx(row) for row in ([14.6, 0.5], [(14.6 * 0.03) ** 0.5, 0.25], [0.03, 0.0])
    ]
    assert api("POST", "/tag", json={"name": "one", "unet": 1.0, "curve": "0.5@0"})["curve"] == []
    assert "keyframe" in api("POST", "/tag", 400, json={"name": "one", "curve": "@3"})["error"]


_SAVE_PRESETS = """
import sys
from pathlib import Path
from lora_ext.adapter_spec import Presets
from lora_ext.web.preset_store import PresetStore
store = PresetStore(Path(sys.argv[1]), Presets)
print("ready", flush=True)
sys.stdin.readline()
for number in range(10):
    store.save({f"B{number}": "1" + ",1" * 16})
"""


@pytest.mark.long
def test_presets_of_several_threads_and_processes_are_all_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SAVE_PRESETS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin and other.stdout and other.stdout.readline() == "ready\n"
        other.stdin.write("go\n")
        other.stdin.flush()
        saves = [{f"A{number}": "1" + ",1" * 16} for number in range(10)]
        threads = [threading.Thread(target=PresetStore(tmp_path, Presets).save, args=[save]) for save in saves]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert other.returncode == 0
    names = {line.partition(":")[0] for line in (tmp_path / "presets.txt").read_text().splitlines()}
    assert names == {f"{writer}{number}" for writer in "AB" for number in range(10)}


def test_presets_live_outside_and_round_trip(api: Client) -> None:
    mine = ",".join(["0.25"] * 17)
    api("PUT", "/presets", json={"name": "MINE", "values": mine})
    assert (api.root / "presets.txt").read_text() == f"MINE:{mine}\n"
    assert api("GET", "/presets/export")["text"] == f"MINE:{mine}\n"
    api("POST", "/presets/rename", json={"name": "MINE", "to": "OURS"})
    said = api("POST", "/presets/import", json={"text": f"# a comment\nTHIRD:{mine}\n"})
    assert said["taken"] == ["THIRD"]
    refused = api("POST", "/presets/import", 400, json={"text": f"NEW:{mine}\nTHIRD:{mine.replace('0.25', '1')}\n"})
    assert "'THIRD' already exists with other weights" in refused["error"]
    assert {row["name"] for row in said["presets"] if row["own"]} == {"OURS", "THIRD"}
    api("PUT", "/presets", json={"name": "ALL", "values": mine})  # the user's own wins over the built-in one
    (row,) = (row for row in api("GET", "/presets")["presets"] if row["name"] == "ALL")
    assert row == {"name": "ALL", "values": mine, "own": True, "builtin": True, "place": 2}
    api("DELETE", "/presets", params={"name": "ALL"})
    api("DELETE", "/presets", params={"name": "OURS"})
    kept = {"name": "OURS", "values": mine, "place": 0}  # what the page's Undo sends
    api("PUT", "/presets", json=kept)
    assert (api.root / "presets.txt").read_text() == f"OURS:{mine}\nTHIRD:{mine}\n"
    assert "'OURS' was saved again since it was deleted" in api("PUT", "/presets", 400, json=kept)["error"]
    api("DELETE", "/presets", params={"name": "OURS"})
    assert "is not one of your own" in api("DELETE", "/presets", 400, params={"name": "ALL"})["error"]
    for name in ("", "a b", "1.5", "a:b", "<b>", "x" * 65):
        api("PUT", "/presets", 400, json={"name": name, "values": mine})
    api("PUT", "/presets", 400, json={"name": "SHORT", "values": "1,2,3"})


def test_merge_resize_convert_reweight_write_what_the_tools_write(api: Client) -> None:
    job = api.done("/merge", {"parts": [{"name": "one"}, {"name": "sub/two", "ratio": 0.5}], "save_to": "made/sum"})
    assert job["state"] == "done", job["error"]
    assert job["result"]["files"] == ["made/sum"]
    assert api("GET", "/inspect", params={"name": "made/sum"})["ranks"] == {"12": 3}
    job = api.done("/resize", {"name": "sub/two", "new_rank": 3, "save_to": "small"})
    _, report = resize_lora(api.app_state.entry("sub/two").load(), 3)
    assert job["result"]["report"]["totals"]["kept"] == pytest.approx(report.kept)
    assert api.done("/convert", {"name": "one", "to": "diffusers", "save_to": "peft"})["state"] == "done"
    baked = {"name": "one", "to": "comfyui", "bake": True, "rank": 2, "save_to": "comfy"}
    assert api.done("/convert", baked)["state"] == "done"
    made, source = (api("GET", "/inspect", params={"name": name}) for name in ("comfy", "one"))
    assert made["layers"] == source["layers"]
    assert "give both" in api("POST", "/convert", 400, json={**baked, "bake": False, "base": "x"})["error"]
    assert "x" in api("POST", "/convert", 400, json={**baked, "base": "x", "overwrite": True})["error"]
    assert api.done("/reweight", {"name": "one", "lbw": "INS", "save_to": "ins"})["state"] == "done"
    assert "exists" in api.done("/resize", {"name": "one", "new_rank": 2, "save_to": "small"})["error"]


def test_the_curve_tells_what_resize_then_keeps(api: Client) -> None:
    curve = api("GET", "/resize/curve", params={"name": "sub/two"})
    assert curve["ranks"] == list(range(1, 9)) and curve["kept"][-1] == pytest.approx(1)
    said = api("POST", "/resize/preview", json={"name": "sub/two", "new_rank": 3})
    job = api.done("/resize", {"name": "sub/two", "new_rank": 3, "save_to": "r3"})
    assert said["kept"] == pytest.approx(curve["kept"][2], rel=1e-6)
    assert said["kept"] == pytest.approx(job["result"]["report"]["totals"]["kept"], rel=1e-5)
    for rule in (
        {"dynamic_method": "sv_fro", "dynamic_param": 0.8},
        {"dynamic_method": "sv_ratio", "dynamic_param": 2},
    ):
        said = api("POST", "/resize/preview", json={"name": "sub/two", "new_rank": 8, **rule})
        job = api.done("/resize", {"name": "sub/two", "new_rank": 8, "save_to": rule["dynamic_method"], **rule})
        ranks = [layer["new_rank"] for layer in job["result"]["report"]["layers"]]
        assert (min(ranks), max(ranks)) == (said["least"], said["most"])


def test_metadata_changes_text_and_no_number(api: Client) -> None:
    path = api.root / "loras" / "one.safetensors"
    with safe_open(path, "pt") as file:
        before = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    said = api("POST", "/metadata", json={"name": "one", "put": {"modelspec.title": "Neu"}, "remove": ["note"]})
    assert said["metadata"]["modelspec.title"] == "Neu" and "note" not in said["metadata"]
    with safe_open(path, "pt") as file:
        assert all(torch.equal(file.get_tensor(key), tensor) for key, tensor in before.items())


def test_rename_takes_thumbnails_along_and_stays_inside(api: Client) -> None:
    (api.root / "loras" / "one.preview.png").write_bytes(b"x")
    assert api("POST", "/rename", json={"name": "one", "to": "new/name"}) == {"name": "new/name"}
    assert (api.root / "loras" / "new" / "name.preview.png").read_bytes() == b"x"
    assert "sub/two already exists" in api("POST", "/rename", 400, json={"name": "new/name", "to": "sub/two"})["error"]
    for to in ("../x", "/etc/x", "C:/x", "a/../b", "con", "a\x00b", "nul.txt", "a\\b", "x.", ""):
        api("POST", "/rename", 400, json={"name": "sub/two", "to": to})
    assert sorted(p.name for p in api.root.iterdir() if p.suffix == ".safetensors") == []


def test_files_of_the_installation_stay(api: Client) -> None:
    fixed = [row["name"] for row in api("GET", "/library")["rows"] if row["name"] in ("framed", "striped")]
    for name in fixed:
        refused = api("POST", "/rename", 400, json={"name": name, "to": "x"})["error"]
        assert "is part of this installation and cannot be changed" in refused
        api("POST", "/metadata", 400, json={"name": name, "put": {"a": "b"}})


def test_duplicates_by_their_numbers(api: Client) -> None:
    lora(api.root / "loras" / "copy.safetensors", 4, other="metadata")
    api.app_state.refresh_library()
    job = api.done("/duplicates", {})
    assert [sorted(row["name"] for row in group) for group in job["result"]["groups"]] == [["copy", "one"]]


def test_summaries_are_made_by_no_daemon_also_where_a_daemon_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that is within torch when Python ends aborts the process: "terminate called …"."""
    from lora_ext.file.lora_library import LoraLibrary
    from lora_ext.web import file_catalogue

    lora(tmp_path / "new.safetensors")
    catalogue = file_catalogue.FileCatalogue(LoraLibrary([tmp_path]))  # one that no other thread uses
    daemons: list[bool] = []
    look = lambda path: daemons.append(threading.current_thread().daemon)  # noqa: E731
    monkeypatch.setattr(file_catalogue, "summarise_file", look)
    asking = threading.Thread(target=catalogue.refresh, daemon=True)
    asking.start()
    asking.join()
    while any(thread.name == "lora-ext-catalogue" for thread in threading.enumerate()):
        time.sleep(0.01)
    assert daemons and not any(daemons)


def test_duplicates_show_the_kind_of_files_not_read_before(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.app_state.catalogue, "refresh", lambda **options: None)
    lora(api.root / "loras" / "copy.safetensors", 4, other="metadata")
    api.app_state.library.refresh()
    (group,) = api.done("/duplicates", {})["result"]["groups"]
    assert [row["kind"] for row in group] == ["LoRA-LierLa"] * 2


@pytest.mark.parametrize("stored", ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "ab" * 32])
def test_a_copied_hash_makes_no_duplicates(api: Client, monkeypatch: pytest.MonkeyPatch, stored: str) -> None:
    """Files with other numbers and one `sshs_model_hash`; files that a short look tells apart are not read whole."""
    read: list[str] = []
    whole = hashes.model_hash
    monkeypatch.setattr(hashes, "model_hash", lambda path: read.append(path.name) or whole(path))
    for number in (1, -1):
        path = api.root / "loras" / f"style{number}.safetensors"
        tensors = {f"{UNET.format(0)}.lora_down.weight": torch.full((4, 32), float(number))}
        tensors[f"{UNET.format(0)}.lora_up.weight"] = torch.ones(32, 4)
        save_file(tensors, path, metadata={"sshs_model_hash": stored})
    wide = torch.ones(4, 100_000)
    tensors[f"{UNET.format(0)}.lora_down.weight"] = wide
    for name, value in (("long", 1.0), ("alike", -1.0)):
        wide[0, 30_000:90_000] = value  # outside the samples
        save_file(tensors, api.root / "loras" / f"{name}.safetensors")
    api.app_state.refresh_library()
    assert api.done("/duplicates", {})["result"]["groups"] == []
    assert sorted(read) == ["alike.safetensors", "long.safetensors"]


def test_fields_are_named(api: Client) -> None:
    said = api("POST", "/resize", 422, json={"name": "one", "new_rnak": 3, "save_to": "x"})
    assert said["field"] == "new_rnak"
    assert api("POST", "/resize", 422, json={"name": "one", "new_rank": 0, "save_to": "x"})["field"] == "new_rank"
    broken = api("POST", "/resize", 422, content="{", headers={"Content-Type": "application/json"})
    assert (broken["error"], broken["field"]) == ("the request is not JSON", None)
    for name, wrong, kind in (("name", ["x"], "a text"), ("overwrite", "maybe", "true or false")):
        body = {"name": "one", "save_to": "x", name: wrong}
        assert api("POST", "/resize", 422, json=body)["error"] == f"{name} must be {kind}"
    assert api("POST", "/library/delete", 422, json={"names": "one"})["error"] == "names must be a list"
    assert api("POST", "/library/delete", 422, json="one")["error"] == "the request must be a JSON object"
    assert api("POST", "/train", 422, json={"settings": "one"})["error"] == "settings must be a JSON object"
    assert api("POST", "/train", 422, json={"settings": []})["error"] == "settings must be a JSON object"
    assert api("POST", "/train", 422, json=[])["error"] == "the request must be a JSON object"
    headers = {"content-type": "application/json"}
    api("POST", "/merge", 422, content='{"parts": [{"name": "one", "ratio": NaN}], "save_to": "x"}', headers=headers)


@pytest.mark.parametrize("number", ["NaN", "1e999", "-1e999"])
def test_a_number_is_finite(api: Client, number: str) -> None:
    headers = {"content-type": "application/json"}
    said = api("POST", "/tag", 422, content=f'{{"name": "one", "start": {number}}}', headers=headers)
    assert said["field"] == "start"


def test_a_file_is_no_folder(api: Client) -> None:
    said = api("POST", "/rename", 400, json={"name": "sub/two", "to": "one.safetensors/two"})
    assert "the folder one.safetensors cannot be created" in said["error"]
    job = api.done("/convert", {"name": "one", "save_to": "one.safetensors/two"})
    assert "the folder one.safetensors cannot be created" in job["error"]


def test_no_answer_tells_a_folder_of_this_system(api: Client) -> None:
    said = api("GET", "/train/begin?name=sub/two", 400)
    assert said["error"].startswith("sub/two.safetensors does not say how it was trained")
    (api.root / "loras" / "cut.safetensors").write_bytes(b"\x10" + b"\0" * 20)
    api.app_state.refresh_library()
    assert str(api.root) not in json.dumps(api("GET", "/library?search=cut"))
    job = api.done("/split", {"name": "sub/two", "save_to": "parts"})
    assert job["error"] and str(api.root) not in json.dumps(job)


def test_who_may_call(tmp_path: Path) -> None:
    client = Client(tmp_path, AccessGuard(users=lambda: {"anna": "geheim"}), token=False)
    client("GET", "/library", 401)
    client("GET", "/library", 401, auth=("anna", "falsch"))
    client("GET", "/library", auth=("anna", "geheim"))
    client("GET", "/library", headers={"X-Lora-Ext": client.guard.token})
    client.http.cookies.clear()  # by which a browser that was let in goes on to read
    client("GET", "/library", 401, headers={"X-Lora-Ext": "x"})
    client("GET", "/library", 403, auth=("anna", "geheim"), headers={"Origin": "https://elsewhere.example"})
    client("GET", "/library", auth=("anna", "geheim"), headers={"Origin": "http://127.0.0.1:7870"})


def test_pictures_come_from_the_output_folder_only(api: Client) -> None:
    (api.root / "outputs" / "a.png").write_bytes(b"x")
    assert api("GET", "/pictures", params={"name": "a.png"}).content == b"x"
    for name in ("../presets.txt", "/etc/passwd", "..%2f", "b.png"):
        api("GET", "/pictures", 400, params={"name": name})


def test_nothing_is_read_outside_the_folder(api: Client, tmp_path: Path) -> None:
    """A name with `..` in it, also one that begins at a link: what lies beside the link's target is another's."""
    elsewhere = tmp_path / "elsewhere" / "deep"
    elsewhere.mkdir(parents=True)
    outputs = api.root / "outputs"
    (outputs / "in").mkdir()
    for folder in (tmp_path / "elsewhere", elsewhere, api.root, outputs):
        (folder / "a.png").write_bytes(b"x")
    names = ["../a.png", "in/../../a.png", "in/../a.png", "./a.png", "in//a.png", str(api.root / "a.png")]
    try:
        (outputs / "away").symlink_to(elsewhere, target_is_directory=True)
        names += ["away/../a.png", "away/../deep/a.png"]
        assert api("GET", "/pictures", params={"name": "away/a.png"}).content == b"x"
    except OSError:
        pass  # no links on this system
    for name in names:
        for path in ("/pictures", "/inspect", "/dataset", "/thumbnail"):
            said = api("GET", path, 400, params={"name": name})["error"]
            assert path != "/pictures" or "is not a valid name" in said, name
        with pytest.raises(FileError, match="is not a valid name"):
            find_user_path([outputs], name)


@given(st.text(max_size=40) | st.sampled_from(["..", "a/../b", "C:\\x", "aux.safetensors", "a/\x00", "/x", "~/x", " "]))
def test_no_name_leaves_its_folder(name: str) -> None:
    try:
        path = check_user_path(name)
    except FileError:
        return
    assert not path.is_absolute() and ".." not in path.parts and path.parts
    assert all(part == part.strip() and ord(min(part)) >= 32 for part in path.parts)


def test_links_do_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    try:
        (tmp_path / "in" / "link").symlink_to(tmp_path / "out", target_is_directory=True)
    except OSError:
        pytest.skip("no links on this system")
    with pytest.raises(FileError, match="outside"):
        user_output_path(tmp_path / "in", "link/x", ".safetensors")


def test_the_document_describes_every_route(api: Client) -> None:
    document = api("GET", "/openapi.json")
    paths = {path.removeprefix(API_PREFIX).split("/")[1] for path in document["paths"]}
    wanted = {
        "jobs",
        "train",
        "merge",
        "resize",
        "extract",
        "split",
        "convert",
        "inspect",
        "presets",
        "library",
        "compare",
    }
    assert wanted <= paths
    for methods in document["paths"].values():
        for row in methods.values():
            assert row["description"] and "400" in row["responses"]


def test_a_files_settings_are_a_beginning(api: Client, tmp_path: Path) -> None:
    noted = {"ss_network_dim": "16", "ss_lr_scheduler": "cosine", "ss_zeros": "7", "ss_optimizer": "a.b.Lion(x=1)"}
    lora(tmp_path / "loras" / "told.safetensors", 5, **noted)
    api.app_state.catalogue.refresh()
    found = api("GET", "/train/begin?name=told")
    settings = {"network_dim": 16, "lr_scheduler": "cosine", "optimizer_type": "Lion", "optimizer_args": ["x=1"]}
    assert found == {"settings": settings, "told": ["ss_zeros = 7 is not a setting here; it is left out"]}


def test_routes_are_written_for_the_web_ui_s_fastapi() -> None:
    """FastAPI knows `Annotated` since 0.95; AUTOMATIC1111's web UI, reForge and Classic have 0.94, and pydantic 1.

    Version 1 of pydantic refuses to declare the length of a list by `min_length`, and then no route is there.
    """
    newer = re.compile(r"Annotated\[|: (list|dict|set)\[.*(min|max)_length=")
    folder = Path(__file__).parents[1] / "lora_ext" / "web"
    assert not [path.name for path in folder.rglob("*.py") if newer.search(path.read_text("utf-8"))]


@pytest.mark.long
def test_the_api_works_with_the_web_ui_s_pydantic() -> None:
    """Version 1, which refuses some of 2's fields when they are declared."""
    if tuple(map(int, fastapi.__version__.split(".")[:2])) >= (0, 126):
        pytest.skip("this FastAPI works with pydantic 2 alone; the web UI has 0.94")
    command = [sys.executable, "-m", "pytest", "-p", "pydantic_one", __file__, "-k", "named or finite or merge"]
    paths = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("route", ["merge", "resize", "convert", "reweight", "split"])
def test_an_unknown_precision_is_refused_before_there_is_a_job(api: Client, route: str) -> None:
    body = {"parts": [{"name": "one"}]} if route == "merge" else {"name": "one"}
    said = api("POST", f"/{route}", 400, json={**body, "save_to": "x", "precision": "fp4"})["error"]
    assert "precision 'fp4' is unknown" in said and all(name in said for name in SAVE_PRECISIONS)
    assert api("GET", "/jobs")["jobs"] == []


def test_a_merge_has_some_files(api: Client) -> None:
    assert "1 to 200 files, not 0" in api("POST", "/merge", 400, json={"parts": [], "save_to": "x"})["error"]


def test_a_module_is_asked_for_each_time_and_sent_when_it_changed(api: Client) -> None:
    first = api("GET", "/modules/main.mjs")
    assert first.headers["content-type"].startswith("text/javascript") and first.headers["cache-control"] == "no-cache"
    assert first.content == (page_folder() / MODULES / "main.mjs").read_bytes()
    again = api.http.get(f"{API_PREFIX}/modules/main.mjs", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"") and again.headers["etag"] == first.headers["etag"]
    assert api("GET", "/modules/main.mjs", headers={"If-None-Match": '"of before"'}).content == first.content


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["none.mjs", "../lora_ext.mjs", "..%2Flora_ext.mjs", "/etc/passwd", "main.mjs%00", "main"]
)
def test_no_other_file_is_a_module(api: Client, name: str) -> None:
    assert api.http.get(f"{API_PREFIX}/modules/{name}").status_code == 404
