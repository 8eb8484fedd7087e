"""Gymnasium's MuJoCo tasks (v5) over the pool: bit for bit the same numbers, without Python per world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.utils.seeding import np_random

from toddle.core.errors import nearest, problem
from toddle.core.rendering import RenderSettings
from toddle.envs.base import Array, BatchedEnv
from toddle.envs.gymnasium_rules import TASKS
from toddle.envs.pools import MUJOCO, PhysicsConfig, Pool, make_pool
from toddle.envs.scene_renderer import FreeCamera, Renderers

__all__ = ["TASKS", "GymnasiumEnv"]

_ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"


class GymnasiumEnv(BatchedEnv):
    """N worlds of one gymnasium task.  Observations (N, O) float64; world i is gymnasium's env seeded `seed + i`.

    Infos: `unstable` (N,) bool, MuJoCo met a bad number in this episode (as gymnasium, it goes on from a fresh state).
    """

    def __init__(
        self,
        task: str,
        num_envs: int,
        *,
        seed: int = 0,
        threads: int = 1,
        native_actions: bool = False,
        max_episode_steps: int | None = None,
        render: RenderSettings | None = None,
        physics: PhysicsConfig = MUJOCO,
    ) -> None:
        """Build the worlds.

        Actions lie in [-1, 1] (clipped) and are scaled to the task's range, or are in the task's own units and not
        clipped with `native_actions`.  Raises InputError for an unknown task, and where `physics` cannot step it.
        """
        if task not in TASKS:
            raise problem("task", "a gymnasium MuJoCo task", task, nearest(task, TASKS))
        self._task = TASKS[task]
        model = mujoco.MjModel.from_xml_path(str(_ASSETS / self._task.xml))
        self._pool = make_pool(physics, model, num_envs, threads=threads, fields=self._task.fields)
        self.name, self.body, self.num_envs = f"gymnasium/{task}", task.split("-")[0].lower(), num_envs
        self.dt = model.opt.timestep * self._task.frame_skip
        self.max_episode_steps = max_episode_steps or self._task.limit
        low, high = model.actuator_ctrlrange.T
        self._native = native_actions
        self._centre, self._half = (high + low) / 2, (high - low) / 2
        self._scaled = bool((self._centre != 0).any() or (self._half != 1).any())
        low, high = (low, high) if native_actions else (-np.ones(model.nu), np.ones(model.nu))
        self.single_action_space = gymnasium.spaces.Box(low.astype(np.float32), high.astype(np.float32))
        width = self._task.observe(self._pool.state).shape[1]
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float64)
        self._generators = [np_random(seed + i)[0] for i in range(num_envs)]
        x, y, z = (float(value) for value in model.stat.center)
        view = FreeCamera(lookat=(x, y, z), distance=1.5 * model.stat.extent, azimuth=90.0, elevation=-30.0)
        self._renderers = Renderers(lambda: model, render, free_cameras={"free": view})
        self._allocate()

    @property
    def pool(self) -> Pool:
        """The worlds' physics."""
        return self._pool

    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        worlds = np.flatnonzero(mask)
        for world in worlds:
            if seeds is not None and seeds[world] is not None:
                self._generators[world] = np_random(seeds[world])[0]
        draws = [self._task.draw(self._generators[world], self._pool.model) for world in worlds]
        if draws:
            qpos, qvel = (np.stack(part) for part in zip(*draws))
            self._pool.set_state(mask, qpos, qvel)

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        pool, task = self._pool, self._task
        before = task.mark(pool.state, pool.model)
        if self._native:
            pool.ctrl[:] = action
        else:
            np.minimum(np.maximum(action, -1.0), 1.0, out=pool.ctrl)
            if self._scaled:
                pool.ctrl[:] = self._centre + self._half * pool.ctrl
            action = pool.ctrl
        pool.step(task.frame_skip, None if active.all() else active)
        reward, terminated = task.judge(before, pool.state, action, pool.ctrl, pool.model, self.dt)
        return reward, terminated, self._length + 1 >= self.max_episode_steps

    def _infos(self) -> dict[str, Array]:
        return {"unstable": self._pool.unstable}

    def _observe(self) -> Array:
        return self._task.observe(self._pool.state)

    def state_dict(self) -> dict[str, Any]:
        generators = [generator.bit_generator.state for generator in self._generators]
        return super().state_dict() | {"pool": self._pool.state_dict(), "generators": generators}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._pool.load_state_dict(state["pool"])
        for generator, saved in zip(self._generators, state["generators"], strict=True):
            generator.bit_generator.state = saved

    def push(self, mask: Array, generator: np.random.Generator, strength: float = 1.0) -> None:
        """Add a velocity of 0.5 * strength in a random direction to the root (m/s; of arms: to the joints, rad/s)."""
        qvel = self._pool.state["qvel"].copy()
        kick = generator.standard_normal(qvel[:, : self._task.pushed].shape)
        qvel[:, : self._task.pushed] += 0.5 * strength * kick / np.linalg.norm(kick, axis=1, keepdims=True)
        self._pool.write("qvel", mask, qvel)

    def physics(self, world: int) -> tuple[Any, Any]:
        """Return the world's MjModel and MjData."""
        return self._pool.inside(world)

    def own_models(self) -> None:
        """Give every world an MjModel of its own."""
        self._pool.separate()

    def render_worlds(self, worlds: list[int], width: int = 256, height: int = 256, camera: str | None = None) -> Array:
        """Return (len(worlds), height, width, 3) uint8 pictures, by default from the task's tracking camera."""
        renderer = self._renderers.get(width, height)
        camera = camera or ("track" if "track" in renderer.cameras else "free")
        renderer.check_camera(camera)
        return np.stack([renderer.render(*self._pool.pictured(world), camera) for world in worlds])

    def close_extras(self, **kwargs: Any) -> None:
        """Give back threads and the graphics context."""
        self._renderers.close()
        self._pool.close()
