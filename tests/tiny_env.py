"""Small environments with known answers, for tests: pure numpy, no physics."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from toddle.envs.base import Array, BatchedEnv


class ReachEnv(BatchedEnv):
    """A point in the plane that must go to a target: x <- x + 0.2 clip(a), reward -|x - target|, 20 steps.

    Standing still costs about 1 a step; walking straight there costs about 0.2.  With `informative=False` the
    reward is noise that does not depend on what is done: nothing can be learned.
    """

    def __init__(
        self, num_envs: int = 8, *, limit: int = 20, informative: bool = True, body: str = "point", extra: int = 0
    ) -> None:
        self.name, self.body, self.num_envs, self.dt, self.max_episode_steps = "tiny/reach", body, num_envs, 0.1, limit
        self.informative, self.extra = informative, extra
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4 + extra,), np.float64)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.generator = np.random.default_rng(0)
        self.x, self.target = np.zeros((num_envs, 2)), np.zeros((num_envs, 2))
        self._allocate()

    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        if seeds is not None:
            self.generator = np.random.default_rng(seeds[0])
        count = int(mask.sum())
        self.x[mask] = self.generator.uniform(-1, 1, (count, 2))
        self.target[mask] = self.generator.uniform(-1, 1, (count, 2))

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        self.x[active] += 0.2 * np.clip(action[active], -1, 1)
        distance = np.linalg.norm(self.x - self.target, axis=1)
        reward = -distance if self.informative else self.generator.normal(size=self.num_envs)
        return reward, np.zeros(self.num_envs, bool), self._length + 1 >= self.max_episode_steps

    def _infos(self) -> dict[str, Array]:
        return {"success": np.linalg.norm(self.x - self.target, axis=1) < 0.2}

    def _observe(self) -> Array:
        return np.concatenate([self.x, self.target, np.zeros((self.num_envs, self.extra))], 1)

    def state_dict(self) -> dict[str, Any]:
        state = {"x": self.x.copy(), "target": self.target.copy(), "generator": self.generator.bit_generator.state}
        return super().state_dict() | state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.x[:], self.target[:] = state["x"], state["target"]
        self.generator.bit_generator.state = state["generator"]


class EndlessEnv(BatchedEnv):
    """Reward 1 for ever, cut after `limit` steps, which is reported as a truncation or (wrongly) a termination.

    Its value is 1 / (1 - gamma) everywhere when the cut is understood.  The observation is constant.
    """

    def __init__(self, num_envs: int = 4, *, limit: int = 5, as_termination: bool = False) -> None:
        self.name, self.body, self.num_envs, self.dt, self.max_episode_steps = (
            "tiny/endless",
            "point",
            num_envs,
            0.1,
            limit,
        )
        self.as_termination = as_termination
        self.single_observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float64)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._allocate()

    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        """Nothing to reset."""

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        cut, never = self._length + 1 >= self.max_episode_steps, np.zeros(self.num_envs, bool)
        return np.ones(self.num_envs), cut if self.as_termination else never, never if self.as_termination else cut

    def _observe(self) -> Array:
        return np.full((self.num_envs, 2), 0.5)


class StartsEnv(ReachEnv):
    """Reach whose start and target follow from each world's own seed: equal seeds, equal starts."""

    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        for world in np.flatnonzero(mask):
            seed = None if seeds is None else seeds[world]
            generator = self.generator if seed is None else np.random.default_rng(seed)
            self.x[world], self.target[world] = generator.uniform(-1, 1, 2), generator.uniform(-1, 1, 2)


class HastyEnv(ReachEnv):
    """Reach where haste costs: |a| at every control step."""

    def __init__(self, num_envs: int = 8, **options: Any) -> None:
        self.haste = np.zeros(num_envs)
        super().__init__(num_envs, **options)

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        self.haste = np.abs(np.clip(action, -1, 1)).mean(1)
        return super()._step_worlds(action, active)

    def _infos(self) -> dict[str, Array]:
        return super()._infos() | {"cost": self.haste.copy()}


class SeenEnv(ReachEnv):
    """Reach with a picture (noise) and a sentence; success is reported at one control step of each episode only."""

    cameras = ("close",)

    def __init__(self, num_envs: int = 3, *, success_at: int = 3, **options: Any) -> None:
        self.success_at, self.instruction = success_at, ["open the drawer"] * num_envs
        super().__init__(num_envs, **options)

    def _infos(self) -> dict[str, Array]:
        return {"success": self._length == self.success_at}

    def _observe(self) -> Any:
        shape = (self.num_envs, 1, 3, 32, 32)
        return {"proprio": super()._observe(), "images": self.generator.integers(0, 256, shape, dtype=np.uint8)}
