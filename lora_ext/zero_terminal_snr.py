"""Zero terminal SNR: a noise schedule whose last step is pure noise."""

from __future__ import annotations

from torch import Tensor


def rescale_zero_terminal_snr(alphas_cumprod: Tensor, last: float = 0.0) -> Tensor:
    """Rescales a noise schedule so that it ends in pure noise.

    √ᾱ is shifted until its last value is 0 and scaled until its first value is the old one (Lin et al. 2023,
    arXiv:2305.08891, algorithm 1).

    Args:
        alphas_cumprod: ᾱ, shape (timesteps,), falling.
        last: ᾱ of the last step. 0 is the paper's; who divides by ᾱ gives a small number.

    Returns:
        ᾱ of the new schedule, shape (timesteps,), dtype as given.

    Example:
        >>> import torch
        >>> rescale_zero_terminal_snr(torch.tensor([0.81, 0.49, 0.09])).tolist()[-1]
        0.0
    """
    root = alphas_cumprod.sqrt()
    first, end = root[0].clone(), root[-1].clone()
    rescaled = ((root - end) * first / (first - end)) ** 2
    rescaled[-1] = last
    return rescaled
