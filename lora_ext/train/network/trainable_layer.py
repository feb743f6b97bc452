"""`TrainableLayer`: what the network asks of the trained part of one layer, whatever its kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...adapters import Adapter
from ...errors import TrainError


class TrainableLayer(nn.Module):
    """The trained tensors of one layer and the hooks that apply them.

    Attributes:
        alpha: LoRA alpha.
        skipped: Whether the module is left out in this step (module dropout).
        step_weight: Factor on ΔW in this step.
        seed: Of this step's dropout masks; None without dropout.
        dropout: Share of values dropped between the two factors.
        rank_dropout: Share of ranks dropped, or of ΔW's rows in kinds other than LoRA.
    """

    alpha: float

    def __init__(self) -> None:
        super().__init__()
        self.skipped, self.step_weight = False, 1.0
        self.dropout = self.rank_dropout = 0.0
        self.seed: int | None = None

    def reset_step(self) -> None:
        """Uses everything at weight 1 until the next step begins: all ranks, nothing dropped."""
        self.skipped, self.step_weight, self.seed = False, 1.0, None

    def up_parameters(self) -> list[nn.Parameter]:
        """The up factor of a LoRA, for which LoRA+ has a learning rate of its own; empty for other kinds."""
        return []

    def delta(self) -> Tensor:
        """Computes ΔW in the shape of the layer's weight, differentiable."""
        raise NotImplementedError

    def unscaled_square(self) -> Tensor:
        """Computes ‖ΔW‖² (Frobenius) at weight 1 before `delta_scale`, 0-dim."""
        raise NotImplementedError

    @property
    def delta_scale(self) -> float:
        """The factor on the tensors' product that makes ΔW at weight 1."""
        return 1.0

    def linear_tensors(self) -> list[Tensor]:
        """The tensors in each of which ΔW is linear: scaling all n by the n-th root of a number scales ΔW by it."""
        raise NotImplementedError

    def to_adapter(self) -> Adapter:
        """The adapter that a file stores: float32, detached, on the CPU."""
        raise NotImplementedError

    def load_adapter(self, adapter: Adapter, shape: torch.Size) -> None:
        """Continues from an adapter of a file.

        Args:
            adapter: The adapter.
            shape: The shape of the layer's weight.

        Raises:
            TrainError: Another kind, or a rank that does not fit.
        """
        raise NotImplementedError

    def before_forward(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Forward pre-hook; returns other arguments or None."""
        raise NotImplementedError

    def after_forward(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        """Forward hook; returns the changed output or None. The output is None where the layer raised."""
        raise NotImplementedError


def wrong_kind(adapter: Adapter, trained: str) -> TrainError:
    """The error for a file whose adapter is of another kind than the one that is trained."""
    return TrainError(f"the file has {adapter.kind}, and {trained} is trained; set algo and dora_wd as in the file")
