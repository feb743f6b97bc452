"""Memory that baking and drawing take, counted on models without values, and measured on the CPU.

    python benchmarks/memory.py                 # the tables, by arithmetic: seconds, no weights
    python benchmarks/memory.py --measure       # SD1.5's U-Net beside it: what a process really holds (needs 8 GB)

Counted: every tensor that a pass of the real U-Net and decoder makes, while it is alive, on torch's meta device;
attention as one operation that keeps no n×n matrix, as on GPUs. What baking takes is asked of the injection itself.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from figures import print_table
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.adapters import Lora
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.file.lora_file import LoraFile
from lora_ext.host.memory_estimate import generation_bytes
from lora_ext.inject import AppliedAdapter, MemoryBudget, find_layer_targets
from lora_ext.inject.free_memory import GIB
from lora_ext.inject.live_layer import LiveLayer

CARDS = (8, 12, 16, 24)
RESERVED = 0.8
"""GiB of a card that the desktop, the driver and CUDA's own context take."""
CELL = 8


def sd15() -> dict[str, nn.Module]:
    """SD1.5's networks."""
    text = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
    unet = UNet2DConditionModel(
        cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
    )
    return {"unet": unet, "te": CLIPTextModel(text), "vae": vae()}


def sdxl() -> dict[str, nn.Module]:
    """SDXL's networks."""
    large = CLIPTextConfig(
        hidden_size=1280, intermediate_size=5120, num_attention_heads=20, num_hidden_layers=32, projection_dim=1280
    )
    small = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
    unet = UNet2DConditionModel(
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return {"unet": unet, "te": CLIPTextModel(small), "te2": CLIPTextModelWithProjection(large), "vae": vae()}


def vae() -> AutoencoderKL:
    """The autoencoder of all of them."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip


MODELS = {"SD1": (sd15, 512, 768), "SDXL": (sdxl, 1024, 2048)}


def made(family: str, dtype: torch.dtype) -> dict[str, nn.Module]:
    """The networks, without values."""
    with torch.device("meta"):
        return {name: network.to(dtype).eval() for name, network in MODELS[family][0]().items()}


class Alive(TorchDispatchMode):
    """Bytes of tensors that are alive, and the most that were at one time."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (key := tensor.untyped_storage()._cdata) not in self._seen:
                size = tensor.untyped_storage().nbytes()
                self._seen.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(tensor.untyped_storage(), self._gone, key, size)
        return out

    def _gone(self, key: int, size: int) -> None:
        self.now -= size
        self._seen.discard(key)


def counted(network: nn.Module, work: Callable[[], object]) -> int:
    """The most bytes that `work` holds beside the network's weights."""
    with torch.no_grad(), Alive([*network.parameters(), *network.buffers()]) as alive:
        work()
    return alive.peak


def inputs(family: str, side: int, batch: int, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """What the U-Net is given for `batch` pictures with guidance."""
    width, rows = MODELS[family][2], 2 * batch
    empty: Callable[..., Tensor] = lambda *size: torch.zeros(*size, device=device, dtype=dtype)  # noqa: E731
    given: dict[str, Any] = {
        "sample": empty(rows, 4, side // CELL, side // CELL),
        "timestep": torch.ones(1, device=device),
        "encoder_hidden_states": empty(rows, 77, width),
    }
    if family == "SDXL":
        given["added_cond_kwargs"] = {"text_embeds": empty(rows, 1280), "time_ids": empty(rows, 6)}
    return given


def lora(parts: dict[str, nn.Module], wide: bool, device: str = "meta", rank: int = 32) -> LoraFile:
    """A rank-32 LierLa file (attention and text encoders), or C3Lier (resnets and samplers too), fp16."""
    adapters = {}
    for part, network in parts.items():
        for layer_id, target in find_layer_targets(part, network).items():
            named = part != "unet" or layer_id.layer.startswith(
                ("attention.", *(("resnet.", "sampler.") if wide else ()))
            )
            text = part == "unet" or ".self_attn." in layer_id.layer or ".mlp." in layer_id.layer
            if named and text and len(target.shape) > 1:
                low = {
                    "lora_up.weight": torch.zeros(target.shape[0], rank, dtype=torch.float16, device=device),
                    "lora_down.weight": torch.ones(rank, *target.shape[1:], dtype=torch.float16, device=device),
                }
                adapters[layer_id] = Lora(low)
    return LoraFile(adapters)


def baking(parts: dict[str, nn.Module], file: LoraFile) -> tuple[int, int]:
    """(what stays, what the largest sum takes for a moment): bytes, as the injection counts them."""
    stays = moment = 0
    for part, network in parts.items():
        for layer_id, target in find_layer_targets(part, network).items():
            if layer_id in file.adapters:
                for _, size, sum_ in LiveLayer(target.module).memory_needed(
                    {target.slot: (AppliedAdapter(file.adapters[layer_id], 1.0),)}
                ):
                    stays, moment = stays + size, max(moment, sum_)
    return stays, moment


def plain(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> Tensor:
    """Attention's result, without what a plain implementation would keep."""
    return torch.empty(*query.shape[:-1], value.shape[-1], dtype=query.dtype, device=query.device)


def tables() -> None:
    """Prints both tables."""
    functional.scaled_dot_product_attention = plain
    rows: dict[str, list[str]] = {}
    cards: dict[str, list[str]] = {}
    for family, (_, side, _) in MODELS.items():
        parts = made(family, torch.float16)
        weights = sum(p.nbytes for network in parts.values() for p in network.parameters())
        decoder = parts.pop("vae")
        latent = torch.zeros(1, 4, side // CELL, side // CELL, dtype=torch.float16, device="meta")
        given = inputs(family, side, 1, "meta", torch.float16)
        unet = counted(parts["unet"], lambda parts=parts, given=given: parts["unet"](**given))
        vae_peak = counted(decoder, lambda decoder=decoder, latent=latent: decoder.decode(latent))
        drawing = generation_bytes(family, (side, side))
        said = {"weights, fp16": weights, "U-Net, one guided picture": unet, "decoder, one picture": vae_peak,
                "drawing by the formula": drawing}  # fmt: skip
        for kind, wide in (("LierLa", False), ("C3Lier", True)):
            file = lora(parts, wide)
            stays, moment = baking(parts, file)
            factors = sum(t.nbytes for a in file.adapters.values() for t in a.tensors.values())
            said[f"baking a rank-32 {kind}"] = stays + moment
            said[f"the same live: the factors of {kind}"] = factors
            for card in CARDS:
                free = int((card - RESERVED) * GIB) - weights
                lacking = MemoryBudget(lambda _, free=free: free, drawing).lacking(
                    {torch.device("cuda"): stays + moment}
                )
                way = "live" if lacking else "baked"
                if drawing + (factors if lacking else 0) > free:
                    way = "live, with --medvram"
                cards.setdefault(f"{card} GB", []).append(way)
        for what, size in said.items():
            rows.setdefault(what, []).append(f"{size / GIB:.2f} GiB")
    print_table(("what", "SD1.5, 512²", "SDXL, 1024²"), ((what, *cells) for what, cells in rows.items()))
    head = ("card", "SD1.5 LierLa", "SD1.5 C3Lier", "SDXL LierLa", "SDXL C3Lier")
    print_table(head, ((card, *cells) for card, cells in cards.items()), "What `auto` chooses")


# --- measured on the CPU ---------------------------------------------------------------------------------------------


def held(what: str) -> int:
    """Bytes that this process holds now ("VmRSS") or held at most ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) * 1024


def measured(mode: str, draw: bool) -> None:
    """In a process of its own: SD1.5's U-Net in fp16 (drawing: float32), a rank-32 C3Lier file on it, a pass."""
    with torch.device("meta"):
        unet = sd15()["unet"]
    unet = unet.to_empty(device="cpu").to(torch.float32 if draw else torch.float16).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.fill_(0.01)
    model = type("Model", (), {"parts": lambda self: {"unet": unet}})()
    file = lora({"unet": unet}, True, "cpu")
    for adapter in file.adapters.values():
        adapter.low_rank()
    before = held("VmRSS")
    if draw:
        with torch.no_grad():
            unet(**inputs("SD1", 512, 1, "cpu", torch.float32))
        print(f"{(held('VmHWM') - before) / GIB:.2f}")
        return
    with AppliedNetworks(model, mode) as applied:
        applied.apply([AdapterSpec(file, unet=0.5)])
        print(f"{(held('VmRSS') - before) / GIB:.2f}")


def main() -> None:
    """The tables, and what was measured."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="also measure on the CPU")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child:
        measured(args.child[0], args.child[1] == "draw")
        return
    tables()
    if args.measure:
        parts = {"unet": made("SD1", torch.float16)["unet"]}
        stays, _ = baking(parts, lora(parts, True))
        unet = made("SD1", torch.float32)["unet"]
        given = inputs("SD1", 512, 1, "meta", torch.float32)
        drawing = counted(unet, lambda: unet(**given))

        def rows() -> Iterator[tuple[str, ...]]:
            for what, count, child in (
                ("baking a rank-32 C3Lier file, fp16", stays, ("baked", "apply")),
                ("the same, live", 0, ("live", "apply")),
                ("a guided pass at 512², float32", drawing, ("live", "draw")),
            ):
                command = [sys.executable, __file__, "--child", *child]
                seen = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
                yield what, f"{count / GIB:.2f} GiB", f"{seen} GiB"

        print_table(("what", "counted", "measured"), rows(), "SD1.5's U-Net on the CPU, a process's own memory")


if __name__ == "__main__":
    main()
