"""What LoRAs do to the files of a checkpoint: which tensor gets what (`Plan`), the sums, and the writing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..applied_networks import Use
from ..command_line import check_space
from ..errors import ToolError
from ..file.lora_file import finite
from ..file.saving import replacing, write_tensors
from ..inject.applied_adapter import Piece, bias_delta
from ..inject.baking import add_delta
from ..inject.rounding import Rounding
from ..layer_names import Site
from ..progress import Track
from .checkpoint_keys import Place, describe, family_of
from .checkpoint_stream import Change, Store, changed, rewrite, save_torch, size_as
from .report import Layer, Report

TORCH = (".ckpt", ".pt", ".pth", ".bin")
"""Suffixes that are written as torch files."""


@dataclass
class Plan:
    """What is to be done to one file of a checkpoint. rounding: what became of each tensor's ΔW, once it is written."""

    store: Store
    places: Mapping[Site, Place]
    pieces: dict[str, list[tuple[Place, Site, Piece]]] = field(default_factory=dict)
    biases: dict[str, list[Piece]] = field(default_factory=dict)
    rounding: dict[str, tuple[Rounding, torch.dtype]] = field(default_factory=dict)

    def add(self, site: Site, adapter_piece: Piece) -> None:
        """Notes a piece that acts at a place of this file."""
        place = self.places[site]
        self.pieces.setdefault(place.key, []).append((place, site, adapter_piece))
        if place.bias is not None:
            self.biases.setdefault(place.bias, []).append(adapter_piece)

    def all(self) -> Iterator[Piece]:
        """Every piece."""
        return (piece for rows in self.pieces.values() for _, _, piece in rows)

    def changes(self, dtype: torch.dtype | None, device: torch.device) -> dict[str, Change]:
        """What happens to each tensor that is touched."""
        found: dict[str, Change] = {}
        for key, rows in self.pieces.items():
            found[key] = _adder(self.store, key, rows, dtype, device, self._measured(key, dtype))
        for key, pieces in self.biases.items():
            shift = bias_delta(pieces, self.store.shapes[key][0])
            if shift is not None:
                found[key] = _shifter(key, shift, dtype, self._measured(key, dtype))
        return found

    def _measured(self, key: str, dtype: torch.dtype | None) -> Rounding:
        self.rounding[key] = rounding, _ = Rounding(), dtype or self.store.dtype(key)
        return rounding

    def tell(self, report: Report) -> None:
        """Reports what survived rounding; layers in one stacked tensor (OpenCLIP's q, k, v) share its figure."""
        for key, (rounding, dtype) in self.rounding.items():
            names = list(dict.fromkeys(str(site) for _, site, _ in self.pieces.get(key, ()))) or [key]
            for name in names:
                report.rounded(name, rounding.share, rounding.asked / len(names), dtype)


# --- what goes where -------------------------------------------------------------------------------------------------


def assign(plans: Sequence[Plan], uses: Sequence[Use], report: Report, name: str) -> None:
    """Gives every adapter to the places that it fits and reports the rest. Raises ToolError as `merge_into` says."""
    here = {site: place for plan in plans for site, place in plan.places.items()}
    if not here:
        raise ToolError(f"{name} holds no layer of a Stable Diffusion model (SD1, SD2 or SDXL)")
    ranks: dict[Site, int | None] = {}
    matched = acting = 0
    for use in uses:
        lacks: list[str] = []
        wrong: list[str] = []
        for site, adapter in use.file.adapters.items():
            holders = [plan for plan in plans if site in plan.places]
            fitting = [plan for plan in holders if adapter.fits(plan.places[site].shape)]
            if not fitting:
                (wrong if holders else lacks).append(str(site))
                continue
            matched += 1
            weight = use.weight(site)
            if not weight:
                continue
            acting += 1
            ranks[site] = None if adapter.rank is None else (ranks.get(site) or 0) + adapter.rank
            for plan in fitting:
                plan.add(site, Piece(adapter, weight, rows=plan.places[site].rows))
        if lacks or wrong:
            _check_family(use, here, name)
        _tell(report, use, lacks, wrong)
    report.layers += [Layer(str(site), rank, None) for site, rank in ranks.items()]
    if not acting or not any(_does_something(piece) for plan in plans for piece in plan.all()):
        labels = ", ".join(use.label for use in uses)
        if matched:
            what = "ΔW is 0 everywhere (never trained?)" if acting else "every weight is 0"
            raise ToolError(f"{labels}: {what}, {name} would stay as it is")
        raise ToolError(f"nothing of {labels} fits {name} ({describe(here)}); it was not written")


def _does_something(piece: Piece) -> bool:
    """Whether ΔW is not zero, as far as the factors tell: a layer that was never trained has one of zeros."""
    low = piece.adapter.low_rank()
    return low is None or all(bool(t.float().any()) for t in (low.up, low.gain, low.down))


def _check_family(use: Use, here: Mapping[Site, Place], name: str) -> None:
    """Raises ToolError when both families are known and differ (asked when not all layers fit)."""
    family, own = family_of(here), use.file.family
    if "unknown" not in (family, own) and not family.startswith(own):
        raise ToolError(f"{use.label} was made for {own}, {name} is {family}")


def _tell(report: Report, use: Use, lacks: list[str], wrong: list[str]) -> None:
    if lacks:
        report.only[use.label] = lacks
    if wrong:
        report.note(f"{use.label}: {len(wrong)} layers are of another size and left out, such as {wrong[0]}")
    if use.file.unknown:
        report.unread[use.label] = use.file.unknown
    report.source(use.label, use.file)
    if use.file.embeddings:
        report.note(f"{use.label}: its embeddings ({', '.join(use.file.embeddings)}) have no place in a checkpoint")


# --- sums ------------------------------------------------------------------------------------------------------------


def _adder(
    store: Store,
    key: str,
    rows: Sequence[tuple[Place, Site, Piece]],
    dtype: torch.dtype | None,
    device: torch.device,
    rounding: Rounding,
) -> Change:
    """W → W + Σ weight·ΔW, as baked injection computes it. A tensor from the disk is overwritten."""
    turned = any(place.transposed for place, _, _ in rows)
    pieces = tuple(piece for _, _, piece in rows)

    def add(tensor: Tensor) -> Tensor:
        weight = (tensor.mT if turned else tensor).to(device)
        mine = store.header is not None and dtype in (None, tensor.dtype)
        out = weight if mine else torch.empty(weight.shape, dtype=dtype or tensor.dtype, device=device)
        if not summed(weight, pieces, out, rounding) and not finite(out):
            before = store.read(key)
            raise _unsound(key, rows[0][1], (before.mT if turned else before).to(device), pieces, out.dtype)
        return out.mT if turned else out

    return add


WITH_AMINMAX = (torch.float64, torch.float32, torch.bfloat16)


def summed(weight: Tensor, pieces: tuple[Piece, ...], out: Tensor, rounding: Rounding) -> bool:
    """`out` (may be `weight` itself) = weight + Σ weight·ΔW, as baked into a model; whether its sum is finite."""
    check = torch.zeros((), device=weight.device)

    def look(block: Tensor) -> None:
        # torch 2.1 has no aminmax of float16 on the CPU, no release has one of float8
        least, most = torch.aminmax(block if block.dtype in WITH_AMINMAX else block.float())
        check.add_(0 * least + 0 * most)  # 0, but of NaN and infinity NaN

    add_delta(weight, pieces, out, look, rounding)
    return not bool(check)


def _shifter(key: str, shift: Tensor, dtype: torch.dtype | None, rounding: Rounding) -> Change:
    def add(tensor: Tensor) -> Tensor:
        total = tensor.float() + shift
        out = total.to(dtype or tensor.dtype)
        if out.dtype != total.dtype:
            rounding.look(tensor, total, out.dtype)
        if not finite(out):
            raise ToolError(f"{key} holds NaN or infinity when the LoRAs are added")
        return out

    return add


def _unsound(key: str, site: Site, weight: Tensor, pieces: tuple[Piece, ...], dtype: torch.dtype) -> ToolError:
    """Why a sum is not finite: the checkpoint was not, or the dtype is too small."""
    if not finite(weight):
        return ToolError(f"the checkpoint contains NaN or infinity in {key!r}")
    wide = add_delta(weight, pieces, torch.empty(weight.shape, dtype=torch.float32, device=weight.device))
    name = str(dtype).removeprefix("torch.")
    return ToolError(
        f"{site} does not fit {name} after merging: {key!r} reaches {float(wide.abs().max()):.4g}, the largest number "
        f"is {torch.finfo(dtype).max:.4g}; use a smaller ratio, or save as bf16 or float"
    )


# --- writing ---------------------------------------------------------------------------------------------------------


def write_file(
    plan: Plan, path: Path, dtype: torch.dtype | None, device: torch.device, *, overwrite: bool, track: Track
) -> None:
    """One file of the checkpoint with its changes made, whole or not at all. Raises FileError, ToolError."""
    changes = plan.changes(dtype, device)
    with _steps(track, list(changes), f"merge into {path.name}") as step:
        header = plan.store.header
        if header is None or path.suffix.lower() in TORCH:
            tensors = dict(changed(plan.store, changes, dtype, step))
            check_space(path, sum(tensor.nbytes for tensor in tensors.values()) + 1_000_000)
            if path.suffix.lower() not in TORCH:
                write_tensors(tensors, path, metadata={"format": "pt"}, overwrite=overwrite)
                return
            with replacing(path, overwrite=overwrite) as part:
                save_torch(plan.store, tensors, part)
        else:
            check_space(path, size_as(header, dtype))
            with replacing(path, overwrite=overwrite) as part, part.open("wb") as out:
                rewrite(plan.store, out, changes, dtype, step)


@contextlib.contextmanager
def _steps(track: Track, names: Sequence[str], text: str) -> Iterator[Callable[[str], object]]:
    """A function to call at each item, for loops that are driven from elsewhere."""
    shown = track(names, text)
    try:
        yield lambda name: next(shown, None)
        for _ in shown:
            pass
    finally:
        close = getattr(shown, "close", None)
        if close is not None:
            close()
