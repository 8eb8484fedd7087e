"""Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16) with time limits done right.

    delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t)
    A_t     = delta_t + gamma lambda (1 - terminated_t) (1 - truncated_t) A_{t+1}

s'_t is what followed a_t: the next observation, or the FINAL observation of an episode that was cut by its time limit
(Pardo et al. 2018, arXiv 1712.00378).  The recursion stops at every end of an episode, whichever way it ended.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["discounted_returns", "gae", "standardise"]


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    discount: float | Tensor,
    lam: float,
) -> Tensor:
    """Return advantages (T, B).

    All inputs are (T, B).  `value` is V(s_t); `next_value` is V(s'_t), which at a truncation is the value of the
    episode's final observation, never of the observation after the reset (at a termination it is not used).
    `discount` is gamma, or a tensor (T, B) of gamma^k where decision t took k control steps.
    Returns-to-go for the critic are the result plus `value`.
    """
    alive = (~terminated).to(reward.dtype) * discount  # zero where there is no future
    delta = reward + alive * next_value - value
    carry = alive * (~truncated) * lam
    advantage = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    for t in range(delta.shape[0] - 1, -1, -1):
        running = torch.addcmul(delta[t], carry[t], running, out=advantage[t])
    return advantage


def discounted_returns(reward: Tensor, ended: Tensor, start: Tensor, discount: float | Tensor) -> tuple[Tensor, Tensor]:
    """Running discounted sums of past rewards, whose spread scales rewards (Engstrom et al. 2020, arXiv 2005.12729).

    g_t = gamma g_{t-1} + r_t, forgotten after an end.  `reward`, `ended` (T, B), `start` (B,) the sums carried in.
    Returns the sums (T, B) and those to carry on (B,).
    """
    sums = torch.empty_like(reward)
    running = start
    gamma = discount if isinstance(discount, Tensor) else torch.full_like(reward, discount)
    for t in range(reward.shape[0]):
        sums[t] = running * gamma[t] + reward[t]
        running = sums[t] * ~ended[t]
    return sums, running


def standardise(x: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Return (x - mean) / (std + epsilon) over all entries; a single entry is only centred."""
    centred = x - x.mean()
    return centred / (x.std() + epsilon) if x.numel() > 1 else centred
