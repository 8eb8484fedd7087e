"""Panda, Go1 (MuJoCo Menagerie: `robots`), G1 (the same: `humanoids`), Ant and Humanoid (gymnasium's models).

Ant and Humanoid come with torque motors; they become position servos of the same strength (`motors_to_servos`), and
their integrator becomes implicitfast with a 5 ms step, which holds such servos stable at a quarter of the cost of the
original Runge-Kutta.  So `goal/ant` is not the physics of gymnasium's Ant-v5 but the same body under servos.  The
Humanoid stands on flat feet, where gymnasium's has a ball each, and its servos are stiffer, so that it can stand still.
"""

from __future__ import annotations

from collections.abc import Callable

import mujoco

from toddle.envs.bodies.body import Body, KeyPoint, PositionAction, compiled_once, motors_to_servos, package_file

__all__ = ["ANT", "G1", "GO1", "HUMANOID", "PANDA"]

_MENAGERIE = "mujoco/playground/assets/mujoco_menagerie"
Change = Callable[[mujoco.MjSpec], None]


def _menagerie(
    path: str, package: str = "large", extra: str = "robots", change: Change | None = None
) -> mujoco.MjModel:
    file = package_file(f"envpool_assets_mujoco_{package}", f"{_MENAGERIE}/{path}", extra)
    if change is None:
        return _compiled(str(file))
    spec = mujoco.MjSpec.from_file(str(file))
    change(spec)
    return spec.compile()


@compiled_once
def _compiled(file: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(file)


def build_panda() -> mujoco.MjModel:
    """Compile the Panda with its hand; the gripper's servo takes metres of one finger like its joint, not 0..255."""
    model = _menagerie("franka_emika_panda/scene.xml")
    gripper = model.actuator("actuator8").id
    model.actuator_gainprm[gripper, 0] = 100.0  # force = 100 (q_des - q) - 10 v, as the tendon's gains of menagerie
    model.actuator_ctrlrange[gripper] = (0.0, 0.04)
    return model


def build_go1(change: Change | None = None) -> mujoco.MjModel:
    """Compile Unitree's Go1, on a flat floor unless that is changed."""
    return _menagerie("unitree_go1/scene.xml", change=change)


def build_g1(change: Change | None = None) -> mujoco.MjModel:
    """Compile Unitree's G1, on a flat floor unless that is changed; the set-points of its legs stay within `_G1_REACH`
    of standing."""
    model = _menagerie("unitree_g1/scene.xml", "playground_humanoid", "humanoids", change)
    model.opt.timestep = 0.005
    for a in range(_G1_LEGS):
        low, high = model.actuator_ctrlrange[a]
        model.actuator_ctrlrange[a] = max(low, -_G1_REACH), min(high, _G1_REACH)
    return model


def _gymnasium(name: str, stiffness: float, *changes: Change | None) -> mujoco.MjModel:
    """Compile a model of gymnasium with servos for its motors."""
    spec = mujoco.MjSpec.from_file(str(package_file("gymnasium", f"envs/mujoco/assets/{name}.xml", "sim")))
    for change in changes:
        if change is not None:
            change(spec)
    model = spec.compile()
    model.opt.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    model.opt.solver, model.opt.timestep = mujoco.mjtSolver.mjSOL_NEWTON, 0.005
    return motors_to_servos(model, stiffness)


def build_ant(change: Change | None = None) -> mujoco.MjModel:
    """Compile gymnasium's Ant under servos."""
    return _gymnasium("ant", 2.0, change)


def _flat_feet(spec: mujoco.MjSpec) -> None:
    """Put a box where the ball of each foot is: 26 cm long, 12 cm wide, 6 cm high, under the ankle."""
    for name in ("right_foot", "left_foot"):
        foot = spec.geom(name)
        foot.type, foot.size = mujoco.mjtGeom.mjGEOM_BOX, [0.13, 0.06, 0.03]
        foot.pos = [-0.04, foot.pos[1], foot.pos[2]]


_LEG = (0.0, 0.0, -0.15, -0.15)  # rad, hip x z y and knee of a leg that stands
_LEG_REACH = 0.3  # rad that a leg's set-points may leave it (0.25 in humanoid-gym's XBot-L)


def build_humanoid(change: Change | None = None) -> mujoco.MjModel:
    """Compile gymnasium's Humanoid under servos, with flat feet: on its balls it falls whatever its servos do."""
    model = _gymnasium("humanoid", 8.0, _flat_feet, change)
    for a, home in enumerate(_LEG * 2, start=3):
        low, high = model.jnt_range[model.actuator_trnid[a, 0]]
        model.actuator_ctrlrange[a] = max(low, home - _LEG_REACH), min(high, home + _LEG_REACH)
    return model


PANDA = Body(
    name="panda",
    build=build_panda,
    joints=(*(f"joint{i}" for i in range(1, 8)), "finger_joint1"),
    key_points=(
        KeyPoint(name="hand", objects=("hand",), kind="body"),
        KeyPoint(name="tool", objects=("left_finger", "right_finger"), kind="body"),
        KeyPoint(name="elbow", objects=("link4",), kind="body"),
    ),
    root="fixed",
    length=0.855,  # reach of the data sheet
    frame_skip=10,
    centre=(0.0, 0.0, 0.333),  # the shoulder
    home=(0.0, 0.0, 0.0, -1.57079, 0.0, 1.57079, -0.7853, 0.04),
    tool="tool",
    undesired=("link1", "link2", "link3", "link4", "link5", "link6", "link7", "hand"),
    torque_limits=(87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0, 4.0),
)

GO1 = Body(
    name="go1",
    build=build_go1,
    on=build_go1,
    joints=tuple(f"{leg}_{part}_joint" for leg in ("FR", "FL", "RR", "RL") for part in ("hip", "thigh", "calf")),
    key_points=tuple(KeyPoint(name=f"{leg}_foot", objects=(leg,)) for leg in ("FR", "FL", "RR", "RL")),
    root="floating",
    length=0.27,
    frame_skip=10,
    home=(0.0, 0.9, -1.8) * 4,
    feet=("FR", "FL", "RR", "RL"),
    undesired=("trunk", *(f"{leg}_{part}" for leg in ("FR", "FL", "RR", "RL") for part in ("hip", "thigh"))),
)

_ANT_FEET = ("left_ankle_geom", "right_ankle_geom", "third_ankle_geom", "fourth_ankle_geom")

ANT = Body(
    name="ant",
    build=build_ant,
    on=build_ant,
    joints=tuple(f"{part}_{leg}" for leg in range(1, 5) for part in ("hip", "ankle")),
    key_points=tuple(
        KeyPoint(name=f"leg_{number}", objects=(geom,), kind="geom") for number, geom in enumerate(_ANT_FEET, 1)
    ),
    root="floating",
    length=0.55,
    frame_skip=8,
    action=PositionAction(gain=0.36),  # at 25 Hz the filter that 0.2 is at 50 Hz
    home=(0.0, 1.0, 0.0, 1.0, 0.0, -1.0, 0.0, -1.0),  # actuators: hip_4 ankle_4 hip_1 ankle_1 hip_2 ... ankle_3
    feet=_ANT_FEET,
    undesired=("torso",),
)

HUMANOID = Body(
    name="humanoid",
    build=build_humanoid,
    on=build_humanoid,
    # its legs have no ankles: held bent otherwise than at home they let it fall, so goals do not ask for them
    joints=(
        "abdomen_z",
        "abdomen_y",
        "abdomen_x",
        *(f"{side}_{joint}" for side in ("right", "left") for joint in ("shoulder1", "shoulder2", "elbow")),
    ),
    key_points=tuple(KeyPoint(name=name, objects=(name,), kind="geom") for name in ("right_hand", "left_hand")),
    root="floating",
    length=1.28,
    frame_skip=6,
    action=PositionAction(gain=0.28),  # at 33 Hz the filter that 0.2 is at 50 Hz
    # actuators: abdomen y z x, per leg hip x z y and knee, per arm shoulder 1, 2 and elbow
    home=(0.0, 0.0, 0.0, *_LEG * 2, *(0.0, 0.0, -0.6) * 2),
    feet=("right_foot", "left_foot"),
    undesired=("torso", "lwaist", "pelvis", "right_thigh", "left_thigh"),
    spread=0.4,
    promote=0.3,
)

_G1_LEGS = 12  # actuators, the first ones
_G1_REACH = 0.6  # rad, of legs that stand straight: enough for steps, and exploration noise does not topple it at once
_G1_PARTS = ("hip_pitch", "hip_roll", "hip_yaw", "knee")
_G1_ARM = (0.2, 0.2, 0.0, 1.28, 0.0, 0.0, 0.0)  # Menagerie's stand, the left arm: shoulder pitch roll yaw, elbow, wrist

G1 = Body(
    name="g1",
    build=build_g1,
    on=build_g1,
    joints=(
        *(f"waist_{axis}_joint" for axis in ("yaw", "roll", "pitch")),
        *(
            f"{side}_{joint}_joint"
            for side in ("left", "right")
            for joint in ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow")
        ),
    ),
    key_points=tuple(
        KeyPoint(name=f"{side}_hand", objects=(f"{side}_wrist_yaw_link",), kind="body") for side in ("left", "right")
    ),
    root="floating",
    length=0.79,
    frame_skip=4,
    home=(*(0.0,) * (_G1_LEGS + 3), *_G1_ARM, *(0.2, -0.2, *_G1_ARM[2:])),
    feet=("left_ankle_roll_link", "right_ankle_roll_link"),
    undesired=("pelvis", "torso_link", *(f"{side}_{part}_link" for side in ("left", "right") for part in _G1_PARTS)),
    spread=0.4,
    promote=0.3,
)
