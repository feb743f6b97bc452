"""Our section of the web UI's settings, its folders, and how it is told things."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from modules import paths, shared

from ...adapter_spec import Presets
from ...block_weights import BLOCK_PRESETS, ELEMENT_PRESETS
from ...console import printable_text
from ...file.preset_file import load_preset_files
from ...inject import AUTO, MODES

OWNER_LORA_EXT, OWNER_BUILTIN = "LoRA ext", "built-in"
WARN_BELOW_IMAGE, WARN_ON_CONSOLE, WARN_AS_POPUP = "under the picture", "console", "popup"
_BLOCK_WEIGHT_EXTENSION = "sd-webui-lora-block-weight"


def register_settings(on_change: Callable[[], None]) -> None:
    """Adds our settings; `on_change` is called when who is in charge changes. Values kept from before stay."""
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
        "warnings": shared.OptionInfo(
            [WARN_BELOW_IMAGE, WARN_ON_CONSOLE],
            "Where to report files that are missing or do not fit, and tags that cannot be read",
            gr.CheckboxGroup,
            {"choices": [WARN_BELOW_IMAGE, WARN_ON_CONSOLE, WARN_AS_POPUP]},
        ),
    }
    section = shared.options_section(("lora_ext", "LoRA ext", "sd"), options)
    for name, info in section.items():
        shared.opts.add_option(f"lora_ext_{name}", info)


def command_line_folders(*options: str) -> tuple[Path, ...]:
    """The folders of these command-line options, in order and each once; an option may hold one or a list (Neo)."""
    found = []
    for name in options:
        given = getattr(shared.cmd_opts, name, None) or ()
        found += [given] if isinstance(given, (str, Path)) else list(given)
    return tuple(dict.fromkeys(Path(folder) for folder in found if folder))


class A1111HostInterface:
    """The web UI as a `ports.Shell`."""

    def lora_dirs(self) -> tuple[Path, ...]:
        """The folders that the built-in extension reads, in its order."""
        default = Path(paths.models_path) / "Lora"
        return command_line_folders("lora_dir", "lora_dirs", "lyco_dir_backcompat") or (default,)

    def optional_dirs(self) -> tuple[Path, ...]:
        """Those that nobody named: the web UI looks into models/LyCORIS where it exists, and few have it."""
        return tuple(Path(paths.models_path) / name for name in ("Lora", "LyCORIS"))

    def data_dir(self) -> Path:
        """Where files of ours are kept: presets, the index of LoRA files."""
        return Path(paths.data_path) / "lora_ext"

    def option(self, name: str) -> Any:
        """The user's value of `lora_ext_<name>`."""
        return getattr(shared.opts, f"lora_ext_{name}")

    def progress(self, done: int, total: int, text: str) -> None:
        """On the web UI's progress bar."""
        shared.state.textinfo = text
        shared.state.sampling_step, shared.state.sampling_steps = done, total

    def cancelled(self) -> bool:
        """Whether Interrupt or Skip was pressed."""
        return bool(shared.state.interrupted or shared.state.skipped)

    def notify(self, text: str) -> None:
        """To the console, and as a popup if the user wishes."""
        where = self.option("warnings")
        if WARN_ON_CONSOLE in where:
            print(printable_text(f"[LoRA ext] {text}"))
        if WARN_AS_POPUP in where:
            gr.Warning(text)

    def presets(self) -> Presets:
        """Built-in presets, then those of the block-weight extension if it is there, then the user's own."""
        neighbour = Path(paths.extensions_dir) / _BLOCK_WEIGHT_EXTENSION / "scripts"
        weights = [neighbour / "lbwpresets.txt", self.data_dir() / "presets.txt"]
        elements = [neighbour / "elempresets.txt", self.data_dir() / "elements.txt"]
        (vectors, told), (rules, also) = (
            load_preset_files(BLOCK_PRESETS, weights),
            load_preset_files(ELEMENT_PRESETS, elements),
        )
        return Presets(vectors, rules, (*told, *also))
