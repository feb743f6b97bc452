"""Peak memory of a training step by option: as the report before a run estimates it, and counted tensor by tensor.

    python benchmarks/training_memory.py [--family SD1] [--latent 64] [--cases "none,bf16,…"] [--measure]

The U-Net of the family, rank 16, batch 1, AdamW, two steps. Counted: every tensor that the real step makes, while it
is alive, on torch's meta device, with attention as one operation that keeps no n×n matrix, as on GPUs; the U-Net alone,
without torch's libraries. --measure: on the CPU with random weights, each case in a process of its own (what it holds
at most, less the libraries); attention is then the CPU's own. Block swap is in the estimate only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from memory import MODELS, Alive, held
from torch import Tensor, nn
from torch.nn import functional

from lora_ext.host.standalone import trainable_model as standalone
from lora_ext.host.standalone.model import StandaloneModel
from lora_ext.protocols import TextConditioning
from lora_ext.train.config.optimizers import build_optimizer, clip_gradients
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.network import autograd, layer_products, stored_weights
from lora_ext.train.network.trainable_network import TrainableNetwork
from lora_ext.train.run.cost_estimate import UNET_COSTS
from lora_ext.train.run.fused_backward import FusedBackward
from lora_ext.train.run.memory_plan import RunSize, memory_need, size_of_part, sizes_of_blocks
from lora_ext.train.run.setup import training_model_options

CASES = (
    "none", "gradient_checkpointing", "bf16", "bf16 full_bf16", "bf16 fused_backward_pass",
    "bf16 full_bf16 fused_backward_pass", "bf16 gradient_checkpointing", "bf16 fp8_base",
    "bf16 fp8_base gradient_checkpointing", "bf16 fp8_base gradient_checkpointing full_bf16 fused_backward_pass",
)  # fmt: skip
WIDTHS = {"SD1": 768, "SDXL": 2048}


class _Attention(torch.autograd.Function):
    """Attention as GPUs compute it: kept are its inputs and its output."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return tuple(torch.empty_like(t) for t in ctx.saved_tensors[:3])


def recipe_of(case: str) -> Recipe:
    """The settings of a case."""
    found: dict[str, Any] = {"network_dim": 16, "network_alpha": 16, "network_train_unet_only": True}
    for word in case.split():
        found |= {"mixed_precision": "bf16"} if word == "bf16" else {} if word == "none" else {word: True}
    return recipe_from_settings(found)


def unet_of(family: str, recipe: Recipe, device: str) -> nn.Module:
    """The family's U-Net in the recipe's precision; with random weights on the CPU."""
    with torch.device("meta"):
        unet = MODELS[family][0]()["unet"].to(torch.float32 if recipe.mixed_precision == "no" else torch.bfloat16)
    if device == "cpu":
        unet = unet.to_empty(device="cpu")
        for parameter in unet.parameters():
            parameter.data.uniform_(-0.01, 0.01)
    return unet


def two_steps(family: str, recipe: Recipe, unet: nn.Module, latent: int, device: str, begin: Callable[[], None]) -> int:
    """Two training steps on a prepared model; returns how many numbers are trained. begin: called before the first."""
    whole = StandaloneModel(family, unet, nn.Module(), (), None, None, "epsilon", 1.0)  # type: ignore[arg-type]
    model = standalone.StandaloneTrainableModel(whole, is_disposable=True)
    like: dict[str, Any] = {"device": device}
    xl = family == "SDXL"
    context = TextConditioning(torch.zeros(1, 77, WIDTHS[family], **like), torch.zeros(1, 1280, **like) if xl else None)
    with ExitStack() as stack:
        stack.enter_context(model.prepared_for_training(training_model_options(recipe)))
        begin()
        with torch.device(device):
            network = stack.enter_context(TrainableNetwork({"unet": unet}, recipe))
        groups = network.parameter_groups()
        parameters = [p for group in groups for p in group["params"]]
        optimizer = build_optimizer(recipe, groups)
        fused = FusedBackward(optimizer, 1.0) if recipe.fused_backward_pass else None
        for step in range(2):
            network.begin_step(torch.Generator().manual_seed(step))
            x, sizes = torch.zeros(1, 4, latent, latent, **like), torch.zeros(1, 6, **like) if xl else None
            loss = (model.predict(x, torch.full((1,), 500, **like), context, sizes) - x).square().mean()
            loss.backward()
            del loss
            if fused is not None:
                fused.end_step()
                continue
            clip_gradients(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return sum(p.numel() for p in parameters)


def _imitate_autocast() -> None:
    """Autocast to bf16 as on GPUs, which torch does not have for the meta device: norms compute in float32."""
    group_norm, layer_norm = functional.group_norm, functional.layer_norm
    conv2d, linear = functional.conv2d, functional.linear

    def in_float32(*tensors: Any) -> Any:
        return (tensor.float() if isinstance(tensor, Tensor) else tensor for tensor in tensors)

    functional.group_norm = lambda x, groups, weight=None, bias=None, eps=1e-5: group_norm(  # type: ignore[assignment]
        x.float(), groups, *in_float32(weight, bias), eps
    )
    functional.layer_norm = lambda x, shape, weight=None, bias=None, eps=1e-5: layer_norm(  # type: ignore[assignment]
        x.float(), shape, *in_float32(weight, bias), eps
    )
    functional.conv2d = lambda x, weight, *rest: conv2d(x.to(weight.dtype), weight, *rest)  # type: ignore[assignment]
    functional.linear = lambda x, weight, bias=None: linear(x.to(weight.dtype), weight, bias)  # type: ignore[assignment]
    for module in (autograd, layer_products, stored_weights):
        module.autocast_dtype = lambda *_: torch.bfloat16  # type: ignore[attr-defined]


def counted(family: str, latent: int, case: str) -> tuple[float, float]:
    """(estimated, counted) bytes of a case."""
    recipe = recipe_of(case)
    standalone.autocast_for_precision = lambda *_: nullcontext()  # type: ignore[assignment]
    torch.is_autocast_enabled = lambda *_: False  # type: ignore[assignment]  # it does not know this device
    functional.scaled_dot_product_attention = lambda q, k, v, *_, **__: _Attention.apply(q, k, v)
    if recipe.mixed_precision != "no":
        _imitate_autocast()
    unet = unet_of(family, recipe, "meta")
    found: dict[str, Any] = {}
    with ExitStack() as stack:

        def begin() -> None:
            found["weights"] = sum(p.nbytes for p in unet.parameters())
            found["alive"] = stack.enter_context(Alive(list(unet.parameters())))

        trained = two_steps(family, recipe, unet, latent, "meta", begin)
    return estimated(family, latent, recipe, unet, trained), found["weights"] + found["alive"].peak


def measured(family: str, latent: int, case: str) -> tuple[float, float]:
    """(estimated, measured) bytes of a case, in this process."""
    recipe, libraries = recipe_of(case), held("VmRSS")
    unet = unet_of(family, recipe, "cpu")
    trained = two_steps(family, recipe, unet, latent, "cpu", lambda: _begin_peak())
    return estimated(family, latent, recipe, unet, trained), held("VmHWM") - libraries


def _begin_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def estimated(family: str, latent: int, recipe: Recipe, unet: nn.Module, trained: int) -> float:
    """The report's estimate, without the autoencoder and the libraries."""
    run = RunSize(
        {"unet": size_of_part(unet)}, sizes_of_blocks(unet), trained, 1.0, UNET_COSTS[family].activation_bytes,
        (8 * latent, 8 * latent), torch.device("cpu"), UNET_COSTS[family].checkpointed_share,
    )  # fmt: skip
    return sum(memory_need(recipe, run)) - 84e6 * (4 if recipe.mixed_precision == "no" else 2)


def main() -> None:
    """Prints the table as Markdown."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="SD1", choices=list(WIDTHS))
    parser.add_argument("--latent", type=int, default=64)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child:
        print(json.dumps((measured if args.measure else counted)(args.family, args.latent, args.child)))
        return
    how = "measured" if args.measure else "counted"
    print(f"| {args.family}, latent {args.latent} | estimated | {how} |\n| --- | --- | --- |")
    for case in args.cases.split(","):
        command = [sys.executable, __file__, "--family", args.family, "--latent", str(args.latent), "--child", case]
        command += ["--measure"] if args.measure else []
        seen = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        said, peak = (n / 2**30 for n in json.loads(seen))
        print(f"| {case} | {said:.2f} GiB | {peak:.2f} GiB |", flush=True)


if __name__ == "__main__":
    main()
