"""The rules of gymnasium's MuJoCo tasks (v5): start, observation, reward and end, for all worlds at once.

Each task is one entry of `TASKS`.  The order of floating-point operations, and of draws from each world's generator,
is that of gymnasium.envs.mujoco.*_v5, so observations and rewards are equal (==) to its own environments'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import mujoco
import numpy as np

from toddle.envs.base import Array

__all__ = ["TASKS", "Locomotion", "Pusher", "Reacher", "Task"]

State = dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task: what is drawn at a reset, what is observed, what is paid, and when it is over."""

    xml: str
    frame_skip: int
    limit: int = 1000
    """Control steps of an episode."""
    pushed: int = 1
    """Leading generalised velocities that a push changes."""
    fields: tuple[str, ...] = ("qpos", "qvel")

    def draw(self, generator: np.random.Generator, model: mujoco.MjModel) -> tuple[Array, Array]:
        """Return the (nq,), (nv,) an episode starts from."""
        raise NotImplementedError

    def observe(self, state: State) -> Array:
        """Return (N, O) float64."""
        raise NotImplementedError

    def mark(self, state: State, model: mujoco.MjModel) -> Array:
        """Return (N,) what must be remembered of the state before a step."""
        return np.zeros(state["qpos"].shape[0])

    def judge(
        self, before: Array, state: State, action: Array, ctrl: Array, model: mujoco.MjModel, dt: float
    ) -> tuple[Array, Array]:
        """Return reward (N,) and terminated (N,) after a step of `dt` seconds.

        `action` (N, A) as given, `ctrl` as applied.
        """
        raise NotImplementedError


def _inside(value: Array, bounds: tuple[float, float]) -> Array:
    return (bounds[0] < value) & (value < bounds[1])


def _sum_of_squares(rows: Array) -> Array:
    """Return (N,) sums over (N, A): numpy's own `sum` without its Python part, half of its time for few numbers."""
    return np.asarray(np.add.reduce(np.square(rows), 1))


def _x_of_root(state: State, model: mujoco.MjModel) -> Array:
    return state["qpos"][:, 0].copy()


def _x_of_torso(state: State, model: mujoco.MjModel) -> Array:
    return state["xpos"][:, 1, 0].copy()


def _x_of_mass_centre(state: State, model: mujoco.MjModel) -> Array:
    return (np.einsum("b,nbj->nj", model.body_mass, state["xipos"]) / model.body_mass.sum())[:, 0]


@dataclass(frozen=True, kw_only=True)
class Locomotion(Task):
    """Run forward: weight * dx/dt + alive - control cost - contact cost."""

    control: float
    """Weight of the squared action."""
    noise: float
    """Scale of the reset noise."""
    hidden: int = 1
    """Leading positions that are not observed."""
    forward: float = 1.0
    alive: float = 0.0
    contact: float = 0.0
    """Weight of the squared contact forces."""
    force_range: tuple[float, float] = (-inf, inf)
    cost_range: tuple[float, float] = (-inf, inf)
    height: tuple[float, float] | None = None
    angle: tuple[float, float] | None = None
    bounded: float = inf
    """Every generalised coordinate from the third on must stay within this."""
    inclusive: bool = False
    """Whether the height may equal its bounds; then the state must also be finite."""
    speed: float = inf
    """Observed velocities are clipped to this."""
    height_at: int = 1
    gaussian: bool = False
    """Whether the velocity noise is normal (else uniform)."""
    x: Callable[[State, mujoco.MjModel], Array] = _x_of_root
    sees: tuple[tuple[str, int], ...] = ()
    """Further observed fields, each with the first row that counts."""
    cost_of_ctrl: bool = False
    """Whether the control cost is taken of the applied control (float64) rather than of the action as given."""

    def draw(self, generator: np.random.Generator, model: mujoco.MjModel) -> tuple[Array, Array]:
        qpos = model.qpos0 + generator.uniform(low=-self.noise, high=self.noise, size=model.nq)
        if self.gaussian:
            return qpos, 0.0 + self.noise * generator.standard_normal(model.nv)
        return qpos, 0.0 + generator.uniform(low=-self.noise, high=self.noise, size=model.nv)

    def _forces(self, state: State) -> Array:
        forces = state["cfrc_ext"]
        return forces if self.force_range == (-inf, inf) else np.clip(forces, *self.force_range)

    def observe(self, state: State) -> Array:
        velocity = state["qvel"] if self.speed == inf else np.clip(state["qvel"], -self.speed, self.speed)
        parts = [state["qpos"][:, self.hidden :], velocity]
        for field, start in self.sees:
            rows = self._forces(state) if field == "cfrc_ext" else state[field]
            parts.append(rows[:, start:].reshape(rows.shape[0], -1))
        return np.concatenate(parts, axis=1)

    def mark(self, state: State, model: mujoco.MjModel) -> Array:
        return self.x(state, model)

    def _healthy(self, state: State) -> Array:
        qpos, qvel = state["qpos"], state["qvel"]
        height, (low, high) = qpos[:, self.height_at], self.height or (-inf, inf)
        if self.inclusive:
            healthy = np.isfinite(qpos).all(1) & np.isfinite(qvel).all(1) & (low <= height) & (height <= high)
        else:
            healthy = _inside(height, (low, high))
        if self.angle is not None:
            healthy &= _inside(qpos[:, 2], self.angle)
        if self.bounded < inf:
            healthy &= (np.abs(qpos[:, 2:]) < self.bounded).all(1) & (np.abs(qvel) < self.bounded).all(1)
        return healthy

    def judge(
        self, before: Array, state: State, action: Array, ctrl: Array, model: mujoco.MjModel, dt: float
    ) -> tuple[Array, Array]:
        velocity = (self.x(state, model) - before) / dt
        gain = velocity if self.forward == 1.0 else self.forward * velocity
        cost = self.control * _sum_of_squares(ctrl if self.cost_of_ctrl else action)
        if self.contact:
            forces = self._forces(state).reshape(before.size, -1)
            cost = cost + np.clip(self.contact * _sum_of_squares(forces), *self.cost_range)
        if self.height is None:  # nothing to fall from
            return gain - cost, np.zeros(gain.size, bool)
        healthy = self._healthy(state)
        return (gain + healthy * self.alive) - cost, ~healthy


@dataclass(frozen=True, kw_only=True)
class Reacher(Task):
    """Bring a two-joint arm's tip to a target in the plane.  Bodies: 3 fingertip, 4 target."""

    xml: str = "reacher.xml"
    frame_skip: int = 2
    limit: int = 50
    pushed: int = 2
    fields: tuple[str, ...] = ("qpos", "qvel", "xpos")

    def draw(self, generator: np.random.Generator, model: mujoco.MjModel) -> tuple[Array, Array]:
        qpos = generator.uniform(low=-0.1, high=0.1, size=model.nq) + model.qpos0
        while True:
            goal = generator.uniform(low=-0.2, high=0.2, size=2)
            if np.linalg.norm(goal) < 0.2:
                break
        qpos[-2:] = goal
        qvel = 0.0 + generator.uniform(low=-0.005, high=0.005, size=model.nv)
        qvel[-2:] = 0
        return qpos, qvel

    def observe(self, state: State) -> Array:
        qpos, vector = state["qpos"], state["xpos"][:, 3] - state["xpos"][:, 4]
        angle = np.ascontiguousarray(qpos[:, :2])
        parts = [np.cos(angle), np.sin(angle), qpos[:, 2:], state["qvel"][:, :2], vector[:, :2]]
        return np.concatenate(parts, axis=1)

    def judge(
        self, before: Array, state: State, action: Array, ctrl: Array, model: mujoco.MjModel, dt: float
    ) -> tuple[Array, Array]:
        vector = state["xpos"][:, 3] - state["xpos"][:, 4]
        reward = -np.sqrt(np.vecdot(vector, vector)) - _sum_of_squares(action)
        return reward, np.zeros(reward.size, bool)


@dataclass(frozen=True, kw_only=True)
class Pusher(Task):
    """Push a cylinder to its goal with a seven-joint arm.  Bodies: 10 tips_arm, 11 object, 12 goal."""

    xml: str = "pusher_v5.xml"
    frame_skip: int = 5
    limit: int = 100
    pushed: int = 7
    fields: tuple[str, ...] = ("qpos", "qvel", "xpos")
    tip: int = 10
    object: int = 11
    goal: int = 12

    def draw(self, generator: np.random.Generator, model: mujoco.MjModel) -> tuple[Array, Array]:
        qpos = model.qpos0.copy()
        while True:
            place = np.array([generator.uniform(low=-0.3, high=0), generator.uniform(low=-0.2, high=0.2)])
            if np.linalg.norm(place) > 0.17:
                break
        qpos[-4:-2], qpos[-2:] = place, 0
        qvel = 0.0 + generator.uniform(low=-0.005, high=0.005, size=model.nv)
        qvel[-4:] = 0
        return qpos, qvel

    def observe(self, state: State) -> Array:
        xpos = state["xpos"]
        places = [xpos[:, self.tip], xpos[:, self.object], xpos[:, self.goal]]
        return np.concatenate([state["qpos"][:, :7], state["qvel"][:, :7], *places], axis=1)

    def judge(
        self, before: Array, state: State, action: Array, ctrl: Array, model: mujoco.MjModel, dt: float
    ) -> tuple[Array, Array]:
        xpos = state["xpos"]
        near, far = xpos[:, self.object] - xpos[:, self.tip], xpos[:, self.object] - xpos[:, self.goal]
        reward = -np.sqrt(np.vecdot(far, far)) + -_sum_of_squares(action) * 0.1
        reward = reward + -np.sqrt(np.vecdot(near, near)) * 0.5
        return reward, np.zeros(reward.size, bool)


TASKS: dict[str, Task] = {
    "HalfCheetah-v5": Locomotion(xml="half_cheetah.xml", frame_skip=5, control=0.1, noise=0.1, gaussian=True),
    "Hopper-v5": Locomotion(
        xml="hopper.xml",
        frame_skip=4,
        control=1e-3,
        noise=5e-3,
        alive=1.0,
        height=(0.7, inf),
        angle=(-0.2, 0.2),
        bounded=100.0,
        speed=10.0,
    ),
    "Walker2d-v5": Locomotion(
        xml="walker2d_v5.xml",
        frame_skip=4,
        control=1e-3,
        noise=5e-3,
        alive=1.0,
        height=(0.8, 2.0),
        angle=(-1.0, 1.0),
        speed=10.0,
    ),
    "Swimmer-v5": Locomotion(xml="swimmer.xml", frame_skip=4, control=1e-4, noise=0.1, hidden=2, pushed=2),
    "Ant-v5": Locomotion(
        xml="ant.xml",
        frame_skip=5,
        control=0.5,
        noise=0.1,
        hidden=2,
        alive=1.0,
        contact=5e-4,
        force_range=(-1.0, 1.0),
        height=(0.2, 1.0),
        height_at=2,
        inclusive=True,
        gaussian=True,
        x=_x_of_torso,
        sees=(("cfrc_ext", 1),),
        fields=("qpos", "qvel", "xpos", "cfrc_ext"),
        pushed=2,
    ),
    "Humanoid-v5": Locomotion(
        xml="humanoid.xml",
        frame_skip=5,
        control=0.1,
        noise=1e-2,
        hidden=2,
        forward=1.25,
        alive=5.0,
        contact=5e-7,
        cost_range=(-inf, 10.0),
        height=(1.0, 2.0),
        height_at=2,
        x=_x_of_mass_centre,
        cost_of_ctrl=True,
        sees=(("cinert", 1), ("cvel", 1), ("qfrc_actuator", 6), ("cfrc_ext", 1)),
        fields=("qpos", "qvel", "xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext"),
        pushed=2,
    ),
    "Reacher-v5": Reacher(),
    "Pusher-v5": Pusher(),
}
