"""The extension's section of the web UI's settings, the web UI's folders, and messages to the user."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from modules import paths, shared

from ...adapter_spec import Presets
from ...block_weights import BLOCK_PRESETS, ELEMENT_PRESETS
from ...console import print_text
from ...file.preset_file import load_preset_files
from ...inject import AUTO, MODES
from ...prompt_regions import DEFAULT_BASE_SHARE

OWNER_LORA_EXT, OWNER_BUILTIN = "LoRA ext", "built-in"
WARN_BELOW_IMAGE, WARN_ON_CONSOLE, WARN_AS_POPUP = "under the picture", "console", "popup"
ALL_PARTS, OWN_PART = "all parts", "own part"
_BLOCK_WEIGHT_EXTENSION = "sd-webui-lora-block-weight"


def register_settings(on_change: Callable[[], None]) -> None:
    """Adds the extension's settings, keeping saved values; `on_change` is called when the tags' owner changes."""
    options = {
        "in_charge": shared.OptionInfo(
            OWNER_LORA_EXT,
            "Who applies <lora:…> and <lyco:…>",
            gr.Radio,
            {"choices": [OWNER_LORA_EXT, OWNER_BUILTIN]},
            onchange=on_change,
        ).info("block weights, step ranges and reports need LoRA ext; the cards work with both"),
        "mode": shared.OptionInfo(AUTO, "How files are put onto the model", gr.Radio, {"choices": list(MODES)}).info(
            "baked: new weights are swapped in, full speed, more memory; live: added at each step, no more memory; "
            "auto: baked where that leaves room to draw, live where weights keep changing. Pictures are the same"
        ),
        "keep_files": shared.OptionInfo(
            4, "LoRA files to keep in memory", gr.Slider, {"minimum": 1, "maximum": 64, "step": 1}
        ).info("files in use always stay"),
        "and_parts": shared.OptionInfo(
            ALL_PARTS,
            "In a prompt with AND, a LoRA tag acts on",
            gr.Radio,
            {"choices": [ALL_PARTS, OWN_PART]},
            infotext="Lora AND",
        ).info("part=own or part=all in a tag decides for that tag; the built-in extension knows all parts only"),
        "on_negative": shared.OptionInfo(
            True, "LoRA tags act on the negative prompt too", infotext="Lora negative prompt"
        ).info("neg=0 or neg=1 in a tag decides for that tag; one that acts on its own AND part does not"),
        "region_ratios": shared.OptionInfo(
            "", "Sizes of the regions that ADDCOL, ADDROW and BREAK divide a prompt into", infotext="Region ratios"
        ).info("such as 1,1 or 1,2,1;1,3, as in Regional Prompter; empty: equal parts, and BREAK divides nothing"),
        "base_ratio": shared.OptionInfo(
            DEFAULT_BASE_SHARE,
            "Share of the text before ADDBASE within the regions",
            gr.Slider,
            {"minimum": 0, "maximum": 1, "step": 0.05},
            infotext="Base ratio",
        ),
        "warnings": shared.OptionInfo(
            [WARN_BELOW_IMAGE, WARN_ON_CONSOLE],
            "Where to report files that are missing or do not fit, and tags that cannot be read",
            gr.CheckboxGroup,
            {"choices": [WARN_BELOW_IMAGE, WARN_ON_CONSOLE, WARN_AS_POPUP]},
        ),
        "show_curve": shared.OptionInfo(
            False, "Show under the picture which weight each file with a curve, start= or stop= had at each step"
        ),
    }
    section = shared.options_section(("lora_ext", "LoRA ext", "sd"), options)
    for name, info in section.items():
        shared.opts.add_option(f"lora_ext_{name}", info)


def command_line_folders(*options: str) -> tuple[Path, ...]:
    """Returns the folders of command-line options, each once; an option may have one value or a list (Forge Neo)."""
    found = []
    for name in options:
        given = getattr(shared.cmd_opts, name, None) or ()
        found += [given] if isinstance(given, (str, Path)) else list(given)
    return tuple(dict.fromkeys(Path(folder) for folder in found if folder))


class A1111HostInterface:
    """The web UI as a `protocols.HostInterface`."""

    def lora_dirs(self) -> tuple[Path, ...]:
        """Returns the folders that the built-in Lora extension searches, in its order."""
        default = Path(paths.models_path) / "Lora"
        return command_line_folders("lora_dir", "lora_dirs", "lyco_dir_backcompat") or (default,)

    def optional_dirs(self) -> tuple[Path, ...]:
        """Returns default folders that may be missing: the web UI searches models/LyCORIS only where it exists."""
        return tuple(Path(paths.models_path) / name for name in ("Lora", "LyCORIS"))

    def data_dir(self) -> Path:
        """Returns the folder of the extension's own files: presets, the index of LoRA files."""
        return Path(paths.data_path) / "lora_ext"

    def option(self, name: str) -> Any:
        """Returns the value of the setting `lora_ext_<name>`."""
        return getattr(shared.opts, f"lora_ext_{name}")

    def progress(self, done: int, total: int, text: str) -> None:
        """Shows progress on the web UI's progress bar."""
        shared.state.textinfo = text
        shared.state.sampling_step, shared.state.sampling_steps = done, total

    def cancelled(self) -> bool:
        """Whether Interrupt or Skip was pressed."""
        return bool(shared.state.interrupted or shared.state.skipped)

    def notify(self, text: str) -> None:
        """Prints a sentence on the console and shows it as a popup, as the settings say."""
        where = self.option("warnings")
        if WARN_ON_CONSOLE in where:
            print_text(f"[LoRA ext] {text}")
        if WARN_AS_POPUP in where:
            gr.Warning(text)

    def presets(self) -> Presets:
        """Returns the built-in presets, the block-weight extension's if installed, and the user's own, which win."""
        neighbour = Path(paths.extensions_dir) / _BLOCK_WEIGHT_EXTENSION / "scripts"
        weights = [neighbour / "lbwpresets.txt", self.data_dir() / "presets.txt"]
        elements = [neighbour / "elempresets.txt", self.data_dir() / "elements.txt"]
        (vectors, problems), (rules, more_problems) = (
            load_preset_files(BLOCK_PRESETS, weights),
            load_preset_files(ELEMENT_PRESETS, elements),
        )
        return Presets(vectors, rules, (*problems, *more_problems))
