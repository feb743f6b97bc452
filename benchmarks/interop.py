"""Which program reads our files how: every kind of output, loaded by each program's own code and compared with ours.

    python benchmarks/interop.py [--kohya DIR] [--comfyui DIR] [--a1111 DIR] [--forge DIR] [--pages]

diffusers, PEFT and LyCORIS are run where they are installed, the others from the folders that are named; programs that
are absent are named as not run. A cell is the largest relative error ‖theirs − ours‖ / ‖ours‖ of a layer ("exact" below
5e-5), or how many layers the program does not change. The second table has multipliers other than 1: ours is
W + m·(W′ − W) for every kind. Everything is computed in float32 on an SD1 model of a few hundred kB made here.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from interop_pages import write_pages  # noqa: E402
from interop_programs import PACKAGES, PROGRAMS, Changes, Program, SmallModel  # noqa: E402
from makers import make  # noqa: E402

from lora_ext.adapters import adapter_from_tensors  # noqa: E402
from lora_ext.block_weights import parse_block_weights  # noqa: E402
from lora_ext.file.loading import assemble_lora_file, load_lora_file  # noqa: E402
from lora_ext.file.lora_file import LoraFile  # noqa: E402
from lora_ext.file.saving import save_lora_file  # noqa: E402
from lora_ext.layer_names import LayerId, layer_name_table  # noqa: E402
from lora_ext.tools.convert import convert_lora  # noqa: E402
from lora_ext.tools.merge import MergeOptions, merge_loras  # noqa: E402
from lora_ext.tools.resize import resize_lora  # noqa: E402
from lora_ext.tools.reweight import reweight_lora  # noqa: E402

EXACT = 5e-5
MULTIPLIERS = (0.5, -0.7, 1.3)
Layers = dict[LayerId, torch.Tensor]


def attention_layers(weights: Layers) -> Layers:
    """The Linear layers that LierLa files change: attention and MLP of U-Net and text encoder."""
    return {
        s: w for s, w in weights.items()
        if w.dim() == 2 and ("transformer_blocks" in s.layer or (s.part == "te" and s.layer.startswith("layers.")))
    }  # fmt: skip


def made_file(weights: Layers, kind: str, ranks: tuple[int, ...] = (4,), alpha: float = 0.5, seed: int = 1) -> LoraFile:
    """A file with one adapter of a kind at each layer; ranks in turn, alpha / rank the same everywhere."""
    rng, adapters = np.random.default_rng(seed), {}
    for i, (layer_id, weight) in enumerate(weights.items()):
        rank = ranks[i % len(ranks)]
        tensors = make(kind, tuple(weight.shape), rank, rng=rng)
        if "alpha" in tensors and kind.startswith(("lora", "loha", "lokr", "glora")):
            tensors["alpha"] = torch.tensor(alpha * rank)
        adapter = adapter_from_tensors(tensors)
        assert adapter is not None
        adapters[layer_id] = adapter
    return LoraFile(adapters, {"ss_v2": "False", "ss_network_module": "networks.lora"})


def outputs(weights: Layers) -> Iterator[tuple[str, LoraFile]]:
    """(name of the row, a file of that kind)."""
    linear = attention_layers(weights)
    convs = linear | {s: w for s, w in weights.items() if "resnet.conv" in s.layer or s.layer.endswith("sampler.conv")}
    one, other = made_file(linear, "lora", (4, 2, 3)), made_file(linear, "lora", (2, 2, 5), 1.0, seed=2)
    yield "train: LierLa", made_file(linear, "lora")
    yield "train: C3Lier (conv_dim and conv_alpha of its own)", LoraFile(
        {**made_file(linear, "lora").adapters,
         **made_file({s: w for s, w in convs.items() if w.dim() == 4}, "lora", (2,), 0.25).adapters})  # fmt: skip
    yield "merge (concat), ranks mixed", merge_loras([one, other], [0.7, 0.4])[0]
    yield "svd-merge", merge_loras([one, other], [0.7, 0.4], MergeOptions("svd", 4))[0]
    yield (
        "resize, dynamic",
        resize_lora(made_file(linear, "lora", (8,)), 8, dynamic_method="sv_fro", dynamic_param=0.8)[0],
    )
    block_weights = parse_block_weights(",".join(["0.7"] + ["1"] * 8 + ["0.3"] * 8))
    yield "reweight (block weights in the alphas)", reweight_lora(made_file(linear, "lora"), block_weights)[0]
    for to in ("diffusers", "comfyui"):
        yield f"convert --to {to}", convert_lora(one, to)[0]
    dora = with_own_magnitudes(made_file(linear, "lora"), weights, 0)
    yield "DoRA, a number for each output", dora
    yield "DoRA, a number for each input", with_own_magnitudes(made_file(linear, "lora"), weights, 1)
    yield "DoRA, convert --to diffusers", convert_lora(dora, "diffusers")[0]
    for name, kind in (
        ("LoHa", "loha"),
        ("LoKr", "lokr-full"),
        ("GLoRA", "glora"),
        ("full", "full"),
        ("IA3", "ia3-in"),
    ):
        yield name, made_file(linear, kind)
    attention = {s: w for s, w in linear.items() if s.part == "unet" and "attn" in s.layer}
    yield "OFT of kohya (constraint 0.001)", with_kohyas_oft_keys(rotated(attention, lambda rows: 4, 1e-3))
    yield "OFT of LyCORIS", rotated(linear, lyco_blocks, 0.0)
    yield "OFT of LyCORIS with rescale", with_rescale(rotated(linear, lyco_blocks, 0.0), weights)
    yield "BOFT", made_file(linear, "boft")


def with_own_magnitudes(file: LoraFile, weights: Layers, axis: int) -> LoraFile:
    """The LoRA as DoRA with magnitudes near the norms of its model, as training leaves them."""
    adapters = {}
    for layer_id, adapter in file.adapters.items():
        norm = weights[layer_id].norm(dim=1 - axis, keepdim=True)
        scale = 1 + 0.2 * torch.sin(torch.arange(norm.numel(), dtype=torch.float32)).reshape(norm.shape)
        made = adapter_from_tensors({**adapter.tensors, "dora_scale": norm * scale})
        assert made is not None
        adapters[layer_id] = made
    return LoraFile(adapters, file.metadata)


def lyco_blocks(rows: int) -> int:
    """How many blocks LyCORIS' OFT has: those of a size whose own factorization is this size again."""
    size = next(size for size in range(int(rows**0.5), 0, -1) if rows % size == 0)
    return rows // size


def rotated(weights: Layers, blocks: Callable[[int], int], constraint: float) -> LoraFile:
    """An OFT file with `blocks(rows)` blocks in each layer."""
    rng, adapters = np.random.default_rng(7), {}
    for layer_id, weight in weights.items():
        count = blocks(weight.shape[0])
        size = weight.shape[0] // count
        drawn = torch.from_numpy(rng.normal(0, 0.1, (count, size, size))).float()
        made = adapter_from_tensors({"oft_blocks": drawn, "alpha": torch.tensor(constraint)})
        assert made is not None
        adapters[layer_id] = made
    return LoraFile(adapters, {"ss_v2": "False"})


def with_kohyas_oft_keys(file: LoraFile) -> LoraFile:
    """The file with the keys that kohya's `networks.oft` writes."""
    names = layer_name_table("unet")
    tensors = {
        f"oft_unet_{names.ldm_name(layer_id, 'SD1').replace('.', '_')}.{suffix}": tensor
        for layer_id, adapter in file.adapters.items()
        for suffix, tensor in adapter.tensors.items()
    }
    return assemble_lora_file(tensors, file.metadata)


def with_rescale(file: LoraFile, weights: Layers) -> LoraFile:
    """The OFT with `rescale` near 1."""
    adapters = {}
    for layer_id, adapter in file.adapters.items():
        rows = weights[layer_id].shape[0]
        scale = 1 + 0.2 * torch.cos(torch.arange(float(rows))).reshape(rows, 1)
        made = adapter_from_tensors({**adapter.tensors, "rescale": scale})
        assert made is not None
        adapters[layer_id] = made
    return LoraFile(adapters, file.metadata)


def cell(program: Program, path: Path, weights: Layers, multiplier: float) -> str:
    """What the table says of one file in one program."""
    file = load_lora_file(path)
    ours: Changes = {s: multiplier * adapter.delta(weights[s]) for s, adapter in file.adapters.items()}
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            theirs = program.read(path, multiplier)
    except Exception as error:
        return f"not read ({type(error).__name__})"
    touched = {s: delta for s, delta in theirs.items() if s in ours and bool(delta.any())}
    if not touched:
        return "not read"
    error = max(float((delta - ours[s]).norm() / ours[s].norm()) for s, delta in touched.items())
    missed = len(ours) - len(touched)
    text = "exact" if error < EXACT else f"{error:.2g} off"
    return text + (f"; {missed} of {len(ours)} layers not read" if missed else "")


def programs(args: argparse.Namespace) -> tuple[list[Program], list[str]]:
    """The programs that are here, and the names of those that are not."""
    found: list[Program] = []
    absent = []
    for name, kind in PROGRAMS.items():
        folder = getattr(args, name.lower(), None)
        if folder is None and importlib.util.find_spec(PACKAGES.get(name, "").split("-")[0] or "_absent_") is None:
            absent.append(name)
            continue
        if folder is not None:
            sys.path.insert(0, str(folder))
        found.append(kind(folder))
    return found, absent


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """A Markdown table."""
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Runs the comparison and prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in PROGRAMS:
        if name not in PACKAGES:
            parser.add_argument(f"--{name.lower()}", type=Path, metavar="DIR", help=f"folder of {name}")
    parser.add_argument("--pages", action="store_true", help="writes the tables into docs, in English and Chinese")
    args = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    here, absent = programs(args)
    weights = SmallModel().weights()
    names = [program.name for program in here]
    versions = "; ".join(f"{program.name} {program.version()}" for program in here) + f"; torch {torch.__version__}."
    print(f"Versions: {versions}")
    if absent:
        print(f"Not run: {', '.join(absent)}.")
    if absent and args.pages:
        parser.error(f"--pages needs all programs, and {absent[0]} is absent")
    with tempfile.TemporaryDirectory() as folder:
        made = {name: save(file, Path(folder) / f"{i}.safetensors") for i, (name, file) in enumerate(outputs(weights))}
        print()
        run = lambda path, m: [cell(program, path, weights, m) for program in here]  # noqa: E731
        at_one = [[name, *run(path, 1.0)] for name, path in made.items()]
        print_table(["output", *names], at_one)
        print()
        rows = [
            [name, f"{m:g}", *run(path, m)]
            for name, path in made.items()
            if name.startswith(("DoRA", "OFT", "BOFT"))
            for m in MULTIPLIERS
        ]
        print_table(["output", "multiplier", *names], rows)
    if args.pages:
        write_pages(versions, ([["output", *names], *at_one], [["output", "multiplier", *names], *rows]))


def save(file: LoraFile, path: Path) -> Path:
    """Writes a file in the key format that it has."""
    return save_lora_file(file, path)


if __name__ == "__main__":
    main()
