"""Reads a body off the arrays of a pool: its dimensionless state, and every quantity a goal may ask for.

A *part* is one such quantity: a joint's angle, a key point's place, a velocity, or something to hold.  All parts of
all worlds stand in one array Q (N, P, VALUES), padded with zeros, so goals are gathered by index, without a loop.

Frames: key points of a fixed base are seen from `Body.centre` in the world's axes; those of a floating base from its
root in the heading frame (turned about the vertical only).  Velocities: (vx, vy, yaw rate) of a floating base in its
heading frame, (vx, vy, vz) of the tool of a fixed one.  A heading is the cosine and sine of what it differs by from the
one that is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from toddle.core.goal import FAMILIES, VALUES
from toddle.envs.base import Array
from toddle.envs.bodies.body import Body, MocapAction, joint_range
from toddle.envs.bodies.promises import key_point_rows
from toddle.envs.bodies.sawyer import SawyerIndex, sawyer_proprio_batch
from toddle.envs.goal.terrain import Terrain
from toddle.envs.pools import Pool

__all__ = ["AFTER_STEP", "BodyReader", "BodyState"]

POSTURE, KEY_POINT, VELOCITY, HOLD = range(len(FAMILIES))
AFTER_STEP = ("mj_kinematics", "mj_comPos", "mj_comVel")
"""Run after the substeps, so that positions and velocities are those of the same moment."""


@dataclass(slots=True)
class BodyState:
    """The bodies of N worlds now, dimensionless.  Floating fields are None for fixed bases, save `up_z`."""

    joints: Array  # (N, J) all hinge and slide joints with a range, -1..1 over it
    joint_velocity: Array  # (N, J) rad (hinges) or half-ranges (slides) in the time sqrt(L / g)
    quantities: Array  # (N, P, VALUES)
    torque: Array  # (N, nu) tau / tau_max
    contact: Array  # (N,) bool, an undesired contact
    proprio: Array  # (N, O) float32
    up_z: Array | None = None  # (N,)
    height: Array | None = None  # (N,) of the root, in L


class BodyReader:
    """Index of one body's model (as `bodies.promises.prepare` makes it), and the reading of a pool through it."""

    def __init__(
        self, body: Body, model: mujoco.MjModel, *, heading: bool = False, ground: Terrain | None = None
    ) -> None:
        """heading: whether the heading of a floating base is a part (the last one); ground: what it stands on, None a
        plane."""
        self.body, self.model, self.heading, self.ground = body, model, heading, ground
        ranged = [j for j in range(model.njnt) if model.jnt_type[j] >= int(mujoco.mjtJoint.mjJNT_SLIDE)]
        ranges = np.array([joint_range(model, j) for j in ranged])
        self.middle, self.half = ranges.mean(axis=1), 0.5 * (ranges[:, 1] - ranges[:, 0])
        self.qpos, self.qvel = model.jnt_qposadr[ranged].copy(), model.jnt_dofadr[ranged].copy()
        slides = model.jnt_type[ranged] == int(mujoco.mjtJoint.mjJNT_SLIDE)
        self.velocity_scale = body.time / np.where(slides, self.half, 1.0)
        names = [model.joint(j).name for j in ranged]
        self.posture = np.array([names.index(name) for name in body.joints], dtype=np.int64)
        self.points = [key_point_rows(body, model, point) for point in body.key_points]
        self.undesired = np.array([model.body(name).id for name in body.undesired], dtype=np.int64)
        self.floating = body.root == "floating"
        limits = body.torque_limits if body.torque_limits is not None else np.abs(model.actuator_forcerange).max(axis=1)
        self.torque_limit = np.asarray(limits, dtype=np.float64)
        self.tool = body.key_point_index()
        self._name_parts()
        self.sawyer = SawyerIndex.of(model) if isinstance(body.action, MocapAction) else None

    def _name_parts(self) -> None:
        """Lay the parts out: joints, key points, one velocity, what may be held."""
        body, joints, points = self.body, len(self.body.joints), len(self.body.key_points)
        hold: tuple[str, ...] = ("height", "upright", "station") if self.floating else ("stay",)
        hold += ("heading",) * self.heading
        self.part_names = [*body.joints, *(p.name for p in body.key_points), "velocity", *hold]
        families = [POSTURE] * joints + [KEY_POINT] * points + [VELOCITY] + [HOLD] * len(hold)
        self.part_family = np.array(families)
        sizes = [1] * joints + [3] * points + [3] + ([1, 2, 2] if self.floating else [3]) + [2] * self.heading
        self.part_size = np.array(sizes)
        in_body_frame = self.floating & np.isin(self.part_family, (KEY_POINT, VELOCITY))
        self.part_frame = in_body_frame.astype(np.float64)
        self.slots = np.split(np.arange(len(families)), np.cumsum([joints, points, 1]))

    @property
    def parts(self) -> int:
        """P, the number of parts."""
        return len(self.part_names)

    def fields(self) -> list[str]:
        """Arrays of MjData the pool must keep."""
        extra = ["cfrc_ext"] if self.undesired.size or self.body.feet else []
        used = [field for field, _ in self.points]
        return ["qpos", "qvel", "xpos", "xmat", "cvel", "subtree_com", "actuator_force", *used, *extra]

    def read(self, pool: Pool, origin: Array) -> BodyState:
        """Read all worlds.  origin (N, 2 or 3): where the `station` of a floating base is measured from, in metres, and
        the heading that is wanted."""
        body, state = self.body, pool.state
        joints = (state["qpos"][:, self.qpos] - self.middle) / self.half
        joint_velocity = state["qvel"][:, self.qvel] * self.velocity_scale
        torque = np.clip(state["actuator_force"] / self.torque_limit, -1.0, 1.0)
        touching = np.abs(state["cfrc_ext"][:, self.undesired]) > 1e-6 if self.undesired.size else None
        contact = np.zeros(pool.num_worlds, bool) if touching is None else np.asarray(touching.any(axis=(1, 2)))
        quantities = np.zeros((pool.num_worlds, self.parts, VALUES))
        quantities[:, self.slots[0], 0] = joints[:, self.posture]
        points = np.stack([state[field][:, rows].mean(axis=1) for field, rows in self.points], axis=1)
        result = BodyState(joints, joint_velocity, quantities, torque, contact, np.empty(0))
        if self.floating:
            self._floating(pool, points, origin, result)
        else:
            quantities[:, self.slots[1], :3] = (points - np.asarray(body.centre)) / body.length
            quantities[:, self.slots[2][0], :3] = self._tool_velocity(pool, points[:, self.tool]) / body.speed
            quantities[:, self.slots[3][0], :3] = quantities[:, self.slots[1][self.tool], :3]
            if self.sawyer is not None:
                result.proprio = sawyer_proprio_batch(self.sawyer, {**state, "mocap_pos": pool.mocap_pos})
            else:
                result.proprio = self._proprio(pool, result, [])
        return result

    def _tool_velocity(self, pool: Pool, place: Array) -> Array:
        """Velocity of the tool's first object, (N, 3) m/s, from MuJoCo's spatial velocity of its body."""
        field, rows = self.points[self.tool]
        owner = {"xpos": lambda r: r, "site_xpos": lambda r: self.model.site_bodyid[r]}.get(
            field, lambda r: self.model.geom_bodyid[r]
        )(int(rows[0]))
        spatial = pool.state["cvel"][:, owner]
        arm = place - pool.state["subtree_com"][:, self.model.body_rootid[owner]]
        return np.asarray(spatial[:, 3:] + np.cross(spatial[:, :3], arm))

    def _floating(self, pool: Pool, points: Array, origin: Array, result: BodyState) -> None:
        body, state = self.body, pool.state
        root = int(self.model.jnt_bodyid[0])
        matrix = state["xmat"].reshape(pool.num_worlds, -1, 3, 3)[:, root]
        heading = np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0])
        cos, sin = np.cos(heading), np.sin(heading)

        def turn(vector: Array) -> Array:
            """Rotate world vectors (N, ..., 3 or 2) into the heading frame."""
            shape = (-1,) + (1,) * (vector.ndim - 2)
            c, s = cos.reshape(shape), sin.reshape(shape)
            x, y = vector[..., 0], vector[..., 1]
            return np.stack([c * x + s * y, c * y - s * x, *np.moveaxis(vector[..., 2:], -1, 0)], axis=-1)

        place, qvel = state["qpos"][:, :3], state["qvel"]
        linear = turn(qvel[:, :3]) / body.speed
        angular = turn(np.einsum("nij,nj->ni", matrix, qvel[:, 3:6])) * body.time  # free joints turn in body axes
        up = turn(matrix[:, :, 2])
        quantities, joint_slots = result.quantities, self.slots
        quantities[:, joint_slots[1], :3] = turn(points - place[:, None]) / body.length
        quantities[:, joint_slots[2][0], :2], quantities[:, joint_slots[2][0], 2] = linear[:, :2], angular[:, 2]
        height, upright, station = joint_slots[3][:3]
        raised = place[:, 2] if self.ground is None else place[:, 2] - self.ground.height(place[:, :2])
        quantities[:, height, 0] = raised / body.length
        quantities[:, upright, :2] = up[:, :2]
        quantities[:, station, :2] = turn(place[:, :2] - origin[:, :2]) / body.length
        if self.heading:
            away = heading - origin[:, 2]
            quantities[:, joint_slots[3][3], :2] = np.stack([np.cos(away), np.sin(away)], axis=1)
        result.up_z, result.height = matrix[:, 2, 2], raised / body.length
        down = -matrix[:, 2, :]  # gravity in the root's axes
        result.proprio = self._proprio(pool, result, [result.height[:, None], down, linear, angular])

    def _proprio(self, pool: Pool, result: BodyState, root: list[Array]) -> Array:
        """Joints, their velocities, the servos' set-points (filtered: part of the state), then the root."""
        low, high = self.model.actuator_ctrlrange.T
        setpoint = (pool.ctrl - 0.5 * (low + high)) / np.maximum(0.5 * (high - low), 1e-9)
        return np.concatenate([result.joints, result.joint_velocity, setpoint, *root], axis=1).astype(np.float32)
