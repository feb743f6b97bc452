"""`AppliedNetworks`: which LoRA files are applied to a model now, and how a new list of them is applied."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch.utils.hooks import RemovableHandle

from .adapter_spec import AdapterSpec, with_turns
from .blocks import BASE, BLOCK_LABELS
from .composition import predictions_per_call
from .conditions import Condition
from .file.lora_file import LoraFile
from .fit_report import FitReport
from .inject import AUTO, BAKED, AppliedAdapter, Injection, LayerTarget, MemoryBudget, StepWeight, find_layer_targets
from .inject.applied_adapter import are_equal
from .inject.averaged_predictions import AveragedPredictions
from .inject.condition_rows import BatchRow, ConditionRows, SplitRow
from .inject.fallback import LiveFallback, WeightChanges
from .inject.free_memory import accelerated, is_out_of_memory, release_memory
from .inject.place import TEXT_LAYERS, PlaceGain, RegionPlaces
from .inject.rounding import ROUNDING_WARNING_SHARE
from .layer_names import UNET, LayerId
from .protocols import HookableModel
from .regions import Region

_T = TypeVar("_T")


@runtime_checkable
class ModelWithInjection(HookableModel, Protocol):
    """A model whose weights belong to a manager of its own, which has to be asked to change them."""

    def create_injection(self, mode: str, memory: MemoryBudget | None) -> Injection:
        """Returns an `Injection` that changes this model's weights; `mode` and `memory` as for `Injection`."""
        ...


class _LayerMatches(NamedTuple):
    """The layers of a file that the model has: fitting, of another shape, and with NaN or infinity."""

    file: LoraFile
    fitting: tuple[LayerId, ...]
    wrong_shape: tuple[LayerId, ...]
    non_finite: tuple[LayerId, ...]


class AppliedNetworks:
    """The LoRA files applied to one model. A context manager: `close` restores the model bit-exactly.

    Args:
        model: the model; its modules must not be replaced while this object is used.
        mode: "live", "baked" or "auto" (see `inject`).
        memory: how much memory baking may take; by default all that is free.
        changes: weights of earlier images, where this object is made anew for each image.

    Attributes:
        targets: layer id → parameter, for all layers of the model.
        blocks: block labels of the model.
        specs: what is applied now.
        places: the regions of `specs` that act by masks on the outputs of their layers.
        changed: the number of layers that the last `apply` or `at_step` changed.
        batches_predictions: whether predictions that are averaged may be rows of one batch; changed before `apply`.
        conditions: the conditions of the U-Net's rows, to be given before `apply` where files act on single ones.
    """

    def __init__(
        self,
        model: HookableModel,
        mode: str = AUTO,
        memory: MemoryBudget | None = None,
        changes: WeightChanges | None = None,
    ) -> None:
        self.roots = dict(model.parts())
        self.targets: dict[LayerId, LayerTarget] = {}
        for part, root in self.roots.items():
            self.targets.update(find_layer_targets(part, root))
        self.blocks = {layer_id.block for layer_id in self.targets}
        self.injection = (
            model.create_injection(mode, memory) if isinstance(model, ModelWithInjection) else Injection(mode, memory)
        )
        self.fallback = LiveFallback(self.injection, self._apply_changes, changes)
        self.specs: tuple[AdapterSpec, ...] = ()
        self.changed = 0
        self.conditions: tuple[Condition, ...] = ()
        self._condition_rows = ConditionRows()
        self._text_condition: Condition | None = None
        self._current: dict[LayerId, tuple[AppliedAdapter, ...]] = {}
        self._current_specs: tuple[AdapterSpec, ...] = ()
        self._step_weights: tuple[StepWeight, ...] = ()
        self._following: dict[int, bool] = {}
        self._step: tuple[int, int, float | None] = (0, 1_000_000, math.inf)
        self._prediction = 0
        # extensions of hosts with patchers keep numbers of rows where no tensor shows them
        self.batches_predictions = not isinstance(model, ModelWithInjection)
        self._rows_per_input = 1
        self._predictions = AveragedPredictions(self._select_prediction)
        self.places = RegionPlaces()
        self._load_hooks: list[RemovableHandle] = []
        self._matches: dict[int, _LayerMatches] = {}

    def reserve_memory(self, image_bytes: int) -> None:
        """Reserves memory at the next `apply`.

        Args:
            image_bytes: bytes that stay free for generating an image.
        """
        self.injection.memory = replace(self.injection.memory, image_bytes=image_bytes)

    def apply(self, specs: Sequence[AdapterSpec]) -> list[FitReport]:
        """Replaces the applied files. Only layers whose adapters changed are touched; schedules start at step 0.

        On any exception everything is removed from the model. Where memory runs out in the mode "auto", everything is
        applied live instead.

        Args:
            specs: the files in order; the same file twice adds up.

        Returns:
            A report for each file on how it fits the model.

        Raises:
            FitError: memory is not enough in the mode "baked", or an adapter cannot be applied.
            PromptError: `compose` of a spec is not known.
        """
        specs = self._with_turns(specs)
        if specs and not self._load_hooks:  # load_state_dict must write to the original parameters, not to baked ones
            self._load_hooks = [
                root._register_load_state_dict_pre_hook(lambda *_: self._clear()) for root in self.roots.values()
            ]
        before = dict(enumerate(zip(self.specs, self._step_weights, strict=False)))
        self.specs = specs
        self._step_weights = tuple(
            before[i][1] if i in before and before[i][0] == spec else StepWeight() for i, spec in enumerate(specs)
        )
        self._step, self._prediction = (0, 1_000_000, math.inf), 0
        self.places.set_regions(self.roots.get(UNET), list(dict.fromkeys(filter(None, (s.region for s in self.specs)))))
        self._count_predictions()
        self._set_current_specs()
        self._matches = {id(spec.file): self._match_layers(spec.file) for spec in self.specs}
        self._text_condition = None
        if self.has_scopes and UNET in self.roots:
            self._condition_rows.attach(self.roots[UNET], self._predictions)
        else:
            self._condition_rows.detach()
        self._apply(anew=self._note_weights())
        return self.fit_reports()

    def fit_reports(self) -> list[FitReport]:
        """Returns a report for each applied file, with notes on the present state."""
        fits = [self._fit_report(spec) for spec in self.specs]
        if fits:
            notes = (*fits[0].notes, *self._rounding_note(), *filter(None, [self.fallback.note]))
            fits[0] = replace(fits[0], notes=notes, live_reason=self.injection.live_reason)
        return fits

    def bake_when_stable(self) -> None:
        """Records another image with the same files; bakes what was live while weights kept changing."""
        if self._note_weights():
            self._apply(anew=True)

    def go_live(self) -> bool:
        """Applies live from now on what "auto" has baked. Returns whether that freed memory."""
        return self.fallback.go_live()

    def retry_when_out_of_memory(self, work: Callable[[], _T]) -> _T:
        """Calls `work`; where memory runs out and LoRAs are baked, applies them live and calls it once more.

        Later reports have a note about the switch to live. Predictions that are averaged are made one by one then.

        Args:
            work: what may run out of memory.

        Returns:
            The result of `work`, such as an image.

        Raises:
            FitError: memory ran out in the mode "baked".
        """
        try:
            return self.fallback.retry_when_out_of_memory(work)
        except Exception as error:
            if not is_out_of_memory(error) or self._rows_per_input == 1:
                raise
        release_memory()
        self.batches_predictions = False
        self.apply(self.specs)
        return work()

    @property
    def needs_sigma(self) -> bool:
        """Whether a weight changes with the noise level, so that `at_step` needs it."""
        return any(spec.needs_sigma for spec in self.specs)

    def at_step(self, step: int, total: int, sigma: float | None = None) -> None:
        """Moves schedules to a denoiser call. Nothing happens where no weight changes.

        Args:
            step: the call, from 0.
            total: the number of calls.
            sigma: the noise level; needed where `needs_sigma`.

        Raises:
            BlockError: the noise level is needed and not given.
        """
        self._step = step, total, sigma
        self._move_schedules()

    def _count_predictions(self) -> None:
        """Decides how many predictions are averaged at each call, and whether they are rows of one batch."""
        count = predictions_per_call(spec.turn for spec in self.specs)
        together = self.batches_predictions and self.injection.mode != BAKED and not self.has_scopes
        together = together and not any(spec.region for spec in self.specs)  # their texts have a row for each image
        self._rows_per_input = count if together else 1
        self._predictions.set_count(self.roots.get(UNET), count, together)

    def _select_prediction(self, prediction: int) -> None:
        """Moves files that have predictions of their own (`compose=composite`) to one of a call's predictions."""
        self._prediction = prediction
        self._move_schedules()

    def _move_schedules(self) -> None:
        """Applies the weights of the present step and prediction."""
        before = self._current_specs
        self._set_current_specs()
        rows = list(zip(before, self._current_specs, strict=True))
        moved = [i for i, (a, b) in enumerate(rows) if (a.unet, a.blocks) != (b.unet, b.blocks)]
        if all(rows[i][0].blocks == rows[i][1].blocks and self._follows(i) for i in moved):
            self.changed = len({layer_id for i in moved for layer_id in self._unet_layers(i)})
        else:
            self._apply_changes()

    @property
    def has_scopes(self) -> bool:
        """Whether a file acts on some conditions only."""
        return bool(self.conditions) and any(spec.scope is not None for spec in self.specs)

    def encode_as(self, condition: Condition | None) -> None:
        """Gives the text encoders the weights for one condition's text.

        Args:
            condition: the condition; None for all files, whatever they act on.
        """
        before, self._text_condition = self._text_condition, condition
        if before != condition and self.has_scopes:
            self._apply_changes()

    def begin_rows(self, rows: Sequence[BatchRow]) -> None:
        """Says what the rows of the U-Net's next step are conditioned on.

        Args:
            rows: a condition of `conditions` for each row, or several, in the order in which the U-Net gets them.
        """
        number_of = self.conditions.index
        self._condition_rows.begin_step(
            [row.numbered(number_of) if isinstance(row, SplitRow) else number_of(row) for row in rows]
        )

    def _with_turns(self, specs: Sequence[AdapterSpec]) -> tuple[AdapterSpec, ...]:
        """The specs with their turns; all of them belong to one prompt."""
        return with_turns(specs)

    def _set_current_specs(self) -> None:
        self._current_specs = tuple(
            spec.at_step(*self._step, spec.turn.place if spec.turn and self._rows_per_input > 1 else self._prediction)
            for spec in self.specs
        )
        for step_weight, current in zip(self._step_weights, self._current_specs, strict=True):
            step_weight.value = current.unet

    def _unet_layers(self, index: int) -> list[LayerId]:
        """The layers that a schedule of one of the files moves."""
        return [layer_id for layer_id in self.matching_layers(self.specs[index]) if layer_id.part == UNET]

    def _follows(self, index: int) -> bool:
        """Whether the hooks of one of the files follow its weight from step to step; found out once after `apply`."""
        if index not in self._following:
            targets = (self.targets[layer_id] for layer_id in self._unet_layers(index))
            self._following[index] = self.injection.follows(self._step_weights[index], targets)
        return self._following[index]

    def scheduled_weights(self) -> list[tuple[str, float]]:
        """Returns (name, weight in the U-Net at the present step) for each file whose weight is scheduled.

        Where block weights change too, it is the mean over the file's layers.
        """
        found = []
        for index, (spec, current) in enumerate(zip(self.specs, self._current_specs, strict=True)):
            if spec.is_scheduled:
                weights = [current.weight_at(layer_id) for layer_id in self._unet_layers(index)] or [0.0]
                mean = current.unet if spec.block_curve is None else sum(weights) / len(weights)
                found.append((spec.display_name, mean))
        return found

    def matching_layers(self, spec: AdapterSpec) -> tuple[LayerId, ...]:
        """Returns the layers of a file that fit this model.

        Args:
            spec: one of `specs`.

        Returns:
            The layer ids, in the order of the file.
        """
        return self._matches[id(spec.file)].fitting

    def close(self) -> None:
        """Removes everything: each original Parameter object is restored."""
        self._clear()
        while self._load_hooks:
            self._load_hooks.pop().remove()

    def _clear(self) -> None:
        self.injection.close()
        self._predictions.close()
        self.places.close()
        self._condition_rows.detach()
        self._current, self.specs, self._current_specs, self._step_weights = {}, (), (), ()

    def __enter__(self) -> AppliedNetworks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _note_weights(self) -> bool:
        """Records files and weights of the next image. Returns whether changing weights have settled."""
        files = tuple((id(spec.file), spec.dyn) for spec in self.specs)
        device = next((p.device for root in self.roots.values() for p in root.parameters()), torch.device("cpu"))
        return self.fallback.note_weights(files, self.specs, accelerated(device))

    def _apply(self, anew: bool) -> None:
        """Applies changes; where memory ran out, once more live."""
        specs, current = self.specs, self._current_specs
        if not self.fallback.apply(anew):
            self.specs, self._current_specs = specs, current
            self._apply_changes()

    def _apply_changes(self, anew: bool = False) -> None:
        """Applies the differences to what was applied before; with `anew` everything."""
        now = self._wanted()
        self._following.clear()
        # layers that share a parameter (OpenCLIP's q, k, v) must be passed together
        moved = (
            layer_id
            for layer_id in {*now, *self._current}
            if anew or not are_equal(now.get(layer_id, ()), self._current.get(layer_id, ()))
        )
        shared = {self.targets[layer_id].module for layer_id in moved}
        layer_ids = [layer_id for layer_id in {**self._current, **now} if self.targets[layer_id].module in shared]
        try:
            self.changed = self.injection.apply(
                {self.targets[layer_id]: now.get(layer_id, ()) for layer_id in layer_ids}
            )
        except BaseException:
            self._predictions.close()
            self._current, self.specs, self._current_specs = {}, (), ()
            raise
        self._current = now

    def _wanted(self) -> dict[LayerId, tuple[AppliedAdapter, ...]]:
        """The adapters of each layer at the present step."""
        wanted: dict[LayerId, list[AppliedAdapter]] = {}
        for spec, current, step_weight in zip(self.specs, self._current_specs, self._step_weights, strict=True):
            is_scheduled = spec.is_scheduled
            for layer_id in self.matching_layers(spec):
                weight = self._weight_by_row(spec, layer_id, current.weight_at(layer_id))
                place = self._place_gain(spec.region, layer_id)
                adapter = AppliedAdapter(spec.file.adapters[layer_id], weight, spec.dyn, place=place)
                if is_scheduled and layer_id.part == UNET:
                    # it stays also with weight 0: switching it on only changes its gain
                    block = self._weight_by_row(spec, layer_id, current.block_weight_at(layer_id))
                    adapter = replace(adapter, is_scheduled=True, step_weight=step_weight, block_weight=block)
                elif self.has_scopes and spec.scope is not None and layer_id.part != UNET:
                    adapter = replace(adapter, is_scheduled=True)  # each text has weights of its own
                elif not adapter.is_acting():
                    continue
                if adapter.differs_by_row and self.has_scopes:
                    adapter = replace(adapter, condition_rows=self._condition_rows)
                wanted.setdefault(layer_id, []).append(adapter)
        return {layer_id: tuple(adapters) for layer_id, adapters in wanted.items()}

    def _place_gain(self, region: Region | None, layer_id: LayerId) -> PlaceGain | None:
        """What the output of a layer is multiplied by, for a file that acts in a region of the picture."""
        if region is None or layer_id.part != UNET:
            return None
        place = self.places.place_of(region)
        return place.text_gain if layer_id.layer.endswith(TEXT_LAYERS) else place

    def _weight_by_row(self, spec: AdapterSpec, layer_id: LayerId, weight: float) -> float | torch.Tensor:
        """The weight of a layer; one for each condition or prediction where the file acts on some of them."""
        if self._rows_per_input > 1 and spec.turn is not None and not spec.turn.calls and layer_id.part == UNET:
            return torch.tensor([weight if spec.turn.acts_at(0, row) else 0.0 for row in range(self._rows_per_input)])
        if spec.scope is None or not self.conditions:
            return weight
        if layer_id.part != UNET:
            acts = self._text_condition is None or spec.scope.includes(self._text_condition)
            return weight if acts else 0.0
        weights = [weight if spec.scope.includes(condition) else 0.0 for condition in self.conditions]
        return weights[0] if len(set(weights)) == 1 else torch.tensor(weights)

    def _match_layers(self, file: LoraFile) -> _LayerMatches:
        """Compares a file's layers with the model's, once for each file."""
        known = self._matches.get(id(file))
        if known is not None:
            return known
        here = [layer_id for layer_id in file.adapters if layer_id in self.targets]
        fits = {layer_id: file.adapters[layer_id].fits(self.targets[layer_id].shape) for layer_id in here}
        bad = tuple(layer_id for layer_id in here if fits[layer_id] and layer_id in file.non_finite_layers)
        fitting = tuple(layer_id for layer_id in here if fits[layer_id] and layer_id not in bad)
        return _LayerMatches(file, fitting, tuple(layer_id for layer_id in here if not fits[layer_id]), bad)

    def _fit_report(self, spec: AdapterSpec) -> FitReport:
        """The report on one file."""
        file, matched, wrong, bad = self._matches[id(spec.file)]
        vector = spec.blocks.labels
        blocks = {layer_id.block for layer_id in file.adapters if layer_id.block}
        covered = vector if vector is not None else BLOCK_LABELS
        return FitReport(
            name=spec.display_name,
            family=file.family,
            matched=len(matched),
            unmatched=tuple(layer_id for layer_id in file.adapters if layer_id not in self.targets),
            wrong_shape=wrong,
            unrecognized=len(file.unrecognized_keys),
            absent_blocks=tuple(
                b for b in vector or () if b not in self.blocks and b != BASE and spec.blocks.weight_of(b)
            ),
            blocks_without_weight=tuple(b for b in BLOCK_LABELS if b in blocks and b not in covered and b != BASE),
            notes=(*spec.notes, *file.notes, *self._dyn_note(spec)),
            assumed=file.assumed,
            damaged=len(file.damaged) + len(bad),
            first_damage_reason=file.first_damage_reason or (f"{bad[0]} holds NaN or infinity" if bad else ""),
            foreign_architecture=(
                file.foreign_architecture.sentence(spec.display_name) if file.foreign_architecture else ""
            ),
        )

    def _rounding_note(self) -> tuple[str, ...]:
        """What baking loses in 8-bit floats and bf16, where it is much."""
        share, dtype = self.injection.surviving_share()
        if share >= ROUNDING_WARNING_SHARE:
            return ()
        what = "the change of all files" if len(self.specs) > 1 else "its change"
        return (
            f"baked into {dtype}, {share:.0%} of {what} is left after rounding; "
            "mode live keeps all of it, and so does a model in fp16 or float32",
        )

    def _dyn_note(self, spec: AdapterSpec) -> tuple[str, ...]:
        if spec.dyn is None:
            return ()
        largest = max((adapter.rank or 0 for adapter in spec.file.adapters.values()), default=0)
        return (f"dyn={spec.dyn} is more than its rank {largest}",) if 0 < largest < spec.dyn else ()
