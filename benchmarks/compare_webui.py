"""A sheet of 84 cells in the web UI: ours in batches, against the web UI's plot script (Prompt S/R, one cell after the
other) with the built-in Lora and with ours; in processor seconds of the web UI, as ratios within one run.

    python benchmarks/compare_webui.py --url http://127.0.0.1:7860 --pid PID --loras models/Lora --file any.safetensors

The web UI runs with this extension. Six files that differ are made from `--file` (a LoRA for the model that is loaded).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "webui"))
from server import CAT, WebUI

RUN, WEIGHTS, SEEDS = "plotted", "0.2,0.4,0.6,0.8,1,1.2,1.4", "1,2"
NAMES = [*(f"{RUN}-{epoch:06}" for epoch in range(1, 6)), RUN]


def files(source: Path, folder: Path) -> None:
    """A run of six files, each a little stronger."""
    for number, name in enumerate(NAMES, start=1):
        tensors = {key: value * (0.7 + 0.1 * number) if "lora_up" in key else value
                   for key, value in load_file(source).items()}  # fmt: skip
        save_file(tensors, folder / f"{name}.safetensors")


def seconds(pid: int) -> float:
    """Processor seconds of a process until now (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def plotted(webui: WebUI, settings: dict[str, Any], cells: int) -> int:
    """The plot script's pictures, row by row in the sheet's order (a request a row); how many there are."""
    info = webui.call("/sdapi/v1/script-info")
    plot = next(row for row in info if row["name"] == "x/y/z plot" and not row["is_img2img"])
    types = list(plot["args"][0]["choices"])
    args: list[Any] = [types.index("Prompt S/R"), ",".join(NAMES), []] + [types.index("Nothing"), "", []] * 2
    args += [False, True, False, False, False, False, False, 0, True]
    shared = {"script_name": "x/y/z plot", "script_args": args, "do_not_save_samples": True, "do_not_save_grid": True}
    found = 0
    for seed in SEEDS.split(","):
        for weight in WEIGHTS.split(",")[: cells // 12]:
            prompt = f"{CAT} <lora:{NAMES[0]}:{weight}>"
            made = webui.call("/sdapi/v1/txt2img", {"prompt": prompt, **shared, **settings, "seed": int(seed)})
            found += len(made["images"]) - 1  # the first is the grid
    return found


def sheet(webui: WebUI, settings: dict[str, Any], cells: int, batch: int) -> int:
    """Our sheet; how many of its cells are there."""
    wish = {"prompt": f"{CAT} <lora:{RUN}:1>", "x": "epoch:all", "z": f"seed:{SEEDS}", "batch": batch,
            "y": f"weight:{','.join(WEIGHTS.split(',')[: cells // 12])}", "steps": settings["steps"], "cfg": 7,
            "sampler": "Euler", "width": settings["width"], "height": settings["height"]}  # fmt: skip
    job = webui.call("/lora-ext/v1/compare", wish)
    while (now := webui.call(f"/lora-ext/v1/jobs/{job['id']}"))["state"] in ("waiting", "running"):
        time.sleep(1)
    assert now["state"] == "done", now
    return sum(bool(cell["file"]) for cell in now["result"]["cells"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--loras", type=Path, required=True, help="the web UI's LoRA folder")
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--cells", type=int, default=84, help="a multiple of 12")
    given = parser.parse_args()
    files(given.file, given.loras)
    webui = WebUI(given.url)
    settings = {"steps": given.steps, "width": given.side, "height": given.side, "cfg_scale": 7,
                "sampler_name": "Euler", "seed": 1}  # fmt: skip
    webui.call("/sdapi/v1/refresh-loras", {}, "POST")
    arms: dict[str, tuple[str, Callable[[int], int]]] = {
        "plot script, built-in Lora": ("built-in", lambda cells: plotted(webui, settings, cells)),
        "plot script, LoRA ext": ("LoRA ext", lambda cells: plotted(webui, settings, cells)),
        f"our sheet, batches of {given.batch}": ("LoRA ext", lambda cells: sheet(webui, settings, cells, given.batch)),
    }
    found = {}
    for name, (charge, draw) in arms.items():
        webui.options(lora_ext_in_charge=charge)
        webui.make(f"<lora:{NAMES[0]}:0.5>")  # warm
        begun = seconds(given.pid)
        count = draw(given.cells)
        found[name] = seconds(given.pid) - begun, count
    webui.options(lora_ext_in_charge="LoRA ext")
    slowest = next(iter(found.values()))[0]
    print(json.dumps({"cells": given.cells, "steps": given.steps, "side": given.side}))
    for name, (took, count) in found.items():
        print(f"  {name:<30}{took:8.1f} s of the processor  {slowest / took:5.2f}x   {count} pictures")


if __name__ == "__main__":
    main()
