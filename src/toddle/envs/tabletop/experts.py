"""Scripted experts of the tabletop tasks: phases of straight motions of the tool, for all worlds at once.

An expert remembers a phase and a count for each world (`memory`), so that it can wait for its fingers.  It goes on from
whatever it finds: after a lost grasp it begins anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from toddle.envs.base import Array
from toddle.envs.tabletop.control import REACH, TURN
from toddle.envs.tabletop.task import Moment

__all__ = ["Stage", "carry", "down", "follow", "nearest_yaw"]

OPEN, SHUT = 1.0, -1.0
Stage = Callable[[Moment], tuple[Array, Rotation, float]]
"""Moment -> where the tool shall be (N, 3), how it shall be turned (N,), and the gripper."""
WAIT = 3
"""Control steps that fingers get to close or open."""


def down(yaw: Array) -> Rotation:
    """Return (N,): the hand points down, its fingers close across the direction of `yaw` (N,)."""
    return Rotation.from_euler("z", np.asarray(yaw)[:, None]) * Rotation.from_euler("x", np.pi)


def nearest_yaw(wanted: Array, period: float) -> Array:
    """Return the equivalent of an angle, up to multiples of `period`, that lies nearest to 0."""
    return np.asarray((wanted + period / 2) % period - period / 2)


def carry(moment: Moment, thing: str, at: Array, rotation: Rotation) -> tuple[Array, Rotation]:
    """Return the tool's place and turn that bring a held thing to `at` (N, 3) and `rotation` (N,)."""
    back = moment.rotation[thing].inv()
    return at + rotation.apply(back.apply(moment.tool - moment.at[thing])), rotation * back * moment.turn


def follow(
    stages: list[tuple[Stage, float, float]],
    moment: Moment,
    memory: dict[str, Any],
    *,
    grasp: int | None = None,
    held: Array | None = None,
) -> Array:
    """Return actions (N, 7) of the stage each world is in, and go on to the next where it has arrived.

    stages: what it wants, and how near (metres, radians) counts as there; infinite: after `WAIT` control steps.
    grasp: the stage from which something must be held; where `held` (N,) says it is not, the world begins anew.
    """
    phase, count = memory["phase"], memory["count"]
    if grasp is not None and held is not None:
        lost = (phase >= grasp) & ~held & (count > 2 * WAIT)
        phase[lost], count[lost] = 0, 0
    action = np.zeros((len(phase), 7), np.float32)
    there = np.zeros(len(phase), bool)
    for index, (stage, metres, radians) in enumerate(stages):
        own = phase == index
        if not own.any():
            continue
        at, turn, grip = stage(moment)
        away, twist = at - moment.tool, (turn * moment.turn.inv()).as_rotvec()
        motion = np.concatenate([np.clip(1.5 * away / REACH, -1, 1), np.clip(1.5 * twist / TURN, -1, 1)], 1)
        action[own] = np.concatenate([motion, np.full((len(phase), 1), grip)], 1)[own]
        near = (np.linalg.norm(away, axis=1) < metres) & (np.linalg.norm(twist, axis=1) < radians)
        there |= own & (near if np.isfinite(metres) else count >= WAIT)
    count += 1
    on = there & (phase < len(stages) - 1)
    phase[on] += 1
    count[on] = 0
    return action
