"""Rows of episodes: what ended one is recorded, for good or by the clock."""

from __future__ import annotations

import numpy as np
import pytest

from toddle.envs.base import Array, BatchedEnv
from toddle.envs.make import make_env
from toddle.experience.demonstrations import demonstrate


class Still:
    """Does nothing, in all worlds."""

    def begin(self, env: BatchedEnv, seeds: list[int]) -> None:
        pass

    def act(self, env: BatchedEnv) -> tuple[Array, Array]:
        action = np.zeros((env.num_envs, *env.single_action_space.shape), np.float32)
        return action, action


def test_a_fall_is_an_end_for_good_and_a_time_limit_is_none() -> None:
    pytest.importorskip("mujoco")
    for most, ends in ((1000, True), (5, False)):  # a hopper without torques falls within 200 steps, not within 5
        for one in demonstrate(make_env("gymnasium/Hopper-v5", 2, max_episode_steps=most), Still(), [3, 4]):
            assert one.length < 200 and one.columns["next.done"].tolist() == [False] * (one.length - 1) + [True]
            assert one.columns["next.terminated"].tolist() == [False] * (one.length - 1) + [ends]
