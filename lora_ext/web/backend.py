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
from ..protocols import TagInsertion, TrainableModel, UserFolders
from ..train.data.captioning import ImageCaptioner

BackendProgressCallback = Callable[[int, int], None]


class Backend(Protocol):
    """The web UI, or the standalone program.

    Attributes:
        can_generate: Whether it has a Generate panel of its own.
        has_prompt_fields: Whether the page has the web UI's prompt fields.
    """

    can_generate: bool
    has_prompt_fields: bool

    def folders(self) -> UserFolders:
        """Where files are read and written; nothing outside is touched.

        Returns:
            The folders.
        """
        ...

    def presets(self) -> Presets:
        """Block-weight presets: built-in, those of other extensions, the user's own.

        Returns:
            The presets.
        """
        ...

    def tag_insertion(self) -> TagInsertion:
        """How tags are put into prompts.

        Returns:
            The user's settings of now.
        """
        ...

    def model_lock(self) -> AbstractContextManager[Any]:
        """Held while a job works with the model, so that generating and training do not overlap.

        Returns:
            A context manager.
        """
        ...

    def generate(
        self, settings: dict[str, Any], library: LoraLibrary, on_progress: BackendProgressCallback
    ) -> tuple[Sequence[Image.Image], Sequence[FitReport], Sequence[str]]:
        """Generates images.

        Args:
            settings: With the names of `generate.Settings`; `ckpt` is a name below the checkpoint folders, or None.
            library: Where LoRA files are looked up.
            on_progress: Called as (call, calls) before each call of the U-Net; may raise to stop.

        Returns:
            The images, a fit report for each file, and further notes.

        Raises:
            LoraError: A setting, file or tag that cannot be used.
        """
        ...

    def open_trainable_model(self, checkpoint: str | None) -> AbstractContextManager[TrainableModel]:
        """Opens the model to train on.

        Args:
            checkpoint: Its path; None for the model that is loaded.

        Returns:
            A context manager with the model.

        Raises:
            LoraError: The model cannot be loaded, or cannot be trained.
        """
        ...

    def open_renderer(self, checkpoint: str, library: LoraLibrary) -> AbstractContextManager[ImageRenderer]:
        """Opens what generates the cells of sheets.

        Args:
            checkpoint: A name of `choices`; "" for the usual one.
            library: Where LoRA files are looked up.

        Returns:
            A context manager with the renderer.

        Raises:
            LoraError: The model cannot be loaded.
        """
        ...

    def applied_by(self) -> str:
        """Who applies `<lora:…>` tags, where it is not this program.

        Returns:
            A name; "" where this program applies them.
        """
        ...

    def why_unavailable(self, kind: str) -> str:
        """Why a kind of job cannot use the model here, and what to do instead.

        Args:
            kind: The kind: "train", "compare" …

        Returns:
            A sentence; "" where it can.
        """
        ...

    def image_captioners(self) -> Mapping[str, ImageCaptioner]:
        """What can describe training images here. A model is loaded at its first use.

        Returns:
            Name → captioner; empty where there is none.
        """
        ...

    def native_size(self, checkpoint: str) -> int:
        """The size of pictures for which none is given.

        Args:
            checkpoint: A name of `choices`; "" for the usual one.

        Returns:
            Width and height in pixels that the model was trained for; 0 where that is not known before it is loaded.

        Raises:
            FileError: There is no such checkpoint.
        """
        ...

    def cross_attention_dim(self, checkpoint: str) -> int:
        """What a model's cross-attention layers take in, which tells the LoRA files that fit it. It is not loaded.

        Args:
            checkpoint: As in `native_size`.

        Returns:
            The width of its text encoders' output; 0 where that is not known.

        Raises:
            FileError: There is no such checkpoint.
        """
        ...

    def choices(self) -> dict[str, list[str]]:
        """What the page's lists offer.

        Returns:
            "samplers", "schedulers" and "checkpoints" → names.
        """
        ...
