"""Speed and memory of a training step, as ratios within one run, on an SD1.5-sized U-Net with random weights.

    python benchmarks/train.py [--quick] [--threads 1] [--latent 32] [--batch 1] [--repeat 5] [--device cpu]
                               [--dtype float32] [--arms floor,ours,c3lier,dylora,norms,peft,kohya] [--graphs]
    python benchmarks/train.py --kinds [--repeat 5] …     # LoHa, LoKr and DoRA beside LyCORIS' and peft's, and LierLa

A step is forward, backward, clipping and AdamW. floor: the U-Net without a LoRA, backward to its input. peft: the same
192 layers and rank. kohya: the same with two small modules and a replaced forward a layer, as kohya's scripts do it.
All arms share one set of weights and take turns, each leading in turn, so that a machine whose speed drifts is the same
to all; a ratio is the median of the rounds' ratios. Peak memory is of a process of its own. Seconds are of the
processor (on a GPU: of the clock), so that other work on the machine counts less. norms is LierLa with
`scale_weight_norms`. loha, lokr, dora: the kind on the same layers; with -lycoris (pip install lycoris-lora==4.1.3) and
-peft by those libraries. floor-last, ours-last: the channels of convolutions last in memory, as `train` has them on
a CPU. --graphs: CUDA graphs of the step. --quick: fewer rounds, small latents, no memory.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from figures import print_table
from torch import Tensor, nn

RANK = 16
PEFT = r".*attentions.*(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2)$"
ARMS = ("floor", "ours", "c3lier", "dylora", "norms", "peft", "kohya")
KINDS = ("loha", "lokr", "dora")
"""Kinds that LyCORIS and peft train too."""
WARM = 2
LIMITING: list[float] = []
"""Processor seconds of `scale_weight_norms`."""


def sd15(device: str, dtype: torch.dtype) -> UNet2DConditionModel:
    """SD1.5's U-Net, 860 million random weights, frozen."""
    torch.manual_seed(0)
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    unet = unet.to_empty(device=device).to(dtype)
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.02)
    return unet.requires_grad_(False).train()


def twin(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Another U-Net of the very same weights in memory."""
    with torch.device("meta"):
        other = UNet2DConditionModel.from_config(unet.config)
    other.load_state_dict(unet.state_dict(), assign=True)
    return other.requires_grad_(False).train()


def replaced(unet: UNet2DConditionModel) -> list[nn.Parameter]:
    """Two small modules for each layer that peft takes too, added to its output by a forward of the instance."""
    made: list[nn.Parameter] = []
    for name, layer in list(unet.named_modules()):
        if not re.fullmatch(PEFT, name):
            continue
        like = {"device": layer.weight.device, "dtype": torch.float32}
        if isinstance(layer, nn.Conv2d):
            down: nn.Module = nn.Conv2d(layer.in_channels, RANK, 1, bias=False, **like)
            up: nn.Module = nn.Conv2d(RANK, layer.out_channels, 1, bias=False, **like)
        else:
            down = nn.Linear(layer.in_features, RANK, bias=False, **like)
            up = nn.Linear(RANK, layer.out_features, bias=False, **like)
        nn.init.zeros_(up.weight)

        def forward(x: Tensor, plain: Any = layer.forward, down: nn.Module = down, up: nn.Module = up) -> Tensor:
            return plain(x) + up(down(x)) * 1.0 * 1.0

        layer.__dict__["forward"] = forward
        made += [*down.parameters(), *up.parameters()]
    return made


def lycoris(kind: str, unet: UNet2DConditionModel) -> list[nn.Parameter]:
    """LyCORIS' modules on the layers that peft takes too."""
    from lycoris.modules.locon import LoConModule
    from lycoris.modules.loha import LohaModule
    from lycoris.modules.lokr import LokrModule

    make, more = {
        "loha": (LohaModule, {}),
        "lokr": (LokrModule, {}),
        "dora": (LoConModule, {"weight_decompose": True}),
    }[kind]
    found: list[nn.Parameter] = []
    for name, layer in list(unet.named_modules()):
        if re.fullmatch(PEFT, name):
            module = make(name.replace(".", "_"), layer, 1.0, RANK, RANK, **more).to(layer.weight.device).train()
            module.apply_to()
            found += [p for p in module.parameters() if p.requires_grad]
    return found


def peft_config(kind: str) -> Any:
    """peft's configuration of a kind on those layers."""
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    if kind == "loha":
        return LoHaConfig(r=RANK, alpha=RANK, target_modules=PEFT)
    if kind == "lokr":
        return LoKrConfig(r=RANK, alpha=RANK, target_modules=PEFT)
    return LoraConfig(r=RANK, lora_alpha=RANK, target_modules=PEFT, use_dora=kind == "dora")


def learner(
    arm: str, unet: UNet2DConditionModel
) -> tuple[list[nn.Parameter], Callable[[int], None], Callable[[], None]]:
    """(what learns, what comes before a step, what comes after it)."""
    nothing = lambda *_: None  # noqa: E731
    if arm == "floor":
        return [], nothing, nothing
    if arm == "kohya":
        return replaced(unet), nothing, nothing
    kind, _, library = arm.partition("-")
    if library == "lycoris":
        return lycoris(kind, unet), nothing, nothing
    if arm == "peft" or library == "peft":
        from peft import inject_adapter_in_model

        inject_adapter_in_model(peft_config(kind), unet)
        return [p for p in unet.parameters() if p.requires_grad], nothing, nothing
    from lora_ext.train.config.recipe import Recipe
    from lora_ext.train.network.trainable_network import TrainableNetwork

    recipe = Recipe(network_dim=RANK, network_alpha=RANK, network_train_unet_only=True)
    if arm == "c3lier":
        recipe = replace(recipe, network_module="c3lier", conv_dim=RANK, conv_alpha=RANK)
    if arm == "dylora":
        recipe = replace(recipe, network_module="dylora", unit=4)
    if arm in KINDS:
        recipe = replace(recipe, dora_wd=True) if arm == "dora" else replace(recipe, algo=arm)
    network = TrainableNetwork({"unet": unet}, recipe).attach().train()

    def before(step: int) -> None:
        network.begin_step(torch.Generator().manual_seed(step))

    def limit() -> None:
        begun = time.process_time()
        network.limit_delta_norms(1.0)
        LIMITING.append(time.process_time() - begun)

    return list(network.parameters()), before, limit if arm == "norms" else nothing


@dataclass
class Arm:
    """One way to train. step: its n-th step."""

    name: str
    step: Callable[[int], Any]
    seconds: list[float]

    def run(self, number: int, device: str) -> None:
        """A step, and how long it took."""
        clock = time.perf_counter if device == "cuda" else time.process_time
        begun = clock()
        self.step(number)
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= WARM:
            self.seconds.append(clock() - begun)


def made(args: argparse.Namespace, name: str, unet: UNet2DConditionModel) -> Arm:
    """An arm on its own U-Net."""
    device, dtype = args.device, getattr(torch, args.dtype)
    name, is_last = name.removesuffix("-last"), name.endswith("-last")
    if is_last:
        unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters, before, after = learner(name, unet)
    fused = {"fused": True} if device == "cuda" else {"foreach": True}
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, capturable=args.graphs, **fused) if parameters else None
    like: dict[str, Any] = {"device": device, "dtype": dtype}
    x = torch.randn(args.batch, 4, args.latent, args.latent, **like).requires_grad_(name == "floor")
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
        elif not args.graphs:
            x.grad = None
        after()
        return loss

    run: Callable[[], Any] = captured(compute) if args.graphs else compute

    def step(number: int) -> None:
        before(number)
        run()

    return Arm(name + "-last" * is_last, step, [])


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
    status = Path("/proc/self/status")  # Linux; getrusage would count what the parent held when this one was born
    if status.exists():
        return float(re.search(r"VmHWM:\s+(\d+)", status.read_text(encoding="ascii"))[1]) / 2**20  # type: ignore
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def memory(arm: str, argv: Sequence[str]) -> float:
    """GiB of one arm in a process of its own; NaN where it fails."""
    out = subprocess.run([sys.executable, __file__, *argv, "--arm", arm], capture_output=True, text=True)
    if out.returncode:
        print(f"{arm}: {(out.stderr.strip().splitlines() or ['failed'])[-1]}", file=sys.stderr)
        return float("nan")
    return float(json.loads(out.stdout.splitlines()[-1]))


def timed(args: argparse.Namespace) -> list[Arm]:
    """All arms, in turns."""
    unet = sd15(args.device, getattr(torch, args.dtype))
    arms = []
    for name in args.arms.split(","):
        try:
            arms.append(made(args, name, twin(unet)))
        except ImportError as error:
            print(f"{name}: {error}", file=sys.stderr)
    for number in range(args.repeat + WARM):
        first = number % len(arms)
        for arm in (*arms[first:], *arms[:first]):
            arm.run(number, args.device)
    return arms


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
    parser.add_argument("--no-memory", action="store_true", help="times only")
    parser.add_argument("--kinds", action="store_true")
    parser.add_argument("--graphs", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    given = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(given)
    if args.quick:
        args.latent, args.repeat, args.arms = 16, 3, "floor,ours,dylora,norms,peft,kohya"
    if args.kinds:
        args.arms = ",".join(["ours", *(kind + by for kind in KINDS for by in ("", "-lycoris", "-peft"))])
    torch.set_num_threads(args.threads)
    if args.arm:
        arm = made(args, args.arm, sd15(args.device, getattr(torch, args.dtype)))
        arm.step(0), arm.step(1)
        print(json.dumps(peak(args.device)))
        return
    arms = timed(args)
    by_name = {arm.name: arm.seconds for arm in arms}
    gib = {} if args.quick or args.no_memory else {arm.name: memory(arm.name, given) for arm in arms}
    title = (f"SD1.5's U-Net, {args.device}, {args.dtype}, {args.threads} threads, latent {args.latent}, "
             f"batch {args.batch}{', CUDA graphs' if args.graphs else ''}, {args.repeat} rounds")  # fmt: skip
    base = "floor" if "floor" in by_name else arms[0].name
    rows = []
    for name, seconds in by_name.items():
        floor = by_name[base]
        rounds = [own / other for own, other in zip(seconds, floor, strict=True)]
        each = f"{statistics.median(rounds):.3f}x ({min(rounds):.3f} … {max(rounds):.3f})"
        median = statistics.median(seconds)
        held = f"{gib[name]:.2f}" if name in gib else ""
        rows.append((name, each, f"{median:.3f}", f"{args.batch / median:.2f}", held))
    after = ""
    if LIMITING and by_name.get("ours"):
        share = statistics.median(LIMITING) / statistics.median(by_name["ours"])
        after = f"\nscale_weight_norms: {statistics.median(LIMITING) * 1e3:.1f} ms, {share:.2%} of a step"
    head = ("step", f"of {base} (each round)", "seconds", "images/s", "peak GiB")
    print_table(head, rows, title, peer=base, after=after)


if __name__ == "__main__":
    main()
