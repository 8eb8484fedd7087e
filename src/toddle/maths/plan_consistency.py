"""How well a plan says where one goes: the reward of ThinkAct (Huang et al. 2025, arXiv 2507.16815).

    goal = max(0, 1 - |p_K - q_K|^2),    path = max(0, 1 - d(p, q) / K)

of a planned path p and the one that was made q, K points each, d the distance by dynamic time warping.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toddle.maths.trajectories import dtw

__all__ = ["plan_rewards"]

Array = NDArray[np.float64]


def plan_rewards(planned: Array, made: Array) -> tuple[Array, Array]:
    """Return goal and path, (N,) each in [0, 1], of paths (N, K, D) whose unit is the farthest that one can go."""
    end = np.square(planned[:, -1] - made[:, -1]).sum(-1)
    apart = np.array([dtw(p, q) for p, q in zip(planned, made, strict=True)]) / planned.shape[1]
    return np.maximum(0.0, 1.0 - end), np.maximum(0.0, 1.0 - apart)
