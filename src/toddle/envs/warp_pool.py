"""N MuJoCo worlds stepped by MuJoCo Warp, all at once on one device: the same arrays as `MujocoPool`, from float32.

https://github.com/google-deepmind/mujoco_warp (package mujoco-warp, Apache-2.0).  Model and state of all worlds lie on
the device; a step copies the inputs there, launches the kernels and copies the wanted fields back.  On a CUDA device
the launches of a control step are captured once as a CUDA graph and replayed.  What differs from `MujocoPool`:

1. Numbers are float32 on the device, so motions part slowly from MuJoCo's own (docs/scaling.md has by how much);
   contact frames of steep capsules are set as MuJoCo has them (`warp_contacts`).
2. Warp steps every world: those that are to stand still are put back after the step, and a reset of any costs one
   forward pass of all.
3. A world that meets a bad number begins anew at the end of the control step, where MuJoCo does it within.
4. There is no MjData on the CPU: costs and domain randomisation, which look into it or change models, are refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import mujoco
import numpy as np

from toddle.core.errors import nearest, problem
from toddle.envs.base import Array
from toddle.envs.mujoco_pool import chosen_worlds, rows_of

__all__ = ["WarpPool"]

STATE = (
    *("time", "qpos", "qvel", "act", "qacc_warmstart", "ctrl", "qfrc_applied", "xfrc_applied"),
    *("eq_active", "mocap_pos", "mocap_quat"),
)
"""Arrays of MjData from which a step begins (mjSTATE_INTEGRATION of what is carried)."""
INPUTS = ("ctrl", "mocap_pos", "mocap_quat")
FUNCTIONS = {"mj_kinematics": "kinematics", "mj_comPos": "com_pos", "mj_comVel": "com_vel"}
"""MuJoCo's functions that may follow the substeps -> MuJoCo Warp's."""
POST_CONSTRAINT = ("cacc", "cfrc_int", "cfrc_ext")
"""Fields that are computed by rne_postconstraint alone, and are 0 after a reset."""
LARGEST = mujoco.mjMAXVAL
"""A position or velocity beyond this is a bad number (mj_checkPos, mj_checkVel)."""
ROOM = ("NEFC", "NJMAX_NNZ", "BROADPHASE", "NARROWPHASE", "CCD", "HFIELD")
"""Flags of mujoco_warp.OverflowType: a step left contacts or rows of constraints out for want of room."""


def _packages() -> tuple[Any, Any]:
    """Import mujoco_warp and warp, silenced.  Raises InputError, one line, where they are not installed."""
    try:
        import warp

        warp.config.log_level = warp.LOG_ERROR
        import mujoco_warp
    except ModuleNotFoundError as error:
        remedy = "pip install 'toddle[warp]', in an environment without Meta-World, whose MuJoCo is older"
        raise problem("physics.engine", f"the package {error.name}", "none", remedy) from None
    return mujoco_warp, warp


def _device(warp: Any, name: str) -> Any:
    """Return warp's device of a name of ours.  Raises InputError where there is none."""
    if name == "auto":
        name = "cuda" if warp.get_cuda_device_count() else "cpu"
    name = "cuda:0" if name == "cuda" else name
    known = [str(device) for device in warp.get_devices()]
    if name not in known:
        raise problem("physics.device", "a device that is there", name, f"warp sees {', '.join(known)}")
    return warp.get_device(name)


def room(model: mujoco.MjModel) -> tuple[int, int]:
    """Return for how many contacts and rows of constraints of one world there is room.

    Four contacts for every geom that moves and touches, and 24 at least, each with all rows of the largest condim.
    """
    touches = (model.geom_contype | model.geom_conaffinity) > 0
    contacts = max(24, 4 * int((touches & (model.body_weldid[model.geom_bodyid] > 0)).sum()))
    condim = int(max(model.geom_condim.max(initial=1), model.pair_dim.max(initial=1)))
    pyramids = model.opt.cone == mujoco.mjtCone.mjCONE_PYRAMIDAL
    rows = contacts * (max(1, 2 * (condim - 1)) if pyramids else condim)
    limits = int((model.jnt_limited > 0).sum() + (model.tendon_limited > 0).sum())
    dry = int((model.dof_frictionloss > 0).sum() + (model.tendon_frictionloss > 0).sum())
    return contacts, rows + 2 * limits + dry + 6 * model.neq


class WarpPool:
    """A batch of worlds of one MuJoCo model on one device.  Attributes and methods are those of `pools.Pool`."""

    def __init__(
        self,
        model: mujoco.MjModel,
        num_worlds: int,
        *,
        device: str = "auto",
        fields: Sequence[str] = ("qpos", "qvel"),
        after_step: Sequence[str] = (),
    ) -> None:
        """Build the worlds in the model's initial state (not yet forwarded).

        Args: device: cpu, cuda, cuda:<number> or auto; fields: arrays of MjData to keep in `state`; after_step: of
            FUNCTIONS, called once after the substeps of each `step`.  Raises InputError where the package or the device
            is missing, and for a model, a field or a function that MuJoCo Warp has not got.
        """
        if num_worlds < 1:
            raise problem("num_worlds", "at least 1", num_worlds)
        self._mjw, self._warp = _packages()
        self._device = _device(self._warp, device)
        self.model, self.models, self.num_worlds = model, [model] * num_worlds, num_worlds
        self._room = room(model)
        with self._warp.ScopedDevice(self._device):
            self._worlds = self._put_worlds(model)
        initial = mujoco.MjData(model)
        self._initial = {name: np.asarray(getattr(initial, name)).copy() for name in STATE}
        unknown = [name for name in fields if getattr(self._worlds, name, None) is None or not hasattr(initial, name)]
        if unknown:
            known = [name for name in dir(self._worlds) if not name.startswith("_") and hasattr(initial, name)]
            raise problem("field", "an array of MuJoCo Warp's data", unknown[0], nearest(unknown[0], known))
        self.state = {name: self._repeated(getattr(initial, name)) for name in dict.fromkeys(fields)}
        self.ctrl, self.mocap_pos, self.mocap_quat = (self._repeated(self._initial[name]) for name in INPUTS)
        self._after = [self._function(name) for name in after_step]
        self._after += [self._mjw.rne_postconstraint] if set(POST_CONSTRAINT) & set(self.state) else []
        self._unstable = np.zeros(num_worlds, bool)
        self._flags = sum(int(self._mjw.OverflowType[name]) for name in ROOM)
        self._graphs: dict[int, Any] = {}
        self._scratch: mujoco.MjData | None = None
        everywhere = np.arange(num_worlds)
        for name in STATE:
            self._put(name, self._initial[name], everywhere)

    def _put_worlds(self, model: mujoco.MjModel) -> Any:
        """Put model and worlds on the device.  Raises InputError where the model uses what MuJoCo Warp lacks."""
        if model.nplugin or model.nuserdata or model.nflex:
            raise problem("physics.engine", "mujoco for a model with plugins, user data or flexes", "warp")
        try:
            self._model = self._mjw.put_model(model)
            contacts, rows = self._room
            worlds = self._mjw.make_data(model, nworld=self.num_worlds, nconmax=contacts, njmax=rows)
        except (NotImplementedError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise problem("physics.engine", "mujoco for this model", "warp", f"MuJoCo Warp says: {said}") from None
        self._model.opt.warn_overflow = 0  # `_check_room` tells
        from toddle.envs.warp_contacts import align_capsules

        self._model.callback.contactfilter = align_capsules
        if self._device.is_cuda:
            self._model.opt.deterministic = int(self._mjw.DeterminismType.ALL)  # so that resumed runs repeat themselves
        return worlds

    def _function(self, name: str) -> Callable[[Any, Any], None]:
        if name not in FUNCTIONS:
            raise problem("after_step", f"one of {', '.join(FUNCTIONS)}", name)
        found: Callable[[Any, Any], None] = getattr(self._mjw, FUNCTIONS[name])
        return found

    def _repeated(self, value: Any) -> Array:
        """Return (N, ...) float64 of one world's value."""
        return np.tile(np.asarray(value, np.float64), (self.num_worlds, *(1,) * np.ndim(value)))

    # ---- physics -------------------------------------------------------------------------------------------------
    def step(self, nstep: int, active: Array | None = None) -> None:
        """Copy the inputs in, make `nstep` physics steps in the worlds of `active` (N,) bool, refresh `state`.

        Raises InputError where a world touches at more places than there is room for.
        """
        worlds = self._chosen(active)
        if not worlds.size:
            return
        with self._others_held(worlds):
            for name in INPUTS:
                self._put(name, getattr(self, name)[worlds], worlds)
            self._launch(nstep)
        self._refresh(worlds)
        self._check_room()
        self._renew(worlds)

    def set_state(
        self, mask: Array, qpos: Array, qvel: Array, *, mocap_pos: Array | None = None, mocap_quat: Array | None = None
    ) -> None:
        """Reset the worlds of `mask` to (qpos, qvel) and run a forward pass: time 0, controls 0, no warm start.

        Values have shape (N, ...) with the rows outside `mask` ignored, or one row for each world of `mask`.
        The inputs `ctrl` of these worlds become 0, their mocap bodies go to the values given, else to the model's.
        """
        worlds = self._chosen(mask)
        if not worlds.size:
            return
        given = {"qpos": qpos, "qvel": qvel, "mocap_pos": mocap_pos, "mocap_quat": mocap_quat}
        rows = {name: self._rows(name, value, worlds) for name, value in given.items() if value is not None}
        with self._others_held(worlds):
            for name in STATE:
                self._put(name, rows.get(name, self._initial[name]), worlds)
            with self._warp.ScopedDevice(self._device):
                self._mjw.forward(self._model, self._worlds)
        for name in INPUTS:
            getattr(self, name)[worlds] = rows.get(name, self._initial[name])
        self._refresh(worlds)
        for name in set(POST_CONSTRAINT) & set(self.state):
            self.state[name][worlds] = 0.0
        self._unstable[worlds] = False

    def write(self, field: str, mask: Array, values: Array) -> None:
        """Write rows of an array of STATE; `values` shaped as in `set_state`.  Raises InputError for any other."""
        if field not in STATE:
            raise problem("field", f"one of {', '.join(STATE)}", field)
        worlds = self._chosen(mask)
        rows = self._rows(field, values, worlds)
        self._put(field, rows, worlds)
        for array in (self.state.get(field), getattr(self, field) if field in INPUTS else None):
            if array is not None:
                array[worlds] = rows

    @property
    def unstable(self) -> Array:
        """(N,) bool: a world met a bad number since its last `set_state`, and began anew in the model's own state."""
        return self._unstable.copy()

    def inside(self, world: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Raise InputError: there is no MjData to look into."""
        raise problem("cost", "an environment whose MuJoCo worlds can be looked into", "physics.engine warp")

    def pictured(self, world: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Return a model and data in a world's state, to be drawn before the next call."""
        data = self._scratch = self._scratch or mujoco.MjData(self.model)
        for name in ("qpos", "qvel", "mocap_pos", "mocap_quat"):
            getattr(data, name)[...] = self._get(name)[world]
        mujoco.mj_forward(self.model, data)
        return self.model, data

    def separate(self) -> None:
        """Raise InputError: all worlds share one model."""
        raise problem("randomise", "no changes of models", "physics.engine warp", "take --physics.engine mujoco")

    # ---- state ---------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return everything the physics needs to go on bitwise on the same kind of device."""
        inputs = {name: getattr(self, name).copy() for name in INPUTS}
        fields = {name: array.copy() for name, array in self.state.items()}
        return {"warp": self._saved(), "inputs": inputs, "fields": fields, "unstable": self._unstable.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.  Raises InputError when it is of another model, batch size or engine."""
        if "warp" not in state:
            raise problem("pool state", "one of physics.engine warp", "one of mujoco")
        qpos = np.asarray(state["warp"]["qpos"])
        if qpos.shape != (expected := (self.num_worlds, self.model.nq)):
            raise problem("pool state", f"positions of shape {expected}", str(qpos.shape))
        self._restore(state["warp"], np.arange(self.num_worlds))
        for name in INPUTS:
            getattr(self, name)[...] = np.asarray(state["inputs"][name])
        for name, array in self.state.items():
            array[...] = np.asarray(state["fields"][name])
        self._unstable[:] = np.asarray(state["unstable"])

    def close(self) -> None:
        """Let captured graphs go."""
        self._graphs.clear()

    # ---- the device ----------------------------------------------------------------------------------------------
    def _program(self, nstep: int) -> None:
        for _ in range(nstep):
            self._mjw.step(self._model, self._worlds)
        for function in self._after:
            function(self._model, self._worlds)

    def _launch(self, nstep: int) -> None:
        """Step all worlds; on a CUDA device as a graph, which is captured at its first use."""
        with self._warp.ScopedDevice(self._device):
            if not self._device.is_cuda:
                self._program(nstep)
                return
            if nstep not in self._graphs:
                before = self._saved()
                self._program(nstep)  # loads the kernels, which a capture cannot do
                self._restore(before, np.arange(self.num_worlds))
                with self._warp.ScopedCapture() as capture:
                    self._program(nstep)
                self._graphs[nstep] = capture.graph
            self._warp.capture_launch(self._graphs[nstep])

    @contextlib.contextmanager
    def _others_held(self, worlds: Array) -> Iterator[None]:
        """Put the worlds that are not among `worlds` back into the state they are in now."""
        others = np.setdiff1d(np.arange(self.num_worlds), worlds)
        before = self._saved() if others.size else {}
        yield
        if others.size:
            self._restore(before, others)

    def _chosen(self, mask: Array | None) -> Array:
        return np.arange(self.num_worlds) if mask is None else chosen_worlds(mask, self.num_worlds)

    def _rows(self, field: str, values: Array, worlds: Array) -> Array:
        return rows_of(field, values, worlds, (self.num_worlds, *self._initial[field].shape))

    def _get(self, name: str) -> Array:
        """Return an array of the device, (N, ...) in MuJoCo's shape; on the CPU a view of it, which a step changes."""
        return self._shaped(name, getattr(self._worlds, name).numpy())

    def _put(self, name: str, rows: Array, worlds: Array) -> None:
        """Write `rows` of an array of STATE on the device."""
        array = getattr(self._worlds, name)
        if array.size:
            there = array.numpy()  # read once: each time waits for a GPU
            host = self._shaped(name, there)
            host[worlds] = rows
            array.assign(host.reshape(there.shape))

    def _shaped(self, name: str, value: Array) -> Array:
        shape = self.state[name].shape if name in self.state else (self.num_worlds, *self._initial[name].shape)
        return np.asarray(value).reshape(shape)

    def _saved(self) -> dict[str, Array]:
        return {name: self._get(name).copy() for name in STATE}

    def _restore(self, state: Mapping[str, Any], worlds: Array) -> None:
        for name in STATE:
            self._put(name, np.asarray(state[name])[worlds], worlds)

    def _refresh(self, worlds: Array) -> None:
        for name, array in self.state.items():
            array[worlds] = self._get(name)[worlds]

    def _check_room(self) -> None:
        """Raise InputError where a step has left contacts out."""
        short = np.flatnonzero(self._worlds.overflow.numpy() & self._flags)
        if short.size:
            contacts, rows = self._room
            expected = f"at most {contacts} contacts and {rows} rows of constraints a world"
            raise problem("physics.engine", expected, f"more in world {short[0]}", "take --physics.engine mujoco")

    def _renew(self, worlds: Array) -> None:
        """Put those of the worlds that met a bad number into the model's initial state; inputs stay."""
        qpos, qvel = self._get("qpos")[worlds], self._get("qvel")[worlds]
        good = (np.abs(qpos) <= LARGEST).all(1) & (np.abs(qvel) <= LARGEST).all(1)  # NaN compares false
        if good.all():
            return
        bad = np.zeros(self.num_worlds, bool)
        bad[worlds[~good]] = True
        inputs = {name: getattr(self, name)[bad] for name in INPUTS}
        self.set_state(bad, *(np.tile(self._initial[name], (bad.sum(), 1)) for name in ("qpos", "qvel")))
        for name, rows in inputs.items():
            getattr(self, name)[bad] = rows
        self._unstable |= bad
