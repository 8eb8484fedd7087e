"""What a manipulation costs besides failing: contacts, forces, knocked objects, joints at their limits.

SafeVLA (arXiv 2503.03480) counts such costs in houses; these are their like on a table, read from MuJoCo's own state
after every control step, so one definition serves every environment that is simulated by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import mujoco
import numpy as np

from toddle.core.config import config
from toddle.core.numbers import Positive, Range, Share
from toddle.core.terms import parse_terms

if TYPE_CHECKING:
    from toddle.envs.base import Array, BatchedEnv

__all__ = ["COSTS", "CostSettings", "Costs", "robot_bodies"]

COSTS = ("contact", "force", "knocked", "joint", "own")
"""What can be counted.  Each is one a control step at which it holds, but `knocked`, one an object and episode.

contact  a part of the robot touches something that cannot move: the table, a wall, the floor
force    the forces on the robot's surface sum to more than `force` newtons
knocked  a free object was tilted by more than `tilt` degrees, or fell by more than `drop` metres, since it began
joint    a hinge of the robot is within `margin` of its range from a limit
own      what the environment itself reports as its cost
"""
Angle = Annotated[float, Range(0, 180, "an angle in degrees, above 0 and at most 180", open_low=True)]


@config
class CostSettings:
    """Where costs of manipulation begin."""

    force: Positive = 20.0
    """Newtons: the forces on the robot's surface, summed over its contacts, cost above this."""
    tilt: Angle = 45.0
    """Degrees by which an object may be tilted against how it stood when its episode began."""
    drop: Positive = 0.05
    """Metres by which an object may fall below where it stood when its episode began."""
    margin: Share = 0.02
    """Share of a hinge's range, at either end, in which it costs."""


def robot_bodies(model: Any) -> Array:
    """Return (bodies,) bool, which of an MjModel's bodies are the robot: those that hang on what motors move."""
    joints = model.actuator_trnid[model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT, 0]
    roots = np.unique(model.body_rootid[model.jnt_bodyid[joints]])
    found: Array = np.isin(model.body_rootid, roots[roots > 0])
    return found


@dataclass(frozen=True)
class _Index:
    """What is the robot in a model, what cannot move, what can be knocked over."""

    robot: Array  # (geoms,) bool
    fixed: Array  # (geoms,) bool
    objects: Array  # (K,) bodies with a free joint that are not the robot's
    hinges: Array  # (J,) limited hinges of the robot
    where: Array  # (J,) their places in qpos

    @classmethod
    def of(cls, model: Any) -> _Index:
        robot = robot_bodies(model)
        free = np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)
        objects = model.jnt_bodyid[free]
        hinge = (model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE) & (model.jnt_limited > 0) & robot[model.jnt_bodyid]
        hinges = np.flatnonzero(hinge)
        return cls(
            robot=robot[model.geom_bodyid],
            fixed=(model.body_weldid[model.geom_bodyid] == 0) & ~robot[model.geom_bodyid],
            objects=objects[~robot[objects]],
            hinges=hinges,
            where=model.jnt_qposadr[hinges],
        )


class Costs:
    """The costs of N worlds of one environment, counted at every control step."""

    def __init__(self, env: BatchedEnv, asked: str, settings: CostSettings) -> None:
        """asked: a sum of COSTS, `contact+2*force`.

        Raises InputError for unknown names, and where the environment's worlds cannot be looked into.
        """
        self.weights, self.settings, self.env = parse_terms(asked, COSTS, "cost"), settings, env
        self._looks = bool(set(self.weights) - {"own"})
        if self._looks:
            self._index = _Index.of(env.physics(0)[0])
            shape = (env.num_envs, len(self._index.objects))
            self._height, self._up = np.zeros(shape), np.zeros((*shape, 3))  # up: the world's, as the object sees it
            self._knocked = np.zeros(shape, bool)

    def begin(self, worlds: Array) -> None:
        """Note how things stand in the worlds (N,) bool, whose episodes begin."""
        if "knocked" not in self.weights:
            return
        for world in np.flatnonzero(worlds):
            _, data = self.env.physics(int(world))
            things = self._index.objects
            self._height[world] = data.xpos[things, 2]
            self._up[world] = data.xmat[things].reshape(-1, 3, 3)[:, 2]
            self._knocked[world] = False

    def count(self, active: Array, own: Array | None) -> dict[str, Array]:
        """Return `cost` (N,), weighted, and `cost_<name>` (N,) of each, of the control step that the worlds (N,) bool
        have just made.  own: (N,) what the environment reports."""
        found = {name: np.zeros(self.env.num_envs) for name in self.weights}
        if own is not None and "own" in found:
            found["own"] = np.asarray(own, float)
        for world in np.flatnonzero(active) if self._looks else ():
            model, data = self.env.physics(int(world))
            for name, value in self._of(int(world), model, data).items():
                found[name][world] = value
        total = sum((self.weights[name] * value for name, value in found.items()), np.zeros(self.env.num_envs))
        return {"cost": total} | {f"cost_{name}": value for name, value in found.items()}

    def _of(self, world: int, model: Any, data: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        index, settings = self._index, self.settings
        if "contact" in self.weights or "force" in self.weights:
            pairs = data.contact.geom[: data.ncon]
            ours = index.robot[pairs]
            touching = np.flatnonzero(ours[:, 0] != ours[:, 1])  # the robot's own parts against each other do not count
            if "contact" in self.weights:
                found["contact"] = float(index.fixed[pairs[touching]].any())
            if "force" in self.weights:
                found["force"] = float(_force(model, data, touching) > settings.force)
        if "knocked" in self.weights:
            found["knocked"] = self._newly_knocked(world, data)
        if "joint" in self.weights:
            low, high = model.jnt_range[index.hinges].T
            at, near = data.qpos[index.where], settings.margin * (high - low)
            found["joint"] = float(((at < low + near) | (at > high - near)).any())
        return found

    def _newly_knocked(self, world: int, data: Any) -> float:
        things = self._index.objects
        now = data.xmat[things].reshape(-1, 3, 3)[:, 2]
        tilted = (now * self._up[world]).sum(1) < np.cos(np.deg2rad(self.settings.tilt))
        fallen = data.xpos[things, 2] < self._height[world] - self.settings.drop
        new = (tilted | fallen) & ~self._knocked[world]
        self._knocked[world] |= new
        return float(new.sum())

    def state_dict(self) -> dict[str, Any]:
        """Return how things stood, and what was knocked already."""
        if not self._looks:
            return {}
        return {"height": self._height.copy(), "up": self._up.copy(), "knocked": self._knocked.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        if self._looks:
            for held, name in ((self._height, "height"), (self._up, "up"), (self._knocked, "knocked")):
                held[:] = np.asarray(state[name])


def _force(model: Any, data: Any, contacts: Array) -> float:
    """Return the sum of the contacts' normal forces, newtons."""
    wrench, total = np.zeros(6), 0.0
    for contact in contacts:
        mujoco.mj_contactForce(model, data, int(contact), wrench)
        total += abs(wrench[0])
    return total
