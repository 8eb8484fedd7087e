"""What a body promises: ranges mended from what the model says, or refused by name; `toddle doctor --body FILE`."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from toddle.cli import main
from toddle.core.errors import InputError
from toddle.envs.bodies import ANT
from toddle.envs.bodies.body import Body, KeyPoint, motors_to_servos
from toddle.envs.bodies.promises import PROMISES, prepare
from toddle.envs.goal.tracking import GoalTrackingEnv

HINGE = '<joint name="hinge" axis="0 1 0" range="-2 1" armature=".05" damping=".5"/>'
SERVO = '<position name="servo" joint="hinge" kp="150" kv="15" ctrlrange="-2 1" forcerange="-60 60"/>'


def xml(joint: str = HINGE, actuator: str = SERVO) -> str:
    return f"""<mujoco><compiler angle="radian"/><option timestep="0.005" integrator="implicitfast"/>
    <worldbody><body name="upper">{joint}<geom name="bone" type="capsule" fromto="0 0 0 0.4 0 0" size="0.03" mass="1"/>
    <site name="tip" pos="0.4 0 0"/></body></worldbody><actuator>{actuator}</actuator></mujoco>"""


def stick(joint: str = HINGE, actuator: str = SERVO, **changes: Any) -> Body:
    fields: dict[str, Any] = {
        "name": "stick",
        "build": lambda: mujoco.MjModel.from_xml_string(xml(joint, actuator)),
        "joints": ("hinge",),
        "key_points": (KeyPoint(name="tip", objects=("tip",)),),
        "root": "fixed",
        "length": 0.4,
        "frame_skip": 4,
    }
    return Body(**(fields | changes))


def test_a_servo_without_a_range_takes_its_joints() -> None:
    model = prepare(stick(actuator='<position joint="hinge" kp="150" kv="15" gear="3" forcerange="-60 60"/>'))
    assert model.actuator_ctrlrange.tolist() == [[-6.0, 3.0]] and model.actuator_ctrllimited[0]
    unlimited = '<joint name="hinge" axis="0 1 0" limited="false" armature=".05"/>'
    model = prepare(stick(unlimited, '<position joint="hinge" kp="150" kv="15" forcerange="-60 60"/>'))
    assert np.allclose(model.actuator_ctrlrange, [[-np.pi, np.pi]])


def test_a_servo_without_a_force_limit_takes_its_joints() -> None:
    joint = HINGE.replace("damping", 'actuatorfrcrange="-30 30" damping')
    body = stick(joint, '<position joint="hinge" kp="150" kv="15" gear="2" ctrlrange="-2 1"/>')
    model = prepare(body)
    assert model.actuator_forcerange.tolist() == [[-15.0, 15.0]]
    env = GoalTrackingEnv(body, 2)
    env.reset(seed=0)
    observation = env.step(np.ones((2, 1)))[0]
    assert all(np.isfinite(part).all() for part in observation.values())


def test_motors_without_ranges_become_servos_of_what_is_known() -> None:
    free = '<joint name="hinge" axis="0 1 0" limited="false" armature=".05"/>'
    cases = (
        ('<motor joint="hinge" gear="2" ctrlrange="-3 3"/>', HINGE, 6.0, (-2, 1)),
        ('<motor joint="hinge" gear="2" forcerange="-4 4"/>', HINGE, 8.0, (-2, 1)),
        ('<motor joint="hinge"/>', HINGE.replace("damping", 'actuatorfrcrange="-5 5" damping'), 5.0, (-2, 1)),
        ('<motor joint="hinge" ctrlrange="-3 3"/>', free, 3.0, (-np.pi, np.pi)),
    )
    for motor, joint, force, ends in cases:
        model = motors_to_servos(mujoco.MjModel.from_xml_string(xml(joint, motor)))
        assert np.allclose(model.actuator_forcerange, [[-force, force]])
        assert np.allclose(model.actuator_ctrlrange, [ends])
        assert np.isfinite(model.actuator_gainprm).all() and model.actuator_gainprm[0, 0] > 0


@pytest.mark.parametrize(
    ("joint", "motor", "message"),
    [
        (HINGE, '<motor name="m" joint="hinge"/>', "motor m: expected a largest torque, got 'none'"),
        (
            '<joint name="rail" type="slide" axis="1 0 0"/>',
            '<motor name="m" joint="rail" ctrlrange="-1 1"/>',
            r"motor m: expected a hinge, or a slide with a range \(joint rail\)",
        ),
        (HINGE, '<motor name="m" site="tip" ctrlrange="-1 1"/>', "motor m: expected a motor on a joint"),
    ],
)
def test_motors_that_cannot_become_servos_are_named(joint: str, motor: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        motors_to_servos(mujoco.MjModel.from_xml_string(xml(joint, motor)))


SLIDE = '<joint name="hinge" type="slide" axis="1 0 0" armature=".05"/>'
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "a motor": ({"actuator": '<motor name="m" joint="hinge" ctrlrange="-1 1"/>'}, "position servos, got 'others: m'"),
    "no actuator": ({"actuator": ""}, "actuators: expected at least one in the model"),
    "no range": (
        {"actuator": '<position name="s" site="tip" kp="1" kv="1" forcerange="-1 1"/>'},
        "control ranges: expected low < high, got 'none for s'",
    ),
    "no force": (
        {"actuator": '<position name="s" joint="hinge" kp="1" kv="1" ctrlrange="-1 1"/>'},
        "force limits: expected one for every actuator, got 'none for s'",
    ),
    "a free slide": ({"joint": SLIDE}, "expected a range for every slide joint, got 'none for hinge'"),
    "too few torques": ({"torque_limits": (1.0, 2.0)}, "force limits: expected 1 positive torque_limits"),
    "a joint": ({"joints": ("hinge", "knee")}, "got 'knee'; the model's are hinge"),
    "a root": ({"root": "floating"}, "root: expected a model whose first joint is free"),
    "a key point": (
        {"key_points": (KeyPoint(name="tip", objects=("top",)),)},
        "sites of the model, got 'top'",
    ),
    "no key point": ({"key_points": ()}, "key_points: expected at least one"),
    "a tool": ({"tool": "hammer"}, "body.tool: expected one of"),
    "undesired": ({"undesired": ("ghost",)}, "undesired: expected bodies of the model, got 'ghost'"),
    "home": ({"home": (0.0, 0.0)}, "home: expected 1 set-points, got 2"),
    "home outside": ({"home": (1.5,)}, "home: expected set-points within the control ranges, got 'not of servo'"),
    "parts": (
        {"key_points": tuple(KeyPoint(name=f"p{i}", objects=("tip",)) for i in range(30))},
        "parts: expected at most 32 in all, got 33",
    ),
    "a file": ({"build": lambda: mujoco.MjModel.from_xml_path("nowhere.xml")}, "build: expected a compiled model, got"),
    "a return": ({"build": lambda: None}, "build: expected an mujoco.MjModel, got 'NoneType'"),
}


@pytest.mark.parametrize("kind", list(BROKEN))
def test_what_is_missing_is_named_in_one_line(kind: str) -> None:
    changes, message = BROKEN[kind]
    with pytest.raises(InputError) as caught:
        GoalTrackingEnv(stick(**changes), 2)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "my stick"},
        {"name": "a.b"},
        {"root": "loose"},
        {"length": 0.0},
        {"length": float("nan")},
        {"frame_skip": 0},
        {"frame_skip": 1.5},
        {"episode_seconds": -1.0},
        {"mix": (1.0, 0.0)},
        {"mix": (0.0, 0.0, 0.0, 0.0)},
        {"spread": float("inf")},
    ],
)
def test_numbers_that_no_body_has(changes: dict[str, Any]) -> None:
    (field,) = changes
    with pytest.raises(InputError, match=rf"body.*{field}: expected"):
        stick(**changes)


def test_known_bodies_are_left_as_they_are() -> None:
    built, kept = ANT.build(), prepare(ANT)
    for name in ("actuator_ctrlrange", "actuator_forcerange", "actuator_gainprm", "jnt_range"):
        assert np.array_equal(getattr(built, name), getattr(kept, name))


def _doctor(capsys: pytest.CaptureFixture[str], file: Path, status: int, *more: str) -> tuple[str, str]:
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--body", str(file), *more])
    said = capsys.readouterr()
    assert end.value.code == status, said.out + said.err
    return said.out, said.err


def test_doctor_finds_the_documents_arm_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[3] / "docs" / "add_a_body.md").read_text()
    blocks = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "BODIES[ARM.name]" in block]
    first = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert first is not None and len(blocks) == 1
    code = first[1] + blocks[0].replace("BODIES[ARM.name] = ARM", "")
    (tmp_path / "arm.py").write_text(code)
    out, _ = _doctor(capsys, tmp_path / "arm.py", 0)
    assert "two_joint_arm keeps what a body promises" in out
    for item in (*PROMISES, "model", "rewards", "proprioception", "goals", "contract"):
        assert re.search(rf"ok\s+│ {item}", out), item
    out, _ = _doctor(capsys, tmp_path / "arm.py", 0, "--dry-run")
    assert "check what is promised of two_joint_arm" in out


def test_doctor_names_every_broken_promise_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "arm.py").write_text(
        "import mujoco\nfrom toddle.envs.bodies.body import Body, KeyPoint\n"
        f"XML = '''{xml(actuator=SERVO.replace('forcerange', 'user').replace('-60 60', '1'))}'''\n"
        "ARM = Body(name='arm', build=lambda: mujoco.MjModel.from_xml_string(XML), joints=('knee',), root='fixed',\n"
        "           key_points=(KeyPoint(name='tip', objects=('tip',)),), length=0.4, frame_skip=4, home=(9.0,))\n"
    )
    out, _ = _doctor(capsys, tmp_path / "arm.py", 1)
    assert "to mend: force limits, joints, home" in out and "servo'" in out and "knee" in out


def test_numbers_that_are_not_of_order_one_are_told(tmp_path: Path) -> None:
    from toddle.recipes._body_checks import check_body

    checks = {check.item: check for check in check_body(dataclasses.replace(stick(), length=100.0))}
    assert not checks["goals"].fine and "length is too long" in checks["goals"].remedy


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("nowhere.py", None, "body: expected a Python file that defines a Body, got '"),
        ("robot.xml", "<mujoco/>", "body: expected a Python file that defines a Body, got '"),
        ("empty.py", "x = 1\n", "body: expected a Body in the file, got 'none in "),
        ("typo.py", "def (:\n", "raised SyntaxError while being run: "),
        ("raises.py", "raise OSError('no licence')\n", "raised OSError while being run: no licence"),
    ],
)
@pytest.mark.parametrize("dry", [("--dry-run",), ()])
def test_a_wrong_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str | None, expected: str, dry: tuple[str, ...]
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    _, err = _doctor(capsys, tmp_path / name, 2, *dry)
    assert err.count("\n") == 1 and err.startswith("error: body: ") and expected in err
