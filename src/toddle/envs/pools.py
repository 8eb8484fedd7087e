"""What environments need of a batch of MuJoCo worlds, and which of two implementations steps them.

`mujoco_pool.MujocoPool` is MuJoCo itself on CPU threads.  `warp_pool.WarpPool` is MuJoCo Warp: all worlds at once on
one device, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import mujoco

from toddle.core.config import config
from toddle.core.device import check_device_name
from toddle.core.errors import problem
from toddle.core.team import team
from toddle.envs.base import Array
from toddle.envs.mujoco_pool import MujocoPool

__all__ = ["MUJOCO", "PhysicsConfig", "Pool", "make_pool"]


@config
class PhysicsConfig:
    """What steps the physics."""

    engine: Literal["mujoco", "warp"] = "mujoco"
    """mujoco: MuJoCo on threads of the CPU; warp: MuJoCo Warp, all worlds at once on one device, in float32
    (docs/scaling.md)."""
    device: str = "auto"
    """Where warp computes: cpu, cuda (of several learners each has the GPU of its number), cuda:<number>, or auto (CUDA
    where there is one)."""

    def __post_init__(self) -> None:
        check_device_name(self.device)
        if self.engine == "mujoco" and self.device != "auto":
            raise problem("physics.device", "auto with engine mujoco", self.device, "--physics.engine warp has devices")


MUJOCO = PhysicsConfig()
"""MuJoCo itself, on threads of the CPU."""


class Pool(Protocol):
    """A batch of N worlds of one MuJoCo model, with the arrays of all worlds side by side: see `MujocoPool`."""

    model: mujoco.MjModel
    models: list[mujoco.MjModel]
    num_worlds: int
    ctrl: Array
    mocap_pos: Array
    mocap_quat: Array
    state: dict[str, Array]

    def step(self, nstep: int, active: Array | None = None) -> None:
        """Make `nstep` physics steps in the worlds of `active` (N,) bool, refresh `state`."""

    def set_state(
        self, mask: Array, qpos: Array, qvel: Array, *, mocap_pos: Array | None = None, mocap_quat: Array | None = None
    ) -> None:
        """Reset the worlds of `mask` (N,) bool to (qpos, qvel)."""

    def write(self, field: str, mask: Array, values: Array) -> None:
        """Write rows of an array of MjData."""

    @property
    def unstable(self) -> Array:
        """(N,) bool: a bad number was met in a world since its last `set_state`."""

    def inside(self, world: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Return a world's model and data as the last step left them, to be read.  Raises InputError where there are
        none on the CPU."""

    def pictured(self, world: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Return a model and data in a world's state, to be drawn before the next call."""

    def separate(self) -> None:
        """Give every world a copy of the model.  Raises InputError where worlds share one."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything the physics needs to go on bitwise."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""

    def close(self) -> None:
        """Give back threads."""


def make_pool(
    physics: PhysicsConfig,
    model: mujoco.MjModel,
    num_worlds: int,
    *,
    threads: int = 1,
    fields: Sequence[str] = ("qpos", "qvel"),
    per_world_models: bool = False,
    after_step: Sequence[str] = (),
) -> Pool:
    """Build the worlds; arguments are those of `MujocoPool`.

    Raises InputError where MuJoCo Warp is asked for and is not installed, has no such device, lacks what the model
    uses, or where worlds are to have models of their own.
    """
    if physics.engine == "mujoco":
        return MujocoPool(
            model,
            num_worlds,
            threads=threads,
            fields=fields,
            per_world_models=per_world_models,
            after_step=after_step,
        )
    from toddle.envs.warp_pool import WarpPool

    if per_world_models:
        raise problem("physics.engine", "mujoco where worlds have models of their own (randomisation)", physics.engine)
    return WarpPool(model, num_worlds, device=team().device(physics.device), fields=fields, after_step=after_step)
