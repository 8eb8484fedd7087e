"""Walking as goals of the generic physics reward: commands, what a step of a foot earns, how a goal is met.

All of it is dimensionless as the reward is (speeds in sqrt(g L), times in sqrt(L / g)), so a forward speed of 0.35 is
0.6 m/s for a small quadruped and 1.2 m/s for a humanoid: the Froude number decides about gaits, not the speed
(Alexander and Jayes 1983).  Air time is paid as in Rudin et al. 2022 (arXiv 2109.11978), at landing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FORWARD",
    "GAIT",
    "KINDS",
    "LEAST",
    "SENTENCES",
    "SIDEWAYS",
    "TURN",
    "air_time",
    "commands",
    "gait_velocity",
    "made_good",
    "mean_velocity",
    "slope",
]

Array = NDArray[Any]

KINDS = ("velocity", "heading", "height", "stand", "recovery")
"""Kinds of goals, in the order of their numbers."""
LEAST = 0.12
"""Smallest speed of a command to walk: above the tolerance of 0.1, so that who stands still tracks none."""
FORWARD, BACKWARD, SIDEWAYS, TURN = 0.35, 0.2, 0.15, 0.25
"""Largest speeds, and rate of turning, of a command."""
AIR, SHORT, LONG = 0.3, 0.75, 2.0
"""Weight of air time; the time in the air that earns nothing; the longest that counts."""
GAIT = 1.5
"""Time over which a velocity is averaged, about half a stride: a gait sways, and goals do not ask it not to."""
SENTENCES = {
    "stand still": (0.0, 0.0, 0.0),
    "walk forward slowly": (0.15, 0.0, 0.0),
    "walk forward fast": (0.35, 0.0, 0.0),
    "walk backward": (-0.18, 0.0, 0.0),
    "walk forward and turn left": (0.2, 0.0, 0.2),
    "walk forward and turn right": (0.2, 0.0, -0.2),
}
"""What is said, and the velocity it asks for: forward, sideways, turning to the left, dimensionless.  Any two are
farther apart than the tolerance of 0.1, and all are within what `walk/<body>` teaches."""
SLOW = 0.8
"""Share of the largest speeds at which the curriculum begins: slower, and standing still earns nearly as much."""


def commands(uniform: Array, level: float = 1.0) -> Array:
    """Return velocities to walk at, (N, 3): forward, sideways, rate of turning.

    uniform (N, 5) in [0, 1): whether straight on (half of them), whether backwards (a fifth), and the three speeds.
    level: 0 to 1 of the curriculum, which begins at SLOW of the largest speeds.
    """
    share = SLOW + (1.0 - SLOW) * level
    straight, back = uniform[:, 0] < 0.5, uniform[:, 1] < 0.2
    most = np.maximum(LEAST, share * np.where(back, BACKWARD, FORWARD))
    forward = (LEAST + (most - LEAST) * uniform[:, 2]) * np.where(back, -1.0, 1.0)
    aside = np.where(straight[:, None], 0.0, share * (2.0 * uniform[:, 3:5] - 1.0) * (SIDEWAYS, TURN))
    return np.concatenate([forward[:, None], aside], axis=1)


def air_time(air: Array, contact: Array, step: float) -> tuple[Array, Array]:
    """Return the feet's time in the air after a step, (N, F), and what those that landed are paid, (N,).

    air (N, F): their time in the air before it, in sqrt(L / g); contact (N, F): whether they touch the ground now;
    step: a control step in sqrt(L / g).  A landing earns AIR * (min(t, LONG) - SHORT) / F: a foot that patters pays,
    one that takes long steps earns, whatever the gait.
    """
    landed = contact & (air > 0.0)
    paid = AIR * ((np.minimum(air, LONG) - SHORT) * landed).mean(axis=1)
    return np.where(contact, 0.0, air + step), paid


def gait_velocity(mean: Array, velocity: Array, step: float) -> Array:
    """Return the running mean (N, 3) of the velocities after a step in which they were `velocity` (N, 3).

    step: a control step in sqrt(L / g).  The mean forgets over the time GAIT.
    """
    return np.asarray(mean + (1.0 - np.exp(-step / GAIT)) * (velocity - mean))


def mean_velocity(total: Array, count: Array, now: Array) -> Array:
    """Return total / count (N, 3), the mean over a part of the goal; what it is `now` (N, 3) where nothing was counted.

    A gait sways: the velocity of one moment says little of how a command is followed.
    """
    return np.asarray(np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], now))


def made_good(velocity: Array, command: Array) -> Array:
    """Return the speed (N,) of velocities (N, 2 or more) along the commands' planar direction; 0 without one."""
    wanted = command[:, :2]
    size = np.linalg.norm(wanted, axis=1)
    return np.asarray(np.einsum("nv,nv->n", velocity[:, :2], wanted) / np.maximum(size, 1e-9))


def slope(command: Array, reached: Array) -> float:
    """Return how much the speeds reached (N,) grow with those commanded (N,): least squares, with a constant.

    1 follows, 0 takes no notice; NaN where the commands are all alike.
    """
    away = command - command.mean()
    spread = float(away @ away)
    return float(away @ reached) / spread if spread > 0 else float("nan")
