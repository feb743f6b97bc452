"""What the tab and its API need of the program they run in: folders, presets, a model to draw and train with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from PIL import Image

from ..adapter_spec import Presets
from ..compare.generate_cells import ImageRenderer
from ..file.lora_library import LoraLibrary
from ..fit_report import FitReport
from ..protocols import TrainableModel, UserFolders
from ..train.data.captioning import ImageCaptioner

BackendProgressCallback = Callable[[int, int], None]


class Backend(Protocol):
    """The web UI, or the standalone program.

    can_generate: whether it has a Generate panel of its own. prompts: whether the page has the web UI's prompt fields.
    """

    can_generate: bool
    has_prompt_fields: bool

    def folders(self) -> UserFolders:
        """Where files are read and written; nothing outside is touched."""
        ...

    def presets(self) -> Presets:
        """Block-weight presets: built-in, neighbours', the user's own."""
        ...

    def model_lock(self) -> AbstractContextManager[Any]:
        """Held while a job works with the model, so that pictures and training do not meet."""
        ...

    def generate(
        self, settings: dict[str, Any], library: LoraLibrary, on_progress: BackendProgressCallback
    ) -> tuple[Sequence[Image.Image], Sequence[FitReport], Sequence[str]]:
        """Pictures, how each file fits, and further notes. settings: with the names of `generate.Settings`; `ckpt` is
        a name below the checkpoint folders, or None.

        Raises LoraError. progress(call, calls) is called before each guess and may raise to stop.
        """
        ...

    def open_trainable_model(self, checkpoint: str | None) -> AbstractContextManager[TrainableModel]:
        """The model to train on while it is open: the one of this path, or the one that is loaded. Raises LoraError."""
        ...

    def open_renderer(self, checkpoint: str, library: LoraLibrary) -> AbstractContextManager[ImageRenderer]:
        """Who draws sheets while it is open; checkpoint: a name of `choices`, "" the usual one. Raises LoraError."""
        ...

    def applied_by(self) -> str:
        """Who applies `<lora:…>` tags in pictures, where it is not this program; "" where it is."""
        ...

    def why_unavailable(self, kind: str) -> str:
        """Why a job of this kind ("train", "compare" …) cannot use the model here, and what to do instead; "" where it
        can.
        """
        ...

    def image_captioners(self) -> Mapping[str, ImageCaptioner]:
        """What describes training pictures here, by name; empty where nothing does. A model is loaded at first use."""
        ...

    def choices(self) -> dict[str, list[str]]:
        """What lists offer: "samplers", "schedulers", "checkpoints"."""
        ...
