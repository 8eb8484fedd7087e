"""LIBERO behind BatchedEnv: official initial states, robosuite's own numbers, success by its predicate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toddle.core.errors import InputError

pytest.importorskip("libero", reason="LIBERO is not installed (extra `libero`)")

from toddle.envs.check_env import check_env
from toddle.envs.libero import STEP_LIMITS, LiberoEnv
from toddle.envs.libero_assets import ASSETS_VARIABLE, REMEDY, installed_assets
from toddle.envs.make import make_env
from toddle.experience.demonstrations import ExpertActor, demonstrate
from toddle.experience.human import HumanActor, HumanConfig
from toddle.experience.replay import ReplayActor

PLACES = (os.environ.get(ASSETS_VARIABLE), installed_assets(), Path(__file__).parents[3] / "shared" / "libero_assets")
ASSETS = next((place for place in PLACES if place and Path(place).is_dir()), None)
needs_assets = pytest.mark.skipif(ASSETS is None, reason=f"LIBERO's assets are not here: {REMEDY}")
DOWN = np.array([0.0, 0.0, -0.5, 0.0, 0.0, 0.0, -1.0])


@pytest.fixture(scope="module")
def env() -> Iterator[LiberoEnv]:
    if ASSETS is None:
        pytest.skip(f"LIBERO's assets are not here: {REMEDY}")
    env = LiberoEnv("libero_object", 0, 1, assets=str(ASSETS), cameras=("agentview", "wrist"), image_size=64)
    yield env
    env.close()


def test_steps_through_official_initial_states(env: LiberoEnv) -> None:
    assert env.initial_states.shape[0] == 50
    starts = []
    for state in (0, 1, 49):
        observation, _ = env.reset(seed=[state])
        starts.append(np.stack([pose[0] for pose in env.object_poses().values()]))
        official = env.initial_states[state]  # time, positions, velocities
        for name in ("alphabet_soup_1", "basket_1", "milk_1"):
            address = env._envs[0].sim.model.get_joint_qpos_addr(f"{name}_joint0")[0]
            found = env.object_poses()[name][0]
            np.testing.assert_allclose(found[:2], official[1 + address : 3 + address], atol=0.01)  # falls 2 cm to rest
        assert observation["images"].shape == (1, 2, 3, 64, 64)
        assert observation["images"].std() > 10
        height = env.object_poses()["hand"][0, 2]
        _, reward, _, truncated, info = env.step_chunk(np.tile(DOWN, (1, 6, 1)))
        assert env.object_poses()["hand"][0, 2] < height - 0.01
        assert (reward[0], truncated[0], info["success"][0]) == (0.0, False, False)
    assert np.abs(starts[0] - starts[1]).max() > 0.003
    assert np.abs(starts[0] - starts[2]).max() > 0.003
    assert env.instruction == ["pick up the alphabet soup and place it in the basket"]


def test_proprioception_is_robosuites(env: LiberoEnv) -> None:
    from robosuite.utils import transform_utils

    observation, _ = env.reset(seed=[7])
    inner = env._envs[0]
    robot = inner.robots[0]
    quaternion = transform_utils.convert_quat(inner.sim.data.get_body_xquat("gripper0_eef"), to="xyzw")
    expected = transform_utils.quat2axisangle(quaternion) if robot.robot_model.eef_name == "gripper0_eef" else None
    if expected is None:
        body = inner.sim.data.get_body_xquat(robot.robot_model.eef_name)
        expected = transform_utils.quat2axisangle(transform_utils.convert_quat(body, to="xyzw"))
    np.testing.assert_allclose(observation["proprio"][0, 3:6], expected, atol=1e-5)
    np.testing.assert_allclose(observation["proprio"][0, :3], env._infos()["tool_position"][0], atol=1e-6)


def test_success_is_the_predicate_and_latches(env: LiberoEnv) -> None:
    env.reset(seed=[3])
    inner = env._envs[0]
    basket = env.object_poses()["basket_1"][0]
    pose = inner.sim.data.get_joint_qpos("alphabet_soup_1_joint0").copy()
    pose[:3] = basket + np.array([0.0, 0.0, 0.08])
    inner.sim.data.set_joint_qpos("alphabet_soup_1_joint0", pose)
    inner.sim.forward()
    info: dict[str, Any] = {}
    for _ in range(20):
        _, _, _, _, info = env.step(np.zeros((1, 7)))
        if info["success"][0]:
            break
    assert info["success"][0]
    pose[:3] = basket + np.array([0.3, 0.0, 0.3])
    inner.sim.data.set_joint_qpos("alphabet_soup_1_joint0", pose)
    inner.sim.data.set_joint_qvel("alphabet_soup_1_joint0", np.zeros(6))
    inner.sim.forward()
    _, reward, _, _, info = env.step(np.zeros((1, 7)))
    assert (info["success"][0], info["success_now"][0], reward[0]) == (True, False, 0.0)


def test_limits_and_wrong_names() -> None:
    assert STEP_LIMITS == {
        "libero_spatial": 220,
        "libero_object": 280,
        "libero_goal": 300,
        "libero_10": 520,
        "libero_90": 400,
    }
    with pytest.raises(InputError, match="did you mean 'libero_object'"):
        LiberoEnv("libero_objects", 0)
    with pytest.raises(InputError, match=r"TODDLE_LIBERO_ASSETS.*scenes"):
        LiberoEnv("libero_object", 0, assets="/nonexistent")


@pytest.mark.slow
@needs_assets
@pytest.mark.parametrize("suite", ["libero_spatial", "libero_goal"])
def test_contract(suite: str) -> None:
    check_env(LiberoEnv(suite, 1, 2, assets=str(ASSETS), max_episode_steps=6, cameras=("wrist",), image_size=32))


@pytest.mark.slow
@needs_assets
@pytest.mark.parametrize("suite", ["libero_10", "libero_90"])
def test_other_suites_step(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ASSETS_VARIABLE, str(ASSETS))
    for index in (0, 5):
        env = make_env(f"libero/{suite}/{index}", 1, cameras=("agentview",))
        assert env.max_episode_steps == STEP_LIMITS[suite]
        observation = env.step_chunk(np.tile(DOWN, (1, 5, 1)))[0]
        assert np.isfinite(observation["proprio"]).all()
        assert observation["images"].std() > 10
        env.close()


def test_expert_picks_places_and_is_for_one_suite(env: LiberoEnv) -> None:
    env.reset(seed=[4])
    env.rendering = False
    info: dict[str, Any] = {}
    for _ in range(160):
        _, _, _, _, info = env.step_chunk(env.expert_action()[:, None], reset_done=False)
        if info["success"][0]:
            break
    env.rendering = True
    assert info["success"][0]
    task, env.task = env.task, "libero/libero_goal/0"
    try:
        with pytest.raises(InputError, match="libero_object"):
            env.expert_action()
    finally:
        env.task = task


@pytest.mark.slow
@needs_assets
def test_from_state_it_sees_the_objects_and_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is played from state, without pictures, goes the same way once more with them."""
    monkeypatch.setenv(ASSETS_VARIABLE, str(ASSETS))
    check_env(make_env("libero-state/libero_object/1", 2, max_episode_steps=6))
    env = make_env("libero-state/libero_object/0", 1, seed=3)
    observation, _ = env.reset(seed=[3])
    poses = env.object_poses()  # type: ignore[attr-defined]
    seen = np.concatenate([poses["alphabet_soup_1"][0], poses["alphabet_soup_1"][0] - poses["hand"][0]])
    np.testing.assert_allclose(observation["proprio"][0, 8:14], seen, atol=1e-6)
    (played,) = demonstrate(env, ExpertActor(), [3], after_success=0)
    assert played.success and env.body != LiberoEnv.body
    env.close()
    drawn = make_env("libero/libero_object/0", 1, cameras=("agentview",), image_size=32, terminate_on_success=True)
    (again,) = demonstrate(drawn, ReplayActor({3: played.columns["action"]}), [3], image_stride=50, after_success=0)
    drawn.close()
    assert (again.success, again.length) == (True, played.length) and again.images["agentview"].std() > 10
    assert np.array_equal(again.columns["observation.state"], played.columns["observation.state"][:, :8])


@pytest.mark.slow
def test_a_human_takes_the_object_in_two_ways(env: LiberoEnv) -> None:
    """Where both sides fit between the fingers; the habit is an episode's own, and both ways succeed."""
    turns = []
    for way in (0, 1):
        env.reset(seed=[4])
        env.rendering, env.grasp = False, np.array([way])
        first = env.expert_action()[0, 5]
        for _ in range(200):
            _, _, _, _, info = env.step_chunk(env.expert_action()[:, None], reset_done=False)
            if info["success"][0]:
                break
        turns.append(first)
        assert info["success"][0], way
    env.rendering, env.grasp = True, None
    assert abs(turns[0] - turns[1]) > 0.5
    ways = set()
    for seed in range(6):
        HumanActor(HumanConfig()).begin(env, [seed])
        ways.add(int(env.grasp[0]))  # type: ignore[index]
    HumanActor(HumanConfig(grasps=1)).begin(env, [0])
    assert ways == {0, 1} and env.grasp == 0
    env.grasp = None
