"""The noise level of a denoiser call of the web UI."""

from __future__ import annotations

from typing import Any

import torch


def call_sigma(params: Any) -> float:
    """Returns the noise level sigma of a denoiser call.

    A1111's samplers over timesteps (DDIM, PLMS, UniPC) call their denoiser with the timestep in the place of sigma, and
    have the model's ᾱ for each timestep in `alphas`. Forge calls with sigma in all of them.

    Args:
        params: the web UI's `CFGDenoiserParams`.
    """
    value = torch.as_tensor(params.sigma).flatten()[0]
    alphas = getattr(params.denoiser, "alphas", None)
    if alphas is None:
        return float(value)
    share = float(alphas[int(value)])
    return ((1 - share) / share) ** 0.5
