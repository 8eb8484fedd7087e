"""Control of an arm by small motions of its tool: damped least squares for many worlds at once.

    dq = J^T (J J^T + lambda^2 I)^-1 dx        Wampler 1986, IEEE Trans. SMC 16

One step of it from the joints as they are, as ManiSkill's `pd_ee_delta_pose` takes on a GPU; the servos do the rest.
"""

from __future__ import annotations

import numpy as np

from toddle.envs.base import Array

__all__ = ["DAMPING", "REACH", "TURN", "joint_motion", "tool_jacobian"]

REACH, TURN = 0.1, 0.1
"""Metres and radians that an action of 1 asks for in one control step (ManiSkill's limits)."""
DAMPING = 0.03


def tool_jacobian(anchor: Array, axis: Array, tool: Array) -> Array:
    """Return the Jacobian (N, 6, J) of a tool at (N, 3): its linear, then its angular velocity, for each hinge.

    anchor, axis: (N, J, 3), a point of each hinge and its unit axis, in the world.
    """
    linear = np.cross(axis, tool[:, None] - anchor)
    return np.swapaxes(np.concatenate([linear, axis], -1), 1, 2)


def joint_motion(jacobian: Array, motion: Array, damping: float = DAMPING) -> Array:
    """Return joint motions (N, J) for tool motions (N, 6): metres, then a rotation vector in radians."""
    square = jacobian @ np.swapaxes(jacobian, 1, 2)
    square[:, range(6), range(6)] += damping**2
    found: Array = np.einsum("nij,ni->nj", jacobian, np.linalg.solve(square, motion[..., None])[..., 0])
    return found
