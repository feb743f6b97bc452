"""Web pages and neighbours that attack through the browser: DNS rebinding, forged requests, guessed passwords."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
from fastapi import FastAPI
from starlette.testclient import TestClient

from lora_ext.errors import LoraError
from lora_ext.ui.standalone_backend import StandaloneBackend, standalone_folders
from lora_ext.ui.standalone_server import create_application
from lora_ext.web.access_guard import AccessGuard, check_token, initial_token
from lora_ext.web.allowed_hosts import AllowedHosts, allowed_hosts_from_environment, parse_allowed_host
from lora_ext.web.app_state import AppState
from lora_ext.web.mount import mount_api
from lora_ext.web.password_attempts import (
    BURST,
    FORGET_SECONDS,
    FREE_ATTEMPTS,
    MAX_WAIT_SECONDS,
    PasswordAttempts,
    client_key,
)
from lora_ext.web.routing import API_PREFIX

HERE = "127.0.0.1:7870"
USERS = {"anna": "geheim", "bert": "auch geheim"}
EVIL = ("evil.example:7870", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:7870", "evil-localhost")
NONSENSE = (
    """127.0.0.1@evil.example|evil.example#127.0.0.1|127.0.0.1, evil.example|localhost:7870:7870|localhost/|[::1
::1|2130706433|0x7f.1|127.1|*|http://localhost|192.168.0.7:7870""".replace("\n", "|").split("|")
    + [""]
)
OURS = (HERE, "127.0.0.1", "LocalHost:7870", "localhost.", "127.200.3.4:1", "[::1]:7870", "[::1]", "[::ffff:127.0.0.1]")


def mounted(app_state: AppState, guard: AccessGuard) -> Any:
    """The API on a program of somebody else's, as in the web UI."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    mount_api(app, app_state, guard)
    return app


class Target:
    """A program with the API. Sends what it is told and nothing else: no token, no cookie that was not asked for."""

    def __init__(self, root: Path, build: Callable[[AppState, AccessGuard], Any] = mounted, **guard: Any) -> None:
        self.root, self.guard = root, AccessGuard(**guard)
        self.app_state = AppState(StandaloneBackend(standalone_folders(root)))
        self.app = build(self.app_state, self.guard)

    def send(self, method: str, path: str, *, host: str | None = HERE, **more: Any) -> Any:
        """An answer. A new client each time, which remembers nothing."""
        headers = [] if host is None else [("host", host)]
        headers += list((more.pop("headers", None) or {}).items())
        client = TestClient(self.app, base_url=f"http://{HERE}")
        client.follow_redirects = False  # FastAPI 0.94's client takes no such argument
        if host is None:  # the client itself would add one
            client.headers.pop("host", None)
        return client.request(method, path, headers=headers, **more)

    def routes(self) -> Iterator[tuple[str, str]]:
        """(method, path) of everything that the program answers."""
        left = list(self.app.routes)
        while left:
            route = left.pop()
            if hasattr(route, "original_router"):  # newer versions of FastAPI keep an included router as one route
                left += route.original_router.routes
                continue
            path = re.sub(r"\{[^}]*\}", "x", route.path)
            yield from ((method, path) for method in sorted(route.methods))


def alone(app_state: AppState, guard: AccessGuard) -> Any:
    """The standalone program."""
    return create_application(app_state, guard)


@pytest.fixture(params=[mounted, alone], scope="module")
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    made = Target(tmp_path_factory.mktemp("program"), request.param)
    yield made
    made.app_state.jobs.close()


@pytest.fixture(params=[mounted, alone])
def locked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """A program with users."""
    made = Target(tmp_path, request.param, users=lambda: USERS)
    yield made
    made.app_state.jobs.close()


def job_ids(target: Target) -> set[str]:
    """The jobs that there are: those that other tests may start with the token."""
    return {job.id for job in target.app_state.jobs.list_jobs()}


def changing(target: Target) -> list[tuple[str, str]]:
    """The routes that change something: more than a dozen, so that an empty list passes no test."""
    found = [(method, path) for method, path in target.routes() if method not in ("GET", "HEAD", "OPTIONS")]
    assert len(found) > 20
    return found


def test_no_route_answers_under_another_name(target: Target) -> None:
    """DNS rebinding: the page of evil.example, whose name points to 127.0.0.1 now, is of our origin for the browser."""
    before = job_ids(target)
    page = {"Origin": "http://evil.example:7870", "Sec-Fetch-Site": "same-origin", "X-Lora-Ext": target.guard.token}
    asked = list(target.routes())
    assert len(asked) > 50
    for method, path in asked:
        for headers in ({}, page):
            answer = target.send(method, path, host="evil.example:7870", headers=headers)
            assert answer.status_code == 403, (method, path)
            assert target.guard.token not in answer.text
    assert job_ids(target) == before


def test_the_job_of_the_report_is_refused(target: Target) -> None:
    before = job_ids(target)
    body = {"parts": [{"name": "framed"}, {"name": "striped"}], "save_to": "stolen"}
    headers = {"Origin": "http://evil.example:7870"}
    answer = target.send("POST", f"{API_PREFIX}/merge", host="evil.example:7870", json=body, headers=headers)
    assert answer.status_code == 403 and "--" not in answer.json()["error"]
    assert "LORA_EXT_ALLOWED_HOST=evil.example in" in answer.json()["error"]
    assert job_ids(target) == before
    good = {"X-Lora-Ext": target.guard.token, "Origin": f"http://{HERE}"}
    assert target.send("POST", f"{API_PREFIX}/merge", json=body, headers=good).status_code == 202


@pytest.mark.parametrize("host", [*EVIL, *NONSENSE])
def test_names_that_only_look_like_ours(target: Target, host: str) -> None:
    answer = target.send("GET", f"{API_PREFIX}/choices", host=host)
    assert (answer.status_code, answer.json()["kind"]) == (403, "UnknownHost")


@pytest.mark.parametrize("host", OURS)
def test_our_own_names(target: Target, host: str) -> None:
    assert target.send("GET", f"{API_PREFIX}/choices", host=host).status_code == 200


def test_one_host_exactly(target: Target) -> None:
    assert target.send("GET", f"{API_PREFIX}/choices", headers={"Host": "localhost"}).status_code == 403  # the second


def test_names_that_the_user_allows(tmp_path: Path) -> None:
    names = [
        parse_allowed_host(name)
        for name in ("Lora.Example", "other.example:8443", "*.tunnel.example", "bücher.example")
    ]
    hosts = AllowedHosts(allowed=names)
    for host in (
        "lora.example",
        "LORA.example:99",
        "other.example:8443",
        "a.b.tunnel.example",
        "xn--bcher-kva.example",
    ):
        assert hosts.answers_to(host), host
    for host in ("other.example", "other.example:1", "tunnel.example", "eviltunnel.example", "x.lora.example"):
        assert not hosts.answers_to(host), host
    # behind a proxy that rewrites Host, the page's own name comes in Origin; not for everybody who has a tunnel there
    assert hosts.is_same_site("https://lora.example", HERE) and not hosts.is_same_site("https://a.tunnel.example", HERE)
    assert hosts.is_same_site("https://a.tunnel.example", "a.tunnel.example")
    assert AllowedHosts(allowed=[parse_allowed_host("*")]).answers_to("anything.example:1")
    assert not AllowedHosts(allowed=[parse_allowed_host("*")]).is_same_site("https://anything.example", HERE)


@pytest.mark.parametrize(
    ("bound", "yes", "no"),
    [
        ("127.0.0.1", ["localhost"], ["192.168.0.7", "evil.example"]),
        ("192.168.0.7", ["192.168.0.7:7870", "127.0.0.1"], ["192.168.0.8", "evil.example"]),
        ("0.0.0.0", ["192.168.0.7", "203.0.113.9:7870", "[2001:db8::1]:7870"], ["evil.example", "192.168.0.7.example"]),
        ("::", ["192.168.0.7", "[fe80::1%eth0]"], ["evil.example"]),
        ("studio.lan", ["studio.lan:7870", "STUDIO.lan"], ["evil.lan"]),
    ],
)  # fmt: skip
def test_names_of_the_address_that_is_listened_on(bound: str, yes: list[str], no: list[str]) -> None:
    """An IP address as Host is the address that the browser asked; only names can be rebound."""
    hosts = AllowedHosts(bound)
    assert [host for host in yes if not hosts.answers_to(host)] == []
    assert [host for host in no if hosts.answers_to(host)] == []


@pytest.mark.parametrize(
    "text", ["", "http://lora.example/", "a b", "a/b", "-a.example", "a..b", "*.", "a@b", "https://"]
)
def test_what_is_no_name_is_reported(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoraError, match="is not a host name") as caught:
        parse_allowed_host(text)
    assert ("did you mean 'lora.example'?" in str(caught.value)) == ("lora.example/" in text)
    monkeypatch.setenv("LORA_EXT_ALLOWED_HOST", f"fine.example,a b{text.replace(',', '')}")
    with pytest.raises(LoraError, match="LORA_EXT_ALLOWED_HOST 'a b"):
        allowed_hosts_from_environment()


def test_nothing_changes_without_the_token(target: Target) -> None:
    before = job_ids(target)
    for method, path in changing(target):
        for headers in ({}, {"X-Lora-Ext": "x" * 32}, {"X-Lora-Ext": ""}, {"Origin": f"http://{HERE}"}):
            answer = target.send(method, path, headers=headers)
            assert answer.status_code == 403, (method, path, headers)
        for cookie in ("lora_ext", "lora_ext_7870"):  # what a page of before set, and what we set
            for value in (target.guard.token, target.guard.session):
                assert target.send(method, path, headers={"Cookie": f"{cookie}={value}"}).status_code == 403
        for place in ("token", "X-Lora-Ext", "lora_ext"):  # nor in the address, which another site can write
            assert target.send(method, f"{path}?{place}={target.guard.token}").status_code == 403
    assert job_ids(target) == before


FOREIGN = (
    """null|http://evil.example|http://127.0.0.1:3000|http://localhost:7870|http://127.0.0.1:7870.evil.example|file://
http://x@127.0.0.1:7870|http://[::1|ftp://127.0.0.1:7870""".replace("\n", "|").split("|")
    + [""]
)


@pytest.mark.parametrize("origin", FOREIGN)
def test_another_sites_page_may_not_call_even_with_the_token(target: Target, origin: str) -> None:
    headers = {"Origin": origin, "X-Lora-Ext": target.guard.token}
    for method, path in target.routes():
        assert target.send(method, path, headers=headers).status_code == 403, (method, path)


def test_what_a_page_sends_without_asking_first(target: Target) -> None:
    """JSON sent as text is a simple request: the browser asks nobody before it."""
    body, before = '{"name": "framed", "to": "gone"}', job_ids(target)
    token = {"X-Lora-Ext": target.guard.token}
    kinds = (
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    )
    for method, path in changing(target):
        for kind in kinds:
            plain = {"Content-Type": kind}
            assert target.send(method, path, content=body, headers=plain).status_code == 415, (method, path, kind)
            assert target.send(method, path, content=body, headers={**plain, **token}).status_code == 415
            assert target.send(method, path, headers={**plain, **token}).status_code == 415  # a form without fields
    assert job_ids(target) == before


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_embed_nothing(target: Target, site: str) -> None:
    """Pictures, frames and scripts come without Origin; Sec-Fetch-Site tells. A link that is followed is fine."""
    for method, path in target.routes():
        sent = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
        assert target.send(method, path, headers=sent).status_code == 403
    followed = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert target.send("GET", f"{API_PREFIX}/choices", headers=followed).status_code == 200
    assert target.send("POST", f"{API_PREFIX}/tag", headers=followed).status_code == 403


def test_every_answer_forbids_reading_and_framing_by_others(target: Target) -> None:
    for method, path in target.routes():
        for headers in ({"X-Lora-Ext": target.guard.token}, {"Origin": "http://evil.example"}):
            got = target.send(method, path, headers=headers).headers
            assert not [name for name in got if name.lower().startswith("access-control-")]
            assert got["x-content-type-options"] == "nosniff" and got["x-frame-options"] == "DENY"
            assert got["cross-origin-resource-policy"] == "same-origin" and got["referrer-policy"] == "no-referrer"
            assert got["content-security-policy"].startswith("default-src 'none'")


def credentials(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def test_with_users_nothing_is_read_without_one(locked: Target) -> None:
    for method, path in locked.routes():
        assert locked.send(method, path).status_code in (401, 403), (method, path)
        assert locked.send(method, path, headers={"Cookie": f"lora_ext={locked.guard.token}"}).status_code in (401, 403)


def test_modules_come_by_the_cookie_of_the_first_answer(locked: Target) -> None:
    """An `import` of a module carries no header: the page asks once with its token, which sets the cookie."""
    path = f"{API_PREFIX}/modules/main.mjs"
    answer = locked.send("GET", path, headers={"X-Lora-Ext": locked.guard.token})
    assert answer.status_code == 200
    cookie = {"Cookie": answer.headers["set-cookie"].partition(";")[0], "Sec-Fetch-Site": "same-origin"}
    assert locked.send("GET", path, headers=cookie).content == answer.content


def test_a_remembered_password_and_a_cookie_change_nothing(locked: Target) -> None:
    """A browser sends both with requests that another site makes."""
    right = credentials("anna", "geheim")
    answer = locked.send("GET", f"{API_PREFIX}/choices", headers=right)
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 200 and "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
    assert locked.guard.token not in cookie
    carried = {"Cookie": cookie.partition(";")[0]}
    assert locked.send("GET", f"{API_PREFIX}/choices", headers=carried).status_code == 200
    for method, path in changing(locked):
        for mark in ({"Origin": f"http://{HERE}"}, {"Referer": "http://evil.example/"}, {"Sec-Fetch-Site": "none"}):
            assert locked.send(method, path, headers={**right, **carried, **mark}).status_code == 403, (method, path)
        assert locked.send(method, path, headers=carried).status_code == 401
    assert not locked.app_state.jobs.list_jobs()
    script = locked.send("POST", f"{API_PREFIX}/tag", json={"name": "framed"}, headers=right)  # no browser, no token
    assert script.status_code == 200 and script.json()["tag"] == "<lora:framed:1>"


@pytest.mark.long
def test_guesses_are_slowed_and_nobody_is_locked_out(locked: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    locked.guard.attempts = PasswordAttempts(lambda: now[0])
    path, right = f"{API_PREFIX}/choices", credentials("anna", "geheim")
    let_in = {"Cookie": locked.send("GET", path, headers=right).headers["set-cookie"].partition(";")[0]}
    looked_at = 0
    for _ in range(900):  # a quarter of an hour, one guess a second
        now[0] += 1
        status = locked.send("GET", path, headers=credentials("anna", "falsch")).status_code
        assert status in (401, 429)
        looked_at += status == 401
    assert looked_at < FREE_ATTEMPTS + 8 + 900 / MAX_WAIT_SECONDS
    early = locked.send("GET", path, headers=right)  # the right one too is not compared before its time
    assert early.status_code == 429 and 0 < int(early.headers["retry-after"]) <= MAX_WAIT_SECONDS
    assert locked.send("GET", path, headers={**right, **let_in}).status_code == 200  # whoever was let in before
    assert locked.send("GET", path, headers={"X-Lora-Ext": locked.guard.token}).status_code == 200
    now[0] += int(early.headers["retry-after"])
    assert locked.send("GET", path, headers=right).status_code == 200


def test_guesses_from_many_addresses_are_slowed_together() -> None:
    now = [0.0]
    attempts = PasswordAttempts(lambda: now[0])
    attempts.record_success("home")
    looked_at = 0
    for second in range(600):
        now[0] += 1
        for one in range(50):
            if attempts.seconds_to_wait(f"{second}.{one}") == 0:
                attempts.record_failure(f"{second}.{one}")
                looked_at += 1
    assert looked_at <= BURST + 600
    assert attempts.seconds_to_wait("home") == 0  # an address that gave a right password
    now[0] += 10
    assert attempts.seconds_to_wait("new") == 0
    assert client_key("2001:db8::1") == client_key("2001:db8::2:3") != client_key("2001:db8:0:1::1")


def test_a_right_password_does_not_open_the_way_for_guesses() -> None:
    """An attacker behind the same proxy as a user."""
    now = [0.0]
    attempts = PasswordAttempts(lambda: now[0])
    looked_at = 0
    for _ in range(1000):
        now[0] += 1
        attempts.record_success("proxy")
        if attempts.seconds_to_wait("proxy") == 0:
            attempts.record_failure("proxy")
            looked_at += 1
    assert looked_at < FREE_ATTEMPTS + 8 + 1000 / MAX_WAIT_SECONDS
    now[0] += FORGET_SECONDS + 1
    assert attempts.seconds_to_wait("proxy") == 0


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Basic YQ==", "basic Og==", "Bearer x", "Basic gIA6gIA="])
def test_credentials_that_are_none(locked: Target, header: str) -> None:
    answer = locked.send("GET", f"{API_PREFIX}/choices", headers={"Authorization": header})
    assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Basic ")


@pytest.mark.parametrize(
    "token", ["", "short", "x" * 15, "x" * 201, "spaces are not fine here", "ümlaute-sind-nicht-gut", "a" * 20 + "\n"]
)
def test_a_token_that_is_none(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoraError, match="16 to 200"):
        check_token(token, "--api_token")
    if token:
        monkeypatch.setenv("LORA_EXT_TOKEN", token)
        with pytest.raises(LoraError, match="LORA_EXT_TOKEN"):
            initial_token()


def test_each_start_has_a_token_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORA_EXT_TOKEN", raising=False)
    assert len({AccessGuard().token for _ in range(20)} | {AccessGuard().session for _ in range(20)}) == 40
    monkeypatch.setenv("LORA_EXT_TOKEN", "given-by-the-user")
    assert AccessGuard().token == "given-by-the-user" != AccessGuard().session
