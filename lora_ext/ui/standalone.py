"""`python -m lora_ext ui`: the tab on a page of its own, with a Generate panel."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import LoraError
from ..generate import Settings
from ..host.diffusers import PRECISIONS
from ..web.page_files import page_folder, page_scripts
from ..web.route import Guard
from ..web.service import mount
from ..web.studio import Studio
from .desk import StandaloneDesk, data_folder, folders_of

PORT = 7870
ASSETS = "/lora-ext/assets"


def application(studio: Studio, users: Mapping[str, str], *, language: str = "") -> Any:
    """A FastAPI application: the API, the page's scripts, and gradio's page behind its own login."""
    import gradio as gr
    from fastapi import FastAPI
    from starlette.responses import FileResponse

    from .tab import blocks

    app = FastAPI(docs_url=None, redoc_url=None)
    guard = Guard(users=lambda: users)
    home = page_folder()
    shown = (*page_scripts(), home / "style.css", *sorted((home / "localizations").glob("*.json")))
    files = {path.name: path for path in shown}

    @app.get(ASSETS + "/{name}", include_in_schema=False)
    def asset(name: str) -> FileResponse:
        return FileResponse(files[name] if name in files else home / "style.css", headers={"Cache-Control": "no-cache"})

    page = blocks(guard.token, language=language)
    auth = list(users.items()) or None
    if auth:
        page.auth, page.auth_message = auth, None
    app = gr.mount_gradio_app(app, page, path="/") if auth is None else _behind_login(gr, app, page, auth)
    mount(app, studio, guard)
    _with_scripts(app, [name for name in files if name.endswith(".js")])
    return app


def _behind_login(gr: Any, app: Any, page: Any, auth: list[tuple[str, str]]) -> Any:
    """gradio's page with its login; versions before 4.18 take names and passwords from the page itself."""
    try:
        return gr.mount_gradio_app(app, page, path="/", auth=auth)
    except TypeError:
        return gr.mount_gradio_app(app, page, path="/")


def _with_scripts(app: Any, names: Sequence[str]) -> None:
    """Adds our scripts and style to gradio's page, which has no place for them in all versions."""
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, Response

    tags = f'<link rel="stylesheet" href="{ASSETS}/style.css">' + "".join(
        f'<script defer src="{ASSETS}/{name}"></script>' for name in names
    )

    async def middleware(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Response:
        response = await call_next(request)
        if request.url.path != "/" or not response.headers.get("content-type", "").startswith("text/html"):
            return response
        body = b"".join([chunk async for chunk in response.body_iterator]).decode("utf-8")
        kept = {k: v for k, v in response.headers.items() if k.lower() not in ("content-length", "content-encoding")}
        return HTMLResponse(body.replace("</head>", f"{tags}</head>", 1), response.status_code, headers=kept)

    app.middleware("http")(middleware)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lora-ext ui", description="The LoRA tab on a page of its own.")
    parser.add_argument("--lora_dir", "--lora-dir", action="append", type=Path, default=[], help="folder of LoRA files")
    parser.add_argument("--ckpt_dir", "--ckpt-dir", action="append", type=Path, default=[], help="of checkpoints")
    parser.add_argument("--dataset_dir", "--dataset-dir", action="append", type=Path, default=[], help="of pictures")
    parser.add_argument("--out", type=Path, help="where pictures and sheets go")
    parser.add_argument("--data_dir", "--data-dir", type=Path, help="where presets, history and indexes are kept")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is the whole network")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--auth", action="append", default=[], metavar="NAME:PASSWORD", help="who may use it")
    parser.add_argument("--language", default="", help="en, zh_CN, zh_TW or ja_JP; without it the browser's")
    parser.add_argument("--inbrowser", action="store_true", help="open the page")
    parser.add_argument("--device", help="cuda, mps or cpu; without it the first that is there")
    parser.add_argument("--precision", default="fp32", choices=list(PRECISIONS))
    parser.add_argument("--tokenizer", type=Path, help="folder with CLIP's vocab.json and merges.txt")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `ui`; runs until it is interrupted."""
    args = _parser().parse_args(argv)
    try:
        import gradio  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise LoraError(f"the tab needs {error.name}: pip install lora-ext[ui]") from None
    users = {}
    for pair in args.auth:
        name, colon, password = pair.partition(":")
        if not (name and colon and password):
            raise LoraError(f"--auth {pair!r} is not NAME:PASSWORD")
        users[name] = password
    folders = folders_of(args.data_dir or data_folder(), args.lora_dir, args.ckpt_dir, args.dataset_dir, args.out)
    base = Settings(device=args.device, precision=args.precision, tokenizer=args.tokenizer)
    studio = Studio(StandaloneDesk(folders, base))
    app = application(studio, users, language=args.language)
    address = f"http://{'127.0.0.1' if args.host == '0.0.0.0' else args.host}:{args.port}"
    print(f"LoRA ext: {address}\n  LoRA files: {', '.join(map(str, folders.loras))}", file=sys.stderr)
    if args.inbrowser:
        webbrowser.open(address)
    try:
        uvicorn.run(app, host=args.host, port=args.port, log_level="warning")
    finally:
        studio.jobs.close()
    return 0
