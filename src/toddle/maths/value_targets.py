"""Values learned from stored transitions: expectiles, one-step targets, and weights that advantages give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = [
    "advantage_weight",
    "chunk_rewards",
    "conservative_gap",
    "expectile_loss",
    "one_step_target",
    "plain_gap",
    "returns_to_go",
]


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


def conservative_gap(value: Tensor, sampled: Tensor, log_density: Tensor) -> Tensor:
    """Return log sum_j exp(Q(s, a_j)) / p(a_j) - Q(s, a): (...), from Q of the data's action (...) and of n sampled
    actions (..., n) with log-densities log p (..., n).

    But for the constant log n its first part estimates log of the integral of exp Q over all actions (CQL, Kumar et al.
    2020, arXiv 2006.04779, appendix F).
    """
    return (sampled - log_density).logsumexp(-1) - value


def plain_gap(value: Tensor, sampled: Tensor) -> Tensor:
    """Return log of the mean of exp Q over n sampled actions (..., n) and the data's own, less its Q (...): 0 where all
    are alike.  No importance weights (ConRFT, Chen et al. 2025, arXiv 2502.05450)."""
    every = torch.cat([value[..., None], sampled], -1)
    return every.logsumexp(-1) - math.log(every.shape[-1]) - value


def chunk_rewards(reward: npt.NDArray[Any], length: int, discount: float) -> npt.NDArray[Any]:
    """Return what each row's next `length` steps pay, sum_(i < H) gamma^i r_(t+i), fewer at the end: (T,) float64.

    The first part of the n-step return of a chunk of H actions (CO-RFT, Huang et al. 2025, arXiv 2508.02219).
    """
    padded = np.concatenate([reward, np.zeros(length - 1)])
    weight = discount ** np.arange(length)
    return np.lib.stride_tricks.sliding_window_view(padded, length) @ weight


def returns_to_go(reward: npt.NDArray[Any], ended: bool, discount: float) -> npt.NDArray[Any]:
    """Return sum_k gamma^k r_(t+k) of one episode's rewards (T,): (T,) float64.

    Where the episode was cut (not `ended`) and paid the same r at all times, it is taken to go on like that for ever,
    r / (1 - gamma): a failure at -1 a step is worth no more for having been cut early (as in Cal-QL's code).
    """
    found = np.zeros(len(reward))
    if not ended and len(reward) and (reward == reward[0]).all():
        return found + reward[0] / (1.0 - discount)
    after = 0.0
    for t in reversed(range(len(reward))):
        found[t] = after = reward[t] + discount * after
    return found
