"""Every environment keeps the contract of BatchedEnv; a broken one is caught."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from toddle.envs.base import Array
from toddle.envs.check_env import check_env
from toddle.envs.gymnasium_rules import TASKS
from toddle.envs.gymnasium_tasks import GymnasiumEnv
from toddle.envs.make import make_env


@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_tasks(task: str) -> None:
    check_env(make_env(f"gymnasium/{task}", 3, seed=4, threads=2, max_episode_steps=12))


@pytest.mark.parametrize("member", ["reach", "one"])
def test_dots(member: str) -> None:
    options: Any = {"cameras": ("top",), "image_size": 32, "max_episode_steps": 8}
    check_env(make_env(f"dots/{member}", 3, seed=4, **options))


@pytest.mark.parametrize("name", ["fork/point", "gutter/push"])
def test_small_ones(name: str) -> None:
    check_env(make_env(name, 3, seed=4, max_episode_steps=8))


@pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="metaworld is not installed")
@pytest.mark.parametrize("name", ["metaworld/reach-v3", "metaworld/drawer-open-v3", "metaworld-state/push-v3"])
def test_metaworld(name: str) -> None:
    check_env(make_env(name, 2, seed=4, max_episode_steps=8))


class _Leaks(GymnasiumEnv):
    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        return super()._step_worlds(action, np.ones_like(active))


class _Forgets(GymnasiumEnv):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        state["pool"]["physics"][:, 30:44] = 0  # the solver's warm start, after time, 15 positions, 14 velocities
        super().load_state_dict(state)


class _Shares(GymnasiumEnv):
    def _observe(self) -> Array:
        self._buffer = getattr(self, "_buffer", super()._observe())
        self._buffer[:] = super()._observe()
        return self._buffer


class _Merges(GymnasiumEnv):
    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        reward, terminated, truncated = super()._step_worlds(action, active)
        return reward, terminated, np.zeros_like(truncated)


class _Unseeded(GymnasiumEnv):
    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        super()._reset_worlds(mask, None)


class _Narrow(GymnasiumEnv):
    def _observe(self) -> Array:
        return super()._observe().astype(np.float32)


class _Unclipped(GymnasiumEnv):
    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        reward, terminated, truncated = super()._step_worlds(action, active)
        return reward - np.square(action).sum(1), terminated, truncated


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (_Leaks, "outside `active` changed"),
        (_Forgets, "after load_state_dict the steps differ"),
        (_Shares, "changed an observation that was returned"),
        (_Merges, "outlasts max_episode_steps"),
        (_Unseeded, "the same seed gave another trajectory"),
        (_Narrow, "the space says float64"),
        (_Unclipped, "not clipped"),
    ],
)
def test_a_broken_environment_is_caught(broken: type[GymnasiumEnv], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_env(broken("Ant-v5", 3, max_episode_steps=12))
