"""Unified Concept Editing as the start of a LoRA that is trained from prompts.

Gandikota et al. 2024 (arXiv:2308.14761) edit the keys and values of cross-attention in closed form. Both are linear in
the text encoder's states, so one linear change of the states serves all layers: the one that moves the states of each
prompt to those wanted, in the least squares over all tokens, and prompts to keep to themselves. It is cut to the
layer's rank by the singular values that count for these states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ...errors import TrainError
from ..config.prompt_tasks import PromptTask
from ..network.multihead_attention import base_weight
from ..network.trainable_factors import TrainableFactors
from ..network.trainable_network import TrainableNetwork

RIDGE = 1e-3
"""Of the mean eigenvalue of the states' second moments: keeps states still of which the prompts say nothing."""
_EDITED = (".attn2.to_k", ".attn2.to_v")


@torch.no_grad()
def edit_states(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Computes the linear change c → c + c·A·B of states that moves each first row to the second of its pair.

    Args:
        pairs: States now and as wanted, (tokens, d) each.

    Returns:
        A (d, d) and B (d, d), float64 on the CPU; the first r columns of A with the first r rows of B are the best
        change of rank r for these states.
    """
    square = moved = torch.zeros(())
    for now, wanted in pairs:
        c, to = now.cpu().double(), wanted.cpu().double()
        square, moved = square + c.t() @ c, moved + c.t() @ (to - c)
    values, vectors = torch.linalg.eigh(square + RIDGE * square.diagonal().mean() * torch.eye(len(square)))
    # the rank is cut where the states are white: there a singular value is the length by which it moves them
    inverse = vectors / values.sqrt() @ vectors.t()
    u, s, v = torch.linalg.svd(inverse @ moved)
    half = s.sqrt()
    return inverse @ (u * half), half[:, None] * v


@torch.no_grad()
def start_at_edit(
    network: TrainableNetwork,
    tasks: dict[str, PromptTask],
    guidance: float,
    encode: Callable[[list[str]], Tensor],
) -> None:
    """Sets the factors of cross-attention's to_k and to_v so that prompts begin near what they are to become.

    Args:
        network: The network; layers of other kinds stay as they are.
        tasks: Trained prompt → its task.
        guidance: Factor on the difference of a task's two prompts.
        encode: Prompts → states, (n, tokens, d).

    Raises:
        TrainError: No LoRA of the network is on these layers.
    """

    def pair(prompt: str, task: PromptTask) -> tuple[Tensor, Tensor]:
        now, start, plus, minus = encode([prompt, task.start, task.plus or "", task.minus])
        return now, start if task.plus is None else start + guidance * (plus - minus)

    layers = [
        (layer, base_weight(network.targets_by_layer[layer_id]).cpu().double())
        for layer_id, layer in network.factors_by_layer.items()
        if str(layer_id).endswith(_EDITED) and isinstance(layer, TrainableFactors)
    ]
    if not layers:
        raise TrainError(
            "uce_start needs a LoRA on cross-attention's to_k and to_v; set algo lora "
            "and network_targets cross_attention"
        )
    down, up = edit_states(pair(prompt, task) for prompt, task in tasks.items())
    for layer, weight in layers:
        rank = min(layer.rank, len(up))
        layer.down[:rank] = down[:, :rank].t()
        layer.up[:rank] = up[:rank] @ weight.t() / layer.delta_scale
