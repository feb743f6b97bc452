"""What all routes share: the guard, named fields, and errors as the command line tells them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, get_origin

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import VERSION, BaseModel, Field, validator
from starlette.requests import Request
from starlette.responses import Response

from .. import __version__
from ..errors import LoraError, did_you_mean
from ..jobs import JobError
from .access_guard import AccessGuard, SafeJSONResponse, error_response
from .answer_schema import AnswerSchemas, attribute_descriptions, first_paragraph
from .parameter_descriptions import describe_parameters

API_PREFIX = "/lora-ext/v1"


class _FractionError(TypeError):
    """A fraction where a whole number is due. code: what pydantic 1 calls the error."""

    code = "integer"


class _NoObjectError(TypeError):
    """Another value where a JSON object is due. code: what pydantic 1 calls the error."""

    code = "dict"


class RequestBody(BaseModel, extra="forbid", allow_inf_nan=False):
    """A request's named fields; an unknown one is an error, and so is a number that is not finite."""

    if VERSION.startswith("1."):  # which cuts 2.7 off at 2, and takes a list of pairs for an object

        @validator("*", pre=True, allow_reuse=True)  # type: ignore[type-var]
        def _no_other_kind(cls, value: object, field: Any) -> object:
            whole = isinstance(field.type_, type) and issubclass(field.type_, int) and field.type_ is not bool
            if whole and isinstance(value, float) and not value.is_integer():
                raise _FractionError
            if get_origin(field.outer_type_) is dict and not isinstance(value, dict):
                raise _NoObjectError
            return value

        @classmethod
        def validate(cls, value: Any) -> Any:
            """As pydantic 1 does, but of objects only."""
            if not isinstance(value, (dict, cls)):
                raise _NoObjectError
            return super().validate(value)


class SamplingRequest(RequestBody):
    """What pictures are drawn with, as the web UI names it.

    Attributes:
        checkpoint: The model, a name of `/choices`; "" for the small one. The web UI has its own.
        prompt: The prompt, with its `<lora:…>` tags.
        negative_prompt: The negative prompt.
        steps: Sampling steps.
        width: Width in pixels, a multiple of 8; 0 for the model's own size.
        height: Height in pixels, a multiple of 8; 0 for the model's own size.
        sampler: The sampling method, a name of `/choices`.
        scheduler: The noise schedule, a name of `/choices`.
        cfg: Scale of the guidance by the prompt; 1 is without guidance.
        clip_skip: Text-encoder layer, counted from the end; in the web UI its own setting counts.
    """

    checkpoint: str = ""
    prompt: str = Field("", max_length=20_000)
    negative_prompt: str = Field("", max_length=20_000)
    steps: int = Field(20, ge=1, le=150)
    width: int = Field(0, ge=0, le=4096)
    height: int = Field(0, ge=0, le=4096)
    sampler: str = "DPM++ 2M"
    scheduler: str = "Automatic"
    cfg: float = Field(7.0, ge=0, le=60)
    clip_skip: int = Field(1, ge=1, le=12)


class ErrorBody(BaseModel):
    """What went wrong, in the words of the command line; field: which field of the request, where it is one."""

    error: str
    kind: str
    field: str | None = None


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "something that the caller can mend"},
    401: {"model": ErrorBody, "description": "not logged in"},
    403: {"model": ErrorBody, "description": "another site's page, an unknown name of this program, or no token"},
    404: {"model": ErrorBody, "description": "not there"},
    415: {"model": ErrorBody, "description": "fields that are not JSON"},
    422: {"model": ErrorBody, "description": "fields that are missing, unknown or out of range"},
    429: {"model": ErrorBody, "description": "too many wrong passwords"},
}


class TypedRouter(APIRouter):
    """A router whose routes return dataclasses and TypedDicts.

    Attributes:
        schemas: The schemas of all answers.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.schemas = AnswerSchemas()

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Adds a route that answers what the endpoint returns as JSON, and describes the endpoint's return type."""
        # evaluated here, because FastAPI looks for the names of types where the wrapper is defined
        signature = inspect.signature(endpoint, eval_str=True)
        answer_type, status = signature.return_annotation, options.get("status_code") or 200
        if inspect.isclass(answer_type) and issubclass(answer_type, Response):
            super().add_api_route(path, endpoint, **options)
            return

        @functools.wraps(endpoint)
        def answer(*args: Any, **kwargs: Any) -> Response:
            return SafeJSONResponse(endpoint(*args, **kwargs), status)

        answer.__signature__ = signature.replace(return_annotation=Response)  # type: ignore[attr-defined]
        described: dict[str, Any] = {"description": "Successful Response"}
        if options.get("include_in_schema", True):
            described["content"] = {"application/json": {"schema": self.schemas.schema(answer_type)}}
        options["responses"] = {**(options.get("responses") or {}), status: described}
        super().add_api_route(path, answer, **{**options, "response_model": None})

    def openapi(self, title: str, description: str | None) -> dict[str, Any]:
        """The OpenAPI document of all routes."""
        document = get_openapi(
            title=title, version=__version__, openapi_version="3.1.0", description=description, routes=self.routes
        )
        describe_parameters(document["paths"], self.prefix)
        for name, schema in document["components"]["schemas"].items():
            for request in _requests_called(name):
                described = attribute_descriptions(request)
                schema["description"] = first_paragraph(request)
                for field, property_schema in schema["properties"].items():
                    if field in described:
                        property_schema["description"] = described[field]
        document["components"]["schemas"].update(self.schemas.named)
        return document


def _requests_called(name: str, base: type[BaseModel] = RequestBody) -> list[type[BaseModel]]:
    """The request of this name, in a list; empty where none is called so."""
    found = [one for one in base.__subclasses__() if one.__name__ == name]
    return found or [one for below in base.__subclasses__() for one in _requests_called(name, below)][:1]


def make_router(guard: AccessGuard, hide_folders: Callable[[str], str] = str) -> TypedRouter:
    """A router of ours: guarded, and `LoraError` becomes an answer. nameless: takes this system's folders out of it."""

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            inner = super().get_route_handler()

            async def handle(request: Request) -> Response:
                return guard.add_response_headers(request, guard.refusal(request) or await answer(request))

            async def answer(request: Request) -> Response:
                try:
                    return await inner(request)
                except RequestValidationError as error:
                    return _invalid(error, self.endpoint)
                except JobError as error:
                    return error_response(404, str(error), "JobError")
                except LoraError as error:
                    return error_response(400, hide_folders(str(error)), type(error).__name__)

            return handle

    return TypedRouter(
        prefix=API_PREFIX,
        route_class=Route,
        default_response_class=SafeJSONResponse,
        responses=ERROR_RESPONSES,
        tags=["lora-ext"],
    )


def _field_names(endpoint: Callable[..., Any]) -> list[str]:
    """The fields of a route's body."""
    models = (parameter.annotation for parameter in inspect.signature(endpoint, eval_str=True).parameters.values())
    fields = (getattr(model, "model_fields", None) or getattr(model, "__fields__", None) or () for model in models)
    return [name for names in fields for name in names]


def _invalid(error: RequestValidationError, endpoint: Callable[..., Any]) -> Response:
    """422 with the first field that is wrong; what was given is not sent back (it may be no JSON at all)."""
    first = error.errors()[0]
    if first["type"].rpartition(".")[2] in ("json_invalid", "jsondecode"):  # its place is one in the text, no field
        return error_response(422, "the request is not JSON", "ValidationError")
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    problem = _field_problem(where or "the request", first, endpoint)
    return error_response(422, problem, "ValidationError", where or None)


def _field_problem(field: str, error: Mapping[str, Any], endpoint: Callable[..., Any]) -> str:
    """What is wrong with a field, by the kinds of errors of pydantic 2 and (after a dot) of pydantic 1."""
    limit = next(iter((error.get("ctx") or {}).values()), "")
    match error["type"].rpartition(".")[2]:
        case "missing":
            return f"{field} is missing"
        case "extra_forbidden" | "extra":
            return f"{field} is not a field of this request{did_you_mean(field, _field_names(endpoint))}"
        case "greater_than_equal" | "not_ge":
            return f"{field} must be {limit} or more"
        case "less_than_equal" | "not_le":
            return f"{field} must be {limit} or less"
        case "string_too_long" | "max_length":
            return f"{field} is too long; give at most {limit} characters"
        case "int_type" | "int_parsing" | "int_from_float" | "integer":
            return f"{field} must be a whole number"
        case "float_type" | "float_parsing" | "float" | "finite_number" | "not_finite_number":
            return f"{field} must be a number"
        case "list_type" | "list":
            return f"{field} must be a list"
        case "dict_type" | "model_type" | "model_attributes_type" | "dict":
            return f"{field} must be a JSON object"
        case "string_type" | "str":
            return f"{field} must be a text"
        case "bool_type" | "bool_parsing" | "bool":
            return f"{field} must be true or false"
    return f"{field}: {error['msg']}"
