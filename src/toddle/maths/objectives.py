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
    "Ratio",
    "clipped_surrogate",
    "clipped_value_loss",
    "kl_k3",
    "link_clips",
    "link_discounts",
    "link_log_ratio",
    "mean_where",
]

Ratio = Literal["sum", "mean", "per_link"]


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


def mean_where(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of x (..., R) or (...) where `mask` (...) is True, whatever stands elsewhere; over all for None."""
    if mask is None:
        return x.mean()
    inside = mask.reshape(*mask.shape, *[1] * (x.dim() - mask.dim())).expand_as(x)
    return torch.where(inside, x, 0.0).sum() / inside.sum().clamp(min=1)


def clipped_surrogate(
    log_ratio: Tensor,
    advantage: Tensor,
    clip_low: Any,
    clip_high: Any,
    link_weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Minus the clipped surrogate, averaged over everything (Schulman et al. 2017, arXiv 1707.06347, eq. 7).

    `log_ratio` (..., R), `advantage` (...), clips both numbers or both (R,): the ratio is held to
    [1 - clip_low, 1 + clip_high] (clip-higher: Yu et al. 2025, arXiv 2503.14476).  `link_weight` (R,) multiplies the
    advantage of each link; `mask` (...) bool marks the decisions that are real.
    Returns the loss (a number, to be minimised) and the fraction of ratios outside the range (detached).
    """
    if mask is not None:
        log_ratio = torch.where(mask.unsqueeze(-1), log_ratio, 0.0)  # before the arithmetic: 0 times NaN is NaN
        advantage = torch.where(mask, advantage, 0.0)
    gain = advantage.unsqueeze(-1)
    if link_weight is not None:
        gain = gain * link_weight
    ratio = torch.exp(log_ratio)
    held = torch.clamp(ratio, 1.0 - clip_low, 1.0 + clip_high)
    loss = -mean_where(torch.minimum(ratio * gain, held * gain), mask)
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
