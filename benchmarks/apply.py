"""Speed of applying, as ratios within one run, on an SD1.5-sized U-Net with random weights.

    python benchmarks/apply.py [--threads 2] [--latent 32] [--repeat 5] [--device cpu] [--dtype float32]

Peers in the same run: `peft`'s unmerged and fused adapters on the same model, copying the touched weights once,
reading the file's bytes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from figures import print_table

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.adapters import Lora
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.block_weights import parse_block_weights
from lora_ext.file.loading import load_lora_file
from lora_ext.file.lora_file import LoraFile
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.file.saving import save_lora_file
from lora_ext.inject import find_layer_targets

Row = tuple[str, str, str]
WARM = 3
"""Steps before one is timed: fresh weights are slow until the system has given them large pages (seen: two steps)."""


class Model:
    """The benchmark's U-Net as a `protocols.HookableModel`."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet = unet

    def parts(self) -> dict[str, torch.nn.Module]:
        return {"unet": self.unet}


def sd15(dtype: torch.dtype, device: str) -> UNet2DConditionModel:
    """SD1.5's U-Net, 860 million random weights."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
    )
    return unet.to(device, dtype).eval().requires_grad_(False)


def rank32(unet: UNet2DConditionModel, wide: bool, seed: int) -> LoraFile:
    """A LierLa file (attention's Linear and 1x1 Conv2d), or C3Lier (3x3 too), rank 32, fp16."""
    generator = torch.Generator().manual_seed(seed)
    adapters = {}
    for layer_id, target in find_layer_targets("unet", unet).items():
        shape = target.shape
        lierla = "attention." in layer_id.layer and len(shape) > 1
        if lierla or (wide and len(shape) > 1 and layer_id.block and layer_id.layer != "conv_in"):
            up = torch.randn(shape[0], 32, *[1] * len(shape[2:]), generator=generator) * 0.01
            down = torch.randn(32, *shape[1:], generator=generator) * 0.01
            tensors = {"lora_up.weight": up.half(), "lora_down.weight": down.half(), "alpha": torch.tensor(16.0)}
            adapters[layer_id] = Lora(tensors)
    return LoraFile(adapters, path=Path(f"rank32-{seed}.safetensors"))


def timed(work: Callable[[], object], repeat: int) -> float:
    """Median seconds of `work`, after one run to warm up."""
    work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def paired(works: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Median seconds of each, taken in turn, so that a drifting machine is fair to all."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeat + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def changes(model: Model, file: LoraFile, kind: str, repeat: int) -> list[Row]:
    """Changing a weight, a block vector or a schedule while a file is applied."""
    rows = []
    found = find_layer_targets("unet", model.unet)
    weights = [found[layer_id].module.weight for layer_id in file.adapters]
    copies = [w.detach().clone() for w in weights]
    copy = timed(lambda: [c.copy_(w) for c, w in zip(copies, weights, strict=True)], repeat)
    copies.clear()
    turn = iter(range(1_000_000))
    for mode in ("live", "baked"):
        with AppliedNetworks(model, mode) as applied:

            def weight(applied: AppliedNetworks = applied) -> None:
                applied.apply([AdapterSpec(file, unet=0.5 + next(turn) * 1e-3)])

            def blocks(applied: AppliedNetworks = applied) -> None:
                values = [str(0.5 + next(turn) * 1e-3)] * 26
                applied.apply([AdapterSpec(file, blocks=parse_block_weights(",".join(values)))])

            def schedule(applied: AppliedNetworks = applied) -> None:
                applied.at_step(next(turn) % 2, 10)

            for what, work in (("weight", weight), ("block vector", blocks), ("schedule", schedule)):
                if what == "schedule":
                    applied.apply([AdapterSpec(file, start=1)])
                seconds = timed(work, repeat)
                seen = f"{seconds * 1000:.1f} ms"
                beside = seen if mode == "live" else f"{seconds / copy:.2f}x of copying the weights"
                rows.append((f"{kind}, {mode}: change {what}", beside, f"{seen}, copy {copy * 1000:.0f} ms"))
            spec = AdapterSpec(file, unet=0.5)
            applied.apply([spec])
            same = timed(lambda applied=applied, spec=spec: applied.apply([spec]), repeat)
            rows.append(
                (f"{kind}, {mode}: change nothing", f"{applied.changed} layers touched", f"{same * 1000:.1f} ms")
            )
    return rows


def steps(model: Model, latent: int, repeat: int, kind: str, wide: bool) -> list[Row]:
    """A denoising step (guided pair) with files applied, against none."""
    unet = model.unet
    device, dtype = next(unet.parameters()).device, next(unet.parameters()).dtype
    x = torch.randn(2, 4, latent, latent, device=device, dtype=dtype)
    text = torch.randn(2, 77, 768, device=device, dtype=dtype)
    files = [rank32(unet, wide, seed) for seed in range(5)]

    def step() -> None:
        with torch.no_grad():
            unet(x, 500, text)

    def measured() -> float:
        for _ in range(WARM):
            step()
        return timed(step, repeat)

    def within(mode: str, count: int) -> float:
        with AppliedNetworks(model, mode) as applied:
            applied.apply([AdapterSpec(file, unet=0.5) for file in files[:count]])
            return measured()

    none = [measured()]
    found = {"live 1": within("live", 1), "live 5": within("live", 5), "baked 1": within("baked", 1)}
    none.append(measured())
    seconds = statistics.mean(none)
    ratio = {"none, before and after": max(none) / min(none)} | {n: t / seconds for n, t in found.items()}
    return [(f"{kind}: step, {name}", f"{r:.3f}x", f"none {seconds * 1000:.0f} ms") for name, r in ratio.items()]


def peft_steps(model: Model, latent: int, repeat: int) -> list[Row]:
    """peft's unmerged and fused adapters at the same LierLa layers and rank."""
    try:
        from peft import LoraConfig
    except ImportError:
        return [("peft", "not installed", "")]
    unet = model.unet
    device, dtype = next(unet.parameters()).device, next(unet.parameters()).dtype
    x = torch.randn(2, 4, latent, latent, device=device, dtype=dtype)
    text = torch.randn(2, 77, 768, device=device, dtype=dtype)

    def step() -> float:
        with torch.no_grad():
            unet(x, 500, text)
            start = time.perf_counter()
            unet(x, 500, text)
        return time.perf_counter() - start

    plain = statistics.median(step() for _ in range(repeat))
    names = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
    unet.add_adapter(LoraConfig(r=32, lora_alpha=16, target_modules=names, init_lora_weights=False))
    unmerged = statistics.median(step() for _ in range(repeat))
    start = time.perf_counter()
    unet.fuse_lora()
    fusing = time.perf_counter() - start
    fused = statistics.median(step() for _ in range(repeat))
    return [
        ("LierLa: step, peft unmerged 1", f"{unmerged / plain:.3f}x", f"none {plain * 1000:.0f} ms"),
        ("LierLa: step, peft fused 1", f"{fused / plain:.3f}x", f"fusing takes {fusing * 1000:.0f} ms"),
    ]


def loading(unet: UNet2DConditionModel, repeat: int, count: int = 5000) -> list[Row]:
    """Reading a rank-32 file against reading its bytes; indexing a folder of many files."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, wide in (("LierLa", False), ("C3Lier", True)):
            path = Path(folder) / f"{kind}.safetensors"
            save_lora_file(rank32(unet, wide, 0), path)
            kept: list[object] = []  # a file that is loaded stays in memory: none is read into the place of the last
            found = paired(
                {
                    "bytes": lambda path=path, kept=kept: kept.append(path.read_bytes()),
                    "ours": lambda path=path, kept=kept: kept.append(load_lora_file(path)),
                },
                repeat,
            )
            size = path.stat().st_size / 2**20
            rows.append((f"load {kind} rank 32 ({size:.0f} MiB)", f"{found['ours'] / found['bytes']:.2f}x of its bytes",
                         f"{found['ours'] * 1000:.0f} ms"))  # fmt: skip
        loras = Path(folder) / "loras"
        loras.mkdir()
        tiny = LoraFile(dict(list(rank32(unet, False, 0).adapters.items())[:2]))
        save_lora_file(tiny, loras / "0000.safetensors")
        data = (loras / "0000.safetensors").read_bytes()
        for i in range(1, count):
            (loras / f"{i:04}.safetensors").write_bytes(data)
        cold = time.perf_counter()
        LoraLibrary([loras])
        cold = time.perf_counter() - cold
        warm = timed(lambda: LoraLibrary([loras]), 3)
        rows.append((f"index {count} files", f"{warm:.2f} s warm", f"first {cold:.2f} s"))
    return rows


def main() -> None:
    """Prints the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--latent", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--quick", action="store_true", help="a latent of 8, LierLa alone, twice")
    args = parser.parse_args()
    if args.quick:
        args.latent, args.repeat = 8, 2
    torch.set_num_threads(args.threads)
    model = Model(sd15(getattr(torch, args.dtype), args.device))

    def rows() -> Iterator[Row]:
        for kind, wide in (("LierLa", False),) if args.quick else (("LierLa", False), ("C3Lier", True)):
            yield from changes(model, rank32(model.unet, wide, 0), kind, args.repeat)
            yield from steps(model, args.latent, args.repeat, kind, wide)
        yield from loading(model.unet, args.repeat)
        yield from peft_steps(model, args.latent, args.repeat)

    title = f"SD1.5's U-Net, {args.device}, {args.dtype}, {args.threads} threads, latent {args.latent}"
    peer = "copying the touched weights; reading the file's bytes; a step without a file; peft"
    print_table(("what", "ratio", "seen"), rows(), title, peer=peer)


if __name__ == "__main__":
    main()
