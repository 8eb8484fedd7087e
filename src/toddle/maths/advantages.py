"""Advantages: generalised estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16) with time limits, and by groups.

    delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t)
    A_t     = delta_t + gamma lambda (1 - terminated_t) (1 - truncated_t) A_{t+1}

s'_t is what followed a_t: the next observation, or the FINAL observation of an episode that was cut by its time limit
(Pardo et al. 2018, arXiv 1712.00378).  The recursion stops at every end of an episode, whichever way it ended.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "action_gae",
    "discounted_returns",
    "gae",
    "group_advantages",
    "standardise",
    "step_and_trajectory_advantages",
]


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


def action_gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    made: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    discount: float,
    lam: float,
) -> Tensor:
    """Return advantages (T, B, H) of the single actions of chunks: `gae` over all T H control steps.

    reward, value: (T, B, H), of every action, whose values are all said at the chunk's first observation.  `made`
    (T, B, H) bool marks the actions that were executed; an episode ends with the last of these.  `next_value` (T, B) is
    the value of what followed the chunk, at a truncation of the episode's final observation; `terminated` and
    `truncated` (T, B) are of the chunk; `discount` and `lam` are of one control step.  Actions that were not made have
    0.  Source: RLinf-VLA (arXiv 2510.06710), "action-level" rewards and values.
    """
    last = made & ~torch.cat([made[..., 1:], torch.zeros_like(made[..., :1])], -1)
    follows = torch.where(last, next_value[..., None], torch.cat([value[..., 1:], value[..., :1]], -1))
    alive = (~(last & terminated[..., None])).to(reward.dtype) * discount
    delta = reward + alive * follows - value
    carry = alive * (~(last & truncated[..., None])) * lam
    advantage, running = torch.zeros_like(delta), torch.zeros_like(delta[0, :, 0])
    for t in reversed(range(len(delta))):
        for h in reversed(range(delta.shape[-1])):
            running = torch.where(made[t, :, h], delta[t, :, h] + carry[t, :, h] * running, running)
            advantage[t, :, h] = torch.where(made[t, :, h], running, 0.0)
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


def standardise(x: Tensor, mask: Tensor | None = None, epsilon: float = 1e-8) -> Tensor:
    """Return (x - mean) / (std + epsilon), both over the entries that `mask` marks (all for None).

    A single entry is only centred; entries outside the mask are 0.
    """
    if mask is not None:
        inside = x[mask]
        return torch.zeros_like(x).masked_scatter(mask, standardise(inside, epsilon=epsilon)) if len(inside) else x * 0
    if x.numel() == 1:
        return x - x
    std, mean = torch.std_mean(x)
    return (x - mean).div_(std + epsilon)


def group_advantages(
    returns: Tensor, group: Tensor, *, leave_one_out: bool = False, scale: bool = True, epsilon: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Advantages (B,) of whole episodes with returns (B,), each against the others of its group (B,) int64.

    GRPO (Shao et al. 2024, arXiv 2402.03300, section 4.1): (R - mean) / std of the group, without the division where
    `scale` is False (Liu et al. 2025, arXiv 2503.20783).  Leave-one-out (RLOO, Ahmadian et al. 2024, arXiv 2402.14740,
    eq. 9): R minus the mean of the others; `scale` has no effect.
    Returns them with (B,) bool, False in groups whose returns are all alike, which teach nothing.
    """
    _, index, size = group.unique(return_inverse=True, return_counts=True)
    count = size.to(returns.dtype)[index]
    zeros = torch.zeros(len(size), dtype=returns.dtype, device=returns.device)
    mean = zeros.index_add(0, index, returns)[index] / count
    centred = returns - mean
    variance = zeros.index_add(0, index, centred**2)[index] / (count - 1).clamp(min=1)
    uneven = variance.sqrt() > epsilon
    if leave_one_out:
        return centred * count / (count - 1).clamp(min=1), uneven
    return (centred / (variance.sqrt() + epsilon) if scale else centred), uneven


def step_and_trajectory_advantages(
    reward: Tensor,
    mask: Tensor,
    returns: Tensor,
    group: Tensor,
    *,
    step: float,
    trajectory: float,
    epsilon: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """TGRPO's advantages (T, B) (Chen et al. 2025, arXiv 2506.08440): step * S + trajectory * T.

    S compares the rewards (T, B) of a group's episodes that still run (mask) at the same step, T their returns (B,);
    each is (x - mean) / std within the group (B,).  Nothing is added where all are alike.
    Returns them with (B,) bool, False in groups that differ at no step and in no return.
    """
    whole, uneven = group_advantages(returns, group, epsilon=epsilon)
    _, index = group.unique(return_inverse=True)
    member = torch.nn.functional.one_hot(index).to(reward.dtype)  # (B, groups)
    real = mask.to(reward.dtype)
    count = (real @ member)[:, index]
    centred = (reward - ((reward * real) @ member)[:, index] / count.clamp(min=1)) * real
    deviation = ((centred**2 @ member)[:, index] / (count - 1).clamp(min=1)).sqrt()
    steps = torch.where(deviation > epsilon, centred / (deviation + epsilon), 0.0)
    differs = ((steps != 0).any(0).to(reward.dtype) @ member)[index] > 0
    weighted = step * steps + trajectory * torch.where(uneven, whole, 0.0)
    return weighted * real, (uneven & (trajectory > 0)) | (differs & (step > 0))
