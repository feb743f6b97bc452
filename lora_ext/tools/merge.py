"""`merge`: LoRA + LoRA → LoRA of any ranks, alphas, kinds and trainers; `svd-merge` is its method "svd".

concat: the exact weighted sum of ΔW, ranks side by side. svd: its best approximation at a rank. factors: the older
scripts' average of the factors themselves. With `--sd_model` LoRAs go into a checkpoint (`checkpoint.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..adapters import Adapter
from ..applied_networks import Use
from ..blocks import UNIFORM, BlockWeights, parse_weights
from ..command_line import PRECISIONS, SVD_ONLY, Parser, check_output, device_of, dtype_of, note_idle, number, widest
from ..errors import FitError, ToolError
from ..file.loading import read
from ..file.lora_file import LoraFile
from ..layer_names import Site
from ..progress import Track, bar, silent
from .layer_changes import change_of, check_usable
from .merge_layer import METHODS, Part, Recipe, merged
from .report import Report
from .result_metadata import described, finish, joined, origin


def merge(
    files: Sequence[LoraFile],
    ratios: Sequence[float] | None = None,
    recipe: Recipe | None = None,
    *,
    blocks: Sequence[BlockWeights] | None = None,
    track: Track = silent,
) -> tuple[LoraFile, Report]:
    """Σ ratioᵢ · block weightᵢ · ΔWᵢ as one file, in kohya's spelling. ratios: 1 each where not given; may be negative.

    Raises ToolError: numbers that do not go together, NaN, shapes that differ (files for different base models), no
    layer in common, and for "factors" different ranks.
    """
    recipe = recipe or Recipe()
    uses = _uses(files, ratios, blocks)
    report = Report("merge", unread={use.label: use.file.unknown for use in uses if use.file.unknown})
    for use in uses:
        report.source(use.label, use.file)
    sites = list(dict.fromkeys(site for use in uses for site in use.file.adapters))
    _compare(uses, report)
    dtype = recipe.dtype or widest([a.dtype for use in uses for a in use.file.adapters.values()])
    adapters: dict[Site, Adapter] = {}
    keys: dict[tuple[Site, str], str] = {}
    for site in track(sites, "merge"):
        parts = [_part(use, site) for use in uses if site in use.file.adapters]
        try:
            made = merged(site, [p for p in parts if p.weight], recipe, dtype, report)
        except (FitError, ToolError) as error:
            raise _explained(site, error, uses) from None
        if made is not None:
            adapters[site] = made
            head = _head(uses, site)
            keys |= {(site, suffix): f"{head}.{suffix}" for suffix in made.tensors if head}
    if not adapters:
        raise ToolError("nothing to merge: " + ("; ".join(report.notes) or "every layer has weight 0"))
    for use in uses:
        if len(report.left_out.get(use.label, ())) == len(use.file.adapters):
            raise ToolError(f"nothing of {use.label} can be merged: " + "; ".join(report.notes))
    said = f"merged ({recipe.method}): " + " + ".join(f"{use.unet:g} * {use.label}" for use in uses)
    origins = [origin(use.file, use.unet, None if use.blocks is UNIFORM else use.blocks.text()) for use in uses]
    metadata = joined([use.file for use in uses], said, origins)
    result = LoraFile(adapters, metadata, _embeddings(uses, report), keys=keys)
    dims = (recipe.new_rank, recipe.conv_rank) if recipe.method == "svd" else None
    return replace(result, metadata=described(result, metadata, dims)), report


def _uses(
    files: Sequence[LoraFile], ratios: Sequence[float] | None, blocks: Sequence[BlockWeights] | None
) -> list[Use]:
    """The files at their weights, under names that tell them apart. Raises ToolError."""
    if not files:
        raise ToolError("no files to merge; name them with --models")
    for what, given in (("ratios", ratios), ("block weights", blocks)):
        if given is not None and len(given) != len(files):
            raise ToolError(f"{len(given)} {what} for {len(files)} files; give one for each")
    names = [file.name for file in files]
    labels = [str(f.path or f.name) if names.count(f.name) > 1 else f.name for f in files]
    uses = []
    for i, file in enumerate(files):
        check_usable(file.without_damaged())
        ratio = float(ratios[i]) if ratios is not None else 1.0
        uses.append(Use(file, te=ratio, unet=ratio, blocks=blocks[i] if blocks else UNIFORM, name=labels[i]))
    return uses


def _compare(uses: Sequence[Use], report: Report) -> None:
    """Which layers all have, and which only one. Raises ToolError where files have no layer in common."""
    held = [set(use.file.adapters) for use in uses]
    for i, use in enumerate(uses):
        others = set().union(*(h for k, h in enumerate(held) if k != i))
        alone = [str(site) for site in use.file.adapters if site not in others]
        if alone and len(uses) > 1:
            report.only.setdefault(use.label, []).extend(alone)
    if len(uses) < 2 or any(a & b for i, a in enumerate(held) for b in held[:i]):
        return
    parts = [{site.part for site in sites} for sites in held]
    apart = all(a and b and not a & b for i, a in enumerate(parts) for b in parts[:i])
    families = {use.file.family for use in uses} - {"unknown"}
    if not apart or len(families) > 1:
        told = ", ".join(f"{use.label} ({use.file.family}, {len(use.file.adapters)} layers)" for use in uses)
        raise ToolError(f"these files have no layer in common, nothing was merged: {told}")
    report.note("the files have no layer in common: each is for another part of the model")


def _part(use: Use, site: Site) -> Part:
    weight = use.weight(site)
    return Part(use.label, use.file.adapters[site], weight, change_of(use.file, site) if weight else None)


def _head(uses: Sequence[Use], site: Site) -> str | None:
    """The layer's name as the first file in kohya's spelling has it (SDXL has two)."""
    for use in uses:
        for suffix in use.file.adapters[site].tensors if site in use.file.adapters else ():
            key = use.file.keys.get((site, suffix), "")
            if key.startswith("lora_"):
                return key.partition(".")[0]
    return None


def _embeddings(uses: Sequence[Use], report: Report) -> dict[str, dict[str, torch.Tensor]]:
    """Embeddings of all files; of two with one name the first stays."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for use in uses:
        for name, vectors in use.file.embeddings.items():
            if name in found:
                report.note(f"both have an embedding {name!r}; that of {use.label} is left out")
            found.setdefault(name, dict(vectors))
    return found


def _explained(site: Site, error: Exception, uses: Sequence[Use]) -> ToolError:
    """The error with the layer, and with the base models where those differ."""
    families = {use.label: use.file.family for use in uses}
    text = str(error) if str(site) in str(error) else f"{site}: {error}"
    if isinstance(error, FitError):
        text += " (made for " + ", ".join(f"{family}: {name}" for name, family in families.items()) + ")"
    return ToolError(text)


# --- command line ----------------------------------------------------------------------------------------------------


def _parser(verb: str) -> Parser:
    svd = verb == "svd-merge"
    parser = Parser(verb, "Merge LoRAs into one, " + ("at a rank of its own." if svd else "or into a checkpoint."))
    parser.common()
    parser.add_argument("--models", nargs="+", required=True, type=Path, metavar="FILE", help="the LoRAs")
    parser.add_argument("--ratios", nargs="+", type=number, metavar="R", help="one for each, 1 if left out")
    parser.add_argument("--lbws", nargs="+", metavar="LBW", help="block weights of each: a preset or numbers")
    parser.add_argument("--new_rank", type=int, help="svd: rank of the result, 4 if left out")
    parser.add_argument("--new_conv_rank", type=int, help="svd: rank of kernels above 1x1; without it as --new_rank")
    parser.add_argument("--clamp_quantile", type=float, metavar="Q", help="svd: clip as older scripts do at 0.99")
    parser.add_argument("--precision", choices=list(PRECISIONS), help="any; sums are made in float32")
    parser.add_argument("--no_metadata", action="store_true", help="write no modelspec metadata")
    parser.known("--v2", "--sdxl", "--shuffle")
    parser.set_defaults(method="svd", sd_model=None)
    if not svd:
        parser.add_argument("--method", choices=METHODS, default=None, help="concat: exact; svd: at --new_rank")
        parser.add_argument("--concat", action="store_const", const="concat", dest="method", help="--method concat")
        parser.add_argument("--sd_model", type=Path, metavar="CKPT", help="merge into a checkpoint or diffusers folder")
    return parser


def main(argv: Sequence[str] | None = None, verb: str = "merge") -> int:
    """Entry point of `merge`."""
    args = _parser(verb).parse_args(argv)
    if args.sd_model is not None:
        from .merge_into_checkpoint import run

        return run(args)
    check_output(args.save_to, args.models, overwrite=args.overwrite)
    recipe = Recipe(
        args.method or ("concat" if args.new_rank is None else "svd"),
        4 if args.new_rank is None else args.new_rank,
        args.new_conv_rank,
        args.clamp_quantile,
        dtype_of(args.save_precision),
        device_of(args.device),
    )
    blocks = None if args.lbws is None else [parse_weights(lbw) if lbw.strip() else UNIFORM for lbw in args.lbws]
    track = silent if args.json else bar
    files = [read(model) for model in args.models]
    result, report = merge(files, args.ratios, recipe, blocks=blocks, track=track)
    report.verb = verb
    if recipe.method != "svd":
        note_idle(report, args, SVD_ONLY, f"with --method {recipe.method}")
    return finish(result, report, args)
