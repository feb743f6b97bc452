"""What all routes share: the guard, named fields, and errors as the command line tells them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from ..errors import LoraError
from ..jobs import JobError
from .access_guard import AccessGuard, SafeJSONResponse, error_response

API_PREFIX = "/lora-ext/v1"


class RequestBody(BaseModel, extra="forbid", allow_inf_nan=False):
    """A request's named fields; an unknown one is an error, and so is a number that is not finite."""


class SamplingRequest(RequestBody):
    """What pictures are drawn with, as the web UI names it.

    checkpoint: a name of `/choices`, "" for the small model. clip_skip: in the web UI its own setting counts.
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


def make_router(guard: AccessGuard, hide_folders: Callable[[str], str] = str) -> APIRouter:
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
                    return _invalid(error)
                except JobError as error:
                    return error_response(404, str(error), "JobError")
                except LoraError as error:
                    return error_response(400, hide_folders(str(error)), type(error).__name__)

            return handle

    return APIRouter(
        prefix=API_PREFIX,
        route_class=Route,
        default_response_class=SafeJSONResponse,
        responses=ERROR_RESPONSES,
        tags=["lora-ext"],
    )


def _invalid(error: RequestValidationError) -> Response:
    """422 with the first field that is wrong; what was given is not sent back (it may be no JSON at all)."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return error_response(422, f"{where or 'the request'}: {first['msg']}", "ValidationError", where or None)
