"""Speed and memory of a training step, as ratios within one run, on an SD1.5-sized U-Net with random weights.

    python benchmarks/train.py [--threads 1] [--latent 32] [--batch 1] [--repeat 5] [--device cpu] [--dtype float32]
                               [--arms floor,ours,c3lier,dylora,norms,peft] [--graphs]

Every arm is a process of its own, for its peak memory is its own; in each a step is forward, backward, clipping and
AdamW. floor: the U-Net without a LoRA, backward to its input. peft: the same 192 layers and rank. Seconds are of the
processor (on a GPU: of the clock), so that other work on the machine counts less. --graphs: CUDA graphs of the step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

RANK = 16
PEFT = r".*attentions.*(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2)$"
ARMS = ("floor", "ours", "c3lier", "dylora", "norms", "peft")


def sd15(device: str, dtype: torch.dtype) -> UNet2DConditionModel:
    """SD1.5's U-Net, 860 million random weights, frozen."""
    torch.manual_seed(0)
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    unet = unet.to_empty(device=device).to(dtype)
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.02)
    return unet.requires_grad_(False).train()


def learner(
    arm: str, unet: UNet2DConditionModel
) -> tuple[list[nn.Parameter], Callable[[int], None], Callable[[], None]]:
    """(what learns, what comes before a step, what comes after it)."""
    nothing = lambda *_: None  # noqa: E731
    if arm == "floor":
        return [], nothing, nothing
    if arm == "peft":
        from peft import LoraConfig, inject_adapter_in_model

        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=PEFT), unet)
        return [p for p in unet.parameters() if p.requires_grad], nothing, nothing
    from lora_ext.train.network import Network
    from lora_ext.train.recipe import Recipe

    recipe = Recipe(network_dim=RANK, network_alpha=RANK, network_train_unet_only=True)
    if arm == "c3lier":
        recipe = replace(recipe, network_module="c3lier", conv_dim=RANK, conv_alpha=RANK)
    if arm == "dylora":
        recipe = replace(recipe, network_module="dylora", unit=4)
    network = Network({"unet": unet}, recipe).attach().train()

    def before(step: int) -> None:
        network.begin_step(torch.Generator().manual_seed(step))

    after = (lambda: network.max_norm(1.0) and None) if arm == "norms" else nothing
    return list(network.parameters()), before, after


def steps(args: argparse.Namespace, arm: str) -> Iterator[float]:
    """Seconds of each step."""
    device, dtype = args.device, getattr(torch, args.dtype)
    unet = sd15(device, dtype)
    parameters, before, after = learner(arm, unet)
    fused = {"fused": True} if device == "cuda" else {"foreach": True}
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, capturable=args.graphs, **fused) if parameters else None
    like: dict[str, Any] = {"device": device, "dtype": dtype}
    x = torch.randn(args.batch, 4, args.latent, args.latent, **like).requires_grad_(arm == "floor")
    text, t = torch.randn(args.batch, 77, 768, **like), torch.full((args.batch,), 500, device=device)
    target = torch.randn(x.shape, device=device)

    def compute() -> Tensor:
        half = torch.autocast(device, dtype=dtype) if dtype != torch.float32 else nullcontext()
        with half:
            loss = nn.functional.mse_loss(unet(x, t, text).sample.float(), target)
        loss.backward()
        if optimizer is not None:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=not args.graphs)
        after()
        return loss

    run: Callable[[], Any] = compute
    if args.graphs:
        run = captured(compute)
    clock = time.perf_counter if device == "cuda" else time.process_time
    for step in range(args.repeat + 2):
        before(step)
        start = clock()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        if step > 1:
            yield clock() - start
        x.grad = None if not args.graphs else x.grad


def captured(compute: Callable[[], Any]) -> Callable[[], Any]:
    """The step as one CUDA graph, after three to warm up."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            compute()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compute()
    return graph.replay


def peak(device: str) -> float:
    """GiB, at most."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measured(args: argparse.Namespace, arm: str, argv: Sequence[str]) -> dict[str, float]:
    """One arm in a process of its own."""
    out = subprocess.run([sys.executable, __file__, *argv, "--arm", arm], capture_output=True, text=True)
    if out.returncode:
        print(f"{arm}: {(out.stderr.strip().splitlines() or ['failed'])[-1]}", file=sys.stderr)
        return {}
    found: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--latent", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--graphs", action="store_true")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    given = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(given)
    torch.set_num_threads(args.threads)
    if args.arm:
        times = list(steps(args, args.arm))
        print(json.dumps({"median": statistics.median(times), "least": min(times), "gib": peak(args.device)}))
        return
    rows = {arm: measured(args, arm, given) for arm in args.arms.split(",")}
    floor = rows.get("floor") or {}
    print(f"torch {torch.__version__}, {args.device}, {args.dtype}, {args.threads} threads, latent {args.latent}, "
          f"batch {args.batch}{', CUDA graphs' if args.graphs else ''}\n")  # fmt: skip
    print("| step | of the floor | seconds (median, least) | images/s | peak GiB |\n| --- | --- | --- | --- | --- |")
    for arm, row in rows.items():
        if row:
            ratio = f"{row['least'] / floor['least']:.3f}x" if floor else ""
            seen = f"{row['median']:.3f}, {row['least']:.3f}"
            print(f"| {arm} | {ratio} | {seen} | {args.batch / row['median']:.2f} | {row['gib']:.2f} |")


if __name__ == "__main__":
    main()
