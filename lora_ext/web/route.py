"""What all routes share: who may call them, named fields, and errors as the command line tells them."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..errors import LoraError
from ..jobs import JobError

PREFIX = "/lora-ext/v1"
TOKEN = "lora_ext"
"""The cookie, and `X-Lora-Ext`, by which a page that may be seen may call."""


class Body(BaseModel, extra="forbid", allow_inf_nan=False):
    """A request's named fields; an unknown one is an error, and so is a number that is not finite."""


class Sampled(Body):
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


class Error(BaseModel):
    """What went wrong, in the words of the command line; field: which field of the request, where it is one."""

    error: str
    kind: str
    field: str | None = None


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "something that the caller can mend"},
    401: {"model": Error, "description": "not logged in"},
    403: {"model": Error, "description": "another site's page"},
    404: {"model": Error, "description": "not there"},
    422: {"model": Error, "description": "fields that are missing, unknown or out of range"},
}

Users = Callable[[], Mapping[str, str]]


@dataclass
class Guard:
    """Who may call: the page itself (it was given `token`), or a name and password that the server was started with.

    users: all names and their passwords, asked at each request; while it is empty, anyone who reaches the server.
    """

    users: Users = dict
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    def refusal(self, request: Request) -> Response | None:
        """The answer to one who may not call, None for one who may."""
        origin, host = request.headers.get("origin"), request.headers.get("host")
        if origin and urlsplit(origin).netloc != host:
            return _told(403, "requests from another site's page are refused", "Forbidden")
        users = self.users()
        given = request.headers.get("x-lora-ext") or request.cookies.get(TOKEN) or ""
        if not users or secrets.compare_digest(given.encode(), self.token.encode()) or _known(request, users):
            return None
        answer = _told(401, "a name and a password are needed", "Unauthorized")
        answer.headers["WWW-Authenticate"] = "Basic"
        return answer


def _known(request: Request, users: Mapping[str, str]) -> bool:
    """Whether HTTP Basic credentials are a user's."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        name, _, password = base64.b64decode(text, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        return False
    return name in users and secrets.compare_digest(password.encode(), users[name].encode())


class Answer(JSONResponse):
    """JSON whatever the text is: half a surrogate pair (of a file's name, of metadata) becomes `?`, and no error."""

    def render(self, content: Any) -> bytes:
        """As JSONResponse's."""
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


def _told(status: int, text: str, kind: str, where: str | None = None) -> JSONResponse:
    return Answer({"error": text, "kind": kind, "field": where}, status)


def router(guard: Guard, nameless: Callable[[str], str] = str) -> APIRouter:
    """A router of ours: guarded, and `LoraError` becomes an answer. nameless: takes this system's folders out of it."""

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            inner = super().get_route_handler()

            async def handle(request: Request) -> Response:
                refused = guard.refusal(request)
                if refused is not None:
                    return refused
                try:
                    return await inner(request)
                except RequestValidationError as error:
                    return _invalid(error)
                except JobError as error:
                    return _told(404, str(error), "JobError")
                except LoraError as error:
                    return _told(400, nameless(str(error)), type(error).__name__)

            return handle

    return APIRouter(
        prefix=PREFIX, route_class=Route, default_response_class=Answer, responses=ERRORS, tags=["lora-ext"]
    )


def _invalid(error: RequestValidationError) -> Response:
    """422 with the first field that is wrong; what was given is not sent back (it may be no JSON at all)."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return _told(422, f"{where or 'the request'}: {first['msg']}", "ValidationError", where or None)
