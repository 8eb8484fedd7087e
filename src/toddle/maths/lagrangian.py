"""A limit on costs as a Lagrangian: how fast the multiplier moves, and what it makes of two advantages.

The constraint is E[cost of an episode] <= b.  Its multiplier ascends the dual by plain steps on the relative violation:
under Adam a step is the rate whatever the violation's size, so the multiplier goes on rising long after the cost fell
below the limit (SafeVLA's release, arXiv 2503.03480, has that).  The proportional part is Stooke et al. 2020,
"Responsive Safety in Reinforcement Learning by PID Lagrangian Methods", arXiv 2007.03964.
"""

from __future__ import annotations

from torch import Tensor

from toddle.maths.advantages import standardise

__all__ = ["mixed_advantage", "risen", "violation"]


def violation(cost: float, limit: float) -> float:
    """Return (cost - limit) / limit; below a limit of 1 the difference itself, so that 0 is a limit too."""
    return (cost - limit) / max(limit, 1.0)


def risen(integral: float, violated: float, *, rate: float) -> float:
    """Return the multiplier after one step of dual ascent: max(0, integral + rate * violated)."""
    return max(0.0, integral + rate * violated)


def mixed_advantage(reward: Tensor, cost: Tensor, multiplier: float, mask: Tensor | None = None) -> Tensor:
    """Return (A_r - multiplier * A_c) / (1 + multiplier) of advantages (T, B), each standardised over the real ones.

    Standardised apart, the multiplier does not depend on the scale of rewards, and divided by 1 + multiplier the step's
    size hardly depends on the multiplier: for independent advantages its deviation is sqrt(1 + l^2) / (1 + l).
    """
    return (standardise(reward, mask) - multiplier * standardise(cost, mask)) / (1.0 + multiplier)
