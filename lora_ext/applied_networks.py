"""Requests + files → what each site of a model gets, and a `Fit` report for the user.

`Use` is one file at its weights; `Applied` holds what is on a model now and moves it from one list of uses to the
next, touching only the layers whose pieces changed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import torch
from torch.utils.hooks import RemovableHandle

from .blocks import (
    BASE,
    ELEMENT_PRESETS,
    LABELS,
    PRESETS,
    UNIFORM,
    BlockWeights,
    parse_rules,
    parse_weights,
)
from .errors import BlockError, PromptError
from .file.lora_file import LoraFile
from .fit_report import Fit
from .inject import AUTO, Injection, Memory, Piece, Target, targets
from .inject.applied_adapter import equal
from .inject.fallback import Changes, Fallback
from .inject.free_memory import accelerated
from .inject.rounding import ENOUGH
from .layer_names import TE, UNET, Site, known_as
from .lora_tags import Request
from .protocols import Model


def within(start: float | None, stop: float | None, step: int, total: int) -> bool:
    """Whether `step` (from 0) of `total` lies from `start` until before `stop`, as `Use` has them."""

    def at(value: float) -> float:
        return value * total if isinstance(value, float) else value

    return (start is None or step >= at(start)) and (stop is None or step < at(stop))


T = TypeVar("T")


@dataclass(frozen=True)
class Use:
    """One file at its weights. te, unet: multipliers; blocks: block weights; dyn: the first N ranks only.

    start, stop: the U-Net part acts from step `start` until before step `stop`; whole numbers are steps from 0,
    fractions are shares of all steps. The text encoder acts always: its output is made before the first step.
    notes: what else the user is told about it.
    """

    file: LoraFile
    te: float = 1.0
    unet: float = 1.0
    blocks: BlockWeights = UNIFORM
    dyn: int | None = None
    start: float | None = None
    stop: float | None = None
    name: str = ""
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What the user calls it."""
        return self.name or self.file.name

    @property
    def scheduled(self) -> bool:
        """Whether its weight changes from step to step."""
        return self.start is not None or self.stop is not None

    def active(self, step: int, total: int) -> bool:
        """Whether the U-Net part acts at denoiser call `step` (from 0) of `total`."""
        return within(self.start, self.stop, step, total)

    def weight(self, site: Site) -> float:
        """The weight of this file at one site: the part's multiplier times the block's weight."""
        part = self.unet if site.part == UNET else self.te
        names = known_as(site) if self.blocks.rules else ()
        return part * self.blocks.of(site.block, names)


class Finder(Protocol):
    """Where files come from: `library.find(name)` with an entry to load."""

    def load(self, name: str) -> LoraFile:
        """The file called `name`. Raises FileError with the nearest names."""
        ...

    def ambiguity(self, name: str) -> str:
        """Which of several files of one name is meant, and how to name the others; "" for a clear name."""
        ...


@dataclass(frozen=True)
class Presets:
    """The user's block-weight and element presets, beside the built-in ones."""

    weights: Mapping[str, str] = field(default_factory=lambda: PRESETS)
    elements: Mapping[str, str] = field(default_factory=lambda: ELEMENT_PRESETS)
    notes: tuple[str, ...] = ()
    """What the user is told about the files they come from."""


def resolve(request: Request, library: Finder, presets: Presets | None = None, *, seed: int | str = 0) -> Use:
    """A request with its file loaded and its block weights worked out.

    R and U are drawn from a generator seeded by `seed` and the file's name, so the same picture is made again.
    Raises FileError (no such file, with nearest names) or PromptError (block weights that do not parse).
    """
    presets = presets or Presets()
    file = library.load(request.name)
    asked = presets.notes if request.lbw or request.lbwe else ()
    return Use(
        file=file,
        te=request.te,
        unet=request.unet,
        blocks=resolve_blocks(request, presets, seed=seed),
        dyn=request.dyn,
        start=request.start,
        stop=request.stop,
        name=request.name,
        notes=tuple(filter(None, [library.ambiguity(request.name), *asked])),
    )


def resolve_blocks(request: Request, presets: Presets, *, seed: int | str = 0) -> BlockWeights:
    """The block weights and element rules of a request. Raises PromptError."""
    if request.lbw is None and request.lbwe is None:
        return UNIFORM
    draw = random.Random(f"{seed}:{request.name}").uniform
    try:
        blocks = UNIFORM
        if request.lbw is not None:
            x = 1.0 if request.x is None else request.x
            blocks = parse_weights(request.lbw, presets=presets.weights, x=x, draw=draw)
        if request.lbwe is not None:
            blocks = replace(blocks, rules=parse_rules(request.lbwe, presets.elements))
    except BlockError as error:
        raise PromptError(f"<lora:{request.name}>: {error}") from None
    return blocks


class Applied:
    """What is on one model. A context manager; `close` puts the model back bit-exactly.

    mode: "live", "baked" or "auto" (see `inject`). memory: what is free, and what a picture takes; without it all that
    is free is for baking. changes: of pictures before, where the models are opened anew for each.
    """

    def __init__(
        self, model: Model, mode: str = AUTO, memory: Memory | None = None, changes: Changes | None = None
    ) -> None:
        self.roots = dict(model.parts())
        self.targets: dict[Site, Target] = {}
        for part, root in self.roots.items():
            self.targets.update(targets(part, root))
        self.blocks = {site.block for site in self.targets}
        self.injection = Injection(mode, memory)
        self.fallback = Fallback(self.injection, self._move, changes)
        self.uses: tuple[Use, ...] = ()
        self.changed = 0
        """Layers that the last `set` or `at_step` touched."""
        self._now: dict[Site, tuple[Piece, ...]] = {}
        self._active: tuple[bool, ...] = ()
        self._guards: list[RemovableHandle] = []
        self._sites: dict[int, tuple[LoraFile, tuple[Site, ...], tuple[Site, ...], tuple[Site, ...]]] = {}

    def expect(self, drawing: int) -> None:
        """Keeps so many bytes free for making a picture when it is next decided what to bake."""
        self.injection.memory = replace(self.injection.memory, drawing=drawing)

    def set(self, uses: Sequence[Use]) -> list[Fit]:
        """Replaces what is applied by `uses` (in order; the same file twice adds up) and reports how each fits.

        Schedules start at step 0. On any exception the model is as before anything was applied; but where memory runs
        out in the mode "auto", all goes live instead. Raises FitError where the mode "baked" has no room.
        """
        if uses and not self._guards:  # new weights must be loaded into the originals, not into what is swapped in
            self._guards = [
                root._register_load_state_dict_pre_hook(lambda *_: self._clear()) for root in self.roots.values()
            ]
        self.uses = tuple(uses)
        self._active = tuple(use.active(0, 1_000_000) for use in self.uses)
        self._sites = {id(use.file): self._fitting(use.file) for use in self.uses}
        self._put(everything=self._changing())
        return self.fits()

    def fits(self) -> list[Fit]:
        """How each use fits, as things are now."""
        fits = [self._fit(use) for use in self.uses]
        if fits:
            notes = (*fits[0].notes, *self._rounding_note(), *filter(None, [self.fallback.note]))
            fits[0] = replace(fits[0], notes=notes, way=self.injection.why_live)
        return fits

    def settle(self) -> None:
        """Another picture gets the same: what is live because weights kept changing is baked once they stay."""
        if self._changing():
            self._put(everything=True)

    def go_live(self) -> bool:
        """Applies live from now on what "auto" has baked. Returns whether that gave memory back."""
        return self.fallback.go_live()

    def retrying(self, work: Callable[[], T]) -> T:
        """The result of `work`, such as a picture; where memory runs out in it and something is baked, once more with
        everything live, which the reports of `set` say from then on. Raises FitError for it in the mode "baked"."""
        return self.fallback.retrying(work)

    def at_step(self, step: int, total: int) -> None:
        """Moves schedules to denoiser call `step` (from 0) of `total`; nothing happens when nothing changes."""
        active = tuple(use.active(step, total) for use in self.uses)
        if active != self._active:
            self._active = active
            self._move()

    def layers(self, use: Use) -> tuple[Site, ...]:
        """The layers of a use's file that apply here."""
        return self._sites[id(use.file)][1]

    def close(self) -> None:
        """Takes everything off: every Parameter is the very object it was."""
        self._clear()
        while self._guards:
            self._guards.pop().remove()

    def _clear(self) -> None:
        self.injection.close()
        self._now, self.uses, self._active = {}, (), ()

    def __enter__(self) -> Applied:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _changing(self) -> bool:
        """Notes what the next picture gets. Returns whether what was live because weights kept changing settles now."""
        files = tuple((id(use.file), use.dyn) for use in self.uses)
        device = next((p.device for root in self.roots.values() for p in root.parameters()), torch.device("cpu"))
        return self.fallback.changing(files, self.uses, accelerated(device))

    def _put(self, everything: bool) -> None:
        """`_move`; where memory ran out, once more, live."""
        uses, active = self.uses, self._active
        if not self.fallback.put(everything):
            self.uses, self._active = uses, active
            self._move()

    def _move(self, everything: bool = False) -> None:
        """Brings the injection from the pieces of before to those of now, by difference, or `everything` anew."""
        now = self._wanted()
        # Sites that share a parameter (OpenCLIP's q, k, v) are handed over together.
        moved = (
            site for site in {*now, *self._now} if everything or not equal(now.get(site, ()), self._now.get(site, ()))
        )
        shared = {self.targets[site].module for site in moved}
        sites = [site for site in {**self._now, **now} if self.targets[site].module in shared]
        try:
            self.changed = self.injection.put({self.targets[site]: now.get(site, ()) for site in sites})
        except BaseException:
            self._now, self.uses, self._active = {}, (), ()
            raise
        self._now = now

    def _wanted(self) -> dict[Site, tuple[Piece, ...]]:
        """What each site gets at the present step."""
        wanted: dict[Site, list[Piece]] = {}
        for use, active in zip(self.uses, self._active, strict=True):
            for site in self._sites[id(use.file)][1]:
                idle = site.part == UNET and not active
                weight = 0.0 if idle else use.weight(site)
                moves = use.scheduled and site.part == UNET
                if weight or moves:  # a scheduled piece stays with weight 0, so that switching it on is only a gain
                    piece = Piece(use.file.adapters[site], weight, use.dyn, moving=moves)
                    wanted.setdefault(site, []).append(piece)
        return {site: tuple(pieces) for site, pieces in wanted.items()}

    def _fitting(self, file: LoraFile) -> tuple[LoraFile, tuple[Site, ...], tuple[Site, ...], tuple[Site, ...]]:
        """The file, its sites that apply here, those that are here with another shape, and those with NaN."""
        known = self._sites.get(id(file))
        if known is not None:
            return known
        here = [site for site in file.adapters if site in self.targets]
        fits = {site: file.adapters[site].fits(self.targets[site].shape) for site in here}
        bad = tuple(site for site in here if fits[site] and site in file.not_finite)
        return file, tuple(s for s in here if fits[s] and s not in bad), tuple(s for s in here if not fits[s]), bad

    def _fit(self, use: Use) -> Fit:
        """The report on one use."""
        file, matched, wrong, bad = self._sites[id(use.file)]
        vector = use.blocks.labels
        blocks = {site.block for site in file.adapters if site.block}
        covered = vector if vector is not None else LABELS
        return Fit(
            name=use.label,
            family=file.family,
            matched=len(matched),
            unmatched=tuple(site for site in file.adapters if site not in self.targets),
            wrong_shape=wrong,
            unread=len(file.unknown),
            dead=tuple(b for b in vector or () if b not in self.blocks and b != BASE and use.blocks.of(b)),
            uncovered=tuple(b for b in LABELS if b in blocks and b not in covered and b != BASE),
            notes=(*use.notes, *file.notes, *self._dyn_note(use)),
            assumed=file.assumed,
            damaged=len(file.damaged) + len(bad),
            damage=file.damage or (f"{bad[0]} holds NaN or infinity" if bad else ""),
            other=file.other.sentence(use.label) if file.other else "",
        )

    def _rounding_note(self) -> tuple[str, ...]:
        """What baking loses in 8-bit floats and bf16, where it is much."""
        share, dtype = self.injection.survived()
        if share >= ENOUGH:
            return ()
        what = "the change of all files" if len(self.uses) > 1 else "its change"
        return (
            f"baked into {dtype}, {share:.0%} of {what} is left after rounding; "
            "mode live keeps all of it, and so does a model in fp16 or float32",
        )

    def _dyn_note(self, use: Use) -> tuple[str, ...]:
        ranks = [adapter.rank for adapter in use.file.adapters.values() if adapter.rank]
        if use.dyn is not None and ranks and use.dyn > max(ranks):
            return (f"dyn={use.dyn} is more than its rank {max(ranks)}",)
        return ()


__all__ = ["TE", "Applied", "Finder", "Fit", "Presets", "Use", "resolve", "resolve_blocks"]
