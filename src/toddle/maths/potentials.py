"""What is learned from the order of time in demonstrations, and the rewards that are made of it.

    order        L = log(1 + exp(v_i - v_j)), step i before step j of a demonstration      RFTF, arXiv 2505.19767
    steps to go  a distribution over the steps left, by cross-entropy; its mean is d       Generalist, arXiv 2509.15155
    shaping      r = gamma^k Phi(s') - Phi(s), Phi = 0 where an episode ends for good      Ng et al. 1999
    difference   r = Phi(s') - Phi(s), Phi = 1 where it ends with success

Shaping leaves the best policy what it was, whatever the errors of Phi; the difference does so with gamma = 1 alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["bin_centres", "order_loss", "potential_reward", "steps_to_bins"]


def order_loss(earlier: Tensor, later: Tensor) -> Tensor:
    """Return -log sigmoid(later - earlier), (...), of the values of two steps of one demonstration."""
    return F.softplus(earlier - later)


def steps_to_bins(steps: Tensor, longest: float, bins: int) -> Tensor:
    """Return the bins (N,) int64 of steps to go (N,) from 0 to `longest`; what is beyond is in the last."""
    return (steps / (longest + 1.0) * bins).long().clamp(0, bins - 1)


def bin_centres(longest: float, bins: int) -> Tensor:
    """Return the steps to go (bins,) that the bins stand for."""
    return (torch.arange(bins) + 0.5) * (longest + 1.0) / bins - 0.5


def potential_reward(
    now: Tensor,
    following: Tensor,
    terminated: Tensor,
    success: Tensor,
    discount: Tensor,
    *,
    shaping: bool,
) -> Tensor:
    """Return the rewards (...) of decisions between potentials `now` and `following` (...).

    terminated, success: (...) bool, whether the episode ended there for good, and whether with success.  discount:
    gamma^k (...) of a decision of k control steps.  The potential of an end is 0 with `shaping`; else 1 with success,
    and what it was where it ended without.
    """
    if shaping:
        return discount * torch.where(terminated, 0.0, following) - now
    after = torch.where(terminated, torch.where(success, 1.0, now), following)
    return after - now
