"""ManiSkill's tasks as one batched simulation on a GPU.  Written after the package's own interface and NOT RUN yet.

A world's start does not follow from its seed alone: ManiSkill draws the starts of all worlds that begin together from
one generator on the GPU.  A world that must stand still is put back to where it stood after each step.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from toddle.envs.base import Array, BatchedEnv, Obs
from toddle.envs.maniskill import check_settings, make_simulation, native, numbers, state_body
from toddle.envs.maniskill_rules import SENTENCES, tool_of

__all__ = ["ManiskillGpuEnv"]


class ManiskillGpuEnv(BatchedEnv):
    """N worlds of one task in one simulation on the GPU; options, observations and rewards are `ManiskillEnv`'s.

    There are no experts here, and a resume is as near as ManiSkill's own `set_state`, not bitwise.
    """

    def __init__(
        self,
        task: str,
        num_envs: int,
        *,
        seed: int = 0,
        cameras: tuple[str, ...] = (),
        image_size: int = 96,
        max_episode_steps: int | None = None,
        horizon_scale: int = 1,
        terminate_on_success: bool = False,
        observation: Literal["auto", "arm", "state"] = "auto",
        reward: Literal["dense", "sparse", "success"] = "dense",
    ) -> None:
        """Build the worlds.  Raises InputError for unknown names, and where pictures cannot be drawn."""
        check_settings(task, num_envs, cameras, observation, reward, horizon_scale, max_episode_steps)
        self.name, self.task, self.num_envs, self.cameras = f"maniskill/{task}", task, num_envs, tuple(cameras)
        self.told = ("arm" if cameras else "state") if observation == "auto" else observation
        self.body = "panda_tool" if self.told == "arm" else state_body(task)
        self.ends, self.instruction = terminate_on_success, [SENTENCES[task]] * num_envs
        self.sim = make_simulation(task, num_envs, reward=reward, cameras=self.cameras, size=image_size, gpu=True)
        self.dt = float(self.sim.control_timestep)
        self.published_steps = gymnasium.spec(task).max_episode_steps or 100
        self.max_episode_steps = max_episode_steps or horizon_scale * self.published_steps
        self._success, self._success_now = np.zeros(num_envs, bool), np.zeros(num_envs, bool)
        self.sim.reset(seed=[seed + world for world in range(num_envs)])
        width = numbers(task, [self.sim], self.told).shape[1]
        parts: dict[str, spaces.Space[Any]] = {"proprio": spaces.Box(-np.inf, np.inf, (width,), np.float32)}
        if cameras:
            parts["images"] = spaces.Box(0, 255, (len(cameras), 3, image_size, image_size), np.uint8)
        self.single_observation_space = spaces.Dict(parts)
        self.single_action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)
        self._allocate()

    def _rows(self, mask: Array) -> torch.Tensor:
        return torch.as_tensor(np.flatnonzero(mask), device=self.sim.device)

    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        known = seeds is not None and all(seed is not None for seed in seeds)
        self.sim.reset(seed=seeds if known and mask.all() else None, options={"env_idx": self._rows(mask)})
        self._success[mask] = self._success_now[mask] = False

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        before = None if active.all() else self.sim.get_state().clone()
        _, reward, _, _, info = self.sim.step(torch.as_tensor(native(action), device=self.sim.device))
        now, fell = (
            info[name].cpu().numpy().astype(bool) if name in info else np.zeros(self.num_envs, bool)
            for name in ("success", "fail")
        )
        if before is not None:
            rows = self._rows(~active)
            self.sim.set_state(before[rows], rows)
        self._success_now = np.where(active, now, self._success_now)
        self._success |= self._success_now & active
        ended = (fell | (self._success if self.ends else False)) & active
        truncated = (self._length + 1 >= self.max_episode_steps) & ~ended
        return reward.cpu().numpy().astype(np.float64), ended, truncated

    def _observe(self) -> Obs:
        observation = {"proprio": numbers(self.task, [self.sim], self.told)}
        if self.cameras and self.rendering:
            seen = self.sim._get_obs_sensor_data()
            pictures = [seen[camera]["rgb"].cpu().numpy().transpose(0, 3, 1, 2) for camera in self.cameras]
            observation["images"] = np.stack(pictures, 1).astype(np.uint8)
        return observation

    def _infos(self) -> dict[str, Array]:
        place, turn = tool_of([self.sim])
        facts = {"success": self._success.copy(), "success_now": self._success_now.copy()}
        return facts | {"tool_position": place, "tool_orientation": turn}

    def render_worlds(self, worlds: list[int], width: int = 256, height: int = 256, camera: str | None = None) -> Array:
        """Return (len(worlds), 256, 256, 3) uint8 pictures of ManiSkill's camera for films."""
        return np.asarray(self.sim.render_rgb_array().cpu().numpy()[worlds], np.uint8)

    def close_extras(self, **kwargs: Any) -> None:
        """Free the simulation."""
        self.sim.close()

    def state_dict(self) -> dict[str, Any]:
        """Return ManiSkill's own state and what is counted here."""
        own = {"success": self._success.copy(), "success_now": self._success_now.copy()}
        return super().state_dict() | own | {"state": self.sim.get_state().cpu().numpy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it, as nearly as ManiSkill does."""
        super().load_state_dict(state)
        self._success[:], self._success_now[:] = np.asarray(state["success"]), np.asarray(state["success_now"])
        self.sim.set_state(torch.as_tensor(np.asarray(state["state"]), device=self.sim.device))
