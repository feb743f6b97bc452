"""Who may call: the page that this program served, and scripts that have its token or a user's name and password.

docs/SECURITY.md tells what each check is for.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..console import replace_lone_surrogates
from ..errors import LoraError
from ..json_text import dataclass_fields
from .allowed_hosts import ALLOWED_HOST_VARIABLE, AllowedHosts, parse_host, parse_origin
from .password_attempts import PasswordAttempts, client_key

TOKEN_HEADER = "X-Lora-Ext"
"""Carries the token. A browser lets no other site's page set it."""
COOKIE_PREFIX = "lora_ext"
"""Begins the name of the cookie by which a browser that was let in may read (pictures, which carry no header)."""
TOKEN_VARIABLE = "LORA_EXT_TOKEN"
READING_METHODS = ("GET", "HEAD", "OPTIONS")
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

Users = Callable[[], Mapping[str, str]]


def check_token(text: str, option: str) -> str:
    """Checks a token that the user gives.

    Args:
        text: The token.
        option: The option or variable that it comes from, for the message.

    Returns:
        The token.

    Raises:
        LoraError: It is too short for a token, or no header can carry it.
    """
    if not re.fullmatch(r"[!-~]{16,200}", text):
        raise LoraError(
            f"{option} is not a valid token: give 16 to 200 letters, digits and punctuation marks without spaces"
        )
    return text


def initial_token() -> str:
    """The token of a start of the program.

    Returns:
        The token of `LORA_EXT_TOKEN`, else a new one.

    Raises:
        LoraError: `LORA_EXT_TOKEN` cannot be a token.
    """
    given = os.environ.get(TOKEN_VARIABLE)
    return check_token(given, TOKEN_VARIABLE) if given else secrets.token_urlsafe(24)


@dataclass
class AccessGuard:
    """Decides on each request.

    Attributes:
        users: All names and their passwords, asked at each request; without any, whoever reaches the program may read.
        hosts: The names that this program answers to.
        token: What a request that changes something carries; the page has it.
        allow_hint: What a user does to allow the name NAME, for messages.
        attempts: The wrong passwords so far.
        session: The value of the cookie.
    """

    users: Users = dict
    hosts: AllowedHosts = field(default_factory=AllowedHosts)
    token: str = field(default_factory=initial_token)
    allow_hint: str = f"set {ALLOWED_HOST_VARIABLE}=NAME in the environment before it starts"
    attempts: PasswordAttempts = field(default_factory=PasswordAttempts)
    session: str = field(default_factory=lambda: secrets.token_urlsafe(24), init=False)
    """What the cookie holds. It is not the token: browsers send cookies to every port of a host."""

    def refusal(self, request: Request, *, by_cookie: bool = True) -> Response | None:
        """Decides whether a request is answered.

        Args:
            request: The request.
            by_cookie: Whether the cookie is enough to read.

        Returns:
            The answer to one who may not call; None for one who may.
        """
        return self._refuse_other_site(request) or (
            self._refuse_reading(request, by_cookie)
            if request.method in READING_METHODS
            else self._refuse_changing(request)
        )

    def add_response_headers(self, request: Request, response: Response) -> Response:
        """Adds the security headers, and the session's cookie where a password was given.

        Args:
            request: The request.
            response: Its answer, changed in place.

        Returns:
            The answer.
        """
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        let_in = response.status_code < 400 and "set-cookie" not in response.headers
        if self.users() and let_in and not self._has_session(request):
            secure = request.url.scheme == "https"
            name = f"{COOKIE_PREFIX}_{request.url.port or ''}"  # cookies do not tell ports apart
            response.set_cookie(name, self.session, httponly=True, samesite="strict", secure=secure)
        return response

    def _refuse_other_site(self, request: Request) -> Response | None:
        """Refuses requests under another name (DNS rebinding) and those that another site's page makes."""
        hosts = request.headers.getlist("host")
        host = hosts[0][:200] if len(hosts) == 1 else ""
        if not self.hosts.answers_to(host):
            return error_response(
                403,
                f"{host!r} is not a name of this program: another site may have sent this request. If you reach the "
                f"program by that name, through a proxy or a tunnel, {self._allow_hint_for(parse_host(host))}",
                "UnknownHost",
            )
        origin = request.headers.get("origin")
        if origin is not None and not self.hosts.is_same_site(origin, host):
            return error_response(
                403,
                f"requests from another site's page are refused, here from {origin[:200]!r}. If that is this "
                f"program's own page, under a proxy's name, {self._allow_hint_for(parse_origin(origin))}",
                "Forbidden",
            )
        site, mode = (request.headers.get(f"sec-fetch-{name}") for name in ("site", "mode"))
        followed = mode == "navigate" and request.method == "GET"  # a link: the other site does not see the answer
        if site in ("cross-site", "same-site") and not followed:
            return error_response(403, "requests from another site's page are refused", "Forbidden")
        return None

    def _allow_hint_for(self, host: tuple[str, str] | None) -> str:
        return self.allow_hint.replace("NAME", host[0]) if host else self.allow_hint

    def _refuse_reading(self, request: Request, by_cookie: bool) -> Response | None:
        users = self.users()
        if not users or self._has_token(request) or (by_cookie and self._has_session(request)):
            return None
        return self._refuse_password(request, users)

    def _refuse_changing(self, request: Request) -> Response | None:
        """Needs the token: browsers send cookies and remembered passwords with other sites' requests too."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind and kind != "application/json":
            return error_response(415, f"send fields as application/json, not as {kind[:60]}", "UnsupportedMediaType")
        if self._has_token(request):
            return None
        users = self.users()
        browser = any(name in request.headers for name in ("origin", "referer", "sec-fetch-site"))
        if users and not browser:
            return self._refuse_password(request, users)
        if TOKEN_HEADER in request.headers:
            text = f"the token in {TOKEN_HEADER} is not that of this start of the program: load the page again"
        else:
            text = f"a request that changes something needs the header {TOKEN_HEADER} with the program's token"
        return error_response(403, f"{text}; {TOKEN_VARIABLE} sets a token for scripts", "Forbidden")

    def _has_token(self, request: Request) -> bool:
        return is_same_secret(request.headers.get(TOKEN_HEADER, ""), self.token)

    def _has_session(self, request: Request) -> bool:
        """Whether the browser was let in before."""
        return any(
            is_same_secret(value, self.session)
            for name, value in request.cookies.items()
            if name.startswith(COOKIE_PREFIX)
        )

    def _refuse_password(self, request: Request, users: Mapping[str, str]) -> Response | None:
        """Looks at HTTP Basic credentials."""
        given = parse_basic_credentials(request.headers.get("authorization", ""))
        known = self._has_session(request)
        client = "let in before" if known else client_key(request.client.host if request.client else "")
        if given is not None:
            wait = self.attempts.seconds_to_wait(client, known=known)
            if wait > 0:
                answer = error_response(
                    429, f"too many wrong passwords; try again in {math.ceil(wait)} s", "TooManyAttempts"
                )
                answer.headers["Retry-After"] = str(math.ceil(wait))
                return answer
            # every user's is compared, so that the time tells no name
            right = [
                is_same_secret(given[0], name) & is_same_secret(given[1], password) for name, password in users.items()
            ]
            if any(right):
                self.attempts.record_success(client)
                return None
            self.attempts.record_failure(client)
        answer = error_response(401, "a name and a password are needed", "Unauthorized")
        if TOKEN_HEADER not in request.headers:  # else the page of an earlier start, where a dialog helps nobody
            answer.headers["WWW-Authenticate"] = 'Basic realm="LoRA ext", charset="UTF-8"'
        return answer


def is_same_secret(one: str, two: str) -> bool:
    """Whether two secrets are the same, in a time that tells nothing about them."""
    return secrets.compare_digest(
        *(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (one, two))
    )


def parse_basic_credentials(header: str) -> tuple[str, str] | None:
    """Name and password of HTTP Basic credentials."""
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, password = base64.b64decode(text, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        return None
    return name, password


class SafeJSONResponse(JSONResponse):
    """JSON whatever a file held: half a surrogate pair becomes `\ufffd`, NaN and infinity become null, and no error."""

    def render(self, content: Any) -> bytes:
        """As JSONResponse's."""
        write = functools.partial(json.dumps, ensure_ascii=False, separators=(",", ":"), default=dataclass_fields)
        try:
            text = write(content, allow_nan=False)
        except ValueError:  # JSON has no such numbers, but Python reads them from JSON files
            text = write(json.loads(write(content), parse_constant=lambda name: None))
        return replace_lone_surrogates(text).encode("utf-8")


def error_response(status: int, text: str, kind: str, field_name: str | None = None) -> JSONResponse:
    """An error in the form that every route answers.

    Args:
        status: The HTTP status.
        text: The message for the user.
        kind: The class of the error.
        field_name: The field of the request that is wrong; None for none.

    Returns:
        The answer.
    """
    return SafeJSONResponse({"error": text, "kind": kind, "field": field_name}, status)
