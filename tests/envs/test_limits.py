"""Limits below a policy: what the simulator's own state says of speed, force and place, whatever acts."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

from toddle.core.errors import InputError
from toddle.envs.base import BatchedEnv
from toddle.envs.limits import Limits, LimitsConfig
from toddle.envs.make import make_env

METAWORLD = "metaworld/push-v3"


@pytest.fixture(scope="module")
def push() -> BatchedEnv:
    return make_env("tabletop/push-cube", 2, max_episode_steps=10**6)


def held(env: BatchedEnv, **limits: Any) -> BatchedEnv:
    """The environment at a known start, within limits."""
    env.limits = Limits(LimitsConfig(**limits), env) if limits else None
    env.reset(seed=3)
    return env


def test_limits_that_are_never_met_change_no_bit(push: BatchedEnv) -> None:
    assert make_env("dots/one", 1, limits=LimitsConfig()).limits is None
    seen: list[list[Any]] = []
    for wide in ({}, {"speed": 1e9, "turn": 1e9, "force": 1e9, "box": (-9.0, -9.0, -9.0, 9.0, 9.0, 9.0)}):
        env, generator = held(push, **wide), np.random.default_rng(0)
        made = [env.step_chunk(generator.uniform(-1, 1, (2, 3, 7)).astype(np.float32)) for _ in range(10)]
        assert all(("limited" in info) == bool(wide) and not np.any(info.get("limited")) for *_, info in made)
        seen.append([observed["proprio"] for observed, *_ in made])
    assert np.array_equal(*seen)


@pytest.mark.parametrize(
    ("name", "turn", "box"),
    [("", 0.5, (-0.3, -0.15, 0.1, 0.1, 0.15, 0.5)), (METAWORLD, None, (-0.1, 0.5, 0.1, 0.15, 0.7, 0.3))],
)
def test_whoever_acts_the_tool_is_no_faster_and_stays_in_its_box(
    push: BatchedEnv, name: str, turn: float | None, box: Any
) -> None:
    """An adversary that draws far beyond the range; speeds and places are read from the simulator."""
    env, speed = make_env(name, 2, max_episode_steps=10**6) if name else push, 0.2
    fastest: list[float] = []
    low, high = np.reshape(box, (2, 3))
    for limits in ({}, {"speed": speed, "turn": turn, "box": box}):
        held(env, **limits)
        drawn, speeds = np.random.default_rng(0).uniform(-3, 3, (10, 2, env.body_spec.action)), list[Any]()
        for actions in np.repeat(drawn, 10, 0).astype(np.float32):  # each for a while, so that it gets somewhere
            before = env.tool_pose()["tool_position"]
            info = env.step(actions)[4]
            place = env.tool_pose()["tool_position"]
            speeds.append(np.linalg.norm(place - before, axis=1) / env.dt)
            if limits:
                assert env.action_parts is not None and info["limited"].all()
                asked = env.action_parts.reach * np.linalg.norm(info["executed"][:, :3], axis=1) / env.dt
                assert (asked <= speed + 1e-6).all() and (place > low - 0.005).all() and (place < high + 0.005).all()
        fastest.append(float(np.max(speeds)))
    assert fastest[0] > 4 * speed and 0.3 * speed < fastest[1] < 1.1 * speed, fastest


def test_a_vector_keeps_its_direction_and_outside_the_box_it_goes_back(push: BatchedEnv) -> None:
    action = np.tile(np.array([0.9, -0.6, 0.3, 0.1, 0.0, -0.2, 1.0], np.float32), (2, 1))
    (found, _) = held(push, speed=0.4).limits.apply(action)
    assert np.allclose(found[:3], action[0, :3] / np.linalg.norm(action[0, :3]) * 0.4 * 0.05 / 0.1)  # v dt, of 10 cm
    assert np.array_equal(found[3:], action[0, 3:])
    place = push.tool_pose()["tool_position"][0]
    below = tuple(map(float, [*(place - 0.3), *(place - 0.2)]))  # the tool is 20 cm too far along each axis
    for speed, size in ((None, 1.0), (0.4, 0.2)):
        found = held(push, speed=speed, box=below).limits.apply(np.zeros((2, 7), np.float32))[0]
        assert np.allclose(found[:3], -size / np.sqrt(3.0), atol=1e-6)


def test_pressing_on_the_table_stays_below_the_force_and_grows_with_it(push: BatchedEnv) -> None:
    """MuJoCo's own contact forces, once the arm stands; without a limit hundreds of newtons."""
    pressed = []
    for force in (40.0, 80.0):
        env, down = held(push, force=force), np.tile(np.array([0, 0, -1, 0, 0, 0, -1], np.float32), (2, 1))
        found = []
        for _ in range(100):
            env.step(down)
            found.append(_normal(*env.physics(0)))
        assert max(found) < 1.05 * force and abs(found[-1] - found[-2]) < 0.5
        pressed.append(found[-1])
    assert pressed[0] > 0.6 * 40 and pressed[1] / pressed[0] == pytest.approx(2.0, rel=0.02)


def _normal(model: Any, data: Any) -> float:
    """The normal forces of the fingers on the table."""
    wrench, total = np.zeros(6), 0.0
    for contact in range(data.ncon):
        bodies = {model.body(model.geom_bodyid[geom]).name for geom in data.contact.geom[contact]}
        if any("finger" in name for name in bodies) and "cube" not in bodies:
            mujoco.mj_contactForce(model, data, contact, wrench)
            total += wrench[0]
    return total


@pytest.mark.parametrize(
    ("name", "limits", "said"),
    [
        ("dots/one", {"speed": 1.0}, "limits: expected an environment whose actions are motions of a tool"),
        (METAWORLD, {"force": 1.0}, "limits.force: expected an environment whose arm's stiffness is known"),
        (METAWORLD, {"turn": 1.0}, "limits.turn: expected none where actions do not turn the tool"),
        (METAWORLD, {"box": (1.0, 2.0)}, "box: expected six numbers"),
    ],
)
def test_what_cannot_be_limited_is_refused(name: str, limits: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_env(name, 1, limits=LimitsConfig(**limits))
