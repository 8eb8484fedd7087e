"""Diagonal Gaussian densities, shapes (..., D) -> (...).

A log-density is a sum over the last dimension; the standard deviation is given as its logarithm because that is what
policies learn.  Entropy of N(mu, s^2): sum_d (log s_d + (1 + log 2 pi) / 2)  (Cover & Thomas, Theorem 8.4.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["gaussian_entropy", "gaussian_kl", "gaussian_log_prob"]

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def gaussian_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of `x` (..., D) under N(mean, exp(log_std)^2), summed over D: (...)."""
    z = (x - mean) * torch.exp(-log_std)
    return -0.5 * (z * z).sum(-1) - (log_std + HALF_LOG_TWO_PI).sum(-1)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Differential entropy in nats of a diagonal Gaussian with `log_std` (..., D): (...)."""
    return (log_std + 0.5 + HALF_LOG_TWO_PI).sum(-1)


def gaussian_kl(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
    """KL(N(mean, std) || N(other_mean, other_std)) in nats, summed over D: (...)."""
    variance_ratio = torch.exp(2.0 * (log_std - other_log_std))
    shift = ((mean - other_mean) * torch.exp(-other_log_std)) ** 2
    return (0.5 * (variance_ratio + shift - 1.0) + other_log_std - log_std).sum(-1)
