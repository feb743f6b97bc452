"""Runs the benchmarks and writes their figures into docs/NUMBERS.md; nothing on that page is typed by hand.

    python -m benchmarks --page [FILE] [--short] [--only apply tools …] [--device cpu|cuda]

Each part is a program of this folder in a process of its own. Its section keeps its own date, machine and versions: a
part that was not run again, or on another device, stays as it is. A part that fails keeps its old section, and the
status is 1.
--short takes minutes instead of hours: smaller models, fewer repetitions.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "NUMBERS.md"
VERSIONS = ("torch", "diffusers", "transformers", "peft")
_HEAD = """# Figures

Made by `python -m benchmarks --page`. Ratios compare two things within one run; times belong to the machine that
is named. *short* is a run with smaller models and fewer repetitions. What the figures mean, and what was tried before:
[Benchmarks](BENCHMARKS.md).

"""


@dataclass(frozen=True)
class Part:
    """A benchmark. on_device: whether it takes --device; short: its options for a short run."""

    heading: str
    program: str
    options: tuple[str, ...] = ()
    short: tuple[str, ...] = ()
    on_device: bool = False

    def command(self, short: bool, device: str) -> list[str]:
        """What runs it, after the name of the interpreter."""
        chosen = [*(self.short if short else self.options), *(["--device", device] if self.on_device else [])]
        return [f"benchmarks/{self.program}.py", *chosen]


PARTS = {
    "apply": Part("Applying", "apply", (), ("--latent", "8", "--repeat", "2"), True),
    "control": Part("Weights over the steps", "control", (), ("--quick",), True),
    "memory": Part("Memory", "memory", ("--measure",), ()),
    "compare": Part("Comparison sheets", "compare", (), ("--cells", "12", "--steps", "4"), True),
    "train": Part("A training step", "train", (), ("--quick",), True),
    "data": Part("Reading pictures", "train_data", (), ("--pictures", "12", "--steps", "0.2")),
    "tools": Part("File tools", "tools", (), ("--quick",)),
    "regions": Part("Regions", "regions", (), ("--prompts", "4")),
    "learn": Part("What training teaches", "learn", (), ("--only", "lierla")),
}


def machine(device: str) -> str:
    """The processor with its cores and, for a run on one, the GPU."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        name = found[1] if found else name
    gpu = f", {torch.cuda.get_device_name()}" if device.startswith("cuda") else ""
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return f"{name}, {os.cpu_count()} cores{gpu}, {platform.system()}{load}"


def versions() -> str:
    """Python and the packages that the figures depend on."""
    found = [f"Python {platform.python_version()}"]
    for name in VERSIONS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def sections(page: Path) -> dict[tuple[str, str], str]:
    """(part, device) → its section of a page that may be there already."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    found = re.findall(r"(<!-- part (\w+) ([\w:]+) -->\n.*?)(?=<!-- part |\Z)", text, re.DOTALL)
    return {(part, device): section for section, part, device in found}


def run_part(name: str, short: bool, device: str) -> str:
    """Runs a part and returns its section. Raises CalledProcessError where it fails."""
    part = PARTS[name]
    command = part.command(short, device)
    where, begun = machine(device), time.monotonic()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    seconds = time.monotonic() - begun
    title = part.heading + ("" if device == "cpu" else f" ({device})")
    kind = "short" if short and part.short != part.options else "full"
    facts = f"{datetime.date.today()}, {kind}, {seconds:.0f} s: `python {' '.join(command)}`"
    output = done.stdout.strip().replace("\n# ", "\n### ")
    return f"<!-- part {name} {device} -->\n## {title}\n\n{facts}\n\n{where}; {versions()}.\n\n{output}\n\n"


def write(page: Path, found: dict[tuple[str, str], str]) -> None:
    """Writes the page, its parts in the order of `PARTS`."""
    order = list(PARTS)
    known = sorted((key for key in found if key[0] in PARTS), key=lambda key: (order.index(key[0]), key[1]))
    text = _HEAD + "".join(found[key].rstrip() + "\n\n" for key in known)
    page.write_text(text.rstrip() + "\n", encoding="utf-8", newline="\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the parts one after the other; the page is written after each, so that a stop loses one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, nargs="?", const=PAGE, required=True, help="the page to write")
    parser.add_argument("--short", action="store_true", help="smaller models and fewer repetitions")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts alone")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; with cuda the parts that can use one")
    args = parser.parse_args(argv)
    failed = []
    for name in args.only or PARTS:
        if args.device != "cpu" and not PARTS[name].on_device:
            continue
        print(f"{name}: running", flush=True)
        try:
            section = run_part(name, args.short, args.device)
        except subprocess.CalledProcessError as error:
            print(f"{name}: failed with status {error.returncode}; its section stays as it was", file=sys.stderr)
            failed.append(name)
            continue
        write(args.page, {**sections(args.page), (name, args.device): section})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
