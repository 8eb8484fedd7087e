"""A frozen policy whose chunk is a known function of noise, for tests of what steers it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from toddle.core.types import BodySpec, Decision, Observation
from toddle.envs.base import Array, BatchedEnv


class ToyFlow(nn.Module):
    """Chunks (B, H, 1) = `way`(noise).  It counts how often it is asked."""

    kind, sequential, cameras, features, context_width = "toy", False, (), None, 0

    def __init__(self, way: Callable[[Tensor], Tensor], horizon: int = 1) -> None:
        super().__init__()
        self.way, self.horizon, self.config, self.asked = way, horizon, None, 0
        self.bodies = (BodySpec(name="point", proprio=2, action=1, dt=0.1),)
        self.window_sizes, self.flow_shape, self.summary_width = (horizon, 1, horizon), (horizon, 1), 2

    def initial_memory(self, batch: int) -> None:
        """Nothing is remembered."""

    def encode(self, observation: Observation) -> Observation:
        return observation

    def summary(self, observation: Observation) -> Tensor:
        return observation["proprio"]

    def chunk_from(self, observation: Observation, noise: Tensor, memory: Any = None, **steps: Any) -> Any:
        self.asked += 1
        return self.way(noise), None

    def act(self, observation: Observation, memory: Any = None, *, generator: Any = None, **more: Any) -> Any:
        noise = torch.randn(len(observation["proprio"]), *self.flow_shape, generator=generator)
        return Decision(self.way(noise), noise, noise.new_zeros(len(noise), 0)), None


class AimEnv(BatchedEnv):
    """Reward 1 for an action of at least 0.5, which ends the episode; it is cut after `limit` steps."""

    def __init__(self, num_envs: int = 16, *, limit: int = 4) -> None:
        self.name, self.body, self.num_envs, self.dt, self.max_episode_steps = (
            "tiny/aim",
            "point",
            num_envs,
            0.1,
            limit,
        )
        self.single_observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float64)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.reached = np.zeros(num_envs, bool)
        self.actions: list[Array] = []
        self._allocate()

    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        self.reached[mask] = False

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        self.actions.append(action.copy())
        self.reached = np.where(active, action[:, 0] >= 0.5, self.reached)
        return self.reached.astype(float), self.reached.copy(), self._length + 1 >= self.max_episode_steps

    def _infos(self) -> dict[str, Array]:
        return {"success": self.reached.copy()}

    def _observe(self) -> Array:
        return np.stack([self._length / self.max_episode_steps, np.zeros(self.num_envs)], 1)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"reached": self.reached.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.reached[:] = np.asarray(state["reached"])
