"""Several pictures in one batch, each with LoRA weights of its own.

Files lie side by side along the rank, and each picture's gains switch on its own part: a `g` of shape (batch, rank),
in the U-Net and the text encoders alike. Pictures come out as they would one by one, but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..adapter_spec import AdapterSpec
from ..applied_networks import AppliedNetworks
from ..file.lora_file import LoraFile
from ..fit_report import FitReport
from ..inject import AppliedAdapter
from ..layer_names import UNET, LayerId


class PerImageNetworks(AppliedNetworks):
    """An `AppliedNetworks` whose uses belong to the pictures of a batch. A network's batch is a multiple of their
    number:
    the pictures in order, perhaps once more for each condition of guidance."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self._image_of_spec: tuple[int, ...] = ()
        self._image_count = 0

    def __enter__(self) -> PerImageNetworks:
        return self

    def apply_each(self, specs_per_image: Sequence[Sequence[AdapterSpec]]) -> list[FitReport]:
        """Picture i gets `specs_per_image[i]`; one report for each file. On any exception nothing is applied."""
        self._image_of_spec = tuple(i for i, uses in enumerate(specs_per_image) for _ in uses)
        self._image_count = len(specs_per_image)
        fits = self.apply([use for uses in specs_per_image for use in uses])
        return list({fit.name: fit for fit in fits}.values())

    def _wanted(self) -> dict[LayerId, tuple[AppliedAdapter, ...]]:
        """One piece for each file and site, with a weight a picture, or one number where all have the same."""
        wanted: dict[LayerId, dict[tuple[int, int | None], list[float]]] = {}
        files: dict[int, LoraFile] = {}
        moving: set[tuple[int, int | None]] = set()
        for use, active, picture in zip(self.specs, self._active, self._image_of_spec, strict=True):
            key = (id(use.file), use.dyn)
            files[id(use.file)] = use.file
            if use.is_scheduled:
                moving.add(key)
            for site in self._layer_ids_by_file[id(use.file)][1]:
                weight = 0.0 if site.part == UNET and not active else use.weight_at(site)
                wanted.setdefault(site, {}).setdefault(key, [0.0] * self._image_count)[picture] += weight
        kept: dict[tuple[float, ...], torch.Tensor] = {}
        now: dict[LayerId, tuple[AppliedAdapter, ...]] = {}
        for site, rows in wanted.items():
            pieces = []
            for (file, dyn), weights in rows.items():
                moves = (file, dyn) in moving and site.part == UNET
                row = tuple(weights)
                if any(row) or moves:
                    value = row[0] if len(set(row)) == 1 else kept.setdefault(row, torch.tensor(row))
                    pieces.append(AppliedAdapter(files[file].adapters[site], value, dyn, is_scheduled=moves))
            if pieces:
                now[site] = tuple(pieces)
        return now
