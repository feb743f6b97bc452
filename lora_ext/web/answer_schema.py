"""JSON Schema of what the routes answer, from the types that they return.

The schema is made here and not by FastAPI, because pydantic 1 (the web UI's) cannot say that a field may be null, and
because FastAPI would validate and copy every value of an answer, which a page of hundreds of rows would wait for.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from inspect import cleandoc
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

REFERENCE = "#/components/schemas/"
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


class AnswerSchemas:
    """The schemas of answers by the names of their types.

    Attributes:
        named: Type name → JSON Schema of that dataclass or TypedDict; filled by `schema`.
    """

    def __init__(self) -> None:
        self.named: dict[str, dict[str, Any]] = {}
        self._types: dict[str, object] = {}

    def schema(self, answer_type: Any) -> dict[str, Any]:
        """The JSON Schema of a type; dataclasses and TypedDicts in it become references into `named`.

        Args:
            answer_type: A type as annotations have it: str, int, float, bool, None, Any, Literal, a union, list,
                Sequence, tuple, dict, Mapping, a dataclass or a TypedDict.

        Returns:
            The schema, as JSON Schema 2020-12 (OpenAPI 3.1) has it.

        Raises:
            TypeError: The type is none of these, or two types have the same name.
        """
        if answer_type is Any or answer_type is object:
            return {}
        if answer_type in _PLAIN:
            return {"type": _PLAIN[answer_type]}
        if is_dataclass(answer_type) or is_typeddict(answer_type):
            return self._reference(answer_type)
        origin, arguments = get_origin(answer_type), get_args(answer_type)
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.schema(one) for one in arguments]}
        if origin is tuple and arguments[-1] is not Ellipsis:
            items = [self.schema(one) for one in arguments]
            return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.schema(arguments[1])}
        if isinstance(origin, type) and issubclass(origin, Sequence):
            return {"type": "array", "items": self.schema(arguments[0])}
        raise TypeError(f"{answer_type!r} is no type of an answer: see AnswerSchemas.schema")

    def _reference(self, answer_type: Any) -> dict[str, Any]:
        name = answer_type.__name__
        if self._types.setdefault(name, answer_type) is not answer_type:
            raise TypeError(f"two types of answers are called {name}")
        if name not in self.named:
            self.named[name] = {}  # a type may name itself
            self.named[name] = self._object(answer_type)
        return {"$ref": REFERENCE + name}

    def _object(self, answer_type: Any) -> dict[str, Any]:
        """The schema of a dataclass, whose fields are always there, or of a TypedDict."""
        hints, descriptions = get_type_hints(answer_type), attribute_descriptions(answer_type)
        required = (
            [one.name for one in fields(answer_type)]
            if is_dataclass(answer_type)
            else [name for name in hints if name in answer_type.__required_keys__]
        )
        properties = {
            name: {**self.schema(hints[name]), **({"description": descriptions[name]} if name in descriptions else {})}
            for name in (required if is_dataclass(answer_type) else hints)
        }
        return {
            "type": "object",
            "description": first_paragraph(answer_type),
            "properties": properties,
            "required": required,
        }


def first_paragraph(described: type) -> str:
    """What a class's docstring says first, in one line."""
    return cleandoc(described.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def attribute_descriptions(answer_type: type) -> dict[str, str]:
    """Field → what the `Attributes:` section of the class's docstring, or of a class that it extends, says of it."""
    found: dict[str, str] = {}
    for one in reversed(answer_type.__mro__):
        _, _, section = cleandoc(one.__dict__.get("__doc__") or "").partition("Attributes:\n")
        for row in re.finditer(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE):
            found[row[1]] = re.sub(r"\s+", " ", row[2])
    return found
