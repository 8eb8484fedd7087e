"""Fork: a point mass, a wall, and a goal behind it; two ways round, alike in length.  A task with two solutions.

The reward is 1 on reaching the goal and 0 before.  `info["side"]` says on which side of the wall (+1 above, -1 below,
0 not yet) a world passed.  Lengths in metres, mass 1 kg, no gravity.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np

from toddle.envs.base import Array, BatchedEnv
from toddle.envs.mujoco_pool import MujocoPool

__all__ = ["ForkEnv"]

XML = """
<mujoco model="fork">
  <option timestep="0.02" gravity="0 0 0"/>
  <default><geom contype="1" conaffinity="1"/></default>
  <worldbody>
    <light pos="1 0 4"/>
    <camera name="top" pos="1 0 4.2" xyaxes="1 0 0 0 1 0"/>
    <geom name="wall" type="box" size="0.08 0.6 0.1" pos="1 0 0.1" rgba="0.3 0.3 0.35 1"/>
    <geom type="box" size="1.6 0.02 0.1" pos="1 1.3 0.1"/><geom type="box" size="1.6 0.02 0.1" pos="1 -1.3 0.1"/>
    <geom type="box" size="0.02 1.3 0.1" pos="-0.6 0 0.1"/><geom type="box" size="0.02 1.3 0.1" pos="2.6 0 0.1"/>
    <site name="goal" pos="2 0 0.02" size="0.25 0.01" type="cylinder" rgba="0.1 0.7 0.3 0.6"/>
    <body name="point" pos="0 0 0.1">
      <joint name="x" type="slide" axis="1 0 0"/><joint name="y" type="slide" axis="0 1 0"/>
      <geom type="sphere" size="0.06" mass="1" rgba="0.85 0.3 0.1 1"/>
    </body>
  </worldbody>
  <actuator><velocity joint="x" kv="20"/><velocity joint="y" kv="20"/></actuator>
</mujoco>
"""
GOAL, RADIUS, WALL = np.array([2.0, 0.0]), 0.25, 1.0


class ForkEnv(BatchedEnv):
    """Observation (N, 4): position and velocity.  Action (N, 2): wanted velocity, 1 = `speed` m/s.  Steps of 0.1 s."""

    def __init__(
        self, num_envs: int, *, seed: int = 0, threads: int = 1, max_episode_steps: int = 30, speed: float = 2.0
    ) -> None:
        """Build N worlds; `seed` seeds the start noise until `reset` is given another."""
        self.speed = speed
        self.num_envs, self.name, self.body, self.dt = num_envs, "fork/point", "point", 0.1
        self.max_episode_steps = max_episode_steps
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.pool = MujocoPool(mujoco.MjModel.from_xml_string(XML), num_envs, threads=threads)
        self._side = np.zeros(num_envs, dtype=np.int64)
        self._generators = [np.random.default_rng(seed + i) for i in range(num_envs)]
        self._allocate()

    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        starts = np.zeros((self.num_envs, 2))
        for world in np.flatnonzero(mask):
            if seeds is not None and seeds[world] is not None:
                self._generators[world] = np.random.default_rng(seeds[world])
            starts[world] = self._generators[world].uniform(-0.02, 0.02, 2)
        self._side[mask] = 0
        self.pool.set_state(mask, starts, np.zeros_like(starts))

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        before = self.pool.state["qpos"][:, 0].copy()
        self.pool.ctrl[:] = self.speed * np.clip(action, -1.0, 1.0)
        self.pool.step(5, active)
        position = self.pool.state["qpos"]
        crossed = active & (before < WALL) & (position[:, 0] >= WALL)
        self._side = np.where(crossed, np.sign(position[:, 1]).astype(np.int64), self._side)
        reached = np.linalg.norm(position - GOAL, axis=1) < RADIUS
        truncated = self._length + 1 >= self.max_episode_steps
        return reached.astype(np.float64), reached, truncated & ~reached

    def _observe(self) -> Array:
        return np.concatenate([self.pool.state["qpos"], self.pool.state["qvel"]], 1)

    def _infos(self) -> dict[str, Array]:
        reached = np.linalg.norm(self.pool.state["qpos"] - GOAL, axis=1) < RADIUS
        return {"success": reached, "side": self._side.copy()}

    def state_dict(self) -> dict[str, Any]:
        """Return counters, physics and the generators' states."""
        generators = [generator.bit_generator.state for generator in self._generators]
        return super().state_dict() | {"pool": self.pool.state_dict(), "side": self._side.copy(), "random": generators}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.pool.load_state_dict(state["pool"])
        self._side = np.asarray(state["side"]).copy()
        for generator, saved in zip(self._generators, state["random"], strict=True):
            generator.bit_generator.state = saved
