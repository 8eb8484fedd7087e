"""Environments as people write them, some of them wrongly: what `gymnasium/<id>` and `module:name` must cope with."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class PlainEnv(gymnasium.Env):
    """A point on a line that must stay near 0, with whatever spaces a test gives it; it ends by its place alone."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        observation: spaces.Space[Any] | None = None,
        action: spaces.Space[Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space = copy.deepcopy(observation) or spaces.Box(-10, 10, (1,), np.float64)
        self.action_space = action or spaces.Box(-1, 1, (1,), np.float32)
        self.render_mode = render_mode
        self.x = 0.0
        self.sent: list[Any] = []

    def _see(self) -> Any:
        if isinstance(self.observation_space, spaces.Box) and self.observation_space.shape == (1,):
            return np.array([self.x])
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.x = float(self.np_random.uniform(-1, 1))
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.sent.append(action)
        self.x += 0.2 * float(np.asarray(action, dtype=float).ravel()[0])
        return self._see(), -abs(self.x), abs(self.x) > 3, False, {"is_success": abs(self.x) < 0.5, "cost": 1.0}

    def render(self) -> Any:
        picture = np.zeros((20, 40, 3), np.uint8)
        picture[:, int(np.clip(20 + 6 * self.x, 0, 39))] = 255
        return picture


class Lights(PlainEnv):
    """Two lamps, one is on: say which (a picture alone, discrete actions counted from 3)."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(spaces.Box(0, 255, (24, 24, 3), np.uint8), spaces.Discrete(2, start=3), render_mode)

    def _see(self) -> Any:
        picture = np.zeros((24, 24, 3), np.uint8)
        picture[:, :12] = 200 * (self.x > 0)
        picture[:, 12:] = 200 * (self.x <= 0)
        return picture

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in (3, 4)
        reward = float((action == 4) == (self.x > 0))
        self.x = float(self.np_random.uniform(-1, 1))
        return self._see(), reward, False, False, {}


class Forgetful(PlainEnv):
    """Draws from a generator that its seed does not reach."""

    generator = np.random.default_rng(0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.x += float(self.generator.normal())
        return super().step(action)
