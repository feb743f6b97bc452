"""Every parameter of an address and every field of a body has a sentence in the API's schema, and so on its page."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from lora_ext.ui.standalone_backend import StandaloneBackend, standalone_folders
from lora_ext.web.access_guard import AccessGuard
from lora_ext.web.answer_schema import REFERENCE
from lora_ext.web.app_state import AppState
from lora_ext.web.mount import make_api
from lora_ext.web.parameter_descriptions import PARAMETER_DESCRIPTIONS, describe_parameters
from lora_ext.web.routing import API_PREFIX


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    app_state = AppState(StandaloneBackend(standalone_folders(Path(tmp_path_factory.mktemp("data")))))
    before = threading.enumerate()
    routes = make_api(app_state, AccessGuard()).routes
    # what makes the page of the API removes the folder at once: nothing may still write there
    assert set(threading.enumerate()) <= set(before)
    route: Any = next(route for route in routes if getattr(route, "path", "") == f"{API_PREFIX}/openapi.json")
    app_state.jobs.close()
    found: dict[str, Any] = json.loads(route.endpoint().body)
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, by_method in document["paths"].items():
        for method, operation in by_method.items():
            yield f"{method.upper()} {path.removeprefix(API_PREFIX)}", operation


def is_sentence(schema: dict[str, Any]) -> bool:
    return str(schema.get("description", "")).endswith(".")


def test_every_parameter_has_a_sentence(document: dict[str, Any]) -> None:
    bare = [
        f"{route} {one['name']}"
        for route, operation in operations(document)
        for one in operation.get("parameters", ())
        if not is_sentence(one)
    ]
    assert bare == [], "add each to PARAMETER_DESCRIPTIONS"
    assert set(describe_parameters(document["paths"], API_PREFIX)) == set(PARAMETER_DESCRIPTIONS), (
        "some are of no route"
    )


def test_every_field_of_a_body_has_a_sentence(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    seen: set[str] = set()
    bare: list[str] = []

    def look(schema: Any) -> None:
        if isinstance(schema, list):
            for one in schema:
                look(one)
        elif isinstance(schema, dict):
            name = str(schema.get("$ref", "")).removeprefix(REFERENCE)
            if name and name not in seen:
                seen.add(name)
                fields = schemas[name].get("properties", {})
                bare.extend(f"{name}.{field}" for field, one in fields.items() if not is_sentence(one))
                bare.extend([] if is_sentence(schemas[name]) and "Attributes" not in str(schemas[name]) else [name])
                look(fields)
            for one in schema.values():
                look(one)

    for _, operation in operations(document):
        look(operation.get("requestBody", {}))
    assert len(seen) > 40 and bare == [], "describe each in the class's docstring, under Attributes:"
