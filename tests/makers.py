"""Made-up adapter tensors of every kind, for tests that want to run over all of them.

`KINDS` names the variants, `suits` says which layer shapes a variant has, `make` draws its tensors. Where a file has
several layers each is drawn from a generator of its own (`layer=`): equal shapes with equal tensors would hide that two
layers were exchanged.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Draw = Callable[..., Tensor]
"""draw(*size, std=0.3) → normal tensor in the storage dtype."""
Maker = Callable[[Draw, tuple[int, ...], int], dict[str, Tensor]]

SHAPES: dict[str, tuple[int, ...]] = {
    "linear": (16, 12),
    "square": (12, 12),
    "1x1": (12, 8, 1, 1),
    "3x3": (8, 12, 3, 3),
    "grouped": (16, 4, 3, 3),  # 16 → 16 channels in 4 groups: the weight holds in/groups
    "norm": (16,),
}


def _lora(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    out, *rest = shape
    ones = (1,) * len(shape[2:])
    return {"lora_up.weight": draw(out, rank, *ones), "lora_down.weight": draw(rank, *rest)}


def _lora_tucker(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    out, cols, *kernel = shape
    return {
        "lora_up.weight": draw(out, rank, 1, 1),
        "lora_mid.weight": draw(rank, rank, *kernel),
        "lora_down.weight": draw(rank, cols, 1, 1),
    }


def _dora(axis: int) -> Maker:
    def maker(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
        span = [1] * len(shape)
        span[axis] = shape[axis]
        return {**_lora(draw, shape, rank), "dora_scale": draw(*span).abs() + 0.5}

    return maker


def _lora_bias(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    return {**_lora(draw, shape, rank), "bias": draw(shape[0], int(np.prod(shape[1:])))}


def _lora_diff_b(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    return {**_lora(draw, shape, rank), "diff_b": draw(shape[0])}


def _lora_up_bias(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    return {**_lora(draw, shape, rank), "lora_up.bias": draw(shape[0])}


def _lora_sparse(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    size = (shape[0], int(np.prod(shape[1:])))
    places = torch.tensor([[0, 1, size[0] - 1], [2, 0, size[1] - 1]], dtype=torch.int16)
    return {
        **_lora(draw, shape, rank),
        "bias_indices": places,
        "bias_values": draw(3),
        "bias_size": torch.tensor(size, dtype=torch.int16),
    }


def _loha(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    cols = int(np.prod(shape[1:]))
    return {f"hada_w{i}_{s}": draw(*((shape[0], rank) if s == "a" else (rank, cols))) for i in (1, 2) for s in "ab"}


def _loha_tucker(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    out, cols, *kernel = shape
    tensors = {f"hada_w{i}_{s}": draw(rank, out if s == "a" else cols) for i in (1, 2) for s in "ab"}
    return {**tensors, "hada_t1": draw(rank, rank, *kernel), "hada_t2": draw(rank, rank, *kernel)}


def _split(size: int) -> tuple[int, int]:
    """The factors of `size` nearest to its root, smaller first."""
    small = next(n for n in range(int(size**0.5), 0, -1) if size % n == 0)
    return small, size // small


def _lokr(first: str, second: str) -> Maker:
    def maker(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
        (a, b), (c, d), kernel = _split(shape[0]), _split(shape[1]), shape[2:]
        if first == "full":
            tensors = {"lokr_w1": draw(a, c)}
        else:
            tensors = {"lokr_w1_a": draw(a, rank), "lokr_w1_b": draw(rank, c)}
        if second == "full":
            return {**tensors, "lokr_w2": draw(b, d, *kernel)}
        if second == "tucker":
            tucker = {"lokr_w2_a": draw(rank, b), "lokr_w2_b": draw(rank, d), "lokr_t2": draw(rank, rank, *kernel)}
            return {**tensors, **tucker}
        return {**tensors, "lokr_w2_a": draw(b, rank), "lokr_w2_b": draw(rank, d * int(np.prod(kernel)))}

    return maker


def _ia3(on_input: bool) -> Maker:
    def maker(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
        size = shape[1] if on_input else shape[0]
        span = (size,) if len(shape) == 2 else (1, size, *(1 for _ in shape[2:]))
        return {"weight": draw(*span), "on_input": torch.tensor(int(on_input))}

    return maker


def _full(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    return {"diff": draw(*shape), "diff_b": draw(shape[0])}


def _norm(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    return {"w_norm": draw(*shape), "b_norm": draw(*shape)}


def _glora_old(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    out, cols, *ones = shape
    return {
        "a1.weight": draw(rank, cols, *ones),
        "a2.weight": draw(cols, rank, *ones),
        "b1.weight": draw(rank, cols, *ones),
        "b2.weight": draw(out, rank, *ones),
    }


def _glora(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    out, cols, *kernel = shape
    ones = (1,) * len(kernel)
    return {
        "a1.weight": draw(cols, rank, *ones),
        "a2.weight": draw(rank, cols, *ones),
        "b1.weight": draw(out, rank, *ones),
        "b2.weight": draw(rank, cols, *kernel),
    }


def _blocks(size: int, rank: int) -> int:
    """The largest divisor of `size` up to `rank`."""
    return next(n for n in range(rank, 0, -1) if size % n == 0)


def _oft_kohya(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    number = _blocks(shape[0], rank)
    size = shape[0] // number
    # the constraint: small enough that the norm of these blocks exceeds it
    return {"oft_blocks": draw(number, size, size), "alpha": torch.tensor(0.02)}


def _oft_lycoris(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    size = _blocks(shape[0], rank)
    return {
        "oft_blocks": draw(shape[0] // size, size, size),
        "rescale": draw(shape[0], *(1 for _ in shape[1:])) + 1,
        "alpha": torch.tensor(0.0),
    }


def _oft_diag(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    size = _blocks(shape[0], rank)
    return {"oft_diag": draw(shape[0] // size, size, size) + torch.eye(size)}


def _oft_v2(shared: bool, **extra: object) -> Maker:
    def maker(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
        columns = int(np.prod(shape[1:]))
        size = next(n for n in (4, 3, 2, columns) if columns % n == 0)
        tensors = {"oft_R.weight": draw(1 if shared else columns // size, size * (size - 1) // 2)}
        return {**tensors, **{name.replace("_R_", "_R."): torch.tensor(value) for name, value in extra.items()}}

    return maker


def _boft_split(out: int) -> tuple[int, int]:
    """(block size, number of blocks): an even size, the number a power of two as large as can be."""
    number = 1
    while out % (4 * number) == 0:
        number *= 2
    return out // number, number


def _boft(draw: Draw, shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    size, number = _boft_split(shape[0])
    return {
        "oft_blocks": draw(number.bit_length(), number, size, size),
        "rescale": draw(shape[0], *(1 for _ in shape[1:])) + 1,
        "alpha": torch.tensor(0.0),
    }


def _layer(shape: Sequence[int]) -> bool:
    return len(shape) in (2, 4)


def _small(shape: Sequence[int]) -> bool:
    return len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1))


def _kernel(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and shape[2:] != (1, 1)


def _any(shape: Sequence[int]) -> bool:
    return True


def _vector(shape: Sequence[int]) -> bool:
    return len(shape) == 1


def _even(shape: Sequence[int]) -> bool:
    return _layer(shape) and shape[0] % 2 == 0


@dataclass(frozen=True)
class Variant:
    """One way to make the tensors of a kind of adapter.

    Attributes:
        kind: `Adapter.kind` of what is made.
        make: draws the tensors.
        suits: whether it exists for a layer weight of a shape.
        has_alpha: whether files store alpha for it; then `make` stores alpha = rank / 2.
        is_low_rank: whether ΔW is a sum of ranks (`Adapter.low_rank`).
    """

    kind: str
    make: Maker
    suits: Callable[[Sequence[int]], bool]
    has_alpha: bool = False
    is_low_rank: bool = False


MAKERS: dict[str, Variant] = {
    "lora": Variant("LoRA", _lora, _layer, has_alpha=True, is_low_rank=True),
    "lora-tucker": Variant("LoRA", _lora_tucker, _kernel, has_alpha=True, is_low_rank=True),
    "lora-dora-out": Variant("LoRA", _dora(0), _layer, has_alpha=True),
    "lora-dora-in": Variant("LoRA", _dora(1), _layer, has_alpha=True),
    "lora-bias": Variant("LoRA", _lora_bias, _layer, has_alpha=True),
    "lora-diff-bias": Variant("LoRA", _lora_diff_b, _layer, has_alpha=True, is_low_rank=True),
    "lora-up-bias": Variant("LoRA", _lora_up_bias, _layer, has_alpha=True, is_low_rank=True),
    "lora-sparse-bias": Variant("LoRA", _lora_sparse, _layer, has_alpha=True),
    "loha": Variant("LoHa", _loha, _layer, has_alpha=True),
    "loha-tucker": Variant("LoHa", _loha_tucker, _kernel, has_alpha=True),
    "lokr": Variant("LoKr", _lokr("full", "thin"), _layer, has_alpha=True),
    "lokr-full": Variant("LoKr", _lokr("full", "full"), _layer, has_alpha=True),
    "lokr-thin": Variant("LoKr", _lokr("thin", "thin"), _layer, has_alpha=True),
    "lokr-tucker": Variant("LoKr", _lokr("full", "tucker"), _kernel, has_alpha=True),
    "ia3-out": Variant("IA3", _ia3(False), _layer),
    "ia3-in": Variant("IA3", _ia3(True), _layer),
    "full": Variant("full", _full, _any),
    "norm": Variant("norm", _norm, _vector),
    "glora-old": Variant("GLoRA", _glora_old, _small, has_alpha=True),
    "glora": Variant("GLoRA", _glora, _layer, has_alpha=True),
    "oft-kohya": Variant("OFT", _oft_kohya, _layer),
    "oft-lycoris": Variant("OFT", _oft_lycoris, _layer),
    "oft-diag": Variant("OFT", _oft_diag, _layer),
    "oftv2-onetrainer": Variant("OFTv2", _oft_v2(False, oft_R_scaled_oft=True), _layer),
    "oftv2-peft": Variant("OFTv2", _oft_v2(False, oft_terms=4), _layer),
    "oftv2-exact": Variant("OFTv2", _oft_v2(True, oft_terms=0), _layer),
    "boft": Variant("OFT", _boft, _even),
}
"""The variant's name, which begins with a name of `reference.DELTAS` → the variant."""
KINDS: tuple[str, ...] = tuple(MAKERS)
"""Names of the variants that `make` knows."""


def suits(kind: str, shape: Sequence[int]) -> bool:
    """Whether `kind` exists for a layer weight of `shape` (Linear, Conv2d, or the vector of a norm)."""
    return MAKERS[kind].suits(tuple(shape))


def suitable_layer(kind: str) -> str:
    """The first name of `SHAPES` whose layer `kind` exists for."""
    return next(layer for layer, shape in SHAPES.items() if suits(kind, shape))


def make(
    kind: str,
    shape: Sequence[int],
    rank: int = 2,
    dtype: torch.dtype = torch.float32,
    rng: np.random.Generator | None = None,
    layer: object = "",
) -> dict[str, Tensor]:
    """Tensors (suffix → tensor) of `kind` for a weight of `shape`, stored as `dtype`, with alpha = rank/2.

    Kinds whose alpha means something else (OFT's constraint) or that have none carry their own. layer: which layer they
    are for; every layer has other numbers, always the same ones. `rng` draws them instead where it is given.
    """
    rng = rng or np.random.default_rng(zlib.crc32(str(layer).encode()))

    def draw(*size: int, std: float = 0.3) -> Tensor:
        return torch.from_numpy(rng.normal(0, std, size)).float()

    tensors = MAKERS[kind].make(draw, tuple(shape), rank)
    if MAKERS[kind].has_alpha:
        tensors["alpha"] = torch.tensor(rank / 2)
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
