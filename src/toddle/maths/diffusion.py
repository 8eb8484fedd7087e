"""Variance-preserving diffusion: the cosine schedule, DDPM and DDIM steps as Gaussian links, and the bridge to flow.

Steps run k = K-1 .. 0 from noise to action; `alpha_bar[k]` is the signal power kept in x_k, and x_{-1} is the action.
Sources: DDPM (Ho et al. 2020, eqs. 6-7), improved DDPM (Nichol and Dhariwal 2021, eq. 17), DDIM (Song et al. 2021,
eqs. 12 and 16), DPPO (Ren et al. 2024, arXiv 2409.00588).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "cosine_alpha_bar",
    "ddim_link",
    "ddim_steps",
    "ddpm_link",
    "eps_to_x0",
    "flow_time",
    "x0_to_eps",
]


def cosine_alpha_bar(
    steps: int, *, s: float = 0.008, max_beta: float = 0.999, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return alpha_bar (K,) of the cosine schedule with every beta clipped at `max_beta`."""
    grid = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((grid + s) / (1 + s) * math.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
    return torch.cumprod(1 - beta, 0).to(dtype)


def ddim_steps(train_steps: int, steps: int) -> list[int]:
    """Return the training steps a DDIM sampler of `steps` visits, noisiest first (leading spacing)."""
    stride = train_steps // steps
    return [i * stride for i in range(steps)][::-1]


def eps_to_x0(x: Tensor, eps: Tensor, alpha_bar: Tensor, *, clamp: float | None = 1.0) -> Tensor:
    """Return the action predicted by a noise prediction; `clamp` bounds it as normalised actions are bounded."""
    x0 = (x - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
    return x0 if clamp is None else x0.clamp(-clamp, clamp)


def x0_to_eps(x: Tensor, x0: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return the noise that, with `x0`, makes `x`: the inverse of `eps_to_x0` without its clamp."""
    return (x - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()


def ddpm_link(x: Tensor, x0: Tensor, alpha_bar: Tensor, alpha_bar_next: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of x^{k-1} given x^k: the DDPM posterior, q(x_{k-1} | x_k, x_0).

    `alpha_bar_next` is alpha_bar of the less noisy step (1 at the last link).  All arguments broadcast.
    """
    beta = 1 - alpha_bar / alpha_bar_next
    c0 = beta * alpha_bar_next.sqrt() / (1 - alpha_bar)
    c1 = (1 - alpha_bar_next) * (alpha_bar / alpha_bar_next).sqrt() / (1 - alpha_bar)
    variance = beta * (1 - alpha_bar_next) / (1 - alpha_bar)
    return c0 * x0 + c1 * x, variance.clamp(min=0).sqrt()


def ddim_link(
    x: Tensor, x0: Tensor, alpha_bar: Tensor, alpha_bar_next: Tensor, eta: float | Tensor = 0.0
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of a DDIM step; eta = 1 over all steps is DDPM, eta = 0 is deterministic.

    The noise is recomputed from `x0`, so a clamped x0 stays consistent with x.
    """
    eps = x0_to_eps(x, x0, alpha_bar)
    sigma = eta * ((1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)).clamp(min=0).sqrt()
    direction = (1 - alpha_bar_next - sigma**2).clamp(min=0).sqrt()
    return alpha_bar_next.sqrt() * x0 + direction * eps, sigma


def flow_time(alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """Return flow time tau_k and scale c_k with x_k = c_k x_tau: the exact bridge to flow (docs/denoising.md)."""
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    return signal / (signal + noise), signal + noise
