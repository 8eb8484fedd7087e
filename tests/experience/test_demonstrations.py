"""Rows of episodes: what ended one is recorded, for good or by the clock."""

from __future__ import annotations

import numpy as np
import pytest

from toddle.envs.base import Array, BatchedEnv
from toddle.envs.make import make_env
from toddle.experience.demonstrations import ExpertActor, demonstrate


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


def test_what_is_recorded_is_executed_or_what_the_expert_wanted() -> None:
    """Played again, only the executed actions lead through the recorded states."""
    missed = {}
    for executed in (True, False):
        env = make_env("tabletop/push-cube", 1, max_episode_steps=12)
        (one,) = demonstrate(env, ExpertActor(0.5, executed=executed), [7])
        state, _ = env.reset(seed=[7])
        missed[executed] = 0.0
        for row in range(one.length):
            gap = np.abs(one.columns["observation.state"][row] - state["proprio"][0])
            missed[executed] = max(missed[executed], float(gap.max()))
            state = env.step(one.columns["action"][row][None])[0]
    assert missed[True] < 1e-6 and missed[False] > 0.05
