"""A checkpoint to extract from: a file or a diffusers folder, its layers read one at a time, whatever their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ToolError
from ..file.hashes import legacy_hash
from ..layer_names import UNET, Site
from .checkpoint_changes import TORCH
from .checkpoint_keys import Place, describe, family_of, places
from .checkpoint_stream import Store, store_of
from .merge_into_folder import NETWORKS


class Checkpoint:
    """Weights by `Site`. `shapes` of all layers are known; only `stored` reads numbers.

    Raises ToolError when there is none at `path`, FileError when it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise ToolError(f"there is no checkpoint {self.path}")
        self._at: dict[Site, tuple[Store, Place]] = {}
        for store, part in self._stores():
            for site, place in places(store.shapes, part).items():
                self._at.setdefault(site, (store, place))
        if not any(site.part == UNET for site in self._at):
            raise ToolError(f"{self.path} holds no U-Net of a Stable Diffusion model (SD1, SD2 or SDXL)")
        self.shapes = {site: place.shape for site, (_, place) in self._at.items()}

    def _stores(self) -> Iterator[tuple[Store, str | None]]:
        if not self.path.is_dir():
            yield store_of(self.path), None
            return
        if not (self.path / "model_index.json").is_file():
            raise ToolError(f"{self.path} is no diffusers model: it has no model_index.json")
        for name, part in NETWORKS.items():
            files = [p for p in (self.path / name).glob("*") if p.suffix in (".safetensors", *TORCH) and p.is_file()]
            tensors = [p for p in files if p.suffix == ".safetensors"] or files
            # of a variant such as `.fp16.` and the plain file, the plain one: it comes first and wins
            yield from ((store_of(p), part) for p in sorted(tensors, key=lambda p: (p.name.count("."), p.name)))

    @property
    def family(self) -> str:
        """ "SD1", "SD2", "SDXL", or "unknown"."""
        return family_of(self._places())

    def describe(self) -> str:
        """The family, or what is known of it, in words."""
        return describe(self._places())

    def _places(self) -> dict[Site, Place]:
        return {site: place for site, (_, place) in self._at.items()}

    @property
    def hash(self) -> str:
        """The web UI's old hash, which reads 64 kB of a file and not all of it; of a folder that of its U-Net's."""
        store, _ = next(row for site, row in self._at.items() if site.part == UNET)
        return legacy_hash(store.path)

    def dtype(self, site: Site) -> torch.dtype:
        """What a layer is stored as."""
        store, place = self._at[site]
        return store.dtype(place.key)

    def stored(self, site: Site) -> Tensor:
        """One layer's weight in the dtype of the file (8-bit floats as float32). Raises FileError."""
        store, place = self._at[site]
        tensor = place.weight(store.read(place.key))
        return tensor if tensor.element_size() > 1 else tensor.float()
