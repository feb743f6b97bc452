"""Mounts the API on a program's FastAPI application."""

from __future__ import annotations

import json
import threading
from typing import Any

from fastapi import FastAPI, Query
from starlette.requests import Request
from starlette.responses import Response

from ..errors import FileError, did_you_mean
from .access_guard import error_response
from .app_state import AppState
from .block_routes import register_block_routes
from .conflict_routes import register_conflict_routes
from .duplicate_routes import register_duplicate_routes
from .help_routes import register_help_routes
from .job_routes import register_job_routes
from .library_change_routes import register_library_change_routes
from .library_routes import register_library_routes
from .mask_routes import register_mask_routes
from .page_files import module_response, page_folder
from .preview_routes import register_preview_routes
from .routing import API_PREFIX, AccessGuard, TypedRouter, make_router
from .set_routes import register_set_routes
from .sheets import register_sheet_routes
from .start_routes import register_start_routes
from .thumbnails import register_thumbnail_routes
from .tool_routes import register_tool_routes
from .train_routes import register_train_routes
from .training_preset_routes import register_training_preset_routes
from .weights_routes import register_weights_routes

ROUTE_REGISTRARS = (
    register_library_routes,
    register_library_change_routes,
    register_duplicate_routes,
    register_thumbnail_routes,
    register_weights_routes,
    register_tool_routes,
    register_conflict_routes,
    register_train_routes,
    register_start_routes,
    register_training_preset_routes,
    register_set_routes,
    register_sheet_routes,
    register_block_routes,
    register_preview_routes,
    register_mask_routes,
    register_job_routes,
    register_help_routes,
)
LANGUAGES = ("zh_CN", "zh_TW", "ja_JP")


def make_api(app_state: AppState, guard: AccessGuard) -> TypedRouter:
    """Every route, and `/lora-ext/v1/openapi.json`; nothing of it starts work of its own.

    Args:
        app_state: What the API keeps between requests.
        guard: Decides on each request.

    Returns:
        The routes, for an application's `include_router`.
    """
    api = make_router(guard, app_state.hide_folders)
    for register_routes in ROUTE_REGISTRARS:
        register_routes(api, app_state)

    @api.get("/strings")
    def strings(language: str = Query(..., max_length=20)) -> dict[str, str]:
        """The page's texts in a language: English → translated."""
        path = page_folder() / "localizations" / f"{language}.json"
        if language not in LANGUAGES or not path.is_file():
            raise FileError(f"there are no texts in the language {language[:20]!r}{did_you_mean(language, LANGUAGES)}")
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return found

    @api.get("/modules/{name:path}", include_in_schema=False)
    def module(name: str, request: Request) -> Response:
        missing = f"the page has no module {name[:80]!r}"
        return module_response(name, request) or error_response(404, missing, "NotFound")

    @api.get("/openapi.json", include_in_schema=False)
    def document() -> dict[str, Any]:
        return api.openapi("LoRA ext", __doc__)

    return api


def mount_api(app: FastAPI, app_state: AppState, guard: AccessGuard) -> None:
    """Adds the API before any route that takes all paths, and begins the first look at the user's files.

    Args:
        app: The program's application: the web UI's, or the standalone page's.
        app_state: What the API keeps between requests.
        guard: Decides on each request.
    """
    api = make_api(app_state, guard)
    # the first look at thousands of files takes a while: it begins before anyone asks
    threading.Thread(target=lambda: app_state.catalogue.refresh(), name="lora-ext-library", daemon=True).start()
    before = len(app.router.routes)
    app.include_router(api, include_in_schema=False)  # the program's own /openapi.json may be open to everybody
    routes_ = app.router.routes
    routes_[:] = routes_[before:] + routes_[:before]  # gradio's own catch-all comes after ours


__all__ = ["API_PREFIX", "make_api", "mount_api"]
