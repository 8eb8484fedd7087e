"""N MuJoCo worlds stepped on T threads, with the arrays of all worlds side by side: no Python per world.

The caller writes `ctrl` (N, nu) and, for models with mocap bodies, `mocap_pos` (N, nmocap, 3) and `mocap_quat`
(N, nmocap, 4); `step` copies the rows of the active worlds in, runs the physics, and copies the wanted fields of
MjData out into `state[field]` (N, ...).  These arrays are overwritten in place: copy what you keep.

Worlds share nothing, so results are the same for every number of threads.  As after any `mj_step`, positions of
bodies (`xpos`, `site_xpos`, ...) are those of the start of the last substep; add "mj_kinematics" (and "mj_comPos",
"mj_comVel" for `cinert` and `cvel`) to `after_step` to have them at its end.  A fatal error of MuJoCo (not a warning)
ends the process, because no Python stands between the loop and the library.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np

from toddle.core.errors import nearest, problem
from toddle.envs.base import Array
from toddle.envs.native import Crew, Job, Table, function_address

__all__ = ["MujocoPool", "chosen_worlds", "rows_of"]

_POST_CONSTRAINT = frozenset({"cacc", "cfrc_int", "cfrc_ext"})
"""Fields that MuJoCo computes only in mj_rnePostConstraint, which `step` then calls after the last substep."""
_ARENA = ("efc_", "iefc_", "contact", "nefc", "tendon_efcadr")  # move in memory from step to step
_BAD = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADQACC) + 1)  # QVEL is between
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


class MujocoPool:
    """A batch of MuJoCo worlds of one model (or of one copy of it a world).

    Attributes:
        model, models, datas: the model, the model of each world (the same object N times unless
            `per_world_models`), the MjData of each world, for set-up, rendering and slow reading.
        ctrl (N, nu), mocap_pos (N, nmocap, 3), mocap_quat (N, nmocap, 4): inputs, float64, written by the caller.
        state: field name -> (N, ...) array, refreshed by `step`, `set_state` and `forward`.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_worlds: int,
        *,
        threads: int = 1,
        fields: Sequence[str] = ("qpos", "qvel"),
        per_world_models: bool = False,
        after_step: Sequence[str] = (),
    ) -> None:
        """Build the worlds in the model's initial state (not yet forwarded).

        Args: threads: physics threads; fields: arrays of MjData to keep in `state`; per_world_models: give each world
            a copy of the model, for domain randomisation; after_step: C functions f(model, data) of MuJoCo called once
            after the substeps of each `step`.  Raises InputError for an unknown field or function.
        """
        if num_worlds < 1 or threads < 1:
            raise problem("num_worlds, threads", "at least 1", f"{num_worlds}, {threads}")
        self.model, self.num_worlds, self.threads = model, num_worlds, threads
        self.models = [copy.copy(model) if per_world_models else model for _ in range(num_worlds)]
        self.datas = [mujoco.MjData(world_model) for world_model in self.models]
        self._views: dict[str, list[Array]] = {}
        self.state: dict[str, Array] = {name: self._field(name) for name in dict.fromkeys(fields)}
        self.ctrl, self.mocap_pos, self.mocap_quat = (self._field(n) for n in ("ctrl", "mocap_pos", "mocap_quat"))
        self._initial = {"qpos": self._field("qpos"), "qvel": self._field("qvel")}  # where set_state leaves its rows
        mocap = {"mocap_pos": self.mocap_pos, "mocap_quat": self.mocap_quat}
        self._warnings = np.zeros((num_worlds, len(self.datas[0].warning.number), 2), dtype=np.int32)
        self._default_mocap = {name: array.copy() for name, array in mocap.items()}
        post = ["mj_rnePostConstraint"] if _POST_CONSTRAINT & set(self.state) else []
        self._after = [*after_step, *post]
        self._make_jobs()
        self._all = np.arange(num_worlds)
        self._crew = Crew(threads)

    def _make_jobs(self) -> None:
        inputs = {name: getattr(self, name) for name in self._input_names}
        mocap = {name: inputs[name] for name in ("mocap_pos", "mocap_quat")}
        self._step = self._job([], inputs, ["mj_step", *self._after])
        self._forward = self._job([], inputs, ["mj_forward"])
        self._reset = self._job(["mj_resetData"], self._initial | mocap, ["mj_forward"])

    def separate(self) -> None:
        """Give every world a copy of the model, where they share one, for changes that differ from world to world."""
        if self.models[0] is self.model:
            self.models = [copy.copy(self.model) for _ in range(self.num_worlds)]
            self._make_jobs()

    # ---- physics -------------------------------------------------------------------------------------------------
    def step(self, nstep: int, active: Array | None = None) -> None:
        """Copy the inputs in, make `nstep` physics steps in the worlds of `active` (N,) bool, refresh `state`."""
        self._step.repeats[0] = nstep
        self._run(self._step, self._worlds(active))

    def set_state(
        self, mask: Array, qpos: Array, qvel: Array, *, mocap_pos: Array | None = None, mocap_quat: Array | None = None
    ) -> None:
        """Reset the worlds of `mask` to (qpos, qvel) and run mj_forward: time 0, controls 0, no warm start.

        Values have shape (N, ...) with the rows outside `mask` ignored, or one row for each world of `mask`.
        The inputs `ctrl` of these worlds become 0, their mocap bodies go to the values given, else to the model's.
        """
        worlds = self._worlds(mask)
        self._initial["qpos"][worlds] = self._rows("qpos", qpos, worlds)
        self._initial["qvel"][worlds] = self._rows("qvel", qvel, worlds)
        for name, value in (("mocap_pos", mocap_pos), ("mocap_quat", mocap_quat)):
            default = self._default_mocap[name][worlds]
            getattr(self, name)[worlds] = default if value is None else self._rows(name, value, worlds)
        self.ctrl[worlds] = 0.0
        self._run(self._reset, worlds)

    def forward(self, mask: Array | None = None) -> None:
        """Copy the inputs in, run mj_forward in the worlds of `mask`, refresh `state`."""
        self._run(self._forward, self._worlds(mask))

    def write(self, field: str, mask: Array, values: Array) -> None:
        """Write rows of any array of MjData (xfrc_applied, qpos, ...); `values` shaped as in `set_state`."""
        worlds = self._worlds(mask)
        views = self._view(field)
        for world, row in zip(worlds, self._rows(field, values, worlds)):
            views[world][...] = row
        for array in [self.state.get(field), getattr(self, field) if field in self._input_names else None]:
            if array is not None:
                array[worlds] = self._rows(field, values, worlds)

    def read(self, field: str) -> Array:
        """Return a fresh (N, ...) copy of any array of MjData (slow path: one Python step a world)."""
        return np.stack(self._view(field))

    @property
    def unstable(self) -> Array:
        """(N,) bool: MuJoCo met a bad number in a world since its last `set_state`.

        MuJoCo then resets that world by itself and writes a line to MUJOCO_LOG.TXT: look here before you trust it.
        """
        return np.asarray(self._warnings[:, _BAD, 1].any(1))

    def inside(self, world: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Return a world's model and data as the last step left them, to be read."""
        return self.models[world], self.datas[world]

    def pictured(self, world: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Return a model and data in a world's state, to be drawn: its own."""
        return self.models[world], self.datas[world]

    # ---- state ---------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return everything the physics needs to go on bitwise (not the models' parameters)."""
        size = mujoco.mj_stateSize(self.model, _STATE)
        physics = np.empty((self.num_worlds, size))
        for model, data, row in zip(self.models, self.datas, physics):
            mujoco.mj_getState(model, data, row, _STATE)
        inputs = {name: getattr(self, name).copy() for name in self._input_names}
        return {"physics": physics, "inputs": inputs, "fields": {k: v.copy() for k, v in self.state.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.  Raises InputError when it is of another model or batch size."""
        physics = np.asarray(state["physics"], dtype=np.float64)
        expected = (self.num_worlds, mujoco.mj_stateSize(self.model, _STATE))
        if physics.shape != expected:
            raise problem("pool state", f"shape {expected}", str(physics.shape))
        for model, data, row in zip(self.models, self.datas, physics):
            mujoco.mj_resetData(model, data)
            mujoco.mj_setState(model, data, row, _STATE)
            mujoco.mj_forward(model, data)  # for pictures; it moves the warm start, hence the second setState
            mujoco.mj_setState(model, data, row, _STATE)
        self._warnings[:] = 0
        for name in self._input_names:
            getattr(self, name)[...] = np.asarray(state["inputs"][name])
        for name, array in self.state.items():
            array[...] = np.asarray(state["fields"][name])

    def close(self) -> None:
        """Let the threads end."""
        self._crew.close()

    # ---- tables of addresses -------------------------------------------------------------------------------------
    _input_names = ("ctrl", "mocap_pos", "mocap_quat")

    def _view(self, field: str) -> list[Array]:
        """Views of one array of every world's MjData; their memory stays where it is."""
        if field not in self._views:
            first = None if field.startswith(_ARENA) else getattr(self.datas[0], field, None)
            if not isinstance(first, np.ndarray):
                known = [k for k in dir(self.datas[0]) if not k.startswith(("_", *_ARENA))]
                raise problem("field", "an array of MjData with a fixed size", field, nearest(field, known))
            self._views[field] = [getattr(data, field) for data in self.datas]
        return self._views[field]

    def _field(self, field: str) -> Array:
        return np.ascontiguousarray(np.stack(self._view(field)))

    def _job(self, before: list[str], inputs: Mapping[str, Array], program: list[str]) -> Job:
        """Call `before`, copy `inputs` in, call `program`, refresh `state`; by names of MuJoCo's functions."""
        models, datas = (np.array([item._address for item in items]) for items in (self.models, self.datas))
        first, then = (np.array([function_address(name) for name in names], np.int64) for names in (before, program))
        outputs = self._with_warnings(*self._table(self.state, into_worlds=False))
        return Job(models, datas, first, self._table(inputs, into_worlds=True), then, outputs)

    def _table(self, arrays: Mapping[str, Array], into_worlds: bool) -> tuple[Table, Table]:
        """Addresses (F, 2, N), target then source, and sizes in bytes (F,) of rows copied into or out of worlds."""
        arrays = {name: array for name, array in arrays.items() if array.size}
        table = np.empty((len(arrays), 2, self.num_worlds), dtype=np.int64)
        for entry, (name, array) in zip(table, arrays.items()):
            ours = array.ctypes.data + array.strides[0] * np.arange(self.num_worlds)
            theirs = [view.ctypes.data for view in self._view(name)]
            entry[:] = (theirs, ours) if into_worlds else (ours, theirs)
        return table, np.array([array[0].nbytes for array in arrays.values()], dtype=np.int64)

    def _with_warnings(self, table: Table, sizes: Table) -> tuple[Table, Table]:
        """Add the structs mjWarningStat (lastinfo, number) of every world to what is copied out."""
        theirs = np.array([data.warning.lastinfo.ctypes.data for data in self.datas])
        ours = self._warnings.ctypes.data + self._warnings.strides[0] * np.arange(self.num_worlds)
        return np.concatenate([table, np.stack([ours, theirs])[None]]), np.append(sizes, self._warnings[0].nbytes)

    def _worlds(self, mask: Array | None) -> Table:
        return self._all if mask is None else chosen_worlds(mask, self.num_worlds)

    def _rows(self, field: str, values: Array, worlds: Table) -> Array:
        return rows_of(field, values, worlds, (self.num_worlds, *self._view(field)[0].shape))

    def _run(self, job: Job, worlds: Table) -> None:
        if worlds.size:
            job.choose(worlds)
            self._crew.run(job, min(self.threads, worlds.size) - 1)


def chosen_worlds(mask: Array, num_worlds: int) -> Table:
    """Return the indices of the worlds of `mask` (N,) bool.  Raises InputError for another shape or type."""
    mask = np.asarray(mask)
    if mask.shape != (num_worlds,) or mask.dtype != bool:
        raise problem("mask", f"bool of shape ({num_worlds},)", f"{mask.dtype} of shape {mask.shape}")
    return np.flatnonzero(mask)


def rows_of(field: str, values: Array, worlds: Table, shape: tuple[int, ...]) -> Array:
    """Return the rows for `worlds` of values that have `shape` (N, ...), or a row for each of `worlds` already.

    Raises InputError for any other shape.
    """
    values, given = np.asarray(values), (worlds.size, *shape[1:])
    if values.shape == shape:
        return np.asarray(values[worlds])
    if values.shape != given:
        raise problem(field, f"shape {shape} or {given}", str(values.shape))
    return values
