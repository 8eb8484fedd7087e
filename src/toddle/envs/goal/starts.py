"""Where episodes of goal tracking begin: near home, at a feasible configuration, or fallen."""

from __future__ import annotations

import mujoco
import numpy as np

from toddle.envs.base import Array
from toddle.envs.bodies.body import MocapAction
from toddle.envs.goal.parts import BodyReader
from toddle.envs.goal.table import FeasibleTable, feasible_table, lowest_point
from toddle.envs.pools import Pool
from toddle.envs.streams import WorldStreams

__all__ = ["Starts"]

NEAR = 0.15  # of the half-range about home: the joints of a floating base that begins on its feet
ROWS = 128


class Starts:
    """Draws first states.

    A fixed base begins at rest at a feasible configuration.  A floating one begins on its feet near home, with a
    random heading, or, in `recovery_fraction` of the episodes, in any posture and orientation just above the floor.
    """

    def __init__(self, reader: BodyReader, table: FeasibleTable, recovery_fraction: float) -> None:
        self.reader, self.table = reader, table
        self.recovery_fraction = recovery_fraction if reader.floating else 0.0
        self.near = feasible_table(reader, ROWS, 1, NEAR) if reader.floating else table
        self._scratch = mujoco.MjData(reader.model)

    def begin(self, pool: Pool, mask: Array, streams: WorldStreams) -> Array:
        """Put the worlds of `mask` (N,) into first states; return which of them begin fallen (n,)."""
        reader, worlds = self.reader, np.flatnonzero(mask)
        model, nq = reader.model, reader.model.nq
        draw = streams.uniform(worlds, 8)
        fallen = draw[:, 0] < self.recovery_fraction
        near = (draw[:, 1] * len(self.near.qpos)).astype(np.int64)
        far = (draw[:, 1] * len(self.table.qpos)).astype(np.int64)
        qpos = np.where(fallen[:, None], self.table.qpos[far], self.near.qpos[near])
        if reader.floating:
            angle = 2.0 * np.pi * draw[:, 2]
            heading = np.stack([np.cos(angle / 2), 0 * angle, 0 * angle, np.sin(angle / 2)], axis=1)
            normal = streams.normal(worlds, 4)
            anyhow = normal / np.linalg.norm(normal, axis=1, keepdims=True)
            qpos[:, 3:7] = np.where(fallen[:, None], anyhow, heading)
            for row in np.flatnonzero(fallen):
                qpos[row, 2] += 0.01 - self._lowest(qpos[row])
        places = {}
        if isinstance(reader.body.action, MocapAction):
            quaternion = np.tile(reader.body.action.quaternion, (len(worlds), model.nmocap, 1))
            places = {"mocap_pos": self.near.mocap[near], "mocap_quat": quaternion}
        assert qpos.shape == (len(worlds), nq)
        pool.set_state(mask, qpos, np.zeros((len(worlds), model.nv)), **places)
        if not places:
            pool.ctrl[worlds] = self._setpoints(qpos)
        return np.asarray(fallen)

    def _lowest(self, qpos: Array) -> float:
        data = self._scratch
        data.qpos[:] = qpos
        mujoco.mj_kinematics(self.reader.model, data)
        return lowest_point(self.reader.model, data)

    def _setpoints(self, qpos: Array) -> Array:
        """Set-points (n, nu) at which servos of joints begin: where the joint is; others in the middle."""
        model = self.reader.model
        low, high = model.actuator_ctrlrange.T
        setpoints = np.tile(0.5 * (low + high), (len(qpos), 1))
        on_joint = model.actuator_trntype == int(mujoco.mjtTrn.mjTRN_JOINT)
        setpoints[:, on_joint] = qpos[:, model.jnt_qposadr[model.actuator_trnid[on_joint, 0]]]
        return np.asarray(np.clip(setpoints, low, high))
