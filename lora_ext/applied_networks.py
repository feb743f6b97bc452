"""Requests + files → what each site of a model gets, and a `FitReport` report for the user.

`AdapterSpec` is one file at its weights; `AppliedNetworks` holds what is on a model now and moves it from one list of
uses to the
next, touching only the layers whose pieces changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch.utils.hooks import RemovableHandle

from .adapter_spec import AdapterSpec
from .blocks import BASE, BLOCK_LABELS
from .file.lora_file import LoraFile
from .fit_report import FitReport
from .inject import AUTO, AppliedAdapter, Injection, LayerTarget, MemoryBudget, find_layer_targets
from .inject.applied_adapter import are_equal
from .inject.fallback import LiveFallback, WeightChanges
from .inject.free_memory import accelerated
from .inject.rounding import ROUNDING_WARNING_SHARE
from .layer_names import UNET, LayerId
from .protocols import HookableModel

_T = TypeVar("_T")


class AppliedNetworks:
    """What is on one model. A context manager; `close` puts the model back bit-exactly.

    mode: "live", "baked" or "auto" (see `inject`). memory: what is free, and what a picture takes; without it all that
    is free is for baking. changes: of pictures before, where the models are opened anew for each.
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
        self.blocks = {site.block for site in self.targets}
        self.injection = Injection(mode, memory)
        self.fallback = LiveFallback(self.injection, self._apply_changes, changes)
        self.specs: tuple[AdapterSpec, ...] = ()
        self.changed = 0
        """Layers that the last `set` or `at_step` touched."""
        self._current: dict[LayerId, tuple[AppliedAdapter, ...]] = {}
        self._active: tuple[bool, ...] = ()
        self._load_hooks: list[RemovableHandle] = []
        self._layer_ids_by_file: dict[
            int, tuple[LoraFile, tuple[LayerId, ...], tuple[LayerId, ...], tuple[LayerId, ...]]
        ] = {}

    def reserve_memory(self, image_bytes: int) -> None:
        """Keeps so many bytes free for making a picture when it is next decided what to bake."""
        self.injection.memory = replace(self.injection.memory, image_bytes=image_bytes)

    def apply(self, specs: Sequence[AdapterSpec]) -> list[FitReport]:
        """Replaces what is applied by `specs` (in order; the same file twice adds up) and reports how each fits.

        Schedules start at step 0. On any exception the model is as before anything was applied; but where memory runs
        out in the mode "auto", all goes live instead. Raises FitError where the mode "baked" has no room.
        """
        if specs and not self._load_hooks:  # new weights must be loaded into the originals, not into what is swapped in
            self._load_hooks = [
                root._register_load_state_dict_pre_hook(lambda *_: self._clear()) for root in self.roots.values()
            ]
        self.specs = tuple(specs)
        self._active = tuple(use.is_active(0, 1_000_000) for use in self.specs)
        self._layer_ids_by_file = {id(use.file): self._match_layers(use.file) for use in self.specs}
        self._apply(anew=self._note_weights())
        return self.fit_reports()

    def fit_reports(self) -> list[FitReport]:
        """How each use fits, as things are now."""
        fits = [self._fit_report(use) for use in self.specs]
        if fits:
            notes = (*fits[0].notes, *self._rounding_note(), *filter(None, [self.fallback.note]))
            fits[0] = replace(fits[0], notes=notes, way=self.injection.live_reason)
        return fits

    def bake_when_stable(self) -> None:
        """Another picture gets the same: what is live because weights kept changing is baked once they stay."""
        if self._note_weights():
            self._apply(anew=True)

    def go_live(self) -> bool:
        """Applies live from now on what "auto" has baked. Returns whether that gave memory back."""
        return self.fallback.go_live()

    def retry_when_out_of_memory(self, work: Callable[[], _T]) -> _T:
        """The result of `work`, such as a picture; where memory runs out in it and something is baked, once more with
        everything live, which the reports of `set` say from then on. Raises FitError for it in the mode "baked".
        """
        return self.fallback.retry_when_out_of_memory(work)

    def at_step(self, step: int, total: int) -> None:
        """Moves schedules to denoiser call `step` (from 0) of `total`; nothing happens when nothing changes."""
        active = tuple(use.is_active(step, total) for use in self.specs)
        if active != self._active:
            self._active = active
            self._apply_changes()

    def matching_layers(self, spec: AdapterSpec) -> tuple[LayerId, ...]:
        """The layers of a use's file that apply here."""
        return self._layer_ids_by_file[id(spec.file)][1]

    def close(self) -> None:
        """Takes everything off: every Parameter is the very object it was."""
        self._clear()
        while self._load_hooks:
            self._load_hooks.pop().remove()

    def _clear(self) -> None:
        self.injection.close()
        self._current, self.specs, self._active = {}, (), ()

    def __enter__(self) -> AppliedNetworks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _note_weights(self) -> bool:
        """Notes what the next picture gets. Returns whether what was live because weights kept changing settles now."""
        files = tuple((id(use.file), use.dyn) for use in self.specs)
        device = next((p.device for root in self.roots.values() for p in root.parameters()), torch.device("cpu"))
        return self.fallback.note_weights(files, self.specs, accelerated(device))

    def _apply(self, anew: bool) -> None:
        """`_move`; where memory ran out, once more, live."""
        uses, active = self.specs, self._active
        if not self.fallback.apply(anew):
            self.specs, self._active = uses, active
            self._apply_changes()

    def _apply_changes(self, anew: bool = False) -> None:
        """Brings the injection from the pieces of before to those of now, by difference, or `anew` anew."""
        now = self._wanted()
        # Sites that share a parameter (OpenCLIP's q, k, v) are handed over together.
        moved = (
            site
            for site in {*now, *self._current}
            if anew or not are_equal(now.get(site, ()), self._current.get(site, ()))
        )
        shared = {self.targets[site].module for site in moved}
        sites = [site for site in {**self._current, **now} if self.targets[site].module in shared]
        try:
            self.changed = self.injection.apply({self.targets[site]: now.get(site, ()) for site in sites})
        except BaseException:
            self._current, self.specs, self._active = {}, (), ()
            raise
        self._current = now

    def _wanted(self) -> dict[LayerId, tuple[AppliedAdapter, ...]]:
        """What each site gets at the present step."""
        wanted: dict[LayerId, list[AppliedAdapter]] = {}
        for use, active in zip(self.specs, self._active, strict=True):
            for site in self._layer_ids_by_file[id(use.file)][1]:
                idle = site.part == UNET and not active
                weight = 0.0 if idle else use.weight_at(site)
                moves = use.is_scheduled and site.part == UNET
                if weight or moves:  # a scheduled piece stays with weight 0, so that switching it on is only a gain
                    piece = AppliedAdapter(use.file.adapters[site], weight, use.dyn, is_scheduled=moves)
                    wanted.setdefault(site, []).append(piece)
        return {site: tuple(pieces) for site, pieces in wanted.items()}

    def _match_layers(
        self, file: LoraFile
    ) -> tuple[LoraFile, tuple[LayerId, ...], tuple[LayerId, ...], tuple[LayerId, ...]]:
        """The file, its sites that apply here, those that are here with another shape, and those with NaN."""
        known = self._layer_ids_by_file.get(id(file))
        if known is not None:
            return known
        here = [site for site in file.adapters if site in self.targets]
        fits = {site: file.adapters[site].fits(self.targets[site].shape) for site in here}
        bad = tuple(site for site in here if fits[site] and site in file.non_finite_layers)
        return file, tuple(s for s in here if fits[s] and s not in bad), tuple(s for s in here if not fits[s]), bad

    def _fit_report(self, spec: AdapterSpec) -> FitReport:
        """The report on one use."""
        file, matched, wrong, bad = self._layer_ids_by_file[id(spec.file)]
        vector = spec.blocks.labels
        blocks = {site.block for site in file.adapters if site.block}
        covered = vector if vector is not None else BLOCK_LABELS
        return FitReport(
            name=spec.display_name,
            family=file.family,
            matched=len(matched),
            unmatched=tuple(site for site in file.adapters if site not in self.targets),
            wrong_shape=wrong,
            unread=len(file.unrecognized_keys),
            dead=tuple(b for b in vector or () if b not in self.blocks and b != BASE and spec.blocks.weight_of(b)),
            uncovered=tuple(b for b in BLOCK_LABELS if b in blocks and b not in covered and b != BASE),
            notes=(*spec.notes, *file.notes, *self._dyn_note(spec)),
            assumed=file.assumed,
            damaged=len(file.damaged) + len(bad),
            damage=file.first_damage_reason or (f"{bad[0]} holds NaN or infinity" if bad else ""),
            other=file.foreign_architecture.sentence(spec.display_name) if file.foreign_architecture else "",
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
        ranks = [adapter.rank for adapter in spec.file.adapters.values() if adapter.rank]
        if spec.dyn is not None and ranks and spec.dyn > max(ranks):
            return (f"dyn={spec.dyn} is more than its rank {max(ranks)}",)
        return ()
