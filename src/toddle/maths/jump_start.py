"""A teacher's coarse motion as a direction for a learner, after VLAJS ("Jump-Start RL with VLA Regularization").

delta = (translation, rotation vector)      what the teacher says, for D control steps
increment = delta / D                       translation: linear; rotation: SLERP, for q^(1/D) turns by 1/D of the
                                            angle about the same axis
L_dir = E[valid sum_c (1 - cos(mu_c, target_c))],  c over position and rotation
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["calls_of", "direction_loss", "gain_of", "rising", "shortest", "squared_loss"]

LEAST = 1e-3
"""A teacher's component that is shorter than this says no direction."""
EPSILON = 1e-8
"""In the denominator of the cosine."""


def shortest(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rotation vectors (..., 3) of the same rotations that turn by at most pi, as SLERP goes."""
    angle = np.linalg.norm(rotation, axis=-1, keepdims=True)
    turned = angle - 2.0 * np.pi * np.round(angle / (2.0 * np.pi))
    return np.asarray(rotation * np.divide(turned, angle, out=np.ones_like(angle), where=angle > 0.0))


def direction_loss(mean: Tensor, target: Tensor, valid: Tensor, parts: Sequence[slice]) -> tuple[Tensor, Tensor]:
    """Return L_dir and the mean cosine of what counts, from mean actions and targets (..., A) and `valid` (...) bool.

    parts: where position and rotation stand in an action; what is in none is left free.  The mean is over all
    decisions, those without a target count 0; a part whose target is shorter than LEAST is skipped.
    """
    total, cosines, counted = mean.new_zeros(()), mean.new_zeros(()), mean.new_zeros(())
    for part in parts:
        own, wanted = mean[..., part], target[..., part]
        length = wanted.norm(dim=-1)
        used = valid & (length >= LEAST)
        cosine = (own * wanted).sum(-1) / (own.norm(dim=-1) * length + EPSILON)
        total = total + torch.where(used, 1.0 - cosine, 0.0).sum()
        cosines = cosines + torch.where(used, cosine.detach(), 0.0).sum()
        counted = counted + used.sum()
    return total / valid.numel(), cosines / counted.clamp(min=1)


def squared_loss(mean: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Return the squared distance of mean actions to targets (..., A): the mean over numbers and over all decisions,
    those without a target count 0 (RPD, arXiv 2503.05833, with a target everywhere)."""
    return torch.where(valid, (mean - target).square().mean(-1), 0.0).mean()


def gain_of(rewards: Sequence[float], window: int) -> float:
    """Return how much the mean reward of the last `window` / 2 rollouts is above that of as many before, at least 0.

    0 while there are fewer than `window`.
    """
    if len(rewards) < window:
        return 0.0
    half = window // 2
    recent, older = rewards[-half:], rewards[-2 * half : -half]
    return max(0.0, sum(recent) / half - sum(older) / half)


def calls_of(most: int, least: int, kappa: float, gain: float) -> int:
    """Return max(least, floor(most exp(-kappa gain)))."""
    return max(least, math.floor(most * math.exp(-kappa * gain)))


def rising(rewards: Sequence[float], times: int) -> bool:
    """Whether the reward has risen from rollout to rollout `times` times in a row, up to the last."""
    last = rewards[-times - 1 :]
    return len(last) == times + 1 and all(later > earlier for earlier, later in itertools.pairwise(last))
