"""A checkpoint to extract from: a file or a diffusers folder, its layers read one at a time, whatever their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ToolError
from ..file.hashes import legacy_hash
from ..layer_names import UNET, LayerId
from .checkpoint_changes import TORCH_SUFFIXES
from .checkpoint_keys import WeightLocation, checkpoint_family, describe_checkpoint, find_weight_locations
from .checkpoint_stream import TensorFile, open_tensor_file
from .merge_into_folder import NETWORK_SUBFOLDERS


class SourceCheckpoint:
    """Weights by `LayerId`. `shapes` of all layers are known; only `load_weight` reads numbers.

    Raises ToolError when there is none at `path`, FileError when it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise ToolError(f"there is no checkpoint {self.path}")
        self._at: dict[LayerId, tuple[TensorFile, WeightLocation]] = {}
        for store, part in self._tensor_files():
            for site, place in find_weight_locations(store.shapes, part).items():
                self._at.setdefault(site, (store, place))
        if not any(site.part == UNET for site in self._at):
            raise ToolError(f"{self.path} holds no U-Net of a Stable Diffusion model (SD1, SD2 or SDXL)")
        self.shapes = {site: place.shape for site, (_, place) in self._at.items()}

    def _tensor_files(self) -> Iterator[tuple[TensorFile, str | None]]:
        if not self.path.is_dir():
            yield open_tensor_file(self.path), None
            return
        if not (self.path / "model_index.json").is_file():
            raise ToolError(f"{self.path} is no diffusers model: it has no model_index.json")
        for name, part in NETWORK_SUBFOLDERS.items():
            files = [
                p for p in (self.path / name).glob("*") if p.suffix in (".safetensors", *TORCH_SUFFIXES) and p.is_file()
            ]
            tensors = [p for p in files if p.suffix == ".safetensors"] or files
            # of a variant such as `.fp16.` and the plain file, the plain one: it comes first and wins
            yield from ((open_tensor_file(p), part) for p in sorted(tensors, key=lambda p: (p.name.count("."), p.name)))

    @property
    def family(self) -> str:
        """ "SD1", "SD2", "SDXL", or "unknown"."""
        return checkpoint_family(self._locations())

    def describe(self) -> str:
        """The family, or what is known of it, in words."""
        return describe_checkpoint(self._locations())

    def _locations(self) -> dict[LayerId, WeightLocation]:
        return {site: place for site, (_, place) in self._at.items()}

    @property
    def hash(self) -> str:
        """The web UI's old hash, which reads 64 kB of a file and not all of it; of a folder that of its U-Net's."""
        store, _ = next(row for site, row in self._at.items() if site.part == UNET)
        return legacy_hash(store.path)

    def dtype(self, layer_id: LayerId) -> torch.dtype:
        """What a layer is stored as."""
        store, place = self._at[layer_id]
        return store.dtype(place.key)

    def load_weight(self, layer_id: LayerId) -> Tensor:
        """One layer's weight in the dtype of the file (8-bit floats as float32). Raises FileError."""
        store, place = self._at[layer_id]
        tensor = place.weight_view(store.load_tensor(place.key))
        return tensor if tensor.element_size() > 1 else tensor.float()
