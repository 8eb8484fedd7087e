"""Consistency models: noise levels, the bounds that hold the map to its end, and the weight of a level.

Song et al. 2023 (arXiv 2303.01469, appendix C); Karras et al. 2022 (arXiv 2206.00364, eq. 5) for the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LEAST", "MOST", "SPREAD", "bounds", "level_weight", "noise_levels"]

LEAST, MOST, SPREAD = 0.02, 80.0, 0.5
"""The least and the greatest standard deviation of noise, and the data's."""


def noise_levels(count: int, rho: float = 7.0) -> Tensor:
    """Return standard deviations (count,) from MOST down to LEAST, evenly spaced in their rho-th root."""
    high, low = MOST ** (1.0 / rho), LEAST ** (1.0 / rho)
    return (high + torch.linspace(0.0, 1.0, count, dtype=torch.float64) * (low - high)).pow(rho).float()


def bounds(level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (skip, out, into) at noise levels (...): f(x) = skip x + out net(into x), so that f(x) = x at LEAST."""
    skip = SPREAD**2 / ((level - LEAST).square() + SPREAD**2)
    into = (level.square() + SPREAD**2).rsqrt()
    return skip, (level - LEAST) * SPREAD * into, into


def level_weight(level: Tensor) -> Tensor:
    """Return 1 / k^2 + 1 / SPREAD^2, the weight (...) of the squared error at noise levels k (...)."""
    return level.square().reciprocal() + 1.0 / SPREAD**2
