"""The standalone program's page: nothing of the working directory, no other host, no gradio; and who may reach it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_requests import HERE, USERS, Target, alone, credentials

from lora_ext import cli
from lora_ext.errors import LoraError
from lora_ext.ui.page import ASSETS_PATH
from lora_ext.ui.standalone_server import _parser, guard_from_arguments, reachable_host
from lora_ext.web.routing import API_PREFIX

GRADIO = """/file=pyproject.toml|/file/pyproject.toml|/file=/etc/passwd|/config|/config/|/info|/startup-events
/theme.css|/app_id|/heartbeat/x|/queue/join|/queue/data|/queue/status|/run/predict|/api/predict|/call/x|/upload
/upload_progress|/proxy=http://127.0.0.1|/stream/x|/reset|/component_server|/static/x|/assets/x|/svelte/x|/docs|/redoc
/openapi.json|/login|/logout|/token|/user|/robots.txt|/dev/reload|/monitoring|/custom_component/a/b/c""".replace(
    "\n", "|"
).split("|")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    made = Target(tmp_path_factory.mktemp("program"), alone)
    yield made
    made.app_state.jobs.close()


@pytest.mark.parametrize("path", GRADIO)
def test_nothing_of_gradio_answers(program: Target, path: str) -> None:
    """It gave files of the working directory, and the page with its token, to any origin, and took uploads from any."""
    token = {"X-Lora-Ext": program.guard.token}
    for method, more in (("GET", {}), ("POST", {}), ("POST", {"files": {"files": ("x.txt", b"evil")}})):
        answer = program.send(method, path, headers=token, **more)
        assert answer.status_code in (404, 415), (method, path)
        assert "[build-system]" not in answer.text
    evil = program.send("GET", path, headers={"Origin": "http://evil.example"})
    assert evil.status_code == 403 and "access-control-allow-origin" not in evil.headers


def test_every_route_is_one_of_ours(program: Target) -> None:
    paths = {path for _, path in program.routes()}
    assert {"/", f"{ASSETS_PATH}/x"} == {path for path in paths if not path.startswith(f"{API_PREFIX}/")}


OTHERS = """../page.py ..%2Fpage.py %2e%2e/style.css /etc/passwd ..\\..\\x zh_CN.json page.py x style.css%00 C:style.css
__init__.py""".split()


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_the_page_only(program: Target, name: str) -> None:
    assert program.send("GET", f"{ASSETS_PATH}/{name}").status_code == 404


def test_the_page_and_its_files(program: Target) -> None:
    page = program.send("GET", "/")
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self'",
        "media-src": "'self'", "connect-src": "'self'",
        "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'", "trusted-types": "'none'",
    }  # fmt: skip
    assert page.headers["cache-control"] == "no-store" and page.headers["cross-origin-opener-policy"] == "same-origin"
    assert f'data-token="{program.guard.token}"' in page.text
    # nothing inline, nothing of another host
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|https?:|//", page.text)
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(named) > 10 and not [name for name in named if name.startswith("/")]
    for name in named:
        answer = program.send("GET", f"/{name}")
        assert answer.status_code == 200, name
        # the one address that a sentence names: where `train --push_to_hub` has sent a file
        addresses = r"https?://(?!www\.w3\.org/)"
        if name.endswith("/host_sentence_list.mjs"):
            addresses += r"(?!huggingface\.co/\{1\}\")"
        assert not re.search(addresses, answer.text), name
        assert not (name.endswith(".css") and re.search(r"url\(|@import", answer.text)), name
        assert program.guard.token not in answer.text


def test_text_of_the_command_line_stays_text(tmp_path: Path) -> None:
    made = Target(tmp_path, lambda app_state, guard: alone(app_state, guard), token='x"><script src=x></script>')
    assert "<script src=x>" not in made.send("GET", "/").text


def test_the_cookie_is_not_enough_for_the_page_with_the_token(tmp_path: Path) -> None:
    """Browsers send cookies to every port of a host: another service there could ask for the page with it."""
    made = Target(tmp_path, alone, users=lambda: USERS)
    answer = made.send("GET", "/", headers=credentials("anna", "geheim"))
    cookie = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
    assert answer.status_code == 200 and made.guard.token in answer.text
    assert made.send("GET", f"{API_PREFIX}/choices", headers=cookie).status_code == 200
    again = made.send("GET", "/", headers=cookie)
    assert again.status_code == 401 and made.guard.token not in again.text
    assert again.headers["www-authenticate"].startswith("Basic ")


def given(*words: str) -> Any:
    return guard_from_arguments(_parser().parse_args(list(words)))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.7", "::", "", "[::]", "2001:db8::1", "::ffff:192.168.0.7"])
def test_the_network_needs_a_password_or_a_word(host: str) -> None:
    with pytest.raises(LoraError, match="give --auth NAME:PASSWORD, or --no_auth"):
        given("--host", host)
    assert given("--host", host, "--no_auth").users() == {}
    assert given("--host", host, "--auth", "anna:geheim").users() == {"anna": "geheim"}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3"])
def test_this_machine_alone_needs_none(host: str) -> None:
    assert given("--host", host).users() == {}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--auth", "anna"], "'anna' is not NAME:PASSWORD"),
        (["--auth", ":x"], "is not NAME:PASSWORD"),
        (["--auth", "a:1", "--auth", "a:2"], "gives 'a' two passwords"),
        (["--auth", "a:1", "--no_auth"], "give one of them"),
        (["--host", "no-such-host.invalid"], "is not an address of this machine"),
        (["--allowed_host", "https://lora.example/x"], "did you mean 'lora.example'"),
        (["--api_token", "short"], "--api_token is not a valid token: give 16 to 200"),
        (["--api_token", ""], "--api_token is not a valid token"),
    ],
)
def test_what_cannot_be_is_reported(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ui", *words]) == 2
    assert told in capsys.readouterr().err


def test_options_reach_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_EXT_ALLOWED_HOST", "one.example, two.example:8443")
    guard = given("--allowed_host", "Three.Example", "--api_token", "a-token-for-scripts")
    assert guard.token == "a-token-for-scripts"
    for host in ("one.example", "two.example:8443", "three.example:1", HERE):
        assert guard.hosts.answers_to(host)
    assert not guard.hosts.answers_to("two.example") and not guard.hosts.answers_to("192.168.0.7")
    assert given("--host", "0.0.0.0", "--no_auth").hosts.answers_to("192.168.0.7:7870")
    assert [reachable_host(host) for host in ("0.0.0.0", "::", "", "::1", "[::1]", "studio.lan")] == [
        *["127.0.0.1"] * 3, "[::1]", "[::1]", "studio.lan"
    ]  # fmt: skip


@pytest.mark.long
def test_no_gradio_is_imported() -> None:
    """Where there is none, the page is whole."""
    code = (
        "import sys; sys.modules['gradio'] = None\n"
        "from lora_ext.ui.standalone_server import create_application, guard_from_arguments, _parser\n"
        "from lora_ext.ui.standalone_backend import StandaloneBackend, standalone_folders\n"
        "from lora_ext.web.app_state import AppState\n"
        "import pathlib, tempfile\n"
        "from starlette.testclient import TestClient\n"
        "state = AppState(StandaloneBackend(standalone_folders(pathlib.Path(tempfile.mkdtemp()))))\n"
        "app = create_application(state, guard_from_arguments(_parser().parse_args([])))\n"
        "page = TestClient(app, base_url='http://localhost').get('/')\n"
        "assert page.status_code == 200 and 'modules/main.mjs' in page.text\n"
        "state.jobs.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
