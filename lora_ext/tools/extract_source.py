"""A checkpoint to extract a LoRA from: a file or a diffusers folder, whose layers are read one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ToolError
from ..file.containers import similar_file_hint
from ..file.hashes import legacy_hash
from ..layer_names import UNET, LayerId
from .checkpoint_changes import TORCH_SUFFIXES
from .checkpoint_keys import WeightLocation, checkpoint_family, describe_checkpoint, find_weight_locations
from .checkpoint_stream import TensorFile, open_tensor_file
from .diffusers_folders import check_model_folder
from .merge_into_folder import NETWORK_SUBFOLDERS


class SourceCheckpoint:
    """The weights of a checkpoint by `LayerId`; only `load_weight` reads numbers of a safetensors file.

    Attributes:
        path: the file or folder.
        shapes: layer → shape of its weight.

    Raises:
        ToolError: nothing is at `path`, or it has no U-Net of a known model.
        FileError: the checkpoint cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise ToolError(f"there is no checkpoint {self.path}{similar_file_hint(self.path)}")
        self._at: dict[LayerId, tuple[TensorFile, WeightLocation]] = {}
        for tensor_file, part in self._tensor_files():
            for layer_id, location in find_weight_locations(tensor_file.shapes, part).items():
                self._at.setdefault(layer_id, (tensor_file, location))
        if not any(layer_id.part == UNET for layer_id in self._at):
            raise ToolError(f"{self.path} holds no U-Net of a Stable Diffusion model (SD1, SD2 or SDXL)")
        self.shapes = {layer_id: location.shape for layer_id, (_, location) in self._at.items()}

    def _tensor_files(self) -> Iterator[tuple[TensorFile, str | None]]:
        if not self.path.is_dir():
            yield open_tensor_file(self.path), None
            return
        check_model_folder(self.path)
        for name, part in NETWORK_SUBFOLDERS.items():
            files = [
                p for p in (self.path / name).glob("*") if p.suffix in (".safetensors", *TORCH_SUFFIXES) and p.is_file()
            ]
            tensors = [p for p in files if p.suffix == ".safetensors"] or files
            # The first file that holds a layer counts: the plain file comes before a variant such as `.fp16.`.
            yield from ((open_tensor_file(p), part) for p in sorted(tensors, key=lambda p: (p.name.count("."), p.name)))

    @property
    def family(self) -> str:
        """The model family: SD1, SD2, SDXL, "SDXL refiner" or "unknown"."""
        return checkpoint_family(self._locations())

    def describe(self) -> str:
        """The family in words, or what is known of an unknown model."""
        return describe_checkpoint(self._locations())

    def _locations(self) -> dict[LayerId, WeightLocation]:
        return {layer_id: location for layer_id, (_, location) in self._at.items()}

    @property
    def hash(self) -> str:
        """The web UI's short hash of the file, or of a folder's U-Net: it reads 64 kB, not the whole file."""
        tensor_file, _ = next(row for layer_id, row in self._at.items() if layer_id.part == UNET)
        return legacy_hash(tensor_file.path)

    def dtype(self, layer_id: LayerId) -> torch.dtype:
        """The dtype that a layer's weight is stored as."""
        tensor_file, location = self._at[layer_id]
        return tensor_file.dtype(location.key)

    def load_weight(self, layer_id: LayerId) -> Tensor:
        """Loads one layer's weight, (out, in[, kh, kw]), in the dtype of the file; 8-bit floats become float32.

        Raises:
            FileError: the file cannot be read.
        """
        tensor_file, location = self._at[layer_id]
        tensor = location.weight_view(tensor_file.load_tensor(location.key))
        return tensor if tensor.element_size() > 1 else tensor.float()
