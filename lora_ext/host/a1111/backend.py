"""The web UI as the backend of the LoRA ext tab (`web.backend.Backend`): folders, presets, queue and model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modules import call_queue, paths, sd_models, sd_samplers, shared
from PIL import Image

from ...adapter_spec import Presets
from ...errors import LoraError
from ...file.displayed_names import files_below, paths_by_displayed_name
from ...file.lora_library import LoraLibrary
from ...fit_report import FitReport
from ...protocols import TagInsertion, TrainableModel, UserFolders
from ...train.data.captioning import ImageCaptioner
from ..standalone.captioner_folders import CAPTIONERS_FOLDER, find_captioners
from ..standalone.unloaded_checkpoint import cross_attention_dim_of_file
from .image_renderer import A1111ImageRenderer
from .interrogators import interrogators
from .model_kind import sd_model_native_size
from .model_loading import load_chosen_model
from .models import current_sd_model
from .script_lifetime import SCRIPT_LIFETIME
from .settings import A1111HostInterface, command_line_folders
from .training_session import open_training_session
from .webui_job import webui_job

SHEET_JOB_TITLE = "drawing a sheet"
_CHECKPOINT_SUFFIXES = (".safetensors", ".ckpt")
_NGROK_DOMAINS = ("*.ngrok-free.app", "*.ngrok-free.dev", "*.ngrok.app", "*.ngrok.dev", "*.ngrok.io")


class A1111Backend:
    """The web UI as a `web.backend.Backend`.

    Args:
        host_interface: settings and folders.
        remove_all: removes all LoRA files from all models.
        other_tag_owner: returns the name of the extension that applies tags in place of this one, else "".

    Attributes:
        can_generate: False, since images are generated in the web UI's own tabs.
        has_prompt_fields: True, since the page has the web UI's prompt fields.
    """

    can_generate, has_prompt_fields = False, True

    def __init__(
        self, host_interface: A1111HostInterface, remove_all: Callable[[], None], other_tag_owner: Callable[[], str]
    ) -> None:
        self.host_interface, self.remove_all, self.applied_by = host_interface, remove_all, other_tag_owner

    def why_unavailable(self, kind: str) -> str:
        """Returns why a kind of job is not available, "" where it is; see `web.backend.Backend.why_unavailable`."""
        owner = self.applied_by()
        if owner and kind in ("compare", "blocks", "preview"):
            return (
                f"sheets need LoRA ext to apply the tags, and {owner} does now; turn it off, or choose LoRA ext in "
                "Settings → LoRA ext"
            )
        return ""

    def folders(self) -> UserFolders:
        """Returns the web UI's model folders. The extension's own files are in `lora_ext` in its data folder."""
        data = self.host_interface.data_dir()
        checkpoints = [Path(paths.models_path) / "Stable-diffusion", *command_line_folders("ckpt_dir", "ckpt_dirs")]
        loras = self.host_interface.lora_dirs()
        (data / "datasets").mkdir(parents=True, exist_ok=True)
        return UserFolders(
            loras=loras,
            save=loras[0],
            checkpoints=tuple(checkpoints),
            datasets=(data / "datasets",),
            outputs=data / "outputs",
            data=data,
            optional=self.host_interface.optional_dirs(),
        )

    def presets(self) -> Presets:
        """Returns the presets that prompts may name."""
        return self.host_interface.presets()

    def tag_insertion(self) -> TagInsertion:
        """Returns what the web UI's own cards do by its settings."""
        return TagInsertion(
            separator=str(getattr(shared.opts, "extra_networks_add_text_separator", " ")),
            weight=float(shared.opts.extra_networks_default_multiplier),
            prefers_alias=getattr(shared.opts, "lora_preferred_name", "Filename") != "Filename",
        )

    @contextmanager
    def model_lock(self) -> Iterator[None]:
        """Holds the web UI's queue lock: one job or image at a time."""
        with call_queue.queue_lock:
            SCRIPT_LIFETIME.has_running_job = True
            try:
                yield
            finally:
                SCRIPT_LIFETIME.has_running_job = False

    @contextmanager
    def open_trainable_model(self, checkpoint: str | None) -> Iterator[TrainableModel]:
        """Opens the web UI's chosen model for training, without LoRA files; `checkpoint` is ignored."""
        with open_training_session(self.remove_all) as model:
            yield model

    @contextmanager
    def open_renderer(self, checkpoint: str, library: LoraLibrary) -> Iterator[A1111ImageRenderer]:
        """Opens a renderer for sheets that uses the chosen model; `checkpoint` is ignored.

        Raises:
            LoraError: another extension applies the tags to this model.
        """
        with webui_job(SHEET_JOB_TITLE):
            load_chosen_model()
            reason = self.why_unavailable("compare")  # which depends on the model
            if reason:
                raise LoraError(reason)
            yield A1111ImageRenderer(library, self.presets())

    def generate(
        self, settings: dict[str, Any], library: object, on_progress: object
    ) -> tuple[Sequence[Image.Image], Sequence[FitReport], Sequence[str]]:
        """Always raises LoraError: images are generated in txt2img and img2img."""
        raise LoraError("the web UI generates images in txt2img and img2img, not in this tab")

    def image_captioners(self) -> Mapping[str, ImageCaptioner]:
        """Returns the web UI's own interrogators, then the captioners in the folder `captioners` of the data folder."""
        own = interrogators()
        more = find_captioners([self.host_interface.data_dir() / CAPTIONERS_FOLDER])
        return own | {name: describe for name, describe in more.items() if name not in own}

    def native_size(self, checkpoint: str) -> int:
        """See `Backend.native_size`: pictures are drawn with the web UI's own model."""
        model = current_sd_model()
        return 0 if model is None else sd_model_native_size(model)

    def cross_attention_dim(self, checkpoint: str) -> int:
        """See `Backend.cross_attention_dim`: of the checkpoint chosen at the top of the page."""
        with suppress(FileNotFoundError):  # the web UI has no checkpoint
            chosen = sd_models.select_checkpoint()
            return cross_attention_dim_of_file(Path(chosen.filename)) if chosen else 0
        return 0

    def choices(self) -> dict[str, list[str]]:
        """Returns samplers, schedules, and checkpoints by their path in their folder."""
        folders = self.folders().checkpoints
        found = paths_by_displayed_name(
            (folder, path) for folder in folders for path in files_below(folder, _CHECKPOINT_SUFFIXES)
        )
        return {
            "samplers": [sampler.name for sampler in sd_samplers.all_samplers],
            "schedulers": scheduler_labels(),
            "checkpoints": list(found),
        }


def scheduler_labels() -> list[str]:
    """Returns the labels of the web UI's noise schedules; "Automatic" alone where it has no list (Forge Classic)."""
    try:
        from modules import sd_schedulers
    except ImportError:
        return ["Automatic"]
    return [scheduler.label for scheduler in sd_schedulers.schedulers]


def configured_users() -> Mapping[str, str]:
    """Returns names and passwords of `--gradio-auth`, `--gradio-auth-path` and `--api-auth`.

    The options are parsed here, since forks have the web UI's parser in other places and a password must not be lost.
    """
    given = [getattr(shared.cmd_opts, name, None) or "" for name in ("gradio_auth", "api_auth")]
    path = getattr(shared.cmd_opts, "gradio_auth_path", None)
    if path:
        given += Path(path).read_text(encoding="utf-8").splitlines()
    pairs = (pair.strip().partition(":") for line in given for pair in line.split(","))
    return {name: password for name, colon, password in pairs if colon}


def bound_address() -> str:
    """Returns the address that the web UI listens on."""
    everywhere = "0.0.0.0" if getattr(shared.cmd_opts, "listen", False) else ""
    given = getattr(shared.cmd_opts, "server_name", None) or everywhere
    return given or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"


def tunnel_host_names() -> list[str]:
    """Returns the host names of tunnels that the web UI opens itself (`--share`, `--ngrok`)."""
    shared_at = getattr(getattr(shared, "demo", None), "share_url", None)
    found = [urlsplit(shared_at).netloc] if shared_at else []
    # ngrok prints the exact name on the console only; its domains never point to somebody else's machine
    return [*found, *(_NGROK_DOMAINS if getattr(shared.cmd_opts, "ngrok", None) else ())]
