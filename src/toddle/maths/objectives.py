"""The clipped surrogate of PPO, its value loss and KL estimators, for decisions made of L links.

Letters: ... any leading dimensions (T, B or 1, M), L links.  How the links form a ratio (papers differ):

    sum       one ratio for the decision, exp(sum_l d_l)                 PPO on Gaussians and tokens (VLA-RL)
    mean      one ratio, exp(mean_l d_l)                                 Flow-Noise, ReinFlow
    per_link  L ratios that share the decision's advantage               DPPO; token-wise GRPO

with d_l = log pi(link l) - log pi_old(link l).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = [
    "Aggregate",
    "Ratio",
    "clipped_surrogate",
    "clipped_value_loss",
    "decision_weights",
    "kl_k3",
    "link_clips",
    "link_discounts",
    "link_log_ratio",
    "links_where",
    "mean_where",
]

Ratio = Literal["sum", "mean", "per_link"]
Aggregate = Literal["link", "decision", "trajectory", "trajectory_sum"]


def link_log_ratio(log_prob: Tensor, old_log_prob: Tensor, ratio: Ratio) -> Tensor:
    """Return log ratios (..., R) from link log-densities (..., L): R = L for `per_link`, else 1."""
    difference = log_prob - old_log_prob
    if ratio == "per_link" or difference.shape[-1] == 1:
        return difference
    return difference.sum(-1, keepdim=True) if ratio == "sum" else difference.mean(-1, keepdim=True)


def link_discounts(links: int, discount: float) -> Tensor:
    """Weights discount^(L-1-l) of the advantage at link l: 1 at the last link (DPPO, Ren et al. 2024, section 4.3)."""
    return discount ** torch.arange(links - 1, -1, -1, dtype=torch.float32)


def link_clips(links: int, first: float, last: float, rate: float = 3.0) -> Tensor:
    """Clip ranges (L,), growing exponentially from `first` (noisiest link) to `last` (DPPO's released schedule).

    eps_l = first + (last - first) (exp(rate l / (L-1)) - 1) / (exp(rate) - 1).  One link gets `last` (the formula
    is 0 / 0 there).
    """
    if links == 1:
        return torch.tensor([last])
    position = torch.arange(links, dtype=torch.float32) / (links - 1)
    return first + (last - first) * torch.expm1(rate * position) / math.expm1(rate)


def mean_where(x: Tensor, mask: Tensor | None, weight: Tensor | None = None) -> Tensor:
    """Mean of x (..., R) or (...) where `mask` (..., R) or (...) is True, whatever stands elsewhere; over all for None.

    With `weight` (...): the mean over rows of x (..., R) that have anything real, of weight times the row's own mean.
    """
    if mask is None and weight is None:
        return x.mean()
    if mask is None:
        mask = torch.ones_like(x, dtype=torch.bool)
    inside = mask.reshape(*mask.shape, *[1] * (x.dim() - mask.dim())).expand_as(x)
    held = torch.where(inside, x, 0.0)
    if weight is not None:
        rows = held.sum(-1) / inside.sum(-1).clamp(min=1)
        return (rows * weight).sum() / inside.any(-1).sum().clamp(min=1)
    return held.sum() / inside.sum().clamp(min=1)


def links_where(links: Tensor | None, decisions: Tensor | None) -> Tensor | None:
    """Return the mask of what is real of links (..., L) in decisions (...); None for all."""
    return decisions if links is None else links if decisions is None else links & decisions.unsqueeze(-1)


def decision_weights(aggregate: Aggregate, links: Tensor, ended: Tensor, mask: Tensor | None = None) -> Tensor | None:
    """Return how much each decision (T, B) counts in a mean over decisions of the mean over their links.

        link            None: every link alike, whatever decision it is of (DAPO's token mean)
        decision        1: every decision alike
        trajectory      n_i / n(trajectory) N / M: every trajectory alike, and within it every link (SimpleVLA-RL)
        trajectory_sum  n_i N / M: the mean over trajectories of the sum over their links (DeepThinkVLA)

    `links` (T, B) is n_i, how many links of a decision count; N decisions are real, M trajectories.  A trajectory is a
    world's decisions up to one that `ended` (T, B) bool, or to the end of the rollout.  The mean over all decisions is
    the aggregate exactly, that over a minibatch is without bias.
    """
    if aggregate == "link":
        return None
    if aggregate == "decision":
        return torch.ones_like(links)
    length, worlds = links.shape
    counted = links if mask is None else torch.where(mask, links, 0.0)
    before = torch.cat([torch.zeros_like(ended[:1]), ended[:-1]]).cumsum(0)
    owner = before + (length + 1) * torch.arange(worlds, device=links.device)
    total = torch.zeros((length + 1) * worlds, device=links.device).index_add(0, owner.flatten(), counted.flatten())
    share = (counted > 0).sum() / (total > 0).sum().clamp(min=1)
    return counted * share if aggregate == "trajectory_sum" else counted * share / total[owner].clamp(min=1)


def clipped_surrogate(
    log_ratio: Tensor,
    advantage: Tensor,
    clip_low: Any,
    clip_high: Any,
    link_weight: Tensor | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    dual: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Minus the clipped surrogate, averaged over everything (Schulman et al. 2017, arXiv 1707.06347, eq. 7).

    `log_ratio` (..., R), `advantage` (...), or (..., R) for each ratio, clips both numbers or both (R,): the ratio is
    held to [1 - clip_low, 1 + clip_high] (clip-higher: Yu et al. 2025, arXiv 2503.14476).  `link_weight` (R,)
    multiplies the advantage of each link; `mask` (...) bool marks the decisions that are real, (..., R) the links;
    `weight` (...) is how much each decision counts (`decision_weights`).  `dual` c > 1: a negative advantage counts at
    most c times, however large the ratio (dual-clip PPO, Ye et al. 2020, arXiv 1912.09729).
    Returns the loss (a number, to be minimised) and the fraction of ratios outside the range (detached).
    """
    if mask is not None:
        inside = mask if mask.dim() == log_ratio.dim() else mask.unsqueeze(-1)
        log_ratio = torch.where(inside, log_ratio, 0.0)  # before the arithmetic: 0 times NaN is NaN
        whole = advantage.dim() < log_ratio.dim()
        advantage = torch.where(inside.any(-1) if whole else inside, advantage, 0.0)
    gain = advantage.unsqueeze(-1) if advantage.dim() < log_ratio.dim() else advantage
    if link_weight is not None:
        gain = gain * link_weight
    ratio = torch.exp(log_ratio)
    held = torch.clamp(ratio, 1.0 - clip_low, 1.0 + clip_high)
    kept = torch.minimum(ratio * gain, held * gain)
    if dual is not None:
        kept = torch.where(gain < 0.0, torch.maximum(kept, dual * gain), kept)
    loss = -mean_where(kept, mask, weight)
    return loss, mean_where((held != ratio).detach().to(ratio.dtype), mask)


def clipped_value_loss(
    value: Tensor,
    target: Tensor,
    old_value: Tensor | None = None,
    clip: float | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Half the mean squared error of `value` to `target`, both (...), where `mask` (...) is True; a number.

    With `clip`, the larger of the errors of the value and of the value held within `clip` of `old_value`
    (as in OpenAI baselines' ppo2).
    """
    if mask is not None:
        value, target = torch.where(mask, value, 0.0), torch.where(mask, target, 0.0)
    error = (value - target) ** 2
    if clip is not None:
        if old_value is None:
            raise ValueError("old_value: expected a tensor because clip is given, got None")
        held = old_value + torch.clamp(value - old_value, -clip, clip)
        error = torch.maximum(error, (held - target) ** 2)
    return 0.5 * mean_where(error, mask)


def kl_k3(log_ratio: Tensor, mask: Tensor | None = None) -> Tensor:
    """E[(ratio - 1) - log ratio]: unbiased, never negative estimate of KL(old || new) from old samples.

    Schulman 2020, "Approximating KL divergence"; `log_ratio` (..., R), `mask` (...).
    """
    return mean_where(torch.expm1(log_ratio) - log_ratio, mask)
