"""`python gradio_page.py --data_dir DIR --port PORT`: the tab in a page of gradio's, as in the web UI.

With `--prompts` beside a tab txt2img, which has the web UI's fields and tells what gradio's server has got of them.

The tab, its API and its element are what the web UI gets (`ui.webui.Tab`); only the program is the standalone one, so
that every panel is there. The web UI puts an extension's scripts and style sheet into its page's head; so does this.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from lora_ext.generate import Settings
from lora_ext.ui.standalone_backend import StandaloneBackend, standalone_folders
from lora_ext.ui.webui_tab import Tab
from lora_ext.web.page_files import page_folder

FONTS: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
"""Fetched from nowhere."""


class BackendWithPrompts(StandaloneBackend):
    """Its page has the web UI's prompt fields."""

    has_prompt_fields = True


def page(tab: Tab, prompts: bool) -> gr.Blocks:
    """A page with the tab alone, or beside txt2img."""
    with gr.Blocks(title="gradio", analytics_enabled=False, theme=gr.themes.Default(**FONTS)) as made:
        if not prompts:
            for inner, _, _ in tab.page():
                inner.render()
            return made
        with gr.Tabs(elem_id="tabs"):
            with gr.TabItem("txt2img"):
                fields = [gr.Textbox("a photo", label="Prompt", lines=3, elem_id="txt2img_prompt")]
                for side in ("width", "height"):
                    fields.append(gr.Slider(64, 2048, 512, step=8, label=side.title(), elem_id=f"txt2img_{side}"))
                got = gr.Textbox(label="Got", elem_id="got")
                for field in fields:
                    field.change(lambda *values: " | ".join(map(str, values)), fields, got)
            for inner, title, _ in tab.page():
                with gr.TabItem(title):
                    inner.render()
    return made


def with_files(app: FastAPI) -> None:
    """Adds our style sheet and the script that the web UI loads to gradio's page, with addresses as there."""
    at = "file=extensions/lora-ext"
    tags = (
        f'<link rel="stylesheet" href="{at}/style.css?1732800000.5">'
        f'<script type="module" src="{at}/javascript/lora_ext.mjs?1732800000.5"></script>'
    )

    @app.get(f"/{at}/{{path:path}}")
    def file(path: str) -> FileResponse:
        return FileResponse(page_folder() / path)

    @app.middleware("http")
    async def head(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Response:
        response = await call_next(request)
        if request.url.path != "/" or not response.headers.get("content-type", "").startswith("text/html"):
            return response
        body = b"".join([chunk async for chunk in response.body_iterator]).decode("utf-8")
        kept = {k: v for k, v in response.headers.items() if k.lower() not in ("content-length", "content-encoding")}
        return HTMLResponse(body.replace("</head>", f"{tags}</head>", 1), response.status_code, headers=kept)


def main() -> None:
    """Serves it until it is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data_dir", type=Path)
    parser.add_argument("--port", type=int)
    parser.add_argument("--device")
    parser.add_argument("--prompts", action="store_true")
    args = parser.parse_args()
    backend = BackendWithPrompts if args.prompts else StandaloneBackend
    tab = Tab(backend(standalone_folders(args.data_dir), Settings(device=args.device)), dict)
    app = FastAPI()
    with_files(app)
    app = gr.mount_gradio_app(app, page(tab, args.prompts), path="/")
    tab.serve(None, app)
    uvicorn.run(app, port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
