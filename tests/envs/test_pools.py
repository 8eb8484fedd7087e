"""Which back end steps the physics: what is refused, by one line, before anything is done."""

from __future__ import annotations

import sys
from typing import Any

import mujoco
import pytest

from toddle.cli import main
from toddle.core.errors import InputError
from toddle.core.team import Group
from toddle.envs.make import make_env
from toddle.envs.pools import PhysicsConfig, make_pool
from toddle.envs.warp_pool import room

WARP = ("--physics.engine", "warp")
PYRAMIDS = mujoco.mjtCone.mjCONE_PYRAMIDAL
CRAWLER = """<mujoco><worldbody><geom type="plane" size="1 1 1"/>
<body pos="0 0 1"><joint name="hip" type="hinge" limited="true" range="-1 1"/><geom size="0.1"/>
<body><joint name="knee" type="hinge" frictionloss="0.1"/><geom size="0.1" {foot}/>
<geom size="0.1" contype="0" conaffinity="0"/></body></body></worldbody></mujoco>"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--env", "gymnasium/HalfCheetah-v5", "--policy", "mlp", *WARP), "pip install 'toddle[warp]'"),
        (("--env", "goal/ant", *WARP), "physics.engine: expected the package"),
        (("--env", "fork/point", "--policy", "mlp", *WARP), "physics: expected nothing with fork/point"),
        (("--env", "gymnasium/CartPole-v1", "--policy", "mlp", *WARP), "it is for HalfCheetah-v5, Hopper-v5"),
        (("--env", "goal/ant", *WARP, "--overlap"), "overlap: expected nothing with physics by warp"),
        (("--env", "goal/ant", "--physics.device", "cuda"), "physics.device: expected auto with engine mujoco"),
        (("--env", "goal/ant", *WARP, "--physics.device", "tpu"), "device: expected cpu, cuda, cuda:<number> or auto"),
    ],
)
def test_a_dry_run_refuses_it(
    arguments: tuple[str, ...],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mujoco_warp", None)  # as where the extra is not installed
    with pytest.raises(SystemExit) as end:
        main(["pretrain", "--dry-run", *arguments])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert end.value.code == 2 and len(said) == 1 and expected in said[0], said


def test_worlds_cannot_have_models_of_their_own() -> None:
    model = mujoco.MjModel.from_xml_string(CRAWLER.format(foot=""))
    with pytest.raises(InputError, match="mujoco where worlds have models of their own"):
        make_pool(PhysicsConfig(engine="warp"), model, 2, per_world_models=True)


def test_each_learner_steps_on_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a bare `cuda`, by its number on the machine, which torchrun or the first learner says."""
    learner = Group.__new__(Group)  # of a process group that need not be there
    learner.index = 11
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr("toddle.envs.pools.team", lambda: learner)
    monkeypatch.setattr("toddle.envs.warp_pool.WarpPool", lambda *given, device, **more: device)
    model = mujoco.MjModel.from_xml_string(CRAWLER.format(foot=""))
    asked = [PhysicsConfig(engine="warp", device=name) for name in ("cuda", "cuda:1", "cpu")]
    found: list[Any] = [make_pool(physics, model, 2) for physics in asked]
    assert found == ["cuda:3", "cuda:1", "cpu"]


@pytest.mark.parametrize(
    ("foot", "cone", "rows"),
    [
        ("", PYRAMIDS, 24 * 4),  # condim 3: two directions of friction, either way
        ('condim="4"', PYRAMIDS, 24 * 6),
        ('condim="6"', mujoco.mjtCone.mjCONE_ELLIPTIC, 24 * 6),
    ],
)
def test_room_for_contacts(foot: str, cone: mujoco.mjtCone, rows: int) -> None:
    """Two geoms that touch need 8 contacts and get the least there is, 24; one limit (both ends), one dry joint."""
    model = mujoco.MjModel.from_xml_string(CRAWLER.format(foot=foot))
    model.opt.cone = cone
    assert room(model) == (24, rows + 2 + 1)


def test_the_ant_gets_room_for_all_its_geoms() -> None:
    """Its 13 geoms, four contacts each of four rows, and its 8 joints with two limits each."""
    env = make_env("gymnasium/Ant-v5", 1)
    assert room(env.pool.model) == (52, 208 + 16)
