"""Every route's answer: as it was recorded, and as `/lora-ext/v1/openapi.json` describes it.

`python tests/test_web_answers.py` records the answers anew, for a change of them that is meant.
"""

from __future__ import annotations

import base64
import io
import json
import re
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
import torch
from api_types import TYPES_FILE, typescript_of_document
from PIL import Image
from safetensors.torch import save_file
from test_web import UNET, Client, lora

from lora_ext.embedded import CHECKPOINT
from lora_ext.web.page_files import page_folder
from lora_ext.web.routing import API_PREFIX

if not Path(CHECKPOINT).is_file():
    pytest.skip("no embedded model in this installation", allow_module_level=True)
RECORDED = Path(__file__).parent / "data" / "web_answers.json"
ONE_STEP = {"steps": 1, "cfg": 1.0, "sampler": "Euler", "seed": 5, "prompt": "a circle"}
VERSIONS = {"lora_ext_version", "ss_sd_scripts_commit_hash"}
TIMES = VERSIONS | set(
    "time created started ended begun left thumb memory seconds least_seconds most_seconds have library used".split()
)
"""Fields with times and sizes that differ from run to run, and with the version by which a file was made."""
SENTENCES = set("help text notes log warning reason error skipped infotext warnings told damaged measured".split())
"""Fields with sentences, which other tests look at."""
PROGRESS = {"state", "done", "total", "text", "started", "ended", "left"}
"""Fields of a job that was just started."""
REFUSED = ("POST /jobs/{job}/move", "POST /train/sample", "POST /train/control")
"""Routes that answer with an error here: no job waits or trains."""
FIRST = 6
"""Items of a list that are recorded."""


class Caller:
    """Calls the routes of a client and keeps the answers by method and route."""

    def __init__(self, api: Client) -> None:
        self.api = api
        self.answers: dict[str, Any] = {}

    def __call__(self, method: str, path: str, status: int = 200, *, label: str = "", **more: Any) -> Any:
        answer = self.api(method, path, status, **more)
        route = path.partition("?")[0]
        self.answers[f"{method} {label or route}"] = answer
        return answer

    def job(self, path: str, body: Mapping[str, Any] | None = None, *, label: str = "") -> dict[str, Any]:
        """Starts a job, waits for its end, and keeps its first and its last answer."""
        job = self("POST", path, 202, json=body, label=label)
        assert self.api.app_state.jobs.get(job["id"]).ended_event.wait(300)
        kind = label or path
        found: dict[str, Any] = self("GET", f"/jobs/{job['id']}", label=f"/jobs/{{job}} of {kind}")
        assert found["state"] == "done", found
        return found


def prepare(root: Path) -> None:
    """Files of every sort that a route asks for."""
    loras = root / "loras"
    noted = {"ss_network_dim": "16", "ss_zeros": "7", "ss_tag_frequency": '{"a": {"cat": 3}}'}
    lora(loras / "one.safetensors", 4, ss_output_name="one", **noted)
    lora(loras / "two.safetensors", 8)
    lora(loras / "copy.safetensors", 8, note="the same numbers")
    key = UNET.format(0)
    torch.manual_seed(0)
    layer = {f"{key}.lora_down.weight": torch.randn(4, 32), f"{key}.lora_up.weight": torch.randn(32, 4)}
    dylora = {"ss_network_module": "networks.dylora", "ss_network_args": '{"unit": "2"}'}
    save_file(layer, loras / "dylora.safetensors", metadata=dylora)
    half = {f"{UNET.format(1)}.lora_down.weight": torch.full((2, 32), torch.nan)}
    save_file({**layer, **half, "unknown": torch.zeros(1)}, loras / "cut.safetensors")
    folder = root / "datasets" / "star" / "1_star"
    folder.mkdir(parents=True)
    for number, colour in enumerate(("red", "blue", "green")):
        Image.new("RGB", (64, 64), colour).save(folder / f"{number}.png")
        if number:
            (folder / f"{number}.txt").write_text(f"a {colour} star", encoding="utf-8")


def call_every_route(api: Client) -> dict[str, Any]:
    """Method and route → its answer."""
    call = Caller(api)
    for path in ("/layouts", "/choices", "/presets", "/presets/export", "/train/form", "/compare/axes", "/dataset"):
        call("GET", path, params={"name": "star"} if path == "/dataset" else None)
    call("GET", "/native-size?checkpoint=")
    call_files(call)
    call_presets_and_tags(call)
    call_masks(call)
    call_tools(call)
    call_start(call)
    call_training(call)
    call_pictures(call)
    call_jobs(call)
    return call.answers


def call_files(call: Caller) -> None:
    while call("GET", "/library", params={"sort": "name"})["pending"]:
        pass
    call("GET", "/library/first?checkpoint=")
    for name in ("one", "two", "cut", "framed"):
        call("GET", f"/inspect?name={name}", label=f"/inspect of {name}")
    call("POST", "/metadata", json={"name": "two", "put": {"modelspec.title": "Two"}})
    call("POST", "/rename", json={"name": "two", "to": "sub/two"})
    call_library(call)
    call("GET", "/strings?language=ja_JP")
    call("GET", "/help")
    call("GET", "/train/begin?name=one")
    out = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(out, format="PNG")
    call("PUT", "/thumbnail", json={"name": "one", "data": base64.b64encode(out.getvalue()).decode()})
    call.job("/duplicates")


def call_library(call: Caller) -> None:
    call("PUT", "/library/notes", json={"name": "one", "notes": "mine", "preferred_weight": 0.8})
    call("PUT", "/library/marks", json={"names": ["one"], "favourite": True, "rating": 4, "add_tags": ["cats"]})
    call("GET", "/library/names", params={"tag": "cats"})
    call("POST", "/library/insert", json={"name": "one", "prompt": "a park"})
    call("POST", "/library/move", json={"moves": [{"name": "sub/two", "to": "three"}, {"name": "none", "to": "x"}]})
    call("POST", "/library/move", json={"moves": [{"name": "three", "to": "sub/two"}]}, label="/library/move back")
    lora(call.api.root / "loras" / "noted.safetensors", 1, ss_output_name="noted")
    call.api.app_state.refresh_library()
    call.job("/library/strip", {"names": ["noted"]})
    with pytest.MonkeyPatch.context() as patch:
        remover = types.SimpleNamespace(send2trash=lambda path: Path(path).unlink())
        patch.setitem(sys.modules, "send2trash", remover)
        call.job("/library/delete", {"names": ["noted"]})
    call("PUT", "/sets", json={"name": "pair", "text": "<lora:one:0.5> <lora:sub/two:1>", "words": "a cat"})
    call("GET", "/sets")
    call("POST", "/sets/insert", json={"name": "pair", "prompt": "a park"})
    exported = call("GET", "/sets/export", params={"name": "pair"})["text"]
    call("DELETE", "/sets", params={"name": "pair"})
    call("POST", "/sets/import", json={"text": exported})
    call("POST", "/sets/read", json={"text": "a cat <lora:one:0.5>\nNegative prompt: none"})


def call_presets_and_tags(call: Caller) -> None:
    mine = ",".join(["0.25"] * 17)
    call("PUT", "/presets", json={"name": "MINE", "values": mine})
    call("POST", "/presets/rename", json={"name": "MINE", "to": "OURS"})
    call("POST", "/presets/import", json={"text": f"THIRD:{mine}\n"})
    call("DELETE", "/presets", params={"name": "THIRD"})
    call("POST", "/tag", json={"name": "one", "step": "9-2", "prompt": "a cat"})
    call("POST", "/tag/read", json={"text": "<lora:one:1:step=1-1.0:lbw=OURS>"})
    call("POST", "/dataset/replace", json={"dataset": "star", "find": "star", "put": "disc"})
    call("PUT", "/dataset/caption", json={"dataset": "star", "picture": "1_star/0.png", "caption": "a red star "})
    call.job("/dataset/describe", {"dataset": "star", "captioner": "fixed"})


def call_masks(call: Caller) -> None:
    out = io.BytesIO()
    Image.new("L", (8, 4), 255).save(out, format="PNG")
    call("PUT", "/masks", json={"name": "face", "data": base64.b64encode(out.getvalue()).decode()})
    call("GET", "/masks")
    call("DELETE", "/masks", params={"name": "face"})


def call_tools(call: Caller) -> None:
    call("GET", "/resize/curve?name=sub/two")
    call("POST", "/resize/preview", json={"name": "sub/two", "new_rank": 3})
    parts = [{"name": "one"}, {"name": "sub/two", "ratio": 0.5}]
    call.job("/merge", {"parts": parts, "save_to": "made/sum"})
    call.job("/resize", {"name": "sub/two", "new_rank": 3, "save_to": "small", "precision": "fp16"})
    call.job("/convert", {"name": "one", "to": "diffusers", "save_to": "peft"})
    call.job("/reweight", {"name": "one", "lbw": "INS", "save_to": "ins"})
    call.job("/conflicts", {"parts": [{"name": "one"}, {"name": "sub/two", "weight": -0.5}], "threshold": 0})
    call.job("/split", {"name": "dylora", "unit": 2, "save_to": "parts"})
    checkpoints = call.api.root / "checkpoints"
    (checkpoints / "base.safetensors").write_bytes(Path(CHECKPOINT).read_bytes())
    merged = {"parts": [{"name": "framed"}], "save_to": "merged", "checkpoint": "base.safetensors"}
    call.job("/merge", merged, label="/merge into a checkpoint")
    call.job("/extract", {"original": "base.safetensors", "tuned": "merged.safetensors", "dim": 1, "save_to": "diff"})


def call_start(call: Caller) -> None:
    out, other = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(out, format="PNG")
    Image.new("RGB", (64, 64), "blue").save(other, format="PNG")
    upload = "0123456789abcdef" * 2
    files = {"a.png": out.getvalue(), "b.png": out.getvalue(), "c.png": b"none", "d.png": other.getvalue()}
    files["a.txt"] = b"a cat"
    for name, data in files.items():
        call("POST", "/teach/upload", json={"upload": upload, "file": name, "data": base64.b64encode(data).decode()})
    call("POST", "/teach/pictures", json={"upload": upload, "files": list(files), "name": "cat"})
    tagged = call("POST", "/dataset/tag", json={"dataset": "cat", "tag": "outdoors"})
    call("POST", "/dataset/undo", json={"change": tagged["undo"]})
    call("PUT", "/dataset/edit", json={"dataset": "cat", "picture": "d.png", "crop": [0, 0, 32, 64]})
    call("GET", "/dataset/edit", params={"dataset": "cat", "picture": "d.png"})
    call("DELETE", "/dataset/picture", params={"dataset": "cat", "picture": "d.png"})
    call("PUT", "/train/presets", json={"name": "faces", "settings": {"network_dim": 16, "output_name": "cat"}})
    call("GET", "/train/presets")
    settings = {"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15", "lora_rank": 8, "masked_training": True}
    call("POST", "/train/settings-file", json={"file": "one.json", "text": json.dumps(settings)})
    call("DELETE", "/train/presets", params={"name": "faces"})
    call.job("/teach/suggest", {"kind": "object", "dataset": "cat", "trigger": "mycat"})


def call_training(call: Caller) -> None:
    settings = {"output_name": "mine", "train_data_dir": "star", "resolution": "64", "network_dim": 1, "seed": 1,
                "max_train_epochs": 2, "save_every_n_epochs": 1, "learning_rate": 1e-4}  # fmt: skip
    call.job("/train/preflight", {"settings": settings})
    prompts = "a red circle --s 1 --l 1\na blue square --s 1 --l 1"
    made = call.job("/train", {"settings": settings, "prompts": prompts, "compare": True})["result"]
    assert call.api.app_state.jobs.get(made["sheet"]).ended_event.wait(300)
    call("GET", f"/jobs/{made['sheet']}", label="/jobs/{job} of a sheet of epochs")
    call.job(f"/train/{made['name']}/compare", label="/train/{name}/compare")
    record = next(call.api.root.glob("outputs/train/*/run.json"))
    broken = record.parent.with_name("broken") / record.name
    broken.parent.mkdir()
    broken.write_text(
        '{"name": "broken", "job": "gone", "settings": {}, "prompts": "", "begun": 1.0, "ended": 2.0, "error": "no"}'
    )
    call("POST", "/train/sample", 400, json={"job": "none"})
    call("POST", "/train/control", 400, json={"job": "none", "save": True, "lr_factor": 0.5})
    call("GET", "/train/history")
    call("GET", f"/train/curve?name={made['name']}")
    call("GET", "/train/run?name=mine")
    call("GET", "/train/run?name=one", label="/train/run of another file")


def call_pictures(call: Caller) -> None:
    call.job("/generate", {**ONE_STEP, "prompt": "a circle <lora:framed:1> <lora:onne:1>", "width": 64, "height": 64})
    call.job("/preview", {**ONE_STEP, "lora": "framed", "prompt": "a circle <lora:framed:1>"})
    asked = {**ONE_STEP, "lora": "framed", "x": "weight:0.5,1", "dataset": "star", "width": 64, "height": 64}
    sheet = call.job("/compare", asked)["result"]["folder"]
    time.sleep(1 - time.time() % 1)  # a folder is named for its second: two sheets of one second are "…" and "…-2"
    call.job("/compare", {**ONE_STEP, "lora": "framed", "x": "weight:1"}, label="/compare without scores")
    call("GET", f"/compare/{sheet}", label="/compare/{folder}")
    call("GET", "/compare/history")
    call("POST", "/compare/prompt", json={"tag": "<lora:one:0.4>", "prompt": "a cat"})
    for way in ("norms", "raised"):
        body = {**ONE_STEP, "lora": "framed", "way": way, "name": "FACE", "layout": 12}
        call.job("/compare/blocks", body, label=f"/compare/blocks by {way}")
    call("GET", "/pictures/newest")


def call_jobs(call: Caller) -> None:
    call("GET", "/jobs")
    job = call.answers["GET /jobs"]["jobs"][0]["id"]
    call("POST", f"/jobs/{job}/cancel", label="/jobs/{job}/cancel")
    call("DELETE", f"/jobs/{job}", label="/jobs/{job}")
    call("POST", f"/jobs/{job}/move", 404, json={"to": "up"}, label="/jobs/{job}/move")


def comparable(answer: Any, root: Path) -> Any:
    """An answer without what differs from run to run."""

    def plain(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: plain(item, key if key in SENTENCES else name) for name, item in value.items()}
        if isinstance(value, list):
            shown = value if key in ("rows", "progress") else value[:FIRST]
            return [plain(item, key) for item in shown]
        if key in TIMES and value is not None:
            return f"<{type(value).__name__}>"
        if key in ("loss", "smoothed", "rows") and isinstance(value, float):
            return "<loss>"
        if key == "bytes" and isinstance(value, float):
            return "<bytes>"
        if isinstance(value, str):
            return "<text>" if key in SENTENCES and value else without_stamps(value, root)
        return value

    return plain(answer)


def without_stamps(text: str, root: Path) -> str:
    text = text.replace(str(root), "<root>")
    text = re.sub(r"\d{8}-\d{6}(-\d+)?\b", "<stamp>", text)  # a number where two began within a second
    text = re.sub(r"\b[0-9a-f]{16}-\d+\b", "<job>", text)
    return re.sub(r"\b(\d{4}-)?[0-9a-f]{12,64}\b", r"\1<hash>", text)


def recordable(answers: Mapping[str, Any], root: Path) -> dict[str, Any]:
    # translations and help, which other tests look at
    help_texts = {"name": "", "phrases": [""], "heading": "<text>", "point": "<text>", "paragraphs": ["<text>"]}
    texts = {"GET /strings": {"": "<text>"}, "GET /help": [help_texts]}
    return {name: texts.get(name) or comparable(answer, root) for name, answer in answers.items()}


def assert_same(found: Any, recorded: Any, where: str) -> None:
    """Equal; numbers may differ by what another processor's arithmetic makes."""
    assert type(found) is type(recorded), (where, found, recorded)
    if isinstance(found, dict):
        assert found.keys() == recorded.keys(), where
        started = where.startswith("POST") and "stopping" in found  # it may be done already, or still wait
        for name in found.keys() - (PROGRESS if started else set()):
            assert_same(found[name], recorded[name], f"{where}.{name}")
    elif isinstance(found, list):
        assert len(found) == len(recorded), where
        for place, (one, other) in enumerate(zip(found, recorded, strict=True)):
            assert_same(one, other, f"{where}[{place}]")
    elif isinstance(found, float):
        assert found == pytest.approx(recorded, rel=0.02, abs=1e-3), where
    else:
        assert found == recorded, where


def make_client(root: Path) -> Client:
    client = Client(root)
    captioners = {"fixed": lambda images: ["a picture" for _ in images]}
    client.app_state.backend.image_captioners = lambda: captioners  # type: ignore[method-assign]
    prepare(root)
    client.app_state.refresh_library()
    return client


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = make_client(tmp_path_factory.mktemp("root"))
    yield client
    client.app_state.jobs.close()


@pytest.fixture(scope="module")
def answers(api: Client) -> dict[str, Any]:
    return call_every_route(api)


@pytest.mark.long
def test_answers_are_those_that_were_recorded(api: Client, answers: dict[str, Any]) -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    found = recordable(answers, api.root)
    assert found.keys() == recorded.keys()
    for name in recorded:
        assert_same(found[name], recorded[name], name)


def assert_described(value: Any, schema: Mapping[str, Any], named: Mapping[str, Any], where: str) -> None:
    """A value has no field that its schema does not have, and every one that it must have, of the type described."""
    if "$ref" in schema:
        schema = named[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        assert_one_described(value, schema["anyOf"], named, where)
    if "enum" in schema:
        assert value in schema["enum"], where
    if "type" not in schema:
        return
    kinds: dict[str, Any] = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None),
             "array": list, "object": dict}  # fmt: skip
    assert isinstance(value, kinds[schema["type"]]), (where, value, schema["type"])
    assert not isinstance(value, bool) or schema["type"] == "boolean", where
    if isinstance(value, list):
        items = schema.get("prefixItems") or [schema["items"]] * len(value)
        for place, (item, item_schema) in enumerate(zip(value, items, strict=True)):
            assert_described(item, item_schema, named, f"{where}[{place}]")
    if isinstance(value, dict):
        fields, other = schema.get("properties", {}), schema.get("additionalProperties")
        assert set(schema.get("required", ())) <= value.keys(), (where, set(schema["required"]) - value.keys())
        assert other is not None or value.keys() <= fields.keys(), (where, value.keys() - fields.keys())
        for name, item in value.items():
            assert_described(item, fields.get(name, other), named, f"{where}.{name}")


def assert_one_described(value: Any, schemas: list[Any], named: Mapping[str, Any], where: str) -> None:
    errors = []
    for schema in schemas:
        try:
            assert_described(value, schema, named, where)
        except AssertionError as error:
            errors.append(str(error).partition("\n")[0])
    assert len(errors) < len(schemas), (where, errors)


def test_answers_are_as_the_document_describes_them(api: Client, answers: dict[str, Any]) -> None:
    document = api("GET", "/openapi.json")
    described = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for status in {"200", "202"} & operation["responses"].keys():
                content = operation["responses"][status].get("content", {}).get("application/json")
                if content:
                    described[f"{method.upper()} {path.removeprefix(API_PREFIX)}"] = content["schema"]
    called = set()
    for label, answer in answers.items():
        route = " ".join(label.split(" ")[:2])
        called.add(route)
        if route not in REFUSED:
            assert_described(answer, described[route], document["components"]["schemas"], label)
    assert called == described.keys()


def test_the_page_s_types_are_those_of_the_document(api: Client) -> None:
    written = (page_folder() / TYPES_FILE).read_text(encoding="utf-8")
    message = f"{TYPES_FILE.as_posix()} is out of date: python tests/api_types.py"
    assert written == typescript_of_document(api("GET", "/openapi.json")), message


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        recording = make_client(Path(folder))
        text = json.dumps(recordable(call_every_route(recording), Path(folder)), indent=1, ensure_ascii=False)
        RECORDED.write_text(text + "\n", encoding="utf-8")
        recording.app_state.jobs.close()
    sys.exit(0)
