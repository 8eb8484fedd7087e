"""Diagonal Gaussian densities, shapes (..., D) -> (...), and the divergences of what decisions are drawn from.

A log-density is a sum over the last dimension; the standard deviation is given as its logarithm because that is what
policies learn.  Entropy of N(mu, s^2): sum_d (log s_d + (1 + log 2 pi) / 2)  (Cover & Thomas, Theorem 8.4.1).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Categorical",
    "Distribution",
    "Laplace",
    "Normal",
    "chunk_modes",
    "gaussian_entropy",
    "gaussian_log_prob",
    "noise_log_prob",
    "tanh_log_slope",
]

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def gaussian_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of `x` (..., D) under N(mean, exp(log_std)^2), summed over D: (...)."""
    return noise_log_prob((x - mean) * torch.exp(-log_std), log_std)


def noise_log_prob(z: Tensor, log_std: Tensor) -> Tensor:
    """Log-density (...) of mean + exp(log_std) z under N(mean, exp(log_std)^2), given z (..., D): no mean is needed."""
    square = torch.linalg.vecdot(z, z)
    return torch.sub(-HALF_LOG_TWO_PI * z.shape[-1] - log_std.sum(-1), square, alpha=0.5)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Differential entropy in nats of a diagonal Gaussian with `log_std` (..., D): (...)."""
    return log_std.sum(-1) + (0.5 + HALF_LOG_TWO_PI) * log_std.shape[-1]


def tanh_log_slope(u: Tensor) -> Tensor:
    """Return log(1 - tanh(u)^2) of each number: by so much tanh changes the logarithm of a volume at u.

    It is written 2 (log 2 - u - softplus(-2 u)), which stays exact where tanh(u) rounds to 1.
    """
    return 2.0 * (math.log(2.0) - u - torch.nn.functional.softplus(-2.0 * u))


def chunk_modes(steps: int, correlation: float) -> tuple[Tensor, Tensor]:
    """Diagonalise noise over the steps of a chunk that has unit variance and `correlation` between any two steps.

    Returns Q (steps, steps) orthonormal, rows the modes (the cosine basis; the first is the mean of the steps), and
    the logarithms of the modes' standard deviations (steps,): 1 + (steps - 1) correlation for the first and
    1 - correlation for the others are their variances, the eigenvalues of (1 - c) I + c 1 1^T.  The density of a chunk
    x is that of Q x under a diagonal Gaussian, as |det Q| = 1.
    """
    mode, step = torch.arange(steps, dtype=torch.float64)[:, None], torch.arange(steps, dtype=torch.float64)
    basis = torch.cos(math.pi / steps * mode * (step + 0.5)) * math.sqrt(2.0 / steps)
    basis[0] = 1.0 / math.sqrt(steps)
    variance = torch.full((steps,), 1.0 - correlation, dtype=torch.float64)
    variance[0] = 1.0 + (steps - 1) * correlation
    return basis.float(), (0.5 * variance.log()).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution(ABC):
    """What L links are drawn from, each of E independent numbers; `weight` (..., 1 or L, E): how numbers form a link's
    density (1 each for a sum, 1 / E for a mean)."""

    weight: Tensor

    @abstractmethod
    def _each(self, other: Distribution) -> Tensor:
        """Return KL(self || other) of every number (..., L, E)."""

    def kl(self, other: Distribution) -> Tensor:
        """Return KL(self || other) of every link (..., L) in nats, exactly; `other` is of the same kind."""
        return (self._each(other) * self.weight).sum(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normal(Distribution):
    """Gaussians of `mean` (..., L, E) and `std`, broadcastable."""

    mean: Tensor
    std: Tensor

    def _each(self, other: Distribution) -> Tensor:
        """log(s' / s) + (s^2 + (m - m')^2) / (2 s'^2) - 1 / 2; (m - m')^2 / (2 s^2) where spreads are equal
        (Flow-GRPO, Liu et al. 2025, arXiv 2505.05470)."""
        assert isinstance(other, Normal)
        ratio, miss = self.std / other.std, (self.mean - other.mean) / other.std
        return 0.5 * (ratio.square() + miss.square() - 1.0) - ratio.log()


@dataclass(frozen=True, slots=True, kw_only=True)
class Categorical(Distribution):
    """Tokens of log-probabilities (..., L, E, C)."""

    log_probs: Tensor

    def _each(self, other: Distribution) -> Tensor:
        assert isinstance(other, Categorical)
        return (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Laplace(Distribution):
    """Laplace of `mean` and `scale` (..., L, E)."""

    mean: Tensor
    scale: Tensor

    def _each(self, other: Distribution) -> Tensor:
        """log(b' / b) + (b exp(-|m - m'| / b) + |m - m'|) / b' - 1."""
        assert isinstance(other, Laplace)
        miss = (self.mean - other.mean).abs()
        near = self.scale * torch.exp(-miss / self.scale)
        return (other.scale / self.scale).log() + (near + miss) / other.scale - 1.0
