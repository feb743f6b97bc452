"""The types of the API's answers for the page's modules: `python tests/api_types.py` writes them anew.

`javascript/lora_ext/api_types.d.ts` is made from the schemas in `/lora-ext/v1/openapi.json`;
`test_web_answers.py` says when it is out of date.
"""

from __future__ import annotations

import json
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_ext.web.answer_schema import REFERENCE
from lora_ext.web.page_files import MODULES, page_folder
from lora_ext.web.routing import API_PREFIX

TYPES_FILE = MODULES / "api_types.d.ts"
_PLAIN = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}
_HEAD = """// What the API answers. Made by `python tests/api_types.py` from the types that its routes return.
"""


def typescript_of_document(document: Mapping[str, Any]) -> str:
    """The types of all answers that an OpenAPI document of this program describes.

    Returns:
        An interface for each named type, and `Answers`: "METHOD /route" → the type of its answer.
    """
    answers = dict(sorted(_answers(document["paths"])))
    named = document["components"]["schemas"]
    used: dict[str, None] = {}
    for schema in answers.values():
        _add_used(schema, named, used)
    parts = [_interface(name, named[name]) for name in sorted(used)]
    rows = "".join(f"    {json.dumps(route)}: {_type(schema)};\n" for route, schema in answers.items())
    parts.append(f"/** Method and route → what the route answers. */\nexport interface Answers {{\n{rows}}}\n")
    return "\n".join([_HEAD, *parts])


def _answers(paths: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(method and route, schema) of every route that answers with JSON."""
    for path, operations in paths.items():
        for method, operation in operations.items():
            for status in ("200", "202"):
                content = operation["responses"].get(status, {}).get("content", {}).get("application/json")
                if content and content.get("schema"):
                    yield f"{method.upper()} {path.removeprefix(API_PREFIX)}", content["schema"]


def _add_used(schema: Any, named: Mapping[str, Any], used: dict[str, None]) -> None:
    """Adds the names of all types that a schema refers to."""
    if isinstance(schema, Mapping):
        name = str(schema.get("$ref", "")).removeprefix(REFERENCE)
        if name and name not in used:
            used[name] = None
            _add_used(named[name], named, used)
        for item in schema.values():
            _add_used(item, named, used)
    elif isinstance(schema, list):
        for item in schema:
            _add_used(item, named, used)


def _interface(name: str, schema: Mapping[str, Any]) -> str:
    lines = [*_comment(schema.get("description", ""), ""), f"export interface {name} {{"]
    for field, field_schema in schema["properties"].items():
        lines += _comment(field_schema.get("description", ""), "    ")
        optional = "" if field in schema["required"] else "?"
        lines.append(f"    {field}{optional}: {_type(field_schema)};")
    return "\n".join([*lines, "}"]) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    """A JSDoc comment of one or more lines, none for no text."""
    if not text:
        return []
    if len(indent) + len(text) + 7 <= 120:
        return [f"{indent}/** {text} */"]
    return [f"{indent}/**", *(f"{indent} * {line}" for line in textwrap.wrap(text, 116 - len(indent))), f"{indent} */"]


def _type(schema: Mapping[str, Any]) -> str:
    """The type of a schema as `answer_schema.AnswerSchemas` makes it."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(REFERENCE)
    if "anyOf" in schema:
        return " | ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(_type(one) for one in schema['prefixItems'])}]"
        items = _type(schema["items"])
        return f"({items})[]" if " | " in items else f"{items}[]"
    if kind == "object":
        return f"Record<string, {_type(schema['additionalProperties'])}>"
    return _PLAIN[kind] if kind else "any"


if __name__ == "__main__":
    from test_web import Client

    with tempfile.TemporaryDirectory() as folder:
        api = Client(Path(folder))
        text = typescript_of_document(api("GET", "/openapi.json"))
        (page_folder() / TYPES_FILE).write_text(text, encoding="utf-8", newline="\n")
        api.app_state.jobs.close()
