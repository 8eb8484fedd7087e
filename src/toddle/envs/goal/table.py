"""Tables of feasible configurations of a body: where goals may ask it to be, and where episodes may begin.

Arms under servos and floating bases: random joint angles whose pose touches nothing it should not (forward
kinematics; a floating base then stands on its lowest point, the joints that goals do not ask for at home).  Mocap arms:
a random walk of the hand through its box in simulation, because which joint angles belong to a place depends on the way
there.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from toddle.core.errors import problem
from toddle.core.seeding import numpy_generator
from toddle.envs.base import Array
from toddle.envs.bodies.body import Body, MocapAction
from toddle.envs.goal.parts import AFTER_STEP, BodyReader
from toddle.envs.mujoco_pool import MujocoPool

__all__ = ["FeasibleTable", "feasible_table", "home_configuration", "lowest_point", "setpoint_home"]

_CACHE: dict[tuple[Body, bool, int, int, float], FeasibleTable] = {}


@dataclass(frozen=True)
class FeasibleTable:
    """R configurations at rest."""

    qpos: Array  # (R, nq)
    quantities: Array  # (R, P, VALUES)
    mocap: Array  # (R, nmocap, 3)


def home_configuration(reader: BodyReader) -> Array:
    """Return qpos (nq,) of the body at its home posture, a floating root upright at height L."""
    model, body = reader.model, reader.body
    qpos = model.qpos0.copy()
    home = setpoint_home(reader)
    for a in range(model.nu):
        if model.actuator_trntype[a] == int(mujoco.mjtTrn.mjTRN_JOINT):
            qpos[model.jnt_qposadr[model.actuator_trnid[a, 0]]] = home[a]
    _couple(model, qpos)
    if reader.floating:
        qpos[:7] = (0.0, 0.0, body.length, 1.0, 0.0, 0.0, 0.0)
    return qpos


def setpoint_home(reader: BodyReader) -> Array:
    """Return the home set-points (nu,): `Body.home`, or the middle of the servos' ranges."""
    ranges = reader.model.actuator_ctrlrange
    if reader.body.home is None:
        return np.asarray(ranges.mean(axis=1))
    return np.asarray(reader.body.home, dtype=np.float64)


def _couple(model: mujoco.MjModel, qpos: Array) -> None:
    """Obey equalities between joints (mimic fingers), in place."""
    for e in range(model.neq):
        if model.eq_type[e] == int(mujoco.mjtEq.mjEQ_JOINT) and model.eq_obj2id[e] >= 0:
            first, second = (model.jnt_qposadr[i] for i in (model.eq_obj1id[e], model.eq_obj2id[e]))
            offset = qpos[second] - model.qpos0[second]
            qpos[first] = model.qpos0[first] + np.polynomial.polynomial.polyval(offset, model.eq_data[e, :5])


def lowest_point(model: mujoco.MjModel, data: mujoco.MjData) -> float:
    """Return the height of the lowest point of the geoms that can touch and move (meshes by their bounding sphere)."""
    kinds = mujoco.mjtGeom
    moving = (model.geom_bodyid > 0) & ((model.geom_contype | model.geom_conaffinity) > 0)
    low = np.inf
    for g in np.flatnonzero(moving):
        size, axis = model.geom_size[g], np.abs(data.geom_xmat[g].reshape(3, 3)[2])
        kind = model.geom_type[g]
        if kind == int(kinds.mjGEOM_SPHERE):
            reach = size[0]
        elif kind == int(kinds.mjGEOM_CAPSULE):
            reach = size[0] + size[1] * axis[2]
        elif kind == int(kinds.mjGEOM_BOX):
            reach = float(axis @ size)
        elif kind == int(kinds.mjGEOM_CYLINDER):
            reach = size[1] * axis[2] + size[0] * np.sqrt(max(0.0, 1.0 - axis[2] ** 2))
        else:
            reach = model.geom_rbound[g]
        low = min(low, float(data.geom_xpos[g, 2] - reach))
    return low


def feasible_table(reader: BodyReader, size: int, seed: int, spread: float | None = None) -> FeasibleTable:
    """Return `size` feasible configurations; the same arguments are computed once in a process.

    spread: how far from home the joints of a floating base may be, in half-ranges; None takes `Body.spread`.
    """
    spread = reader.body.spread if spread is None else spread
    key = (reader.body, reader.heading, size, seed, spread)
    if key not in _CACHE:
        walk = isinstance(reader.body.action, MocapAction)
        qpos, mocap = _walk(reader, size, seed) if walk else _pose(reader, size, seed, spread)
        pool = MujocoPool(reader.model, size, fields=reader.fields())
        everywhere = np.ones(size, bool)
        places = {"mocap_pos": mocap} if walk else {}
        pool.set_state(everywhere, qpos, np.zeros((size, reader.model.nv)), **places)
        quantities = reader.read(pool, np.zeros((size, 3))).quantities
        pool.close()
        _CACHE[key] = FeasibleTable(qpos, quantities, mocap)
    return _CACHE[key]


def _pose(reader: BodyReader, size: int, seed: int, spread: float) -> tuple[Array, Array]:
    """Random joint angles by rejection: (size, nq)."""
    model, generator = reader.model, numpy_generator(seed, "feasible", reader.body.name)
    data = mujoco.MjData(model)
    home = home_configuration(reader)
    found: list[Array] = []
    for _ in range(200 * size):
        if len(found) == size:
            break
        qpos, draw = home.copy(), generator.uniform(-1.0, 1.0, reader.qpos.size)
        if reader.floating:
            low, high = reader.middle - reader.half, reader.middle + reader.half
            away = np.zeros(len(draw))
            away[reader.posture] = (spread * reader.half * draw)[reader.posture]
            qpos[reader.qpos] = np.clip(home[reader.qpos] + away, low, high)
            qpos[2] = 10.0
        else:
            qpos[reader.qpos] = reader.middle + reader.half * draw
        _couple(model, qpos)
        data.qpos[:] = qpos
        mujoco.mj_forward(model, data)
        if data.ncon:
            continue
        if reader.floating:
            qpos[2] -= lowest_point(model, data)
        found.append(qpos)
    if len(found) < size:
        raise problem(f"body {reader.body.name}", f"{size} poses without contact", len(found), "check its collisions")
    return np.array(found), np.zeros((size, model.nmocap, 3))


def _walk(reader: BodyReader, size: int, seed: int) -> tuple[Array, Array]:
    """Random places of a mocap arm's hand and openings of its gripper: (size, nq), (size, nmocap, 3)."""
    action = reader.body.action
    assert isinstance(action, MocapAction)
    model, generator = reader.model, numpy_generator(seed, "feasible", reader.body.name)
    worlds, steps = min(size, 32), 40
    low, high = np.array(action.low), np.array(action.high)
    pool = MujocoPool(model, worlds, fields=["qpos"], after_step=AFTER_STEP[:1])
    everywhere, quaternion = np.ones(worlds, bool), np.tile(action.quaternion, (worlds, model.nmocap, 1))
    start = np.tile(0.5 * (low + high), (worlds, model.nmocap, 1))
    qpos0, rest = np.tile(model.qpos0, (worlds, 1)), np.zeros((worlds, model.nv))
    pool.set_state(everywhere, qpos0, rest, mocap_pos=start, mocap_quat=quaternion)
    pool.step(40 * reader.body.frame_skip)  # the hand snaps to the mocap body, as at Meta-World's resets
    finger = model.jnt_qposadr[model.actuator_trnid[0, 0]]
    span = model.jnt_range[model.actuator_trnid[0, 0], 1]
    rows: list[tuple[Array, Array]] = []
    while len(rows) * worlds < size:
        goal = generator.uniform(low, high, (worlds, 3))
        grip = span * np.clip(generator.uniform(-1.5, 2.5, worlds), 0.0, 1.0)  # mostly open or closed, as in tasks
        for _ in range(steps):
            way = goal - pool.mocap_pos[:, 0]
            pool.mocap_pos[:, 0] += way * np.minimum(1.0, 0.03 / np.maximum(np.abs(way).max(axis=1), 1e-9))[:, None]
            effort = grip + 30.0 * (grip - pool.state["qpos"][:, finger])
            pool.ctrl[:] = np.clip(np.stack([effort, -effort], axis=1), -1.0, 1.0)
            pool.step(reader.body.frame_skip)
        rows.append((pool.state["qpos"].copy(), pool.mocap_pos.copy()))
    pool.close()
    qpos, mocap = (np.concatenate(parts)[:size] for parts in zip(*rows))
    return qpos, mocap
