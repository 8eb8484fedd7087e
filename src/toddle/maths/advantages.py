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
    for step, share, out in reversed(list(zip(delta.unbind(), carry.unbind(), advantage.unbind(), strict=True))):
        running = torch.addcmul(step, share, running, out=out)
    return advantage


def discounted_returns(reward: Tensor, ended: Tensor, start: Tensor, discount: float | Tensor) -> tuple[Tensor, Tensor]:
    """Running discounted sums of past rewards, whose spread scales rewards (Engstrom et al. 2020, arXiv 2005.12729).

    g_t = gamma g_{t-1} + r_t, forgotten after an end.  `reward`, `ended` (T, B), `start` (B,) the sums carried in.
    Returns the sums (T, B) and those to carry on (B,).
    """
    sums = torch.empty_like(reward)
    going_on = (~ended).to(reward.dtype)
    carry = discount.clone() if isinstance(discount, Tensor) else torch.full_like(reward, discount)
    carry[1:].mul_(going_on[:-1])
    running = start
    for step, share, out in zip(reward.unbind(), carry.unbind(), sums.unbind(), strict=True):
        running = torch.addcmul(step, share, running, out=out)
    return sums, running * going_on[-1]


def standardise(x: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Return (x - mean) / (std + epsilon) over all entries; a single entry is only centred."""
    if x.numel() == 1:
        return x - x
    std, mean = torch.std_mean(x)
    return (x - mean).div_(std + epsilon)
