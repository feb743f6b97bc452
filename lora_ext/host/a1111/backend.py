"""The web UI as what the tab works at (`web.desk.Desk`): its folders, its presets, its queue."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modules import call_queue, paths, sd_samplers, shared
from PIL import Image

from ...applied_networks import Fit, Presets
from ...errors import LoraError
from ...file.displayed_names import files_below, named
from ...file.lora_library import Library
from ...protocols import Folders, Trainee
from .image_renderer import A1111Artist
from .models import patched
from .script_lifetime import PAGE
from .settings import A1111Shell, given_folders
from .training_session import borrowed

_LISTED = (".safetensors", ".ckpt")
_NGROK = ("*.ngrok-free.app", "*.ngrok-free.dev", "*.ngrok.app", "*.ngrok.dev", "*.ngrok.io")


class A1111Desk:
    """release: removes every file of ours from the model. elsewhere: who applies tags, where it is not us.

    draws: pictures are drawn in the web UI's own tabs. prompts: whose prompt fields the page has."""

    draws, prompts = False, True

    def __init__(self, shell: A1111Shell, release: Callable[[], None], elsewhere: Callable[[], str]) -> None:
        self.shell, self.release, self.applied_by = shell, release, elsewhere

    def cannot(self, kind: str) -> str:
        """See `Desk.cannot`."""
        if patched():
            verb = {"preflight": "train"}.get(kind, kind)
            return (
                "this web UI (Forge or a relative of it) holds its model in a way that LoRA ext cannot train or draw "
                f"sheets with yet; `python -m lora_ext {verb}` does the same outside it"
            )
        owner = self.applied_by()
        if owner and kind in ("compare", "blocks"):
            return (
                f"sheets need LoRA ext to apply the tags, and {owner} does now; turn it off, or choose LoRA ext in "
                "Settings → LoRA ext"
            )
        return ""

    def folders(self) -> Folders:
        """The web UI's model folders; everything of ours is below its data folder's `lora_ext`."""
        data = self.shell.data_dir()
        checkpoints = [Path(paths.models_path) / "Stable-diffusion", *given_folders("ckpt_dir", "ckpt_dirs")]
        loras = self.shell.lora_dirs()
        (data / "datasets").mkdir(parents=True, exist_ok=True)
        return Folders(
            loras=loras,
            save=loras[0],
            checkpoints=tuple(checkpoints),
            datasets=(data / "datasets",),
            outputs=data / "outputs",
            data=data,
            optional=self.shell.optional_dirs(),
        )

    def presets(self) -> Presets:
        """As a prompt knows them."""
        return self.shell.presets()

    @contextmanager
    def model_lock(self) -> Iterator[None]:
        """The web UI's queue: one job or picture at a time."""
        with call_queue.queue_lock:
            PAGE.at_work = True
            try:
                yield
            finally:
                PAGE.at_work = False

    @contextmanager
    def borrowed(self, checkpoint: str | None) -> Iterator[Trainee]:
        """The model that the web UI holds, whatever `checkpoint` says, with none of our files on it."""
        with borrowed(self.release) as trainee:
            yield trainee

    @contextmanager
    def artist(self, checkpoint: str, library: Library) -> Iterator[A1111Artist]:
        """Draws with the model that is loaded, whatever `checkpoint` says."""
        yield A1111Artist(library, self.presets())

    def draw(
        self, settings: dict[str, Any], library: object, progress: object
    ) -> tuple[Sequence[Image.Image], Sequence[Fit], Sequence[str]]:
        """Not here: txt2img and img2img draw."""
        raise LoraError("pictures are drawn in txt2img and img2img here")

    def choices(self) -> dict[str, list[str]]:
        """Samplers, schedules, and checkpoints by their path below their folder."""
        folders = self.folders().checkpoints
        found = named((folder, path) for folder in folders for path in files_below(folder, _LISTED))
        return {
            "samplers": [sampler.name for sampler in sd_samplers.all_samplers],
            "schedulers": schedulers(),
            "checkpoints": list(found),
        }


def schedulers() -> list[str]:
    """The web UI's noise schedules by their labels; none where it has no list of them (Classic)."""
    try:
        from modules import sd_schedulers
    except ImportError:
        return ["Automatic"]
    return [scheduler.label for scheduler in sd_schedulers.schedulers]


def users() -> Mapping[str, str]:
    """Names and passwords of `--gradio-auth`, `--gradio-auth-path` and `--api-auth`; empty where none is given.

    Read from the options themselves: forks have the web UI's reader in other places, and a password must not be lost.
    """
    given = [getattr(shared.cmd_opts, name, None) or "" for name in ("gradio_auth", "api_auth")]
    path = getattr(shared.cmd_opts, "gradio_auth_path", None)
    if path:
        given += Path(path).read_text(encoding="utf-8").splitlines()
    pairs = (pair.strip().partition(":") for line in given for pair in line.split(","))
    return {name: password for name, colon, password in pairs if colon}


def bound_address() -> str:
    """The address that the web UI listens on."""
    everywhere = "0.0.0.0" if getattr(shared.cmd_opts, "listen", False) else ""
    given = getattr(shared.cmd_opts, "server_name", None) or everywhere
    return given or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"


def public_names() -> list[str]:
    """The names by which the tunnels that the web UI opens itself (`--share`, `--ngrok`) reach it."""
    shared_at = getattr(getattr(shared, "demo", None), "share_url", None)
    found = [urlsplit(shared_at).netloc] if shared_at else []
    # its own name is told to the console only; the owner of these domains lets none point to another's machine
    return [*found, *(_NGROK if getattr(shared.cmd_opts, "ngrok", None) else ())]
