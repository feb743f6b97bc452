"""What `benchmarks/tools.py` runs in processes of their own: synthetic files, the naive method, references, checks.

    python benchmarks/tools_tasks.py TASK ARGUMENT …

Arguments are text; the result is printed as one line of JSON.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MAP = ROOT / "tests" / "data" / "sd15_module_map.json"


def per_layer(wide: bool, quick: bool) -> list[tuple[str, str, list[int]]]:
    """(kohya name, LDM key, shape) of SD1.5's layers: LierLa's, or with `wide` C3Lier's too."""
    rows = list(json.loads(MAP.read_text(encoding="utf-8")).items())
    found = []
    for name, row in rows[::12] if quick else rows:  # the checkpoint has the layers of both
        convolution = "_resnets_" in name or "samplers_" in name
        if wide or not convolution:
            found.append((name, row["ldm"].removesuffix(".weight"), row["shape"]))
    return found


# --- synthetic files (children) --------------------------------------------------------------------------------------


def make_lora(path: str, rank: str, wide: str, seed: str, quick: str) -> None:
    """A rank-`rank` fp16 file at SD1.5's layers."""
    import torch
    from safetensors.torch import save_file

    generator, tensors = torch.Generator().manual_seed(int(seed)), {}
    for name, _, shape in per_layer(wide == "1", quick == "1"):
        ones = [1] * (len(shape) - 2)
        up = torch.randn(shape[0], int(rank), *ones, generator=generator) * 0.02
        down = torch.randn(int(rank), *shape[1:], generator=generator) * 0.02
        tensors |= {f"{name}.lora_up.weight": up.half(), f"{name}.lora_down.weight": down.half()}
        tensors[f"{name}.alpha"] = torch.tensor(float(rank)).half()
    save_file(tensors, path, {"ss_network_module": "networks.lora", "ss_network_dim": rank, "ss_network_alpha": rank})


def shapes_of_sd15(quick: bool) -> dict[str, list[int]]:
    """Every tensor of an SD1.5 checkpoint under its LDM name: the tests' names, on networks without memory."""
    if quick:
        return {key + ".weight": shape for _, key, shape in per_layer(True, True)}
    sys.path.insert(0, str(ROOT / "tests"))
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from test_host_checkpoint import ldm_text, ldm_unet, ldm_vae
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
        )
        text = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, vocab_size=49408)
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        state = {**ldm_unet(unet), **ldm_vae(vae), **ldm_text(text, "cond_stage_model.transformer.")}
    return {name: list(tensor.shape) for name, tensor in sorted(state.items())}


def make_checkpoints(org: str, tuned: str, quick: str) -> None:
    """An fp16 checkpoint, and one tuned from it: the difference of each layer is half a rank-64 part with falling
    values and half white noise, so it is of full rank with a flat tail. Written tensor by tensor."""
    import torch

    shapes = shapes_of_sd15(quick == "1")
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(45_000_000, generator=generator)

    def drawn(size: int) -> torch.Tensor:
        """Random numbers from somewhere in the pool."""
        first = int(torch.randint(len(pool) - size, (1,), generator=generator))
        return pool[first : first + size]

    with Path(org).open("wb") as one, Path(tuned).open("wb") as two:
        for out in (one, two):
            out.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            size = math.prod(shape)
            weight = changed = (drawn(size) * 0.03).reshape(shape).half()
            if len(shape) > 1:
                m, n = shape[0], size // shape[0]
                falling = torch.arange(1, 65) ** -0.7
                thin = (torch.randn(m, 64, generator=generator) * falling) @ torch.randn(64, n, generator=generator)
                thin /= thin.norm()
                noise = drawn(size).reshape(m, n)
                thin.add_(noise, alpha=1 / float(noise.norm())).mul_(2e-3 * size**0.5)
                changed = (weight.float() + thin.reshape(shape)).half()
            one.write(weight.numpy().tobytes())
            two.write(changed.numpy().tobytes())


# --- the naive method (children) -------------------------------------------------------------------------------------


def svd_times(quick: str) -> dict[str, float]:
    """ "m x n" → CPU seconds of one `torch.linalg.svd` of that shape."""
    import torch

    torch.linalg.svd(torch.randn(64, 64))
    found = {}
    layers = [*per_layer(True, quick == "1"), *per_layer(False, quick == "1")]
    for m, n in sorted({flat(shape) for _, _, shape in layers}):
        matrix = torch.randn(m, n)
        start = time.process_time()
        torch.linalg.svd(matrix, full_matrices=False)
        found[f"{m}x{n}"] = time.process_time() - start
    return found


def flat(shape: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of a layer's matrix."""
    columns = 1
    for size in shape[1:]:
        columns *= size
    return shape[0], columns


def naive_loras(out: str, rank: str, *paths: str) -> None:
    """Resize (one file) or svd-merge (several), all but the SVDs: loads, full matrices, thin factors, saves."""
    import torch
    from safetensors.torch import load_file, save_file

    files = [load_file(path) for path in paths]
    result = {}
    for key in files[0]:
        if key.endswith(".lora_up.weight"):
            name = key.removesuffix(".lora_up.weight")
            total = 0
            for file in files:
                up, down = file[key].float(), file[f"{name}.lora_down.weight"].float()
                total = total + up.flatten(1) @ down.flatten(1)
            r = min(int(rank), *total.shape)
            # in place of torch.linalg.svd(total, full_matrices=False)
            u, s, vh = total[:, :r], torch.ones(r), total[:r]
            result[f"{name}.lora_up.weight"] = (u * s).half().contiguous()
            result[f"{name}.lora_down.weight"] = vh.half().contiguous()
    save_file(result, out)


def naive_extract(out: str, rank: str, conv: str, *paths: str) -> None:
    """Both models whole in memory as float32; every layer's difference, all but its SVD; saves."""
    import torch
    from safetensors.torch import load_file, save_file

    before, after = ({key: t.float() for key, t in load_file(path).items()} for path in paths)
    result = {}
    for name, key, _ in per_layer(conv == "1", len(before) < 100):
        full = (after[key + ".weight"] - before[key + ".weight"]).flatten(1)
        r = min(int(rank), *full.shape)
        u, s, vh = full[:, :r], torch.ones(r), full[:r]  # in place of torch.linalg.svd(full, full_matrices=False)
        result |= {f"{name}.lora_up.weight": (u * s).half(), f"{name}.lora_down.weight": vh.half().contiguous()}
    save_file({key: tensor.contiguous() for key, tensor in result.items()}, out)


def naive_merge(out: str, checkpoint: str, lora: str, ratio: str) -> None:
    """The whole model in memory as float32, W += ratio·ΔW, saved as fp16."""
    from safetensors.torch import load_file, save_file

    model, factors = {key: t.float() for key, t in load_file(checkpoint).items()}, load_file(lora)
    for name, key, _ in per_layer(True, len(model) < 100):
        if f"{name}.lora_up.weight" in factors:
            weight = model[key + ".weight"]
            up, down = (factors[f"{name}.lora_{side}.weight"].float().flatten(1) for side in ("up", "down"))
            scale = float(factors[f"{name}.alpha"]) / down.shape[0]
            model[key + ".weight"] = weight + float(ratio) * scale * (up @ down).reshape(weight.shape)
    save_file({key: t.half() for key, t in model.items()}, out)


def naive_seconds(times: Mapping[str, float], wide: bool, quick: bool) -> float:
    """All SVDs of a file: one of each shape times its count."""
    counts = Counter("{}x{}".format(*flat(shape)) for _, _, shape in per_layer(wide, quick))
    return sum(times[shape] * count for shape, count in counts.items())


# --- checks and references (children) --------------------------------------------------------------------------------


def copy_file(source: str, target: str) -> None:
    """Reads a file and writes it, a block at a time, to the disk: the floor of any streaming tool."""
    block = memoryview(bytearray(1 << 18))  # larger ones are slower
    with Path(source).open("rb", buffering=0) as one, Path(target).open("wb") as two:
        while got := one.readinto(block):  # type: ignore[attr-defined]
            two.write(block[:got])
        two.flush()
        os.fsync(two.fileno())


def check_merge(base: str, merged: str, lora: str, ratio: str) -> dict[str, int]:
    """Tensors that equal W + ratio·ΔW summed in float32 and rounded once (untouched ones: W), bit for bit."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    factors, keys = load_file(lora), {key + ".weight": name for name, key, _ in per_layer(True, False)}
    same = touched = 0
    with safe_open(base, "pt") as before, safe_open(merged, "pt") as after:
        names = list(before.keys())
        for key in names:
            expected = before.get_tensor(key)
            name = keys.get(key)
            if name is not None and f"{name}.lora_up.weight" in factors:
                touched += 1
                up, down = (factors[f"{name}.lora_{side}.weight"].float().flatten(1) for side in ("up", "down"))
                gain = torch.full((len(down),), float(factors[f"{name}.alpha"]) / len(down)) * float(ratio)
                weight = expected.float()
                expected = (weight + ((up * gain) @ down).reshape(weight.shape)).half()
            same += torch.equal(after.get_tensor(key), expected)
    return {"same": same, "touched": touched, "tensors": len(names)}


def check_extract(org: str, tuned: str, lora: str) -> dict[str, float]:
    """The largest excess of the error over the optimum, on layers of each kind that a full SVD is quick for."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    factors, worst, seen = load_file(lora), 0.0, set()
    with safe_open(org, "pt") as before, safe_open(tuned, "pt") as after:
        for name, key, shape in per_layer(True, len(before.keys()) < 100):
            m, n = flat(shape)
            if (m, n) in seen or m * n > 1280 * 1280 or f"{name}.lora_up.weight" not in factors:
                continue
            seen.add((m, n))
            full = (after.get_tensor(key + ".weight").float() - before.get_tensor(key + ".weight").float()).flatten(1)
            up, down = (factors[f"{name}.lora_{side}.weight"].double().flatten(1) for side in ("up", "down"))
            found = (full.double() - up @ down * float(factors[f"{name}.alpha"]) / len(down)).norm()
            squares = torch.linalg.svdvals(full.double()) ** 2
            worst = max(worst, float(found / squares[len(down) :].sum().sqrt()) - 1)
    return {"excess": worst, "shapes": len(seen)}


def growth(quick: str) -> list[list[float]]:
    """[layers, rank, m + n, CPU seconds] of resizing to a quarter of the rank."""
    import torch

    from lora_ext.adapters import adapter_from_tensors
    from lora_ext.file.lora_file import LoraFile
    from lora_ext.layer_names import UNET, LayerId
    from lora_ext.lowrank import LowRank
    from lora_ext.tools.resize import resize_lora

    def seconds(layers: int, rank: int, size: int) -> float:
        adapters = {}
        for i in range(layers):
            leaf = f"attention.transformer_blocks.{i // 6}.attn{i % 2 + 1}.to_{'qkv'[i % 6 // 2]}"
            low = LowRank(torch.randn(size, rank), torch.ones(rank), torch.randn(rank, size))
            adapters[LayerId(UNET, "MID", leaf)] = adapter_from_tensors(low.to_tensors())
        file = LoraFile(adapters)  # type: ignore[arg-type]
        times = []
        for _ in range(3):
            start = time.process_time()
            resize_lora(file, max(rank // 4, 1))
            times.append(time.process_time() - start)
        return min(times)

    ranks = (8, 16, 32) if quick == "1" else (8, 16, 32, 64, 128, 256)
    seconds(2, 8, 320)
    rows = [[16, rank, 2560, seconds(16, rank, 1280)] for rank in ranks]
    rows += [[layers, 32, 2560, seconds(layers, 32, 1280)] for layers in (8, 32, 64)]
    return rows + [[16, 32, 2 * size, seconds(16, 32, size)] for size in (320, 640, 2560)]


def merge_running(out: str, rank: str, quick: str, *paths: str) -> dict[str, float]:
    """svd-merge in a process that runs already, as the tab's: CPU seconds of loading, merging and saving.

    `share` is the rate of the merge's own matrix products (their operations over all of its time, decompositions and
    everything else included) over that of a 1024 x 1024 product on this machine, in turn with it.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lora_ext import rank_reduction
    from lora_ext.file.loading import load_lora_file
    from lora_ext.file.saving import save_lora_file
    from lora_ext.tools.merge import MergeOptions, merge_loras

    options, side = MergeOptions("svd", int(rank)), torch.randn(1024, 1024)
    found: dict[str, list[float]] = {"whole": [], "merge": [], "product": []}
    for turn in range(2 if quick == "1" else 3):
        begun = time.process_time()
        for _ in range(10):
            side @ side
        product = (time.process_time() - begun) / 10
        whole = time.process_time()
        files = [load_lora_file(path) for path in paths]
        merging = time.process_time()
        made, _ = merge_loras(files, [0.7, 0.3], options)
        merged = time.process_time()
        save_lora_file(made, out, overwrite=True)
        ended = time.process_time()
        if turn:  # the first one warms up
            for name, seconds in (("whole", ended - whole), ("merge", merged - merging), ("product", product)):
                found[name].append(seconds)
    grams, by_numpy = rank_reduction._grams, 0

    def counted(sides: Sequence[torch.Tensor]) -> torch.Tensor:
        """torch counts its own products only; NumPy's of AᵀA take half of a whole one's operations."""
        nonlocal by_numpy
        by_numpy += sum(len(side) * side.shape[1] ** 2 for side in sides)
        return grams(sides)

    rank_reduction._grams = counted
    with FlopCounterMode(display=False) as counter:
        merge_loras(files, [0.7, 0.3], options)
    seconds = {name: sorted(times)[len(times) // 2] for name, times in found.items()}
    rate = 2 * 1024**3 / seconds["product"]
    return {**seconds, "rate": rate, "share": (counter.get_total_flops() + by_numpy) / seconds["merge"] / rate}


TASKS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (make_lora, make_checkpoints, svd_times, naive_loras, naive_extract, naive_merge, copy_file, check_merge,
              check_extract, growth, merge_running)
}  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    print(json.dumps(TASKS[sys.argv[1]](*sys.argv[2:])))
