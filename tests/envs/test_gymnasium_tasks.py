"""Every task bit for bit against gymnasium's own environment, one process and one world at a time."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from toddle.core.errors import InputError
from toddle.envs.gymnasium_tasks import TASKS, GymnasiumEnv

WORLDS = 3
LIMITS = {"Hopper-v5": 20, "Walker2d-v5": 22, "Humanoid-v5": 22, "Ant-v5": 150}
"""Time limits at which tasks whose robots can fall are over in both ways under random actions."""


def peers(task: str, limit: int) -> list[gymnasium.Env]:
    return [gymnasium.make(task, max_episode_steps=limit) for _ in range(WORLDS)]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("task", TASKS)
def test_equal_to_gymnasium(task: str, dtype: type) -> None:
    """1,000 random steps of three worlds, with falls and with time limits."""
    steps = 1000 if dtype is np.float64 else 200
    limit = LIMITS.get(task, 50)
    env = GymnasiumEnv(task, WORLDS, threads=2, native_actions=True, max_episode_steps=limit)
    others = peers(task, limit)
    observation, _ = env.reset(seed=5)
    assert np.array_equal(observation, [other.reset(seed=5 + i)[0] for i, other in enumerate(others)])
    rng, counts, top = np.random.default_rng(0), np.zeros(2, int), float(env.single_action_space.high[0])
    for step in range(steps):
        actions = rng.uniform(-1.2 * top, 1.2 * top, env.action_space.shape).astype(dtype)  # beyond the range too
        observation, reward, terminated, truncated, info = env.step(actions)
        for i, other in enumerate(others):
            expected, expected_reward, over, late, _ = other.step(actions[i])
            assert reward[i] == expected_reward, (step, i)
            assert (terminated[i], truncated[i]) == (over, late and not over)
            counts += (over, late)
            if over or late:
                assert np.array_equal(info["final_obs"][i], expected)
                expected, _ = other.reset()
            assert np.array_equal(observation[i], expected), (step, i)
    if dtype is np.float64:
        assert counts[1] > 0 and (counts[0] > 0) == (task in LIMITS)


def test_a_changed_action_breaks_the_equality() -> None:
    env = GymnasiumEnv("HalfCheetah-v5", 1, native_actions=True)
    other = gymnasium.make("HalfCheetah-v5")
    env.reset(seed=1)
    other.reset(seed=1)
    action = np.full(6, 0.5)
    assert not np.array_equal(env.step(action[None] + 1e-12)[0][0], other.step(action)[0])


def test_normalised_actions_span_the_tasks_range() -> None:
    """Humanoid's range is 0.4 N m of the gears' unit: 1 means 0.4, and 3 is clipped to 1."""
    env, native = (GymnasiumEnv("Humanoid-v5", 2, native_actions=flag) for flag in (False, True))
    assert env.single_action_space.high.max() == 1 and native.single_action_space.high.max() == np.float32(0.4)
    env.reset(seed=0)
    native.reset(seed=0)
    action = np.full((2, 17), 0.5)
    assert np.allclose(env.step(action)[0], native.step(action * 0.4)[0], rtol=0, atol=1e-9)
    assert np.allclose(env.step(action * 6)[0], native.step(action * 0.8)[0], rtol=0, atol=1e-9)


def test_a_push_moves_the_root_by_half_a_metre_per_second() -> None:
    env = GymnasiumEnv("Ant-v5", 3)
    env.reset(seed=0)
    before = env.pool.state["qvel"].copy()
    env.push(np.array([True, False, True]), np.random.default_rng(0), strength=2.0)
    change = env.pool.state["qvel"] - before
    assert np.linalg.norm(change[:, :2], axis=1) == pytest.approx([1, 0, 1])
    assert np.abs(change[:, 2:]).max() == 0
    assert np.array_equal(env.pool.read("qvel"), env.pool.state["qvel"])


@pytest.mark.parametrize("task", ["Hopper-v5", "Reacher-v5"])
def test_pictures_show_the_worlds(task: str) -> None:
    env = GymnasiumEnv(task, 2)
    env.reset(seed=0)
    actions = np.ones((2, 1, env.single_action_space.shape[0]))
    for _ in range(20):
        env.step_chunk(actions, active=np.array([False, True]), reset_done=False)
    pictures = env.render_worlds([0, 1], width=64, height=48)
    assert pictures.shape == (2, 48, 64, 3) and pictures.dtype == np.uint8
    assert pictures[0].std() > 10 and (pictures[0] != pictures[1]).any()
    assert np.array_equal(env.render_worlds([1], 64, 48)[0], pictures[1])
    with pytest.raises(InputError, match="camera"):
        env.render_worlds([0], camera="sidee")
    env.close()


def test_unknown_task() -> None:
    with pytest.raises(InputError, match=r"did you mean 'HalfCheetah-v5'\?"):
        GymnasiumEnv("HalfCheeta-v5", 1)
