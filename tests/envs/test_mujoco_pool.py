"""The pool against MuJoCo's own mj_step on one MjData a world."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

from toddle.core.errors import InputError
from toddle.envs.mujoco_pool import MujocoPool

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
FIELDS = ("qpos", "qvel", "xpos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")
MOCAP = """<mujoco><worldbody><body name="hand" mocap="true" pos="0 0 1"/>
<body name="ball" pos="0 0 1"><freejoint/><geom size="0.05"/></body></worldbody>
<equality><weld body1="hand" body2="ball"/></equality></mujoco>"""


def ant() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(ASSETS / "ant.xml"))


def started(model: mujoco.MjModel, worlds: int, threads: int, fields: tuple[str, ...] = FIELDS) -> MujocoPool:
    pool = MujocoPool(model, worlds, threads=threads, fields=fields)
    rng = np.random.default_rng(1)
    qpos = pool.state["qpos"] + rng.uniform(-0.1, 0.1, (worlds, model.nq))
    pool.set_state(np.ones(worlds, bool), qpos, rng.normal(size=(worlds, model.nv)) * 0.1)
    return pool


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_field_equals_mj_step(threads: int) -> None:
    model, worlds = ant(), 3
    pool = started(model, worlds, threads)
    singles = [mujoco.MjData(model) for _ in range(worlds)]
    for single, qpos, qvel in zip(singles, pool.state["qpos"], pool.state["qvel"]):
        single.qpos[:], single.qvel[:] = qpos, qvel
        mujoco.mj_forward(model, single)
    rng, touched = np.random.default_rng(2), 0.0
    for _ in range(50):
        pool.ctrl[:] = rng.uniform(-1, 1, pool.ctrl.shape)
        pool.step(5)
        for single, ctrl in zip(singles, pool.ctrl):
            single.ctrl[:] = ctrl
            mujoco.mj_step(model, single, nstep=5)
            mujoco.mj_rnePostConstraint(model, single)
        for field in FIELDS:
            assert np.array_equal(pool.state[field], [getattr(single, field) for single in singles]), field
        touched = max(touched, np.abs(pool.state["cfrc_ext"]).max())
    assert touched > 1  # newtons: the ants did meet the ground


def test_worlds_outside_the_mask_stand_still() -> None:
    pool = started(ant(), 4, 2)
    before = {name: array.copy() for name, array in pool.state.items()}
    active = np.array([True, False, True, False])
    pool.ctrl[:] = 1.0
    pool.step(5, active)
    moved = (pool.state["qpos"] != before["qpos"]).any(1)
    assert moved.tolist() == active.tolist()
    for name, array in pool.state.items():
        assert np.array_equal(array[~active], before[name][~active]), name
    assert [data.time for data in pool.datas] == pytest.approx([0.05, 0, 0.05, 0])


def test_state_round_trip_is_bitwise() -> None:
    rng = np.random.default_rng(3)
    actions = rng.uniform(-1, 1, (40, 4, 8))

    def play(pool: MujocoPool, chunk: np.ndarray) -> list[np.ndarray]:
        out = []
        for ctrl in chunk:
            pool.ctrl[:] = ctrl
            pool.step(5)
            out.append(np.concatenate([array.reshape(4, -1) for array in pool.state.values()], 1))
        return out

    pool = started(ant(), 4, 2)
    play(pool, actions[:20])
    saved = pool.state_dict()
    expected = play(pool, actions[20:])
    other = MujocoPool(ant(), 4, threads=1, fields=FIELDS)
    other.load_state_dict(saved)
    assert np.array_equal(other.state["cfrc_ext"], saved["fields"]["cfrc_ext"])
    assert np.array_equal(play(other, actions[20:]), expected)
    saved["physics"] = np.delete(saved["physics"], 0, 0)
    with pytest.raises(InputError, match="pool state"):
        pool.load_state_dict(saved)


def test_mocap_bodies_pull_what_is_welded_to_them() -> None:
    model = mujoco.MjModel.from_xml_string(MOCAP)
    pool = MujocoPool(model, 2, fields=("qpos", "mocap_pos"))
    assert pool.mocap_pos.shape == (2, 1, 3) and pool.ctrl.shape == (2, 0)
    pool.mocap_pos[1, 0] = (0.1, 0, 1)
    pool.step(1000)
    assert pool.state["qpos"][:, 0] == pytest.approx([0, 0.1], abs=0.01)
    pool.set_state(np.array([False, True]), pool.state["qpos"], np.zeros((2, model.nv)))
    assert np.array_equal(pool.mocap_pos[:, 0], [[0, 0, 1], [0, 0, 1]])


def test_own_models_can_differ() -> None:
    pool = MujocoPool(ant(), 2, fields=("qpos",), per_world_models=True)
    pool.models[1].opt.gravity[:] = 0
    pool.step(5)
    assert pool.state["qpos"][0, 2] < pool.state["qpos"][1, 2]
    assert pool.model.opt.gravity[2] == pytest.approx(-9.81)


def test_write_reaches_the_physics() -> None:
    pool = MujocoPool(ant(), 2, fields=("qpos", "qvel"))
    force = np.zeros((1, pool.model.nbody, 6))
    force[0, 1, 0] = 100
    pool.write("xfrc_applied", np.array([False, True]), force)
    pool.step(10)
    assert abs(pool.state["qvel"][0, 0]) < 1e-9 < 1 < pool.state["qvel"][1, 0]
    assert np.array_equal(pool.read("xfrc_applied")[1], force[0])


def test_forward_after_a_step_matches_the_new_positions() -> None:
    pool = MujocoPool(ant(), 1, fields=("qpos", "xpos"))
    fresh = MujocoPool(ant(), 1, fields=("qpos", "xpos"), after_step=["mj_kinematics"])
    pool.step(3)
    fresh.step(3)
    assert pool.state["xpos"][0, 1, 2] != pool.state["qpos"][0, 2]  # of the last substep's start
    assert fresh.state["xpos"][0, 1, 2] == fresh.state["qpos"][0, 2]


def test_an_unstable_world_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log there
    pool = MujocoPool(ant(), 3, threads=2)
    pool.write("qvel", np.array([False, True, False]), np.full((1, 14), 1e12))
    pool.step(2)
    assert pool.unstable.tolist() == [False, True, False]
    pool.set_state(np.array([True, True, False]), pool.state["qpos"], np.zeros((3, 14)))
    assert not pool.unstable.any()


@pytest.mark.parametrize("fields", [("qposs",), ("efc_force",), ("time",)])
def test_unknown_or_moving_fields_are_refused(fields: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=f"field: expected an array of MjData with a fixed size, got '{fields[0]}'"):
        MujocoPool(ant(), 1, fields=fields)


def test_threads_end_with_the_pool() -> None:
    before = set(threading.enumerate())
    pool = MujocoPool(ant(), 4, threads=4)
    pool.step(1)
    mine = set(threading.enumerate()) - before
    assert len(mine) == 3
    pool.close()
    pool.step(1)  # on the caller's thread alone
    pool.close()
    for thread in mine:
        thread.join(5)
    assert not any(thread.is_alive() for thread in mine)
    assert [data.time for data in pool.datas] == pytest.approx([0.02] * 4)


def test_a_forgotten_pool_ends_its_threads() -> None:
    before = set(threading.enumerate())
    pool = MujocoPool(ant(), 2, threads=2)
    pool.step(1)
    (mine,) = set(threading.enumerate()) - before
    del pool
    gc.collect()
    mine.join(5)
    assert not mine.is_alive()


def test_many_short_steps_of_more_threads_than_cores() -> None:
    """Every world makes every step once, however the threads meet: 2,000 steps of 1 to 9 of 9 worlds, 8 threads."""
    model = mujoco.MjModel.from_xml_string(MOCAP)
    pool = MujocoPool(model, 9, threads=8)
    rng, steps = np.random.default_rng(0), np.zeros(9)
    for _ in range(2000):
        active = rng.random(9) < rng.random()
        pool.step(1, active)
        steps += active
    assert np.array_equal(np.round([data.time / model.opt.timestep for data in pool.datas]), steps)


def test_wrong_shapes_and_functions_are_refused() -> None:
    pool = MujocoPool(ant(), 3)
    with pytest.raises(InputError, match="qpos: expected shape"):
        pool.set_state(np.ones(3, bool), np.zeros((2, 15)), np.zeros((3, 14)))
    with pytest.raises(InputError, match="mask"):
        pool.step(1, np.ones(2, bool))
    with pytest.raises(InputError, match="mujoco function"):
        MujocoPool(ant(), 1, after_step=["mj_nothing"])
