"""Values learned from stored transitions: expectiles, one-step targets, and weights that advantages give."""

from __future__ import annotations

from torch import Tensor

__all__ = ["advantage_weight", "expectile_loss", "one_step_target"]


def one_step_target(reward: Tensor, terminal: Tensor, discount: float, following: Tensor) -> Tensor:
    """Return r + gamma (1 - d) V', all of shape (B,).  `terminal` is 1 where nothing follows, never at a time-out."""
    return reward + discount * (1.0 - terminal) * following


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """Return |tau - 1(u < 0)| u^2, of the shape of u (Kostrikov et al. 2021, IQL, arXiv 2110.06169, eq. 5).

    With u = x - m its mean is least where m is the tau-expectile of x; tau = 0.5 gives the mean.
    """
    return (expectile - (difference < 0).to(difference)).abs() * difference.square()


def advantage_weight(advantage: Tensor, temperature: float, limit: float) -> Tensor:
    """Return min(exp(A / temperature), limit), the weight of an action that is imitated.

    AWAC (Nair et al. 2020, arXiv 2006.09359, eq. 13) calls the temperature lambda; IQL (eq. 7) has beta = 1 / lambda.
    """
    return (advantage / temperature).exp().clamp(max=limit)
