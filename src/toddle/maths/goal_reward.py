"""The generic physics reward: goal-conditioned tracking (GCTR), one formula for every body.

All inputs are dimensionless (lengths by L, speeds by sqrt(g L), joints by half-range, torques by their limits), so the
same weights serve an arm, an ant and a humanoid:

    r = sum_i w_i K(e_i) + 0.2 u [floating base] - 0.02 mean(a_t - a_{t-1})^2 - 0.01 mean(tau / tau_max)^2
        - 1.0 sum joint-limit excess - 0.1 [undesired contact]

    K(e) = 0.5 (1 - tanh 1.5 e) + 0.3 exp(-(e / 0.3)^2) + 0.2 exp(-(e / 0.1)^2),      u = (1 + up_z) / 2

The tanh has a slope far from the target, where exponential kernels are flat and nothing is learnt.  The sum of the
joint-limit excesses is capped at 0.3 (docs/goal_tracking.md, decision 4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["goal_success", "item_error", "joint_limit_excess", "kernel", "reward_parts", "total_reward", "upright"]

Array = NDArray[Any]

UPRIGHT, SMOOTHNESS, EFFORT, LIMITS, CONTACT = 0.2, 0.02, 0.01, 1.0, 0.1
"""Weights of the regularisers; the goal itself has weight 1."""
MOST_EXCESS = 0.3
"""Cap of the joint-limit term: a collision may press a light joint far into its soft stop.  With it the reward stays in
[-0.5, 1.2] whatever happens."""


def kernel(error: Array) -> Array:
    """K(e): 1 at e = 0, falling to 0, for errors >= 0 of any shape."""
    squared = np.square(error)
    tail = 0.5 * (1.0 - np.tanh(1.5 * np.asarray(error)))
    return np.asarray(tail + 0.3 * np.exp(squared * (-1 / 0.09)) + 0.2 * np.exp(squared * -100.0))


def item_error(difference: Array) -> Array:
    """e = |y - q| of goal items: (..., V) differences, padded with zeros, to (...)."""
    return np.asarray(np.sqrt(np.einsum("...v,...v->...", difference, difference)))


def upright(up_z: Array) -> Array:
    """u = (1 + up_z) / 2 from the height component of the base's up axis: 1 upright, 0 upside down."""
    return np.asarray(0.5 * (1.0 + np.asarray(up_z)))


def joint_limit_excess(joints: Array) -> Array:
    """How far (N, J) joints, -1..1 over their ranges, stand outside them: sum over the joints, (N,)."""
    return np.asarray(np.maximum(np.abs(joints) - 1.0, 0.0).sum(axis=-1))


def reward_parts(
    *,
    error: Array,
    weight: Array,
    action: Array,
    previous_action: Array,
    torque: Array,
    excess: Array,
    contact: Array,
    up_z: Array | None = None,
    tolerance: Array | float = 0.1,
) -> dict[str, Array]:
    """Return the terms of the reward, each (N,), weighted and signed so that they add up to it.

    Args: error, weight (N, I): e_i and w_i of the goal items, weight 0 where there is none; action, previous_action
        (N, A), clipped to [-1, 1]; torque (N, nu): tau / tau_max; excess, contact (N,); up_z (N,) of a floating base,
        None of a fixed one; tolerance (scalar or (N, 1)): the kernel is stretched by tolerance / 0.1, so that a
        curriculum may begin wide and end at the formula above.
    """
    parts = {
        "goal": np.einsum("ni,ni->n", weight, kernel(error * (0.1 / np.asarray(tolerance)))),
        "smoothness": -SMOOTHNESS * np.square(action - previous_action).mean(axis=-1),
        "effort": -EFFORT * np.square(torque).mean(axis=-1),
        "limits": -LIMITS * np.minimum(excess, MOST_EXCESS),
        "contact": -CONTACT * np.asarray(contact, dtype=np.float64),
    }
    if up_z is not None:
        parts["upright"] = UPRIGHT * upright(up_z)
    return parts


def total_reward(parts: dict[str, Array]) -> Array:
    """Add the parts up: (N,)."""
    return np.asarray(sum(parts.values()))


def goal_success(error: Array, present: Array, tolerance: Array | float = 0.1) -> Array:
    """(N,) bool: every item that is `present` (N, I) has an error (N, I) of at most `tolerance`."""
    return np.asarray(((error <= tolerance) | ~present).all(axis=-1))
