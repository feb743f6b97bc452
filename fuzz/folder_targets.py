"""Readers of what lies in folders: files beside pictures and LoRA files, what the program itself kept, uploads."""

from __future__ import annotations

import base64
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image, PngImagePlugin
from test_other_programs_files import ONETRAINER, TRAINTRAIN

from lora_ext.embedded import LORA_DIR
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.file.name_claims import _load_owner
from lora_ext.file.sidecar_files import load_sidecar_info, search_text
from lora_ext.host.standalone.embeddings import load_embedding
from lora_ext.host.standalone.folder_safety import check_local_folder
from lora_ext.host.standalone.tokenizer_files import find_text_configs
from lora_ext.tools.weight_sketch import sketch_file, sketch_from_json
from lora_ext.train.config.recipe_io import settings_from_config_file
from lora_ext.train.data.picture_edit import cropped_size, load_mask, load_picture_edit, picture_edit_path
from lora_ext.train.run.run_requests import ControlFile, control_path
from lora_ext.train.run.training_log import TrainingLog
from lora_ext.ui.standalone_backend import StandaloneBackend, standalone_folders
from lora_ext.web.access_guard import AccessGuard
from lora_ext.web.app_state import AppState
from lora_ext.web.file_catalogue import FileCatalogue
from lora_ext.web.lora_sets import import_sets, tags_of_infotext
from lora_ext.web.mount import mount_api
from lora_ext.web.routing import API_PREFIX
from lora_ext.web.set_routes import infotext_of_picture
from lora_ext.web.training_runs import TrainingRuns
from lora_ext.web.upload_files import _stored_name, received_files

from .engine import Target

SETS = b'{"lora_ext_sets": 1, "sets": {"a": {"tags": ["<lora:framed:1:lbw=1,0>"], "words": "x", "negative": "y"}}}'
USER = b'{"description": "x", "activation text": "y", "preferred weight": 0.8, "negative text": "n", "notes": "z"}'
MANAGER = b"""{"model_name": "x", "base_model": "SD 1.5", "tags": ["a"], "favorite": true, "usage_tips": "{\\"strength\\":
0.7}", "modelDescription": "<p>x &amp; y</p>", "civitai": {"trainedWords": ["a, b"], "model": {"name": "n"}}}"""
CIVITAI = b'{"trainedWords": ["a"], "baseModel": "SDXL 1.0", "model": {"name": "x", "tags": ["b"], "description": "<b>c</b>"}}'
INFOTEXT = b"""a cat <lora:one:0.8:lbw=OUTALL>\nNegative prompt: bad\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1,
Size: 512x512, Lora hashes: "one: 0123456789ab", Version: v1.10.1"""
CONFIG = b'{"architectures": ["CLIPTextModel"], "hidden_size": 32, "text_config": {"eos_token_id": 2}, "auto_map": {}}'
RUN = b"""{"name": "run", "settings": {"network_dim": 4}, "files": ["framed"], "begun": 1.5, "prompts": "a", "outcome": {"steps":
3, "loss": 0.1}}"""
SHEET = b"""{"version": 1, "title": "x", "complete": true, "pages": ["p.png"], "x": {"title": "w", "values": ["1"]}, "cells":
[{"key": "ab", "file": "a.png", "x": 0, "y": 0, "spec": {"prompt": "x", "seed": 1}}], "base": {"prompt": "a"}}"""
CURVE = b"""step,epoch,loss,smoothed,lr_unet,lr_text,seconds\n1,1,0.5,0.5,0.0001,0.0001,1\n2,1,0.4,0.45,1e-4,nan,2\n"""
KEPT: dict[str, tuple[tuple[bytes, ...], tuple[str, ...]]] = {
    "sets.json": ((SETS[SETS.index(b'{"a"') : -1],), ("/sets", "/sets/export?name=a")),
    "file_marks.json": ((b'{"framed": {"favourite": true, "rating": 3}}',), ("/library",)),
    "training_presets.json": ((b'{"a": {"network_dim": 4}}',), ("/train/presets",)),
    "outputs/train/run/run.json": ((RUN,), ("/train/history", "/train/run?name=framed")),
    "outputs/train/run/run.csv": ((CURVE,), ("/train/curve?name=run",)),
    "outputs/compare/one/sheet.json": ((SHEET,), ("/compare/history", "/compare/one")),
    "outputs/compare/one/asked.json": ((b'{"prompt": "a", "x": "weight:1"}',), ("/compare/one",)),
    "outputs/compare/one/scores.csv": ((b"prompt,score\na,0.5\n",), ("/compare/one/scores.csv",)),
}
"""A file of the data folder → sound contents, and the routes that read it."""


def folder_targets(folder: Path) -> list[Target]:
    """The targets. folder: for the files that readers want."""
    library = LoraLibrary([LORA_DIR])
    return [
        *_beside_targets(folder / "beside"), *_kept_targets(folder / "kept"),
        Target("exported sets", lambda data: import_sets(data.decode("utf-8", "replace")), [SETS]),
        Target("infotext's tags", lambda data: tags_of_infotext(data.decode("utf-8", "replace"), library), [INFOTEXT], (), 0.5),
        Target("picture's infotext", infotext_of_picture, _pictures_with_infotext(), (b"parameters", b"UNICODE\0", b"Exif\0\0"), 0.4),
        _of_zip(folder / "zip"),
    ]  # fmt: skip


def _pictures_with_infotext() -> list[bytes]:
    image, text, exif = Image.new("RGB", (4, 4)), PngImagePlugin.PngInfo(), Image.Exif()
    text.add_text("parameters", INFOTEXT.decode())
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + INFOTEXT.decode().encode("utf-16-be")
    found = []
    for kind, more in (("PNG", {"pnginfo": text}), ("JPEG", {"exif": exif}), ("WEBP", {"exif": exif})):
        out = io.BytesIO()
        image.save(out, kind, **more)
        found.append(out.getvalue())
    return found


def _written(name: str, path: Path, load: Callable[[], object], *seeds: bytes, weight: float = 0.4) -> Target:
    path.parent.mkdir(parents=True, exist_ok=True)

    def run(data: bytes) -> None:
        path.write_bytes(data)
        load()

    return Target(name, run, seeds, (), weight)


def _beside_targets(folder: Path) -> list[Target]:
    """Crop and mask beside a picture, cards beside a LoRA file, a run's control file, embeddings, a model's folder."""
    folder.mkdir()
    picture, lora, model = folder / "a.png", folder / "a.safetensors", folder / "model"
    Image.new("RGB", (6, 4)).save(picture)
    shutil.copy(LORA_DIR / "framed.safetensors", lora)
    mask = io.BytesIO()
    Image.new("L", (6, 4), 255).save(mask, "PNG")
    edit = json.dumps({"crop": [0, 0, 3, 2], "mask": base64.b64encode(mask.getvalue()).decode()}).encode()

    def edited() -> None:
        cropped_size(picture, load_picture_edit(picture)[0].crop, (6, 4))
        load_mask(picture_edit_path(picture), (6, 4))

    def card() -> None:
        list(search_text(load_sidecar_info(lora)))

    def control() -> None:
        data = control_path(folder, "run").read_bytes()
        requests = ControlFile(folder, "run", lambda text: None)  # removes what was there before
        requests.path.write_bytes(data)
        requests.take()

    def configs() -> None:
        find_text_configs(model)
        check_local_folder(model / "text_encoder")

    program = folder / "program.json"
    return [
        _written("crop and mask", picture_edit_path(picture), edited, edit),
        _written("card, the web UI's", lora.with_suffix(".json"), card, USER),
        _written("card, Lora-Manager's", lora.with_suffix(".metadata.json"), card, MANAGER),
        _written("card, Civitai's", lora.with_suffix(".civitai.info"), card, CIVITAI),
        _written("control file of a run", control_path(folder, "run"), control, b'{"save": true, "lr_factor": 0.5}'),
        _written("embedding", folder / "e.pt", lambda: load_embedding(folder / "e.pt"), b"PK\x03\x04", b"\x80\x02}q\0."),
        _written("config of a model's folder", model / "text_encoder" / "config.json", configs, CONFIG),
        _written("other programs' settings", program, lambda: settings_from_config_file(program),
                 json.dumps(ONETRAINER).encode(), json.dumps(TRAINTRAIN).encode()),
    ]  # fmt: skip


def _kept_targets(folder: Path) -> list[Target]:
    """What the program kept and anybody may have changed: read directly, and by the API's routes."""
    app_state = AppState(StandaloneBackend(standalone_folders(folder)))
    guard, app = AccessGuard(), FastAPI()
    mount_api(app, app_state, guard)
    http = TestClient(app, base_url="http://127.0.0.1", headers={"X-Lora-Ext": guard.token})

    def asked(routes: tuple[str, ...], path: Path, seed: bytes) -> Callable[[], None]:
        def ask() -> None:
            for route in routes:
                answer = http.get(API_PREFIX + route)
                if answer.status_code >= 500:
                    raise RuntimeError(f"{route} answers {answer.status_code}")
            path.write_bytes(seed)

        return ask

    targets = []
    for name, (seeds, routes) in KEPT.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(seeds[0])
        targets.append(_written(f"kept {name}", path, asked(routes, path, seeds[0]), *seeds, weight=0.04))
    runs = TrainingRuns(app_state)
    record = folder / "outputs" / "train" / "again" / "run.json"
    log, cache, owner = folder / "log.csv", folder / "cache.json", folder / "claim"
    library, summaries = LoraLibrary([LORA_DIR], cache_path=cache), folder / "summaries.json"
    library.save_cache()
    FileCatalogue(library, summaries)._work()

    def listed() -> None:
        app_state.catalogue._known = FileCatalogue(library, summaries)._known
        answer = http.get(API_PREFIX + "/library", params={"sort": "name"})
        if answer.status_code >= 500:
            raise RuntimeError(f"/library answers {answer.status_code}")

    sketched = sketch_file(LORA_DIR / "framed.safetensors")
    assert sketched is not None
    return [
        *targets,
        _written("a run's settings again", record, lambda: runs.recipe_and_files("again"), RUN.replace(b"run", b"again"), weight=0.2),
        _written("kept log of a run", log, lambda: TrainingLog(log)._earlier_rows(2), CURVE),
        _written("kept summary of the library", cache, lambda: LoraLibrary([LORA_DIR], cache_path=cache).names(),
                 cache.read_bytes(), weight=0.1),
        _written("kept summaries of files", summaries, listed, summaries.read_bytes(), weight=0.04),
        Target("kept sketch of a file", _sketch, [json.dumps(sketched.to_json()).encode()], (), 0.2),
        _written("claim of a sheet's cell", owner, lambda: _load_owner(owner), b'{"pid": 1, "host": "x", "time": 1.5}'),
    ]  # fmt: skip


def _sketch(data: bytes) -> None:
    with suppress(ValueError):
        sketch_from_json(json.loads(data))


def _of_zip(folder: Path) -> Target:
    folder.mkdir()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (("a/a.png", b"\x89PNG"), ("a/a.txt", b"a cat"), ("__MACOSX/._a.png", b"x")):
            archive.writestr(name, data)

    def run(data: bytes) -> None:
        (folder / _stored_name("a.zip")).write_bytes(data)
        for file in received_files(folder, ["a.zip"], lambda name, why: None):
            file.path.unlink()

    return Target(
        "zip of pictures", run, [out.getvalue()], (b"../", b"PK\x01\x02", b"PK\x05\x06", b".png", b".txt"), 0.3
    )
