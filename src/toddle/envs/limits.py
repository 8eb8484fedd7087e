"""Limits on how fast a tool moves, how hard it presses and where it goes, below whatever policy acts.

The action is limited at every control step, just before the simulator has it, from where the tool is then: the motion
asked for is measured from the tool itself and not from the last target, so that nothing winds up against a wall
(HIL-SERL's impedance controller limits its target likewise, arXiv 2410.21845).  A vector is made shorter and keeps its
direction, but for the box, which stops each axis at its own wall.  Without limits an environment is what it was to the
bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Finite, Positive

if TYPE_CHECKING:
    from toddle.envs.base import Array, BatchedEnv

__all__ = ["Limits", "LimitsConfig"]


@config
class LimitsConfig:
    """Limits below the policy, on what every action asks for; none where nothing is given (docs/safety.md)."""

    speed: Positive | None = None
    """Metres a second by which the tool is told to move, at most.  A turn swings its tip besides (`turn`)."""
    turn: Positive | None = None
    """Radians a second by which the tool is told to turn, at most."""
    force: Positive | None = None
    """Newtons with which the tool presses once it is held up, at most, where the arm's stiffness is known (tabletop/).
    A blow can be harder for a moment: that is for the speed to limit."""
    box: tuple[Finite, ...] = ()
    """Metres, x y z of the least and x y z of the greatest place to which the tool is told to go."""

    def __post_init__(self) -> None:
        low, high = self.box[:3], self.box[3:]
        if self.box and (len(self.box) != 6 or any(a >= b for a, b in zip(low, high))):
            raise problem("box", "six numbers, the least x y z before the greatest", self.box)

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self != LimitsConfig()


class Limits:
    """The limits of an environment's worlds."""

    def __init__(self, settings: LimitsConfig, env: BatchedEnv) -> None:
        """Raises InputError where actions are no motions of a tool, or what is limited is not known there."""
        if env.action_parts is None:
            raise problem("limits", "an environment whose actions are motions of a tool", env.name)
        self.settings, self.env, self.parts = settings, env, env.action_parts
        if settings.turn is not None and self.parts.rotation is None:
            raise problem("limits.turn", "none where actions do not turn the tool", settings.turn)
        if settings.force is not None:
            env.pressing(np.zeros((env.num_envs, *env.single_action_space.shape)))
        self._box = np.reshape(settings.box, (2, 3)) if settings.box else None
        self._last: Array = np.zeros((env.num_envs, *env.single_action_space.shape), np.float32)
        self._cut = np.zeros(env.num_envs, bool)

    def apply(self, actions: Array) -> Array:
        """Return the actions (N, A) of one control step as the simulator gets them."""
        space, settings, parts = self.env.single_action_space, self.settings, self.parts
        found = np.clip(np.asarray(actions, np.float64), space.low, space.high)
        for part, most in ((parts.position, settings.speed), (parts.rotation, settings.turn)):
            if most is not None and part is not None:
                unit = parts.reach if part is parts.position else parts.turn
                found[:, part] *= _shrunk(np.linalg.norm(found[:, part], axis=1), most * self.env.dt / unit)[:, None]
        if self._box is not None:
            place = self.env.tool_pose()["tool_position"]
            target = np.clip(place + parts.reach * found[:, parts.position], *self._box)
            wanted = (target - place) / parts.reach  # from outside the box straight back, as fast as may be
            size = np.maximum(np.linalg.norm(found[:, parts.position], axis=1), self._pace())
            found[:, parts.position] = wanted * _shrunk(np.linalg.norm(wanted, axis=1), size)[:, None]
            found = np.clip(found, space.low, space.high)
        if settings.force is not None:
            shrunk = _shrunk(self.env.pressing(found), settings.force)[:, None]
            for motion in parts.motions:
                found[:, motion] *= shrunk
        self._last = found.astype(actions.dtype)
        self._cut = (self._last != actions).any(1)
        return self._last

    def _pace(self) -> float:
        speed = self.settings.speed
        return 1.0 if speed is None else min(1.0, speed * self.env.dt / self.parts.reach)

    def report(self) -> dict[str, Array]:
        """Return `executed` (N, A), the last actions as the simulator had them, and `limited` (N,), whether changed."""
        return {"executed": self._last.copy(), "limited": self._cut.copy()}


def _shrunk(sizes: Array, most: Any) -> Array:
    """Return the factors (N,) that bring sizes (N,) to at most `most`."""
    factors: Array = np.minimum(1.0, most / np.maximum(sizes, 1e-300))
    return factors
