"""Rough ground: where it is flat, how high it is, what a body on it says of its height, and nothing at 0."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from toddle.core.errors import InputError
from toddle.envs.bodies.robots import ANT
from toddle.envs.goal.terrain import Terrain
from toddle.envs.goal.walking import WalkingEnv
from toddle.envs.make import make_env


def test_the_ground_is_what_mujoco_stands_on_flat_at_first_and_never_above_its_roughness() -> None:
    """MuJoCo's own rays from above are the oracle; it cuts a cell into two triangles, so a little between corners."""
    ground = Terrain(ANT, 0.2)
    model = ground.standing.build()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    generator = np.random.default_rng(0)
    places = generator.uniform(-20.0, 20.0, (200, 2))
    hit = np.zeros(1, np.int32)
    down = np.array([0.0, 0.0, -1.0])
    seen = [5.0 - mujoco.mj_ray(model, data, np.array([*p, 5.0]), down, None, 1, -1, hit) for p in places]
    assert np.abs(ground.height(places) - seen).max() < 0.02 and np.abs(ground.height(places) - seen).mean() < 0.004
    assert max(seen) > 0.05 and ground.heights.max() == pytest.approx(0.2 * 0.55)
    near = generator.uniform(-0.7, 0.7, (50, 2))  # within 2 L = 1.1 m
    assert not ground.height(near).any()
    other = Terrain(ANT, 0.2, held_out=True)
    assert np.abs(other.heights - ground.heights).max() > 0.05


def test_height_is_measured_from_the_ground_below_and_without_terrain_nothing_differs() -> None:
    env = WalkingEnv("ant", 2, terrain=0.3, recovery_fraction=0.0, pushes=None)
    qpos = env.pool.state["qpos"].copy()
    start = env._state.height.copy()  # type: ignore[union-attr]
    qpos[:, :2] = 9.0, -7.0
    env.pool.set_state(np.ones(2, bool), qpos, np.zeros((2, env.reader.model.nv)))
    moved = env._read(None).height
    assert env.ground is not None and moved is not None
    below = float(env.ground.height(np.array([[9.0, -7.0]]))[0])
    assert below > 0.005 and moved - start == pytest.approx(-below / 0.55)
    plain, zero = (make_env("walk/ant", 2, seed=3, **options) for options in ({}, {"terrain": 0.0}))
    assert zero.physics(0)[0].nhfield == 0
    for _ in range(3):
        ours, theirs = (each.step(np.full((2, 8), 0.3))[0] for each in (plain, zero))
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_a_body_whose_floor_cannot_be_changed_is_refused() -> None:
    with pytest.raises(InputError, match="terrain: expected 0 with a body that is built on a flat floor alone"):
        WalkingEnv(replace(ANT, on=None), 1, terrain=0.1)
