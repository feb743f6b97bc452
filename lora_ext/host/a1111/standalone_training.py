"""Training where the web UI's own model cannot learn (Forge and its relatives): on a copy by the standalone host.

Forge creates parameters under `inference_mode`, which autograd refuses, and its transformer blocks add in place. So its
models are unloaded, and the chosen checkpoint's file is loaded once more by `host.standalone`. Forge loads its own
model again for the next image.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from modules import devices, paths, sd_models, shared
from PIL import Image

from ...errors import FileError, TrainError
from ...protocols import SampleSpec
from ..standalone.loader import load_model
from ..standalone.trainable_model import StandaloneTrainableModel

_MODEL_MANAGERS = ("backend.memory_management", "ldm_patched.modules.model_management")
"""Modules that hold the models: in Forge and Neo, in reForge and Classic."""
_TOKENIZER_FOLDERS = (
    "backend/huggingface/runwayml/stable-diffusion-v1-5/tokenizer",
    "ldm_patched/modules/sd1_tokenizer",
)
"""Folders with CLIP's tokenizer in these web UIs; SD1, SD2 and SDXL share it."""


@dataclass(frozen=True, eq=False)
class WebuiStandaloneTrainableModel(StandaloneTrainableModel):
    """A `StandaloneTrainableModel` whose run Interrupt stops, and whose samples are the web UI's live preview."""

    def is_stop_requested(self) -> bool:
        """Whether Interrupt or Skip was pressed."""
        return bool(shared.state.interrupted or shared.state.skipped)

    def generate_image(self, spec: SampleSpec) -> Image.Image:
        """Generates a sample image; see `StandaloneTrainableModel.generate_image`."""
        image = super().generate_image(spec)
        shared.state.assign_current_image(image)
        return image


def load_chosen_model_for_training() -> WebuiStandaloneTrainableModel:
    """Loads the checkpoint chosen at the top of the page, after unloading the web UI's models.

    Raises:
        TrainError: there is no checkpoint, it is of an unsupported architecture, or a package is missing.
    """
    chosen = sd_models.select_checkpoint()
    if chosen is None:
        raise TrainError("the web UI has no model; choose a checkpoint")
    unload_managed_models()
    try:
        model = load_model(
            chosen.filename, tokenizer=shipped_tokenizer(), device=str(devices.device), precision=_weights_precision()
        )
    except FileError as error:
        raise TrainError(
            f"{error}. SD1.x, SD2.x and SDXL checkpoints with text encoder and VAE can be trained"
        ) from None
    except ModuleNotFoundError as error:
        raise TrainError(
            f"training in this web UI needs the package {error.name}, which its Python does not have; install it there"
        ) from None
    return WebuiStandaloneTrainableModel(model, is_disposable=True)


def unload_managed_models() -> None:
    """Moves the web UI's models off the compute device. They come back for the next image."""
    for name in _MODEL_MANAGERS:
        manager = sys.modules.get(name)
        if manager is not None:
            manager.unload_all_models()
            manager.soft_empty_cache()


def shipped_tokenizer() -> Path | None:
    """Returns the folder with the tokenizer that the web UI ships, None where there is none."""
    folders = (Path(paths.script_path) / folder for folder in _TOKENIZER_FOLDERS)
    return next((folder for folder in folders if (folder / "vocab.json").is_file()), None)


def _weights_precision() -> str:
    """Returns the precision that weights are loaded in: fp32 on the CPU, else fp16, as the web UI itself has them.

    A run then converts them to its own precision; what is trained is in float32.
    """
    return "fp32" if torch.device(devices.device).type == "cpu" else "fp16"
