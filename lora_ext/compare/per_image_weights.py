"""Several pictures in one batch, each with LoRA weights of its own.

Files lie side by side along the rank, and each picture's gains switch on its own part: a `g` of shape (batch, rank),
in the U-Net and the text encoders alike. Pictures come out as they would one by one, but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..applied_networks import Applied, Fit, Use
from ..file.lora_file import LoraFile
from ..inject import Piece
from ..layer_names import UNET, Site


class Mixed(Applied):
    """An `Applied` whose uses belong to the pictures of a batch. A network's batch is a multiple of their number:
    the pictures in order, perhaps once more for each condition of guidance."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self._picture: tuple[int, ...] = ()
        self._pictures = 0

    def __enter__(self) -> Mixed:
        return self

    def set_each(self, pictures: Sequence[Sequence[Use]]) -> list[Fit]:
        """Picture i gets `pictures[i]`; one report for each file. On any exception nothing is applied."""
        self._picture = tuple(i for i, uses in enumerate(pictures) for _ in uses)
        self._pictures = len(pictures)
        fits = self.set([use for uses in pictures for use in uses])
        return list({fit.name: fit for fit in fits}.values())

    def _wanted(self) -> dict[Site, tuple[Piece, ...]]:
        """One piece for each file and site, with a weight a picture, or one number where all have the same."""
        wanted: dict[Site, dict[tuple[int, int | None], list[float]]] = {}
        files: dict[int, LoraFile] = {}
        moving: set[tuple[int, int | None]] = set()
        for use, active, picture in zip(self.uses, self._active, self._picture, strict=True):
            key = (id(use.file), use.dyn)
            files[id(use.file)] = use.file
            if use.scheduled:
                moving.add(key)
            for site in self._sites[id(use.file)][1]:
                weight = 0.0 if site.part == UNET and not active else use.weight(site)
                wanted.setdefault(site, {}).setdefault(key, [0.0] * self._pictures)[picture] += weight
        kept: dict[tuple[float, ...], torch.Tensor] = {}
        now: dict[Site, tuple[Piece, ...]] = {}
        for site, rows in wanted.items():
            pieces = []
            for (file, dyn), weights in rows.items():
                moves = (file, dyn) in moving and site.part == UNET
                row = tuple(weights)
                if any(row) or moves:
                    value = row[0] if len(set(row)) == 1 else kept.setdefault(row, torch.tensor(row))
                    pieces.append(Piece(files[file].adapters[site], value, dyn, moving=moves))
            if pieces:
                now[site] = tuple(pieces)
        return now
