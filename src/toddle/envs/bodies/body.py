"""What the goal-tracking environment needs to know of a robot: a small frozen description, not a class to extend.

Everything the environment shows or rewards is divided by the body's own units, so that one reward and one policy trunk
serve all bodies: lengths by `length` L, speeds by sqrt(g L), times by sqrt(L / g), joint angles by half their range,
torques by their limits (dynamic similarity, Froude).
"""

from __future__ import annotations

import copy
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec

import mujoco
import numpy as np

from toddle.core.errors import InputError, problem
from toddle.core.goal import FAMILIES

__all__ = [
    "GRAVITY",
    "Body",
    "KeyPoint",
    "MocapAction",
    "PositionAction",
    "compiled_once",
    "joint_range",
    "motors_to_servos",
    "package_file",
]

GRAVITY = 9.81
P = ParamSpec("P")


@dataclass(frozen=True, kw_only=True)
class KeyPoint:
    """A point of the body that goals may place somewhere: the mean of one or more named sites, bodies or geoms."""

    name: str
    objects: tuple[str, ...]
    kind: Literal["site", "body", "geom"] = "site"


@dataclass(frozen=True, kw_only=True)
class PositionAction:
    """Absolute set-points of position servos, passed through a first-order filter.

    An action of 0 is `Body.home` (by default the middle of the range), -1 and 1 are the ends of the servo's range, and
    between them it is linear on either side; without a home this is q_des = mid + half * clip(a).  The filter is
    q <- q + gain * (q_des - q) at each control step (gain 0.2 after HT): its time constant is about five steps.
    """

    gain: float = 0.2


@dataclass(frozen=True, kw_only=True)
class MocapAction:
    """Meta-World's action: [dx, dy, dz] of a mocap body that the hand is welded to, and the gripper's effort.

    The mocap body moves by `scale` * clip(a[:3]) metres and stays in the box `low`..`high`; the two fingers get a[3]
    and -a[3] (metaworld.sawyer_xyz_env.SawyerXYZEnv.set_xyz_action and step).
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    scale: float = 0.01
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Body:
    """One embodiment.  `docs/add_a_body.md` walks through an example."""

    name: str
    build: Callable[[], mujoco.MjModel]
    """Return the compiled model.  Its actuators are position servos (or see `motors_to_servos`)."""
    joints: tuple[str, ...]
    """Joints that posture goals may ask for, each with a range."""
    key_points: tuple[KeyPoint, ...]
    root: Literal["fixed", "floating"]
    """A floating root is the model's first joint, a free one."""
    length: float
    """L in metres: reach from `centre` of a fixed base, height of the root when standing of a floating one."""
    frame_skip: int
    """Physics steps in one control step."""
    action: PositionAction | MocapAction = PositionAction()
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Origin of key-point goals of a fixed base, in metres."""
    home: tuple[float, ...] | None = None
    """Set-points (rad or m, one an actuator) of the posture to start from; None is the middle of the ranges."""
    tool: str | None = None
    """Key point whose velocity and place the velocity and hold goals of a fixed base are about; None is the first."""
    undesired: tuple[str, ...] = ()
    """Bodies that should touch nothing."""
    feet: tuple[str, ...] = ()
    """Geoms (or bodies) that touch the ground in walking; a floating base without them cannot be asked to walk."""
    torque_limits: tuple[float, ...] | None = None
    """Largest actuator forces, one an actuator; None takes the model's own force limits."""
    mix: tuple[float, float, float, float] = (0.3, 0.3, 0.25, 0.15)
    """Shares of the goal families of core.goal.FAMILIES."""
    spread: float = 0.6
    """How far from home goals may ask the joints of a floating base to be, in half-ranges."""
    promote: float = 0.5
    """Share of goals reached above which training asks for more (less for a body that a family of goals is beyond)."""
    episode_seconds: float = 8.0
    on: Callable[[Callable[[mujoco.MjSpec], None]], mujoco.MjModel] | None = None
    """As `build`, of a specification that is changed before it is compiled (other ground, say); None: it cannot be."""

    def __post_init__(self) -> None:
        """Raise InputError for numbers that no body has."""
        field = f"body {self.name}"
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise problem("body.name", "letters, digits, _ and - (files and networks bear it)", self.name)
        if self.root not in ("fixed", "floating"):
            raise problem(f"{field}: root", "'fixed' or 'floating'", self.root)
        for label in ("length", "episode_seconds", "spread", "frame_skip"):
            value = getattr(self, label)
            if not (np.isfinite(value) and value > 0):
                raise problem(f"{field}: {label}", "a number above 0", value)
        if int(self.frame_skip) != self.frame_skip:
            raise problem(f"{field}: frame_skip", "a whole number of physics steps", self.frame_skip)
        mix = np.asarray(self.mix, dtype=np.float64)
        if mix.shape != (len(FAMILIES),) or not np.isfinite(mix).all() or (mix < 0).any() or mix.sum() <= 0:
            raise problem(f"{field}: mix", f"{len(FAMILIES)} shares, of {', '.join(FAMILIES)}", str(self.mix))

    def key_point_index(self) -> int:
        """Return the index of the tool among the key points."""
        names = [point.name for point in self.key_points]
        if self.tool is not None and self.tool not in names:
            raise problem("body.tool", f"one of {names}", self.tool)
        return names.index(self.tool) if self.tool is not None else 0

    @property
    def speed(self) -> float:
        """The unit of speed, sqrt(g L) in m/s."""
        return float(np.sqrt(GRAVITY * self.length))

    @property
    def time(self) -> float:
        """The unit of time, sqrt(L / g) in seconds."""
        return float(np.sqrt(self.length / GRAVITY))


def compiled_once(build: Callable[P, mujoco.MjModel]) -> Callable[P, mujoco.MjModel]:
    """Make a function compile its model once for the same arguments in a process; each call returns a copy of its own.

    Reading meshes and compiling takes ten times as long as copying.  Only for files of installed packages, which do not
    change; the last two models are kept, 20 to 50 MB each.
    """
    kept: Any = lru_cache(maxsize=2)(build)

    @wraps(build)
    def copied(*args: P.args, **kwargs: P.kwargs) -> mujoco.MjModel:
        return copy.copy(kept(*args, **kwargs))

    return copied


def package_file(package: str, path: str, extra: str) -> Path:
    """Return a data file of an installed package without importing it.

    Raises InputError, naming the extra to install, when the package or the file is missing.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"package {package} is not installed; pip install 'toddle[{extra}]'")
    file = Path(spec.submodule_search_locations[0]) / path
    if not file.is_file():
        raise problem(f"package {package}", f"the file {path}", "none", f"reinstall 'toddle[{extra}]'")
    return file


def joint_range(model: mujoco.MjModel, joint: int) -> tuple[float, float] | None:
    """Return the range of a hinge or slide joint: its own, else +-pi for a hinge; None for any other without one."""
    low, high = model.jnt_range[joint]
    kind = model.jnt_type[joint]
    if low < high and kind >= int(mujoco.mjtJoint.mjJNT_SLIDE):
        return float(low), float(high)
    return (-np.pi, np.pi) if kind == int(mujoco.mjtJoint.mjJNT_HINGE) else None


def _motor_limit(model: mujoco.MjModel, actuator: int, joint: int) -> float:
    """Return a motor's largest torque on its joint: by its control range, else its force range, else the joint's."""
    gear = float(abs(model.actuator_gear[actuator, 0]))
    for most in (model.actuator_ctrlrange[actuator], model.actuator_forcerange[actuator]):
        if (limit := gear * float(np.abs(most).max())) > 0:
            return limit
    return float(np.abs(model.jnt_actfrcrange[joint]).max())


def motors_to_servos(model: mujoco.MjModel, stiffness: float = 2.0, damping_ratio: float = 1.0) -> mujoco.MjModel:
    """Turn every torque motor of `model` into a position servo of the same strength, in place.

    The motor's largest torque F = gear * ctrlrange stays the servo's limit.  kp = stiffness * F / half-range: the full
    torque comes at an error of half-range / stiffness.  kd = 2 * damping_ratio * sqrt(kp * M) with M the inertia of the
    joint in the model's initial posture (`dof_M0`), less the damping that the joint has already.  The servo runs in
    MuJoCo, at the rate of the physics.  A motor without a control range takes its force range or that of its joint, a
    hinge without a range +-pi; InputError names what has neither, and motors that move no joint.
    """
    for a in range(model.nu):
        field = f"motor {model.actuator(a).name or a}"
        if model.actuator_trntype[a] != int(mujoco.mjtTrn.mjTRN_JOINT):
            raise problem(field, "a motor on a joint", "a motor on something else", "make it a servo in the model")
        joint = int(model.actuator_trnid[a, 0])
        dof = int(model.jnt_dofadr[joint])
        ends, limit = joint_range(model, joint), _motor_limit(model, a, joint)
        if ends is None:
            what = f"a hinge, or a slide with a range (joint {model.joint(joint).name})"
            raise problem(field, what, "none", 'give the joint range="low high"')
        if limit <= 0:
            raise problem(field, "a largest torque", "none", 'give it ctrlrange="low high" or forcerange')
        low, high = ends
        kp = stiffness * limit / (0.5 * (high - low))
        kd = max(0.0, 2.0 * damping_ratio * np.sqrt(kp * model.dof_M0[dof]) - model.dof_damping[dof])
        model.actuator_gear[a] = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        model.actuator_gaintype[a] = mujoco.mjtGain.mjGAIN_FIXED
        model.actuator_biastype[a] = mujoco.mjtBias.mjBIAS_AFFINE
        model.actuator_gainprm[a, 0] = kp
        model.actuator_biasprm[a, :3] = (0.0, -kp, -kd)
        model.actuator_ctrllimited[a], model.actuator_ctrlrange[a] = 1, (low, high)
        model.actuator_forcelimited[a], model.actuator_forcerange[a] = 1, (-limit, limit)
    return model
