"""Weights of demonstrations by what followed them: ARFM's energy-weighted flow matching (arXiv 2509.04063).

    w_i = exp(alpha R_i),   alpha such that the effective sample size (sum w)^2 / sum w^2 is a share rho of N

The paper chooses alpha to trade the signal of returns against the variance of the gradient, by bisection; the effective
sample size stands in for that variance (its formula was not to be had).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["effective_share", "energy_weights"]

Array = NDArray[np.float64]
LARGEST = 50.0
"""Largest alpha, of returns scaled to a range of 1."""


def effective_share(weights: Array) -> float:
    """Return the effective sample size (Kish) of weights (N,) as a share of N, in (0, 1]."""
    return float(weights.sum() ** 2 / (weights**2).sum() / len(weights))


def energy_weights(returns: Array, share: float) -> Array:
    """Return weights (N,) of mean 1 for returns (N,), whose effective share is `share` to 1e-3, or larger where even
    alpha 50 leaves more; equal returns weigh alike."""
    span = float(np.ptp(returns))
    if span == 0.0:
        return np.ones(len(returns))
    scaled = (returns - returns.max()) / span
    low, high = 0.0, LARGEST
    while high - low > 1e-6 * LARGEST:
        middle = (low + high) / 2.0
        low, high = (middle, high) if effective_share(np.exp(middle * scaled)) > share else (low, middle)
    found = np.exp(low * scaled)
    weights: Array = found / found.mean()
    return weights
