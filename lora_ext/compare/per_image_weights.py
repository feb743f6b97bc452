"""Generate several pictures in one batch, each with its own LoRA weights.

The ranks of all files are concatenated, and the gains g of shape (batch, rank) in ΔW = U·diag(g)·D select each
picture's files and weights, in the U-Net and the text encoders. The pictures are the same as one by one, up to
rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch

from ..adapter_spec import AdapterSpec, with_turns
from ..applied_networks import AppliedNetworks
from ..errors import FitError
from ..file.lora_file import LoraFile
from ..fit_report import FitReport
from ..inject import BAKED, AppliedAdapter, MemoryBudget
from ..inject.fallback import WeightChanges
from ..layer_names import UNET, LayerId
from ..protocols import HookableModel
from ..regions import Region

_FileKey: TypeAlias = "tuple[int, int | None, Region | None]"


class PerImageNetworks(AppliedNetworks):
    """An `AppliedNetworks` whose files and weights belong to single pictures of a batch.

    The batch that a network computes is a multiple of the number of pictures: all pictures in order, once for each
    condition of guidance.

    Args:
        *args: as those of `AppliedNetworks`.
        **options: as those of `AppliedNetworks`.
    """

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self._image_of_spec: tuple[int, ...] = ()
        self._image_count = 0
        self.batches_predictions = False  # pictures have different numbers of predictions

    def __enter__(self) -> PerImageNetworks:
        return self

    def apply_each(self, specs_per_image: Sequence[Sequence[AdapterSpec]]) -> list[FitReport]:
        """Applies each picture's own files to it.

        Args:
            specs_per_image: `specs_per_image[i]` is applied to picture i of each batch.

        Returns:
            A fit report for each file.

        Raises:
            LoraError: as `AppliedNetworks.apply`; nothing is applied then.
        """
        self._image_of_spec = tuple(i for i, specs in enumerate(specs_per_image) for _ in specs)
        self._image_count = len(specs_per_image)
        fits = self.apply([spec for specs in specs_per_image for spec in specs])
        return list({fit.name: fit for fit in fits}.values())

    def _with_turns(self, specs: Sequence[AdapterSpec]) -> tuple[AdapterSpec, ...]:
        """The specs with their turns among those of the same picture."""
        found = list(specs)
        for image in set(self._image_of_spec):
            own = [i for i, other in enumerate(self._image_of_spec) if other == image]
            for i, spec in zip(own, with_turns([specs[i] for i in own]), strict=True):
                found[i] = spec
        return tuple(found)

    def _wanted(self) -> dict[LayerId, tuple[AppliedAdapter, ...]]:
        """One adapter for each file and layer, with a weight for each picture or one weight where all are equal."""
        wanted: dict[LayerId, dict[_FileKey, list[float]]] = {}
        files: dict[int, LoraFile] = {}
        scheduled: set[_FileKey] = set()
        for spec, current, image in zip(self.specs, self._current_specs, self._image_of_spec, strict=True):
            key = (id(spec.file), spec.dyn, spec.region)
            files[id(spec.file)] = spec.file
            if spec.is_scheduled:
                scheduled.add(key)
            for layer_id in self.matching_layers(spec):
                weight = current.weight_at(layer_id)
                wanted.setdefault(layer_id, {}).setdefault(key, [0.0] * self._image_count)[image] += weight
        kept: dict[tuple[float, ...], torch.Tensor] = {}
        wanted_adapters: dict[LayerId, tuple[AppliedAdapter, ...]] = {}
        for layer_id, rows in wanted.items():
            adapters = []
            for (file, dyn, region), weights in rows.items():
                is_scheduled = (file, dyn, region) in scheduled and layer_id.part == UNET
                image_weights = tuple(weights)
                if any(image_weights) or is_scheduled:
                    value = (
                        image_weights[0]
                        if len(set(image_weights)) == 1
                        else kept.setdefault(image_weights, torch.tensor(image_weights))
                    )
                    adapters.append(
                        AppliedAdapter(
                            files[file].adapters[layer_id],
                            value,
                            dyn,
                            is_scheduled=is_scheduled,
                            place=self._place_gain(region, layer_id),
                        )
                    )
            if adapters:
                wanted_adapters[layer_id] = tuple(adapters)
        return wanted_adapters


def networks_for_rows(
    model: HookableModel,
    mode: str,
    several: bool,
    memory: MemoryBudget | None = None,
    changes: WeightChanges | None = None,
) -> AppliedNetworks:
    """Returns what applies the files of one row, or of several; other arguments as for `AppliedNetworks`.

    Raises:
        FitError: regions and the mode "baked", which has one weight for the whole batch.
    """
    if not several:
        return AppliedNetworks(model, mode, memory, changes)
    if mode == BAKED:
        raise FitError("mode=baked has one weight for the whole picture; regions need the mode auto or live")
    return PerImageNetworks(model, mode, memory, changes)
