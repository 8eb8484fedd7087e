"""What a body promises (docs/add_a_body.md), each promise a function that looks, mends what the model itself answers,
says in words what it found, and raises InputError naming what is missing.

The environment keeps all of them before it uses a model; `toddle doctor --body FILE` shows them one by one.
"""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import numpy as np

from toddle.core.errors import InputError, problem
from toddle.envs.base import Array
from toddle.envs.bodies.body import Body, KeyPoint, MocapAction, joint_range

__all__ = ["PARTS_PER_BODY", "PROMISES", "build_model", "foot_body", "key_point_rows", "prepare"]

PARTS_PER_BODY = 32
"""Part ids a body owns (core.goal.PART)."""
JOINT_LIKE = (int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT))


def _list(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _name(model: mujoco.MjModel, actuator: int) -> str:
    return model.actuator(actuator).name or f"number {actuator}"


def _servos(body: Body, model: mujoco.MjModel) -> str:
    """Actuators are position servos (those of a mocap arm are the gripper's, which takes an effort)."""
    if not model.nu:
        raise problem(f"body {body.name}: actuators", "at least one in the model", "none")
    if isinstance(body.action, MocapAction):
        return f"{model.nu} actuators beside the mocap body"
    affine = model.actuator_biastype == int(mujoco.mjtBias.mjBIAS_AFFINE)
    wrong = [_name(model, a) for a in range(model.nu) if not affine[a] or model.actuator_biasprm[a, 1] >= 0]
    if wrong:
        remedy = "take <position> actuators, or motors_to_servos(model) in build"
        raise problem(f"body {body.name}: actuators", "position servos", f"others: {_list(wrong)}", remedy)
    return f"{model.nu} position servos"


def _control_ranges(body: Body, model: mujoco.MjModel) -> str:
    """Every actuator has a range of set-points: its own, else that of the joint it moves."""
    mended, missing = [], []
    for a in range(model.nu):
        low, high = model.actuator_ctrlrange[a]
        if low < high and np.isfinite((low, high)).all():
            continue
        found = None
        if model.actuator_trntype[a] in JOINT_LIKE and not isinstance(body.action, MocapAction):
            found = joint_range(model, int(model.actuator_trnid[a, 0]))
        if found is None:
            missing.append(_name(model, a))
            continue
        ends = sorted(float(model.actuator_gear[a, 0]) * end for end in found)
        model.actuator_ctrllimited[a], model.actuator_ctrlrange[a] = 1, ends
        mended.append(_name(model, a))
    if missing:
        remedy = 'give them ctrlrange="low high"; it can be left out only where the joint has a range'
        raise problem(f"body {body.name}: control ranges", "low < high", f"none for {_list(missing)}", remedy)
    return "every servo has one" + (f"; {_list(mended)} took their joints'" if mended else "")


def _force_limits(body: Body, model: mujoco.MjModel) -> str:
    """Every actuator has a largest force: `Body.torque_limits`, its own, else that of the joint it moves."""
    field = f"body {body.name}: force limits"
    if body.torque_limits is not None:
        limits = np.asarray(body.torque_limits, dtype=np.float64)
        if limits.shape != (model.nu,) or not (limits > 0).all():
            raise problem(field, f"{model.nu} positive torque_limits", str(body.torque_limits))
        return "those of torque_limits"
    mended, missing = [], []
    for a in range(model.nu):
        if np.abs(model.actuator_forcerange[a]).max() > 0:
            continue
        joint, gear = int(model.actuator_trnid[a, 0]), abs(float(model.actuator_gear[a, 0]))
        on_joint = model.actuator_trntype[a] in JOINT_LIKE and model.jnt_actfrclimited[joint]
        if not on_joint or not gear:
            missing.append(_name(model, a))
            continue
        limit = float(np.abs(model.jnt_actfrcrange[joint]).max()) / gear
        model.actuator_forcelimited[a], model.actuator_forcerange[a] = 1, (-limit, limit)
        mended.append(_name(model, a))
    if missing:
        remedy = 'give them forcerange="low high", or the body torque_limits'
        raise problem(field, "one for every actuator", f"none for {_list(missing)}", remedy)
    return "every actuator has one" + (f"; {_list(mended)} took their joints'" if mended else "")


def _joints(body: Body, model: mujoco.MjModel) -> str:
    """Joints of posture goals are there, and every hinge and slide has a range (a hinge without one turns by +-pi)."""
    slides = int(mujoco.mjtJoint.mjJNT_SLIDE)
    single = {model.joint(j).name: j for j in range(model.njnt) if model.jnt_type[j] >= slides}
    missing = [name for name in body.joints if name not in single]
    if missing:
        known = f"the model's are {_list(list(single))}"
        raise problem(f"body {body.name}: joints", "hinge or slide joints of the model", _list(missing), known)
    free = [name for name, j in single.items() if joint_range(model, j) is None]
    if free:
        what = "a range for every slide joint"
        raise problem(f"body {body.name}: joints", what, f"none for {_list(free)}", 'give them range="low high"')
    turning = [name for name, j in single.items() if not model.jnt_limited[j] and np.ptp(model.jnt_range[j]) == 0]
    return f"{len(body.joints)} for posture goals" + (
        f"; without a range, so +-pi: {_list(turning)}" if turning else ""
    )


def _root(body: Body, model: mujoco.MjModel) -> str:
    """A floating root is the model's first joint, a free one."""
    free = int(mujoco.mjtJoint.mjJNT_FREE)
    if body.root == "floating" and (not model.njnt or model.jnt_type[0] != free):
        raise problem(f"body {body.name}: root", "a model whose first joint is free", "another", "set root='fixed'")
    return body.root


def key_point_rows(body: Body, model: mujoco.MjModel, point: KeyPoint) -> tuple[str, Array]:
    """Return the field of MjData and the rows of it whose mean is the key point.  Raises InputError where one lacks."""
    types = {"site": mujoco.mjtObj.mjOBJ_SITE, "body": mujoco.mjtObj.mjOBJ_BODY, "geom": mujoco.mjtObj.mjOBJ_GEOM}
    fields = {"site": "site_xpos", "body": "xpos", "geom": "geom_xpos"}
    if point.kind not in types:
        raise problem(f"body {body.name}: key point {point.name}", f"a kind of {', '.join(types)}", point.kind)
    ids = [mujoco.mj_name2id(model, types[point.kind], name) for name in point.objects]
    missing = [name for name, number in zip(point.objects, ids) if number < 0]
    if missing or not ids:
        what = f"{point.kind}s of the model"
        raise problem(f"body {body.name}: key point {point.name}", what, _list(missing) or "none")
    return fields[point.kind], np.array(ids)


def _key_points(body: Body, model: mujoco.MjModel) -> str:
    """There is at least one, each of things in the model, with names of their own; the tool is one of them."""
    names = [point.name for point in body.key_points]
    if not names or len(set(names)) < len(names):
        raise problem(f"body {body.name}: key_points", "at least one, with different names", _list(names) or "none")
    for point in body.key_points:
        key_point_rows(body, model, point)
    return f"{len(names)}, the tool is '{names[body.key_point_index()]}'"


def _undesired(body: Body, model: mujoco.MjModel) -> str:
    """Bodies that should touch nothing are in the model."""
    kind = mujoco.mjtObj.mjOBJ_BODY
    missing = [name for name in body.undesired if mujoco.mj_name2id(model, kind, name) < 0]
    if missing:
        raise problem(f"body {body.name}: undesired", "bodies of the model", _list(missing))
    return f"{len(body.undesired)} bodies should touch nothing"


def foot_body(model: mujoco.MjModel, name: str) -> int:
    """Return the body of a foot, which is a geom of the model, or a body; -1 where there is neither."""
    geom = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, name)
    return int(model.geom_bodyid[geom]) if geom >= 0 else mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)


def _feet(body: Body, model: mujoco.MjModel) -> str:
    """Feet are geoms or bodies of the model."""
    missing = [name for name in body.feet if foot_body(model, name) < 0]
    if missing:
        raise problem(f"body {body.name}: feet", "geoms or bodies of the model", _list(missing))
    return f"{len(body.feet)}" + ("" if body.feet else ": walk/ asks nothing of it")


def _home(body: Body, model: mujoco.MjModel) -> str:
    """The home posture is a set-point of every actuator, within its range."""
    if body.home is None:
        return "the middle of the ranges"
    home = np.asarray(body.home, dtype=np.float64)
    if home.shape != (model.nu,) or not np.isfinite(home).all():
        raise problem(f"body {body.name}: home", f"{model.nu} set-points", len(body.home))
    low, high = model.actuator_ctrlrange.T
    outside = [_name(model, a) for a in np.flatnonzero((home < low - 1e-6) | (home > high + 1e-6))]
    if outside:
        raise problem(f"body {body.name}: home", "set-points within the control ranges", f"not of {_list(outside)}")
    return f"{model.nu} set-points within the ranges"


def _parts(body: Body, model: mujoco.MjModel) -> str:
    """Its parts fit into the ids that a body owns."""
    parts = len(body.joints) + len(body.key_points) + 1 + (3 if body.root == "floating" else 1)
    if parts > PARTS_PER_BODY:
        remedy = "name fewer joints or key points"
        raise problem(f"body {body.name}: parts", f"at most {PARTS_PER_BODY} in all", parts, remedy)
    return f"{parts} of {PARTS_PER_BODY}"


PROMISES: dict[str, Callable[[Body, mujoco.MjModel], str]] = {
    "actuators": _servos,
    "control ranges": _control_ranges,
    "force limits": _force_limits,
    "joints": _joints,
    "root": _root,
    "key points": _key_points,
    "undesired": _undesired,
    "feet": _feet,
    "home": _home,
    "parts": _parts,
}
"""What is promised of a body, in the order it can be told."""


def prepare(body: Body) -> mujoco.MjModel:
    """Build the body's model and keep every promise of it.  Raises InputError naming the first that is broken."""
    model = build_model(body)
    for promise in PROMISES.values():
        promise(body, model)
    return model


def build_model(body: Body) -> mujoco.MjModel:
    """Return what `Body.build` compiles.  Raises InputError, one line, where it raises or returns something else."""
    try:
        model = body.build()
    except InputError:
        raise
    except Exception as error:  # of the user's code, or of MuJoCo's compiler
        said = " ".join(str(error).split())[:300]
        raise problem(f"body {body.name}: build", "a compiled model", f"{type(error).__name__}: {said}") from error
    if not isinstance(model, mujoco.MjModel):
        raise problem(f"body {body.name}: build", "an mujoco.MjModel", type(model).__name__)
    return model
