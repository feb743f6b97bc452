"""`python -m lora_ext blocks`: which blocks of a LoRA matter, as a heat map and a preset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

from ..blocks import BLOCK_LAYOUTS, BlockLayout
from ..command_line import check_output_folder
from ..compare import axis_values, block_analysis, heatmap
from ..compare.block_analysis import BlockAnalysis, BlockAnalysisData
from ..compare.cell_store import CellStore
from ..compare.image_spec import ImageSpec
from ..console import print_text
from ..errors import LoraError
from ..file.base_model import block_layout_sizes
from ..file.loading import load_lora_file
from ..file.lora_file import LoraFile
from ..file.lora_library import LoraLibrary
from ..inject import find_layer_targets
from ..lora_tags import LoraTag
from ..message_help import report_error
from .compare_command import OMITTED_OPTIONS
from .generate_command import generate_parser as generate_parser
from .generate_command import settings_from_options
from .image_renderer import StandaloneImageRenderer
from .pipeline import load_settings_model, lora_dirs, with_size_and_seed
from .settings import Settings
from .sheet_progress_bar import SheetProgressBar


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0, or 2 after an error, which is one line on standard error."""
    about = "Measure what each block of a LoRA does, by its weights or by pictures, and suggest a preset."
    parser = generate_parser("blocks", about, leave_out=(*OMITTED_OPTIONS, "strict"))
    parser.add_argument("--lora", default="", help="the LoRA, by name or as a file (default: the one in the prompt)")
    sizes = ", ".join(map(str, BLOCK_LAYOUTS))
    parser.add_argument(
        "--layout", default="", help=f"number of block weights: {sizes} (default: 12 for SDXL, 17 for others)"
    )
    parser.add_argument(
        "--way",
        default="",
        choices=["", *block_analysis.ANALYSIS_METHODS],
        help="how effects are measured: norms (by the weights), lowered (by pictures, with one block off), raised (by "
        "pictures, with one block on) (default: lowered with a prompt, else norms)",
    )
    parser.add_argument("--seeds", default="", help="seeds to average over, such as 1,2,3 (default: that of --seed)")
    parser.add_argument("--keep", type=float, default=0.8, help="share of the effect that the preset keeps, 0 to 1")
    parser.add_argument("--name", default="KEEP", help="name of the preset")
    parser.add_argument("--batch", type=int, default=8, help="images at once")
    parser.set_defaults(out=Path("outputs") / "blocks")
    given = vars(parser.parse_args(argv))
    own = {name: given.pop(name) for name in ("lora", "layout", "way", "seeds", "keep", "name", "batch", "out")}
    as_json = given.pop("json")
    settings = settings_from_options(given)
    try:
        map_file, found, tag = save_block_analysis(settings, **own)
    except LoraError as error:
        return report_error(error)
    if as_json:
        print_text(json.dumps({"map": str(map_file), **asdict(found), "tag": tag}, ensure_ascii=False))
    else:
        print_text("\n".join(filter(None, (str(map_file), found.text, found.preset, tag))))
    return 0


def save_block_analysis(
    settings: Settings, *, lora: str, layout: str, way: str, seeds: str, keep: float, name: str, batch: int, out: Path
) -> tuple[Path, BlockAnalysisData, str | None]:
    """Measures which blocks of a LoRA matter, and saves `blocks.png` and `blocks.csv`.

    Args:
        settings: model, prompt and folders.
        lora: the LoRA's name or file; by default the prompt's first.
        layout: number of block weights; by default 12 for SDXL, 17 for others.
        way: one of `block_analysis.ANALYSIS_METHODS`.
        seeds: seeds to average over, separated by commas.
        keep: share of the effect that the preset keeps, 0 to 1.
        name: the preset's name.
        batch: images at once.
        out: the folder for the results.

    Returns:
        The heat map's file; each block's share, the preset and a sentence; the tag that applies the preset, None where
        no block has an effect or no tag can hold the file's name.

    Raises:
        LoraError: an option is invalid, or the LoRA cannot be analysed.
    """
    settings.checked()
    check_output_folder(out, "--out")
    library = LoraLibrary(lora_dirs(settings))
    lora_name = lora or next((request.name for request in ImageSpec(prompt=settings.prompt).tags()), "")
    if not lora_name:
        raise LoraError("no LoRA is given; name it with --lora, or write <lora:name:1> into the prompt")
    file = load_lora_file(Path(lora_name)) if Path(lora_name).is_file() else library.load(lora_name)
    file.check_architecture()
    chosen = block_analysis.parse_layout(layout or block_layout_sizes(file.family)[0])
    way = way or (block_analysis.LOWERED if settings.prompt else block_analysis.NORMS)
    store = CellStore(out)
    if way == block_analysis.NORMS:
        found = _analyse_norms(settings, file, chosen)
    else:
        found = _analyse_images(settings, library, lora_name, chosen, way, seeds, batch, store)
    data = found.data(keep, name)  # an invalid name is an error before anything is written
    store.create_folder()
    tag = _tag_with_preset(settings.prompt, lora_name, file, library, data) if data.keep else None
    return heatmap.save_heatmap(found, keep, store.folder), data, tag


def _tag_with_preset(
    prompt: str, lora: str, file: LoraFile, library: LoraLibrary, found: BlockAnalysisData
) -> str | None:
    """The prompt's tag of the LoRA, else one of weight 1, with the preset's numbers; None where none can be."""
    own = [tag for tag in ImageSpec(prompt=prompt).tags() if tag.name == lora]
    name = file.name if Path(lora).is_file() else library.shortest_name(library.find(lora))
    if not own and set(name) & set("<>:"):
        return None
    numbers = found.preset.rpartition(":")[2]
    return replace(own[0] if own else LoraTag(name), lbw=numbers, lbwe=None, x=None).format_tag()


def _analyse_norms(settings: Settings, file: LoraFile, layout: BlockLayout) -> BlockAnalysis:
    """Analyses norms, without a model unless a layer's ΔW depends on the model's weights."""
    if block_analysis.can_measure_without_model(file):
        return block_analysis.analyse_by_norms(file, layout)
    model = load_settings_model(settings)
    places = {
        layer_id: target
        for part, root in model.parts().items()
        for layer_id, target in find_layer_targets(part, root).items()
    }
    return block_analysis.analyse_by_norms(file, layout, targets=places)


def _analyse_images(
    settings: Settings,
    library: LoraLibrary,
    lora: str,
    layout: BlockLayout,
    way: str,
    seeds: str,
    batch: int,
    store: CellStore,
) -> BlockAnalysis:
    model = load_settings_model(settings)
    settings = with_size_and_seed(settings, model, None)
    image_spec = ImageSpec(**settings.image_fields(), lora=library.shortest_name(library.find(lora)))
    seed_list = [int(seed) for seed in axis_values.parse_number_list(seeds, "seeds", whole=True)] if seeds else []
    with closing(SheetProgressBar()) as bar, StandaloneImageRenderer(settings, model, library) as renderer:
        return block_analysis.analyse_by_images(
            image_spec, layout, way, renderer, store, seeds=seed_list, batch=batch, on_progress=bar
        )
