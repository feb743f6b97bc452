"""One layer's forward and backward pass as LoHa, LoKr and DoRA, beside LyCORIS' and peft's, in SD1.5's sizes.

    python benchmarks/train_layers.py [--latent 32] [--repeat 3] [--all] [--ways lierla,loha,loha-floor]
    python benchmarks/train_layers.py --count      # multiplications of a step with LoHa, of one with LierLa

Five of the U-Net's sizes with their numbers of layers, or with --all every size of its 192 Linear and 1x1 layers; rank
16, batch 1, float32, one thread. All ways of a size take turns; seconds are the processor's, the least of --repeat. The
last line is the sum over layers. A whole step, of which these layers are a third: `python benchmarks/train.py --kinds`.
loha-floor: nothing but the layer's own products and those that LoHa's forward pass and gradients need, by the quicker
of the two known orders: through the gradient of ΔW, or through its r² columns.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from train import KINDS, RANK, lycoris, peft_config

from lora_ext.layer_names import LayerId
from lora_ext.train.config.block_settings import RankAndAlpha
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.network.layer_products import ScratchMemory
from lora_ext.train.network.new_adapters import NewLayer, new_tensors
from lora_ext.train.network.trainable_adapter import TrainableAdapter
from lora_ext.train.network.trainable_factors import TrainableFactors
from lora_ext.train.network.trainable_layer import TrainableLayer

WAYS = ("lierla", *(kind + by for kind in KINDS for by in ("", "-lycoris", "-peft")))
FLOOR = "loha-floor"
SCRATCH = ScratchMemory()


def layer_sizes(latent: int, every: bool) -> list[tuple[int, int, int, int, bool]]:
    """(outputs, inputs, inputs in a call, number of layers, whether it is a convolution)."""
    found = []
    for width, tokens, blocks in (
        (320, latent**2, 5), (640, latent**2 // 4, 5), (1280, latent**2 // 16, 5), (1280, latent**2 // 64, 1)
    ):  # fmt: skip
        found += [
            (width, width, tokens, 6 * blocks, False), (8 * width, width, tokens, blocks, False),
            (width, 4 * width, tokens, blocks, False), (width, 768, 77, 2 * blocks, False),
            (width, width, tokens, 2 * blocks, True),
        ]  # fmt: skip
    return found if every else [found[i] for i in (0, 5, 10, 1, 2)]


def bare_products(size: tuple[int, int, int, int, bool]) -> Callable[[], float]:
    """A function that computes the products of a layer with LoHa alone and returns the seconds of the quicker order."""
    out, inner, tokens, _, _ = size
    x, grad, weight, up, down = (
        torch.randn(*shape)
        for shape in ((tokens, inner), (tokens, out), (out, inner), (RANK**2, out), (RANK**2, inner))
    )
    a, b = up[:RANK].t().contiguous(), down[:RANK].contiguous()
    needs_x = inner != 768

    def layer() -> None:
        x @ weight.t()
        if needs_x:
            grad @ weight

    def by_gradient() -> None:  # a1·b1 and a2·b2 in both passes; from the gradient of ΔW those of the four factors
        for _ in range(4):
            a @ b
        of_delta = grad.t() @ x
        for _ in range(2):
            of_delta @ b.t()
            a.t() @ of_delta

    def by_columns() -> None:
        low = x @ down.t()
        low @ up
        of_low = grad @ up.t()
        if needs_x:
            of_low @ down
        low.t() @ grad
        of_low.t() @ x

    def call() -> float:
        spans = []
        for part in (layer, by_gradient, by_columns):
            begun = time.process_time()
            part()
            spans.append(time.process_time() - begun)
        return spans[0] + min(spans[1:])

    return call


def count_multiplications() -> None:
    """Prints the multiplications of a step of SD1.5's U-Net with LoHa, of one with LierLa, as Markdown."""
    print("| latent | U-Net forth and back | its 192 layers | LierLa | LoHa, the cheaper order | steps, of LierLa's |")
    print("| --- | --- | --- | --- | --- | --- |")
    for latent in (16, 32, 64):
        with torch.device("meta"):
            unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
            x, text = torch.zeros(1, 4, latent, latent, requires_grad=True), torch.zeros(1, 77, 768)
            with FlopCounterMode(display=False) as counter:
                unet.requires_grad_(False)(x, torch.zeros(1), text).sample.sum().backward()
        whole, own, lierla, loha = counter.get_total_flops() / 2, 0, 0, 0
        for out, inner, tokens, number, _ in layer_sizes(latent, True):
            back = 0 if inner == 768 else 1  # the prompt's states need no gradient
            own += number * tokens * out * inner * (1 + back)
            lierla += number * tokens * RANK * (3 * out + (2 + back) * inner)
            by_gradient = out * inner * (tokens + 8 * RANK)
            loha += number * min(by_gradient, tokens * RANK**2 * (3 * out + (2 + back) * inner))
        numbers = " | ".join(f"{count / 1e9:.1f}" for count in (whole, own, lierla, loha))
        print(f"| {latent} | {numbers} | {(whole + loha) / (whole + lierla):.3f}x |")
    print("\nThousand millions of multiplications.")


def ours(way: str, layer: nn.Module) -> nn.Module:
    """Our trained part on a layer."""
    recipe = Recipe(network_dim=RANK, network_alpha=RANK, dora_wd=way == "dora")
    size, weight = RankAndAlpha(RANK, float(RANK)), layer._parameters["weight"]
    assert weight is not None
    if way == "lierla":
        made: TrainableLayer = TrainableFactors(tuple(weight.shape), size, None, None)
    else:
        recipe = recipe if way == "dora" else Recipe(network_dim=RANK, network_alpha=RANK, algo=way)
        new = new_tensors(NewLayer(LayerId("unet", "MID", "layer"), weight, False, size, recipe, None))
        made = TrainableAdapter(new, size.alpha, lambda: weight, SCRATCH)
    layer.register_forward_pre_hook(made.before_forward)
    layer.register_forward_hook(made.after_forward)
    return made.train()


def timed_call(way: str, size: tuple[int, int, int, int, bool]) -> Callable[[], float]:
    """A function that runs the layer forward and backward and returns its seconds."""
    if way == FLOOR:
        return bare_products(size)
    out, inner, tokens, _, is_convolution = size
    layer = (nn.Conv2d(inner, out, 1) if is_convolution else nn.Linear(inner, out)).requires_grad_(False)
    net = nn.ModuleDict({"attentions": nn.ModuleDict({"to_q": layer})})
    kind, _, library = way.partition("-")
    kept: nn.Module = net
    if library == "lycoris":
        parameters = lycoris(kind, net)  # type: ignore[arg-type]
    elif library == "peft":
        from peft import inject_adapter_in_model

        inject_adapter_in_model(peft_config(kind), net)
        parameters = [p for p in net.parameters() if p.requires_grad]
    else:
        kept = ours(way, layer)
        parameters = list(kept.parameters())
    side = round(tokens**0.5)
    from_text = inner == 768  # the prompt's states need no gradient
    x = torch.randn(1, inner, side, side) if is_convolution else torch.randn(1, tokens, inner)
    x.requires_grad_(not from_text)
    grad = torch.randn(1, out, side, side) if is_convolution else torch.randn(1, tokens, out)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter), alpha=0.001)

    def call(kept: nn.Module = kept) -> float:
        begun = time.process_time()
        net["attentions"]["to_q"](x).backward(grad)  # type: ignore[index]
        x.grad = None
        for parameter in parameters:
            parameter.grad = None
        return time.process_time() - begun

    return call


def main() -> None:
    """Prints the table as Markdown."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latent", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--count", action="store_true")
    args = parser.parse_args()
    if args.count:
        count_multiplications()
        return
    ways = args.ways.split(",")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    print(f"| layer, inputs | {' | '.join(ways)} |\n| --- |{' --- |' * len(ways)}")
    total: Counter[str] = Counter()
    for size in layer_sizes(args.latent, args.all):
        calls = {way: timed_call(way, size) for way in ways}
        rounds = [{way: call() for way, call in calls.items()} for _ in range(args.repeat + 1)][1:]
        least = {way: min(one[way] for one in rounds) for way in ways}
        total.update({way: seconds * size[3] for way, seconds in least.items()})
        told = " | ".join(f"{seconds * 1e3:.1f} ms" for seconds in least.values())
        print(f"| {size[3]} of {size[0]}x{size[1]}, {size[2]} | {told} |", flush=True)
    print(f"| together, of LierLa | {' | '.join(f'{total[way] / total[ways[0]]:.2f}x' for way in ways)} |")


if __name__ == "__main__":
    main()
