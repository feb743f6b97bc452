"""`FusedBackward`: the optimizer steps each tensor within the backward pass, so that no gradient outlives it.

The idea is PyTorch's tutorial "How to save memory by fusing the optimizer step into the backward pass", which kohya's
scripts follow. Here one optimizer holds all tensors, as in an ordinary run, so that saved states are the same.
"""

from __future__ import annotations

from torch import Tensor, linalg, nn, no_grad, stack
from torch.optim import Optimizer

from ..config.optimizers import clip_gradients


class FusedBackward:
    """Steps one tensor as soon as its gradient is complete, and frees the gradient.

    Args:
        optimizer: Its step of a tensor must not depend on other tensors (`OptimizerEntry.couples_tensors`).
        max_grad_norm: Largest norm of each tensor's gradient; 0 is no limit.
    """

    def __init__(self, optimizer: Optimizer, max_grad_norm: float) -> None:
        self.optimizer, self.max_grad_norm = optimizer, max_grad_norm
        # by the group's place: its dict is another one after a state is loaded
        self._places = {p: place for place, group in enumerate(optimizer.param_groups) for p in group["params"]}
        self._norms: dict[Tensor, Tensor] = {}
        for parameter in self._places:
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._step_tensor)

    @no_grad()
    def _step_tensor(self, parameter: nn.Parameter) -> None:
        """Hook: clips the gradient, steps and frees it."""
        self._norms[parameter] = clip_gradients([parameter], self.max_grad_norm)
        groups = self.optimizer.param_groups
        try:
            # a copy: what an optimizer counts in its groups must count once a step, not once a tensor
            self.optimizer.param_groups = [{**groups[self._places[parameter]], "params": [parameter]}]
            self.optimizer.step()
        finally:
            self.optimizer.param_groups = groups
        parameter.grad = None

    def end_step(self) -> Tensor:
        """Ends a step.

        Returns:
            The norm of all gradients together, before they were clipped; 0-dim, on the device.
        """
        self.optimizer.step()  # no gradient is left: it only counts the step in the groups
        norms = [self._norms[p] for p in self._places if p in self._norms]
        self._norms.clear()
        return linalg.vector_norm(stack(norms))
