"""What the worlds of a tabletop task are like now: read from the pool for rules, experts and policies of states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from toddle.core.types import Named
from toddle.envs.base import Array
from toddle.envs.estimates import PoseEstimates
from toddle.envs.mujoco_pool import MujocoPool
from toddle.envs.tabletop.task import Moment, Task

__all__ = ["TOOL", "arm_numbers", "moment_of", "names_of", "poses", "quaternions", "thing_numbers", "told"]

TOOL = 0  # the first site of the scene


def quaternions(rotation: Rotation | None) -> Array:
    """Return quaternions (W, 4), w first; for None the one that turns nothing."""
    return np.array([1.0, 0.0, 0.0, 0.0]) if rotation is None else np.asarray(rotation.as_quat(scalar_first=True))


def moment_of(pool: MujocoPool, things: Sequence[str], mocap: dict[str, int], sizes: dict[str, Array]) -> Moment:
    """Return all worlds as they are.  things: in the order of their joints; mocap: name of a mark -> its number."""
    state, place, turn = pool.state, dict[str, Array](), dict[str, Rotation]()
    for index, name in enumerate(things):
        begin = 9 + 7 * index
        place[name] = state["qpos"][:, begin : begin + 3].copy()
        turn[name] = Rotation.from_quat(state["qpos"][:, begin + 3 : begin + 7], scalar_first=True)
    for name, index in mocap.items():
        place[name] = pool.mocap_pos[:, index].copy()
        turn[name] = Rotation.from_quat(pool.mocap_quat[:, index], scalar_first=True)
    return Moment(
        tool=state["site_xpos"][:, TOOL].copy(),
        turn=Rotation.from_matrix(state["site_xmat"][:, TOOL].reshape(-1, 3, 3)),
        speed=state["qvel"][:, :7].copy(),
        touch=state["sensordata"][:, :2].copy(),
        at=place,
        rotation=turn,
        sizes=sizes,
    )


def poses(now: Moment, names: Sequence[str], worlds: Array) -> tuple[Array, Array]:
    """Return the true positions (W, K, 3) and quaternions (W, K, 4) of what a detector looks for."""
    turns = [now.rotation[name].as_quat(scalar_first=True)[worlds] for name in names]
    return np.stack([now.at[name][worlds] for name in names], 1), np.stack(turns, 1)


def told(now: Moment, names: Sequence[str], estimates: PoseEstimates | None) -> Moment:
    """Return the worlds as a policy of states is told of them: `names` as they are estimated."""
    if estimates is None:
        return now
    place, turn = dict(now.at), dict(now.rotation)
    for name, pose in zip(names, estimates.pose.swapaxes(0, 1)):
        place[name], turn[name] = pose[:, :3], Rotation.from_quat(pose[:, 3:], scalar_first=True)
    return replace(now, at=place, rotation=turn)


def arm_numbers(pool: MujocoPool, now: Moment) -> Array:
    """Return what an arm knows of itself (N, 27): joints, joint speeds, the tool's place and two axes of its hand."""
    state = pool.state
    axes = state["site_xmat"][:, TOOL].reshape(-1, 3, 3)[:, :, :2].reshape(-1, 6)
    return np.concatenate([state["qpos"][:, :9], state["qvel"][:, :9], now.tool, axes], 1)


def names_of(task: Task) -> dict[str, Named]:
    """Return where tool, things, goal and object (the last thing) stand in the numbers of a state."""
    found, place = {"tool": Named((18, 19, 20))}, 27 + len(task.things)
    for name in task.seen:
        found[name] = Named((place, place + 1, place + 2))
        place += 6 if name == "goal" else 12
    last = task.things[-1].name if task.things else ""
    return found | ({"object": found[last]} if last in found else {})


def thing_numbers(task: Task, now: Moment) -> Array:
    """Return what a policy of states is told besides, (N, M): what is held, where things are, their differences."""
    parts, sizes = list[Array](), now.sizes
    for thing in task.things:
        half = thing.half_size
        size = half if not sizes else np.stack([sizes["length"], sizes["radius"], sizes["radius"]], 1)
        parts.append(now.holds(thing.name, size)[:, None])
    for name in task.seen:
        parts += [now.at[name], now.at[name] - now.tool]
        if name != "goal":
            parts.append(now.rotation[name].as_matrix()[:, :, :2].reshape(-1, 6))
    if "goal" in now.at:
        parts += [now.at["goal"] - now.at[task.things[-1].name]]
    parts += [values.reshape(len(now.tool), -1) for values in sizes.values()]
    return np.concatenate(parts, 1)
