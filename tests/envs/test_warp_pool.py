"""MuJoCo Warp's worlds against MuJoCo's own, on the CPU: run in an environment with toddle[warp] (docs/scaling.md).

Kernels are compiled at the first run, which takes minutes, and kept.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from toddle.cli import main
from toddle.core.errors import InputError
from toddle.envs import warp_pool
from toddle.envs.base import Array
from toddle.envs.check_env import check_env
from toddle.envs.costs import CostSettings
from toddle.envs.domain import DomainTable
from toddle.envs.goal.parts import AFTER_STEP
from toddle.envs.goal.randomisation import RandomisationConfig
from toddle.envs.make import make_env
from toddle.envs.mujoco_pool import MujocoPool
from toddle.envs.pools import PhysicsConfig

pytest.importorskip("mujoco_warp", reason="needs toddle[warp], in an environment of its own (docs/scaling.md)")

pytestmark = pytest.mark.timeout(3000)  # kernels are compiled
WARP = PhysicsConfig(engine="warp", device="cpu")
WORLDS = 6
EVERYONE = np.ones(WORLDS, bool)
SOME = np.array([True, False, True, False, False, True])
SAVED = {"goal/ant": {"pushes": None, "curriculum": None}}


def states(name: str, steps: int) -> tuple[mujoco.MjModel, int, list[Any]]:
    """Where MuJoCo's own worlds of an environment come by under random actions, and the controls there."""
    env = make_env(name, WORLDS, seed=0, **SAVED.get(name, {}))
    env.reset(seed=3)
    pool, found, skips, own = env.pool, [], [], env.pool.step

    def step(nstep: int, active: Array | None = None) -> None:
        found.append((pool.state["qpos"].copy(), pool.state["qvel"].copy(), pool.ctrl.copy()))
        skips.append(nstep)
        own(nstep, active)

    pool.step = step
    rng = np.random.default_rng(0)
    for _ in range(steps):
        env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
    return pool.model, skips[0], found


def differences(
    model: mujoco.MjModel, other: mujoco.MjModel, skip: int, found: list[Any], *, aligned: bool = True
) -> Array:
    """Largest difference in qpos, qvel and xpos (places, 3) after a control step: MuJoCo with `model`, Warp `other`."""
    fields, after = ("qpos", "qvel", "xpos", "cfrc_ext"), AFTER_STEP
    ours = warp_pool.WarpPool(other, WORLDS, device="cpu", fields=fields, after_step=after)
    if not aligned:
        ours._model.callback.contactfilter = None
    theirs = MujocoPool(model, WORLDS, fields=fields, after_step=after)
    rows = []
    for qpos, qvel, ctrl in found:
        for pool in (ours, theirs):
            pool.set_state(EVERYONE, qpos, qvel)
            pool.ctrl[:] = ctrl
            pool.step(skip)
        rows.append([np.abs(ours.state[field] - theirs.state[field]).max() for field in ("qpos", "qvel", "xpos")])
    return np.array(rows)


@pytest.mark.parametrize(
    ("name", "position", "velocity"), [("gymnasium/HalfCheetah-v5", 2e-5, 3e-3), ("goal/ant", 2e-6, 1e-4)]
)
def test_a_control_step_is_mujocos(name: str, position: float, velocity: float) -> None:
    """Positions (m, rad) and velocities from the same states, with contacts; not with a hundredth more gravity."""
    model, skip, found = states(name, 20)
    away = differences(model, model, skip, found)
    assert away[:, 0].max() < position and away[:, 1].max() < velocity and away[:, 2].max() < position, away.max(0)
    heavier = copy.copy(model)
    heavier.opt.gravity[:] *= 1.01
    assert differences(model, heavier, skip, found)[:, 1].max() > velocity


def test_steep_capsules_need_their_frames_back() -> None:
    """Without `warp_contacts` the Ant's legs, capsules under friction pyramids, move otherwise."""
    model, skip, found = states("goal/ant", 20)
    assert differences(model, model, skip, found, aligned=False)[:, 1].max() > 1e-2


def pool_of(name: str = "goal/ant") -> Any:
    """WORLDS worlds of an environment in first states, some of them on the ground."""
    env = make_env(name, WORLDS, seed=0, physics=WARP, pushes=None)
    env.reset(seed=1)
    return env.pool


def play(pool: Any, steps: int, active: Array | None = None, seed: int = 0) -> list[Array]:
    rng, out = np.random.default_rng(seed), []
    low, high = pool.model.actuator_ctrlrange.T
    for _ in range(steps):
        pool.ctrl[:] = rng.uniform(low, high, pool.ctrl.shape)
        pool.step(2, active)
        out.append(np.concatenate([array.reshape(WORLDS, -1) for array in pool.state.values()], 1))
    return out


def test_worlds_outside_the_mask_stand_still_and_do_not_matter() -> None:
    together, apart = pool_of(), pool_of()
    before = {name: array.copy() for name, array in apart.state.items()}
    (expected,) = play(together, 1)
    play(apart, 1, SOME)
    for name, array in apart.state.items():
        assert np.array_equal(array[~SOME], before[name][~SOME]), name
    (found,) = play(apart, 1, ~SOME)
    assert np.array_equal(found, expected)


def test_a_reset_touches_its_worlds_alone() -> None:
    reset, plain = pool_of(), pool_of()
    qpos = np.tile(reset.model.qpos0, (SOME.sum(), 1))
    for pool in (reset, plain):
        play(pool, 3)
    reset.set_state(SOME, qpos, np.zeros((SOME.sum(), reset.model.nv)))
    assert np.allclose(reset.state["qpos"][SOME], qpos) and not reset.state["cfrc_ext"][SOME].any()
    assert not reset.ctrl[SOME].any() and reset.ctrl[~SOME].all()
    (found,), (expected,) = play(reset, 1), play(plain, 1)
    assert np.array_equal(found[~SOME], expected[~SOME])
    assert (found[SOME] != expected[SOME]).any(1).all()


def test_state_round_trip_is_bitwise() -> None:
    pool, other = pool_of(), pool_of()
    play(pool, 3)
    saved = pool.state_dict()
    expected = play(pool, 3, seed=1)
    play(other, 1, seed=2)
    other.load_state_dict(saved)
    assert np.array_equal(play(other, 3, seed=1), expected)
    saved["warp"]["qpos"] = saved["warp"]["qpos"][1:]
    with pytest.raises(InputError, match="pool state"):
        other.load_state_dict(saved)


def test_an_unstable_world_begins_anew() -> None:
    pool, plain = pool_of(), pool_of()
    bad = np.arange(WORLDS) == 1
    pool.write("qvel", bad, np.full((1, pool.model.nv), np.nan))
    (found,), (expected,) = play(pool, 1), play(plain, 1)
    assert np.array_equal(pool.unstable, bad)
    assert np.allclose(pool.state["qpos"][1], pool.model.qpos0) and not pool.state["qvel"][1].any()
    assert np.array_equal(found[~bad], expected[~bad])
    pool.set_state(bad, pool.model.qpos0[None], np.zeros((1, pool.model.nv)))
    assert not pool.unstable.any()


def test_contacts_without_room_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warp_pool, "room", lambda model: (1, 4))
    pool = pool_of()
    with pytest.raises(InputError, match="at most 1 contacts and 4 rows of constraints a world, got 'more in world"):
        play(pool, 20)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("gymnasium/Humanoid-v5", {}, "mjSOL_PGS is unsupported"),
        ("goal/ant", {"randomisation": RandomisationConfig()}, "models of their own"),
        ("goal/ant", {"randomise": DomainTable(gains=(0.5, 2.0))}, "randomise: expected no changes of models"),
        ("goal/ant", {"cost": "contact", "costs": CostSettings()}, "cost: expected an environment whose MuJoCo"),
        ("goal/ant", {"physics": PhysicsConfig(engine="warp", device="cuda:9")}, "warp sees cpu"),
    ],
)
def test_what_is_not_carried_is_refused(name: str, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        make_env(name, 2, **{"physics": WARP} | options)


def test_pictures_show_where_a_world_is() -> None:
    pool = pool_of()
    play(pool, 3)
    _, data = pool.pictured(2)
    expected = np.delete(pool.state["xpos"][2], 0, 0)
    assert np.abs(data.xpos[1:] - expected).max() < 1e-5


def test_the_environment_keeps_its_contract() -> None:
    check_env(make_env("gymnasium/HalfCheetah-v5", 3, max_episode_steps=6, physics=WARP))


def test_commands_learn_and_evaluate_over_it(tmp_path: Path) -> None:
    warp = ["--physics.engine", "warp", "--physics.device", "cpu"]
    run, there = tmp_path / "run", tmp_path / "there"
    learn = ["pretrain", "--env", "gymnasium/HalfCheetah-v5", "--policy", "mlp", "--worlds", "4", "--mlp.hidden", "8"]
    learn += ["--critic-hidden", "8", "--collect.length", "4", "--steps", "32", "--out", str(run)]
    look = ["evaluate", "--policy", str(run / "policy"), "--env", "gymnasium/HalfCheetah-v5", "--episodes", "2"]
    look += ["--max-episode-steps", "4", "--videos", "0", "--out", str(there)]
    for command in (learn, look):
        with pytest.raises(SystemExit) as end:
            main([*command, *warp])
        assert end.value.code == 0
    lengths = [json.loads(line)["length"] for line in (there / "episodes.jsonl").read_text().splitlines()]
    assert lengths == [4, 4]
