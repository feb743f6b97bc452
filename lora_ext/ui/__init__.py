"""The tab: one root element that `javascript/lora_ext*.js` fills, in the web UI's page (gradio) and on a page alone."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import LoraError


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `ui`. Raises LoraError where its packages are missing."""
    try:
        from .standalone_server import main
    except ImportError as error:
        if error.name not in ("uvicorn", "fastapi", "starlette", "pydantic"):
            raise
        raise LoraError(f"the page needs {error.name}: pip install lora-ext[ui]") from None

    return main(argv)
