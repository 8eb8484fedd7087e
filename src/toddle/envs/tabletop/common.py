"""What the tabletop tasks share: starts on the table, distances, and the stages by which experts take things."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from toddle.envs.base import Array
from toddle.envs.tabletop.experts import OPEN, SHUT, Stage, down, nearest_yaw
from toddle.envs.tabletop.task import Moment, Streams, near

__all__ = [
    "CUBE",
    "WIDE",
    "along_x",
    "distance",
    "grasp_stages",
    "holds_cube",
    "lift_stage",
    "reach",
    "square",
    "third_angle",
    "to_goal",
    "turned",
    "yaw_of",
]

CUBE = 0.02
"""Half size of a cube, metres."""
WIDE = math.inf


def turned(angle: Array) -> Rotation:
    return Rotation.from_euler("z", angle[:, None])


def along_x(rotation: Rotation, metres: Array | float) -> Array:
    """Return vectors (N, 3) of so many metres in the direction of the turned x axis."""
    return rotation.apply(np.array([1.0, 0.0, 0.0])) * np.reshape(metres, (-1, 1))


def yaw_of(rotation: Rotation) -> Array:
    """Return the angle (N,) about z of the turned x axis."""
    x = along_x(rotation, 1.0)
    return np.asarray(np.arctan2(x[:, 1], x[:, 0]))


def third_angle(rotation: Rotation) -> Array:
    """Return the third of the Euler angles x, y', z'' (N,), as ManiSkill's rules take it."""
    matrix = rotation.as_matrix()
    return np.asarray(np.arctan2(-matrix[:, 0, 1], matrix[:, 0, 0]))


def square(streams: Streams, half: float = 0.1) -> tuple[Array, Array]:
    drawn = half * (2.0 * streams.uniform(2) - 1.0)
    return drawn[:, 0], drawn[:, 1]


def distance(moment: Moment, a: str, b: str, axes: int = 3) -> Array:
    return np.asarray(np.linalg.norm((moment.at[a] - moment.at[b])[:, :axes], axis=1))


def reach(moment: Moment, thing: str) -> Array:
    return np.asarray(np.linalg.norm(moment.at[thing] - moment.tool, axis=1))


def holds_cube(moment: Moment) -> Array:
    return moment.holds("cube", (CUBE,) * 3)


def to_goal(moment: Moment) -> Array:
    """Return how near the cube is to the goal, (N,) in [0, 1]."""
    return near(distance(moment, "cube", "goal"))


def grasp_stages(thing: str, height: float, *, along: float = 0.0, period: float = math.pi / 2) -> list[Any]:
    """Stages that take a thing from above: over it, down to it, close.  along: metres from its centre, on x."""

    def yaw(moment: Moment) -> Array:
        return nearest_yaw(yaw_of(moment.rotation[thing]), period)

    def point(moment: Moment) -> Array:
        return moment.at[thing] + along_x(moment.rotation[thing], along)

    def stage(up: float, grip: float) -> Stage:
        return lambda moment: (point(moment) + np.array([0.0, 0.0, up]), down(yaw(moment)), grip)

    return [(stage(height, OPEN), 0.02, 0.1), (stage(0.0, OPEN), 0.012, 0.1), (stage(0.0, SHUT), WIDE, WIDE)]


def lift_stage(height: float) -> Stage:
    """The tool straight up to a height, holding what it holds."""

    def stage(now: Moment) -> tuple[Array, Rotation, float]:
        at = now.tool.copy()
        at[:, 2] = height
        return at, now.turn, SHUT

    return stage
