"""`python -m lora_ext ui`: the tab on a page of its own, with a Generate panel."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import webbrowser
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from ..argument_errors import whole_number
from ..command_line import TOKENIZER_HELP, CommandParser
from ..console import print_text
from ..data_folder import user_data_folder
from ..errors import LoraError
from ..generate import Settings
from ..precisions import MODEL_PRECISIONS
from ..web.access_guard import TOKEN_HEADER, TOKEN_VARIABLE, AccessGuard, check_token, error_response, initial_token
from ..web.allowed_hosts import (
    ALLOWED_HOST_VARIABLE,
    LOOPBACK,
    AllowedHosts,
    allowed_hosts_from_environment,
    is_loopback,
    parse_allowed_host,
    parse_ip_address,
)
from ..web.app_state import AppState
from ..web.mount import mount_api
from .page import ASSETS_PATH, CONTENT_SECURITY_POLICY, page_assets, page_html
from .standalone_backend import StandaloneBackend, standalone_folders

DEFAULT_PORT = 7870
PAGE_HEADERS = {"Cache-Control": "no-store", "Cross-Origin-Opener-Policy": "same-origin"}


def create_application(app_state: AppState, guard: AccessGuard, *, language: str = "") -> FastAPI:
    """The API, the page and its files, and nothing else; `guard` looks at every request."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    assets, html = page_assets(), page_html(guard.token, language)

    async def guarded(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        # the cookie is not enough for the page: it holds the token
        refused = guard.refusal(request, by_cookie=request.scope["path"] != "/")
        return guard.add_response_headers(request, refused or await call_next(request))

    app.add_middleware(BaseHTTPMiddleware, dispatch=guarded)

    @app.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(html, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY, **PAGE_HEADERS})

    @app.get(ASSETS_PATH + "/{name}")
    def asset(name: str) -> Response:
        if name not in assets:
            return error_response(404, f"the page has no file {name[:80]!r}", "NotFound")
        return FileResponse(assets[name], headers={"Cache-Control": "no-cache"})

    mount_api(app, app_state, guard)
    return app


def _parser() -> CommandParser:
    parser = CommandParser("ui", "The LoRA tab on a page of its own.")
    parser.add_argument(
        "--lora_dir",
        action="append",
        type=Path,
        default=[],
        help="folder of LoRA files; may be given several times (default: loras in the data folder)",
    )
    parser.add_argument(
        "--ckpt_dir",
        action="append",
        type=Path,
        default=[],
        help="folder of checkpoints; may be given several times (default: checkpoints in the data folder)",
    )
    parser.add_argument(
        "--dataset_dir",
        action="append",
        type=Path,
        default=[],
        help="folder of pictures to train on; may be given several times (default: datasets in the data folder)",
    )
    parser.add_argument(
        "--out", type=Path, help="folder for pictures, sheets and training runs (default: outputs in the data folder)"
    )
    parser.add_argument(
        "--data_dir",
        type=Path,
        help="the data folder, with presets, history and indexes (default: the system's place for a user's data)",
    )
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on; 0.0.0.0 is the whole network")
    parser.add_argument(
        "--port", type=_port, default=DEFAULT_PORT, metavar="N", help="port of the page; 0: one that is free"
    )
    parser.add_argument(
        "--auth",
        action="append",
        default=[],
        metavar="NAME:PASSWORD",
        help="name and password of somebody who may use the page; may be given several times",
    )
    parser.add_argument("--no_auth", action="store_true", help="let the network use it without a password")
    parser.add_argument(
        "--allowed_host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name by which it is reached, through a proxy or a tunnel; "
        f"also {ALLOWED_HOST_VARIABLE}, with commas",
    )
    parser.add_argument(
        "--api_token", help=f"token for scripts (default: {TOKEN_VARIABLE}, else a new one at each start)"
    )
    parser.add_argument("--language", default="", help="en, zh_CN, zh_TW or ja_JP (default: the browser's language)")
    parser.add_argument("--inbrowser", action="store_true", help="open the page in the browser")
    parser.add_argument("--device", help="cuda, mps or cpu (default: the first that is available)")
    parser.add_argument("--precision", default="fp32", choices=MODEL_PRECISIONS, help="dtype of the model")
    parser.add_argument("--tokenizer", type=Path, help=TOKENIZER_HELP)
    return parser


def _port(text: str) -> int:
    """Parses --port."""
    if not 0 <= whole_number(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text} is not a port: they are from 1 to 65535, and 0 for one that is free")
    return int(text)


def usable_port(host: str, port: int) -> int:
    """Checks that no other program has a port.

    Args:
        host: what the page is served at.
        port: the port; 0 for one that is free.

    Returns:
        The port.

    Raises:
        LoraError: the page cannot be served there.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
        if os.name == "posix":  # as uvicorn's own: a port that was just closed can be used again
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host.strip("[]"), port))
        except OSError as error:
            raise LoraError(
                f"the page cannot be served at {host}:{port}: {error.strerror}; give another --port, or 0 for one that "
                "is free"
            ) from None
        return int(tried.getsockname()[1])


def guard_from_arguments(args: argparse.Namespace) -> AccessGuard:
    """Who may call, by the command line. Raises LoraError."""
    users: dict[str, str] = {}
    for pair in args.auth:
        name, colon, password = pair.partition(":")
        if not (name and colon and password):
            raise LoraError(f"--auth {pair!r} is not NAME:PASSWORD")
        if name in users:
            raise LoraError(f"--auth gives {name!r} two passwords")
        users[name] = password
    if users and args.no_auth:
        raise LoraError("--auth asks for a password and --no_auth for none: give one of them")
    if not users and not args.no_auth and not is_loopback(args.host):
        raise LoraError(
            f"--host {args.host or repr('')} lets others in the network use this program, write files and train: "
            "give --auth NAME:PASSWORD, or --no_auth to allow it"
        )
    hosts = AllowedHosts(args.host, [*map(parse_allowed_host, args.allowed_host), *allowed_hosts_from_environment()])
    token = check_token(args.api_token, "--api_token") if args.api_token is not None else initial_token()
    return AccessGuard(lambda: users, hosts, token, allow_hint="start it with --allowed_host NAME")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `ui`; runs until it is interrupted."""
    args = _parser().parse_args(argv)
    guard = guard_from_arguments(args)
    args.port = usable_port(args.host, args.port)
    folders = standalone_folders(
        args.data_dir or user_data_folder(), args.lora_dir, args.ckpt_dir, args.dataset_dir, args.out
    )
    base = Settings(device=args.device, precision=args.precision, tokenizer=args.tokenizer)
    app_state = AppState(StandaloneBackend(folders, base))
    app = create_application(app_state, guard, language=args.language)
    address = f"http://{reachable_host(args.host)}:{args.port}"
    print_text(
        f"LoRA ext: {address}\n  LoRA files: {', '.join(map(str, folders.loras))}\n"
        f"  For scripts: the header {TOKEN_HEADER}: {guard.token}",
        file=sys.stderr,
    )
    if args.inbrowser:
        webbrowser.open(address)
    try:
        uvicorn.run(app, host=args.host, port=args.port, log_level="warning", server_header=False)
    finally:
        app_state.jobs.close()
    return 0


def reachable_host(host: str) -> str:
    """The host of a web address at which this machine reaches what listens on `host`."""
    address = parse_ip_address(host.strip("[]"))
    if not host or (address is not None and address.is_unspecified):
        return LOOPBACK
    return f"[{address}]" if address is not None and address.version == 6 else host
