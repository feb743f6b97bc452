"""The page of the HTTP API, made from the schema that the program serves at `/lora-ext/v1/openapi.json`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from command_pages import cell, code

from lora_ext.ui.standalone_backend import StandaloneBackend, standalone_folders
from lora_ext.web.access_guard import AccessGuard
from lora_ext.web.app_state import AppState
from lora_ext.web.mount import API_PREFIX, make_api

TITLE = "HTTP API"
_REFERENCE = "#/components/schemas/"
_ABOUT = """# HTTP API

The tab works by this API, and so may a script. The addresses stand below `/lora-ext/v1`, such as
`http://127.0.0.1:7870/lora-ext/v1/library` of `python -m lora_ext ui`. This page is made from the schema that
the program serves at `/lora-ext/v1/openapi.json`.

- A request that changes something (POST, PUT, DELETE) needs the header `X-Lora-Ext` with the program's token: see
  [scripts and the API](TAB.md#http-api).
- A route that answers with *a job* has started work in the background: `GET /jobs/{job}` tells its progress and, at the
  end, its result.
- An error is `{"error": …, "kind": …, "field": …}`, in the words of the command line. An unknown field is an error.
- Files are named as in the library (`folder/name`), never by a path of the system.

"""


def _document() -> dict[str, Any]:
    """The program's own OpenAPI document."""
    with tempfile.TemporaryDirectory() as folder:
        app_state = AppState(StandaloneBackend(standalone_folders(Path(folder))))
        routes = make_api(app_state, AccessGuard()).routes
        route = next(route for route in routes if getattr(route, "path", "") == f"{API_PREFIX}/openapi.json")
        found: dict[str, Any] = json.loads(route.endpoint().body)  # type: ignore[attr-defined]
        app_state.jobs.close()
    return found


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, with links to the types that it names."""
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(_REFERENCE)
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(code(json.dumps(value)) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if "items" in schema else "list"
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties")
        return f"object of {_type(inner)}" if isinstance(inner, dict) and inner else "object"
    return str(schema.get("type", "any"))


def _limits(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    longest = f"{schema['maxLength']} characters" if "maxLength" in schema else schema.get("maxItems")
    parts = [f"from {low}" if low is not None else "", f"to {high}" if high is not None else ""]
    return " ".join(part for part in (*parts, f"at most {longest}" if longest else "") if part)


def _field_row(name: str, schema: Mapping[str, Any], needed: bool) -> str:
    default = "**needed**" if needed else code(json.dumps(schema["default"])) if "default" in schema else ""
    words = [_type(schema), cell(_limits(schema)), cell(schema.get("description", ""))]
    return f"| `{name}` | {'; '.join(word for word in words if word)} | {default} |\n"


def _fields(schema: Mapping[str, Any]) -> str:
    rows = [
        _field_row(name, one, name in schema.get("required", ())) for name, one in schema.get("properties", {}).items()
    ]
    return "| field | what it is | default |\n| --- | --- | --- |\n" + "".join(rows) + "\n" if rows else ""


def _route(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {method.upper()} {path.removeprefix(API_PREFIX)}\n\n"
    yield cell(operation.get("description", "")) + "\n\n"
    given = operation.get("parameters", [])
    if given:
        yield "| in the address | what it is | default |\n| --- | --- | --- |\n"
        rows = (_field_row(one["name"], {**one["schema"], **one}, one.get("required", False)) for one in given)
        yield "".join(rows) + "\n"
    for media in operation.get("requestBody", {}).get("content", {}).values():
        yield f"Body: {_type(media['schema'])}.\n\n"
    for status in ("200", "202"):
        answer = operation["responses"].get(status, {}).get("content", {}).get("application/json", {}).get("schema")
        if answer:
            yield f"Answer ({status}): {_type(answer)}.\n\n"


def pages() -> dict[str, tuple[str, str]]:
    """Address → (title in the navigation, Markdown)."""
    document = _document()
    text = [_ABOUT, "## Routes\n\n"]
    for path, operations in sorted(document["paths"].items()):
        for method, operation in operations.items():
            text += _route(method, path, operation)
    text.append("## Types\n\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        text += [f"### {name}\n\n", cell(schema.get("description", "")), "\n\n", _fields(schema)]
    return {"http-api.md": ("HTTP API", "".join(text))}
