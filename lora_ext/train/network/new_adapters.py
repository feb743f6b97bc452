"""Adapters before the first step: for each algorithm, the tensors of one layer, started as LyCORIS starts them.

References: LyCORIS (arXiv 2309.14859) 4.1.3, `lycoris/modules`; kohya's `networks/oft.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType

import torch
from torch import Tensor

from ...adapters import IA3, Adapter, Full, GLoRA, LoHa, LoKr, Lora, Norm, Oft
from ...adapters.lora import DOWN, MID, UP
from ...errors import TrainError
from ...layer_names import LayerId
from ..config.block_settings import RankAndAlpha, is_wider_than_1x1
from ..config.recipe import Recipe

_INPUT_SCALED = ("ff.net.2", "mlp.fc2")
"""Layers whose inputs (IA)³ scales; it scales the outputs of others (LyCORIS' preset ia3)."""


@dataclass(frozen=True)
class NewLayer:
    """The layer that an adapter is made for.

    Attributes:
        layer_id: The layer.
        weight: Its weight, (out, in[, kh, kw]) or (n,).
        has_bias: Whether it has a bias.
        size: Rank and alpha.
        recipe: The settings.
        generator: The random numbers of the initial tensors.
    """

    layer_id: LayerId
    weight: Tensor
    has_bias: bool
    size: RankAndAlpha
    recipe: Recipe
    generator: torch.Generator | None

    @property
    def shape(self) -> torch.Size:
        """The shape of the weight."""
        return self.weight.shape

    @property
    def is_tucker(self) -> bool:
        """Whether the layer's kernel gets a Tucker core."""
        return self.recipe.use_tucker and is_wider_than_1x1(tuple(self.shape))

    def normal(self, *shape: int, std: float) -> Tensor:
        """Normally distributed numbers."""
        return torch.empty(shape).normal_(std=std, generator=self.generator)

    def kaiming(self, *shape: int) -> Tensor:
        """Uniform numbers within ±1/√fan_in: Kaiming's with a = √5."""
        bound = prod(shape[1:]) ** -0.5
        return torch.empty(shape).uniform_(-bound, bound, generator=self.generator)


@dataclass
class NewTensors:
    """The tensors of a new adapter.

    Attributes:
        kind: The adapter's class.
        trained: Suffix → tensor that is trained.
        constant: Suffix → tensor that stays.
    """

    kind: type[Adapter]
    trained: dict[str, Tensor]
    constant: dict[str, Tensor] = field(default_factory=dict)


def split_near_factor(size: int, factor: int) -> tuple[int, int]:
    """Splits a size into two factors, m ≤ n: m is `factor` if that divides it, else the largest that is not above it.

    Args:
        size: The size.
        factor: The wanted factor; -1 for the most equal two.

    Returns:
        (m, n).

    Example:
        >>> split_near_factor(320, 8), split_near_factor(320, -1), split_near_factor(250, 16)
        ((8, 40), (16, 20), (10, 25))
    """
    if factor > 0 and size % factor == 0:
        return min(factor, size // factor), max(factor, size // factor)
    limit = size if factor < 0 else factor
    fitting = [m for m in range(1, int(size**0.5) + 1) if size % m == 0 and m <= limit]
    return max(fitting), size // max(fitting)


def _alpha(alpha: float) -> dict[str, Tensor]:
    return {"alpha": torch.tensor(alpha)}


def _kernel(shape: torch.Size) -> list[int]:
    """Ones for the axes of a kernel."""
    return [1] * (len(shape) - 2)


def _lora(new: NewLayer) -> NewTensors:
    rank, (out, inner, *kernel), ones = new.size.rank, new.shape, _kernel(new.shape)
    trained = {DOWN: new.kaiming(rank, inner, *(ones if new.is_tucker else kernel))}
    if new.is_tucker:
        trained[MID] = new.kaiming(rank, rank, *kernel)
    trained[UP] = torch.zeros(out, rank, *ones)
    return NewTensors(Lora, trained, _alpha(new.size.alpha))


def _loha(new: NewLayer) -> NewTensors:
    rank, (out, inner, *kernel) = new.size.rank, new.shape
    trained: dict[str, Tensor] = {}
    for side, std in ((1, 0.1), (2, 0.0)):
        if new.is_tucker:
            trained[f"hada_t{side}"] = new.normal(rank, rank, *kernel, std=0.1)
        a_shape, columns = ((rank, out), inner) if new.is_tucker else ((out, rank), inner * prod(kernel))
        trained[f"hada_w{side}_a"] = new.normal(*a_shape, std=std) if std else torch.zeros(a_shape)
        trained[f"hada_w{side}_b"] = new.normal(rank, columns, std=1.0)
    return NewTensors(LoHa, trained, _alpha(new.size.alpha))


def _lokr(new: NewLayer) -> NewTensors:
    rank, (out, inner, *kernel), recipe = new.size.rank, new.shape, new.recipe
    a, b = split_near_factor(out, recipe.factor)
    c, d = split_near_factor(inner, recipe.factor)
    if recipe.unbalanced_factorization:
        a, b = b, a
    trained: dict[str, Tensor] = {}
    if recipe.decompose_both and not recipe.full_matrix and rank < max(a, c) / 2:
        trained |= {"lokr_w1_a": new.kaiming(a, rank), "lokr_w1_b": new.kaiming(rank, c)}
    else:
        trained["lokr_w1"] = new.kaiming(a, c)
    if recipe.full_matrix or rank >= max(b, d) / 2:
        trained["lokr_w2"] = torch.zeros(b, d, *kernel)
    elif new.is_tucker:
        trained |= {
            "lokr_t2": new.kaiming(rank, rank, *kernel),
            "lokr_w2_a": new.kaiming(rank, b),
            "lokr_w2_b": torch.zeros(rank, d),
        }
    else:
        trained |= {"lokr_w2_a": new.kaiming(b, rank), "lokr_w2_b": torch.zeros(rank, d * prod(kernel))}
    full = "lokr_w1" in trained and "lokr_w2" in trained
    return NewTensors(LoKr, trained, _alpha(float(rank) if full else new.size.alpha))


def _glora(new: NewLayer) -> NewTensors:
    rank, (out, inner, *kernel), ones = new.size.rank, new.shape, _kernel(new.shape)
    trained = {
        "a1.weight": new.kaiming(inner, rank, *ones),
        "a2.weight": torch.zeros(rank, inner, *ones),
        "b1.weight": new.kaiming(out, rank, *ones),
        "b2.weight": torch.zeros(rank, inner, *kernel),
    }
    return NewTensors(GLoRA, trained, _alpha(new.size.alpha))


def _ia3(new: NewLayer) -> NewTensors:
    on_input = new.layer_id.layer.endswith(_INPUT_SCALED)
    count, ones = new.shape[1 if on_input else 0], _kernel(new.shape)
    weight = torch.zeros(1, count, *ones) if ones else torch.zeros(count)
    return NewTensors(IA3, {"weight": weight}, {"on_input": torch.tensor(int(on_input))})


def _full(new: NewLayer) -> NewTensors:
    trained = {"diff": torch.zeros(new.shape)}
    if new.has_bias:
        trained["diff_b"] = torch.zeros(new.shape[0])
    return NewTensors(Full, trained)


def _rescale(new: NewLayer) -> dict[str, Tensor]:
    return {"rescale": torch.ones(new.shape[0], *[1] * (len(new.shape) - 1))} if new.recipe.rescaled else {}


def _diag_oft(new: NewLayer) -> NewTensors:
    size, number = split_near_factor(new.shape[0], new.size.rank)
    trained = {"oft_blocks": torch.zeros(number, size, size), **_rescale(new)}
    return NewTensors(Oft, trained, _alpha(new.recipe.constraint))


def _boft(new: NewLayer) -> NewTensors:
    out, limit = new.shape[0], new.size.rank
    sizes = [size for size in range(2, limit + 1, 2) if out % size == 0 and (out // size).bit_count() == 1]
    if not sizes:
        odd = out // (out & -out)
        raise TrainError(
            f"algo boft: {out} outputs of {new.layer_id} are not a power of 2 times an even block size up to "
            f"network_dim {limit}; set network_dim {2 * odd} or more, or algo diag-oft"
        )
    size, number = max(sizes), out // max(sizes)
    factors = (number - 1).bit_count() + 1
    trained = {"oft_blocks": torch.zeros(factors, number, size, size), **_rescale(new)}
    return NewTensors(Oft, trained, _alpha(new.recipe.constraint))


def _kohya_oft(new: NewLayer) -> NewTensors:
    """Kohya's `networks/oft.py`: the rank is the number of blocks, alpha the constraint."""
    out, number = new.shape[0], new.size.rank
    if out % number:
        raise TrainError(f"algo oft: {out} outputs of {new.layer_id} are not a multiple of network_dim {number} blocks")
    blocks = torch.zeros(number, out // number, out // number)
    return NewTensors(Oft, {"oft_blocks": blocks}, _alpha(new.size.alpha))


_NEW_TENSORS: Mapping[str, Callable[[NewLayer], NewTensors]] = MappingProxyType(
    {
        "lora": _lora,
        "loha": _loha,
        "lokr": _lokr,
        "glora": _glora,
        "ia3": _ia3,
        "full": _full,
        "diag-oft": _diag_oft,
        "boft": _boft,
        "oft": _kohya_oft,
    }
)
"""`algo` → the tensors of a new adapter."""


def new_tensors(new: NewLayer) -> NewTensors:
    """Makes the tensors of a layer's adapter before the first step; ΔW is 0.

    Args:
        new: The layer.

    Returns:
        The tensors of the recipe's algorithm, with DoRA's magnitude if it is asked for; of a norm, its differences.

    Raises:
        TrainError: The layer's size does not fit the algorithm.
    """
    if len(new.shape) == 1:
        bias = {"b_norm": torch.zeros(new.shape)} if new.has_bias else {}
        return NewTensors(Norm, {"w_norm": torch.zeros(new.shape), **bias})
    made = _NEW_TENSORS[new.recipe.algo](new)
    if new.recipe.dora_wd:
        # one norm for each output (the paper's), or for each input
        over = [axis for axis in range(len(new.shape)) if axis != (0 if new.recipe.wd_on_out else 1)]
        made.trained["dora_scale"] = torch.linalg.vector_norm(new.weight.detach().float().cpu(), dim=over, keepdim=True)
    return made
