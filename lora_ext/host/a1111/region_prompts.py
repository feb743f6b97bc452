"""Prompts with regions in the web UI: whether they are divided here, what infotexts say of them, and their masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules import shared

from ...errors import PromptError
from ...lora_tags import OUTPUT, OWN_PART, LoraTag
from ...prompt_regions import DEFAULT_BASE_SHARE, RegionalPrompt, split_by_region
from ...region_masks import MASKS_FOLDER, MaskFolders, restore_masks, write_masks
from ...regions import divide_prompt
from ...regions.prompt_words import BASE_WORD
from ..infotext import format_infotext_number, parse_hashes
from .other_extensions import REGIONAL_PROMPTER, active_region_extension

RATIOS_KEY, BASE_KEY, MASKS_KEY = "Region ratios", "Base ratio", "Region masks"
"""Infotext keys of the settings, as `generate` writes them, and of (name, hash) of masks."""
_OUTPUT_FOLDERS = ("outdir_samples", "outdir_txt2img_samples", "outdir_img2img_samples", "outdir_save")


@dataclass(frozen=True)
class RegionSettings:
    """How Regional Prompter's words divide prompts.

    Attributes:
        ratios: as for `regions.divide_prompt`.
        base_share: as for `split_by_region`.
    """

    ratios: str = ""
    base_share: float = DEFAULT_BASE_SHARE

    @classmethod
    def of_webui(cls, option: Callable[[str], Any]) -> RegionSettings:
        """Returns what the web UI's settings say."""
        return cls(str(option("region_ratios") or ""), float(option("base_ratio")))


@dataclass(frozen=True)
class BatchRegions:
    """The regions of a batch's prompts.

    Attributes:
        prompts: for each image its prompt by regions; empty without regions.
        is_divided: whether words divide the prompt.
        entries: what the infotext says of the words.
        notes: sentences about words that are not acted on.
        other: the extension that divides the picture in our place; "" for none.
        by_part: whether rows of the U-Net's batch are ordered by AND parts, not by images: Regional Prompter does so in
            its mode "Latent".
    """

    prompts: tuple[RegionalPrompt, ...] = ()
    is_divided: bool = False
    entries: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    other: str = ""
    by_part: bool = False

    def tag_notes(self, tag: LoraTag, part: int | None) -> list[str]:
        """Says what of a tag is not acted on; `part` is the number of its AND part, None where that is not known."""
        if self.other and tag.at is not None:
            return [
                f"<lora:{tag.name}>: at={tag.at} is not acted on, and the file acts on the whole picture: {self.other} "
                "divides this one; turn it off for regions of tags"
            ]
        if self.prompts:
            lost = self.is_divided and part is None and tag.part == OWN_PART
            return [f"<lora:{tag.name}>: part=own acts on all parts in a prompt that words divide"] if lost else []
        if tag.at is None or tag.way == OUTPUT:
            return []
        return [
            f"<lora:{tag.name}>: at={tag.at} acts on the whole picture here; write way=output, which keeps it to its "
            "region by masks, or make the picture with the command generate"
        ]


def find_regions(
    p: Any, texts: Sequence[str], sd_model: Any, masks: MaskFolders, chosen: RegionSettings
) -> BatchRegions:
    """Finds the regions of a batch's prompts.

    There are none where another extension divides the picture, and for InstructPix2Pix, whose rows the web UI does not
    let be more than one.

    Args:
        p: the web UI's processing.
        texts: the batch's prompts.
        sd_model: the model.
        masks: the masks that tags name.
        chosen: how words divide prompts.
    """
    other = active_region_extension(p)
    try:
        divided = divide_prompt(texts[0], "" if other else chosen.ratios)
    except PromptError as error:
        return BatchRegions(notes=(f"the prompt is not divided into regions: {error}",), other=other)
    is_divided = divided is not None
    if other:
        words = f"ADDCOL, ADDROW, ADDCOMM and ADDBASE are {other}'s or plain text here: it divides this picture"
        is_latent = p.extra_generation_params.get("RP Calc Mode") == "Latent"
        notes = (words,) if is_divided and other != REGIONAL_PROMPTER else ()
        return BatchRegions(notes=notes, other=other, by_part=other == REGIONAL_PROMPTER and is_latent)
    if getattr(sd_model, "cond_stage_key", "") == "edit":
        words = "ADDCOL, ADDROW, ADDCOMM and ADDBASE do not divide prompts with this model, and are plain text"
        return BatchRegions(notes=(words,) if is_divided else ())
    prompts = tuple(
        split_by_region(text, ratios=chosen.ratios, base_share=chosen.base_share, load_mask=masks.load)
        for text in texts
    )
    if not prompts[0].has_regions:
        return BatchRegions()
    entries = {RATIOS_KEY: chosen.ratios.strip()} if is_divided and chosen.ratios.strip() else {}
    if is_divided and BASE_WORD in texts[0]:
        entries[BASE_KEY] = format_infotext_number(chosen.base_share)
    return BatchRegions(prompts, is_divided, tuple(entries.items()))


def restore_region_settings(params: dict[str, Any], chosen: RegionSettings) -> None:
    """Makes a pasted infotext that says nothing of these settings mean their defaults, with which it was made."""
    prompt = str(params.get("Prompt", ""))
    try:
        divided = divide_prompt(prompt, chosen.ratios)
    except PromptError:
        divided = None
    if divided is not None and chosen.ratios:
        params.setdefault(RATIOS_KEY, "")
    if divided is not None and divided.base is not None and chosen.base_share != DEFAULT_BASE_SHARE:
        params.setdefault(BASE_KEY, format_infotext_number(DEFAULT_BASE_SHARE))


def restore_masks_of(params: dict[str, Any], folder: Path) -> list[str]:
    """Makes the tags of a pasted infotext name the masks that the picture was made with.

    Args:
        params: the infotext's parameters.
        folder: the user's masks.

    Returns:
        A sentence for each mask that is nowhere.
    """
    hashes = parse_hashes(str(params.get(MASKS_KEY, "")))
    problems: list[str] = []
    for prompt in ("Prompt", "Hires prompt") if hashes else ():
        if params.get(prompt):
            params[prompt], lost = restore_masks(params[prompt], hashes, MaskFolders((folder,)), _saved_masks())
            problems += lost
    return list(dict.fromkeys(problems))


def on_image_saved(params: Any) -> None:
    """Called by the web UI when a picture was written: writes the masks of its regions beside it."""
    masks = getattr(params.p, "lora_ext_masks", None)
    if masks:
        write_masks(masks, Path(params.filename).parent)


def _saved_masks() -> list[Path]:
    """The folders beside the web UI's pictures that may hold masks: of its outputs and their days, latest first."""
    outputs = dict.fromkeys(str(getattr(shared.opts, name, "") or "") for name in _OUTPUT_FOLDERS)
    found = []
    for folder in (Path(text) for text in outputs if text):
        found += [folder / MASKS_FOLDER, *sorted(folder.glob(f"*/{MASKS_FOLDER}"), reverse=True)]
    return found
