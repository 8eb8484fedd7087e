"""ManiSkill's worlds as toddle's tasks see them: its states as a `Moment`, and so as tabletop's numbers and experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from toddle.envs.base import Array
from toddle.envs.tabletop.task import Moment

__all__ = ["REPLICAS", "SENTENCES", "ManiskillMoment", "Replica", "arm_numbers", "moment_of", "tool_of"]

SENTENCES = {
    "LiftPegUpright-v1": "stand the peg upright",
    "PegInsertionSide-v1": "insert the peg into the hole",
    "PickCube-v1": "move the red cube to the green ball",
    "PlaceSphere-v1": "put the sphere into the bin",
    "PokeCube-v1": "poke the cube to the target with the peg",
    "PullCube-v1": "pull the cube to the target",
    "PullCubeTool-v1": "pull the cube nearer with the tool",
    "PushCube-v1": "push the blue cube to the red target",
    "RollBall-v1": "roll the ball to the target",
    "StackCube-v1": "put the red cube on the green cube",
}
"""Tasks of a Panda with a dense reward that need no files of others, and what is said: ManiSkill has no sentences."""


@dataclass(frozen=True, kw_only=True)
class Replica:
    """Which task of `tabletop/` follows one of ManiSkill's, and what its things and marks are called there."""

    task: str
    names: dict[str, str]


REPLICAS = {
    "PickCube-v1": Replica(task="pick-cube", names={"cube": "cube", "goal": "goal_site"}),
    "PushCube-v1": Replica(task="push-cube", names={"cube": "obj", "goal": "goal_region"}),
    "LiftPegUpright-v1": Replica(task="lift-peg-upright", names={"peg": "peg"}),
    "PokeCube-v1": Replica(task="poke-cube", names={"peg": "peg", "cube": "cube", "goal": "goal_region"}),
    "PegInsertionSide-v1": Replica(task="peg-insertion-side", names={"peg": "peg", "box": "box"}),
}


@dataclass(frozen=True, kw_only=True)
class ManiskillMoment(Moment):
    """A moment in which ManiSkill says what is held."""

    held: dict[str, Array]

    def holds(self, thing: str, half_size: tuple[float, float, float] | Array) -> Array:
        """Whether ManiSkill's agent grasps the thing, (N,) bool."""
        return self.held[thing]


def _rows(parts: Sequence[Any]) -> Array:
    """Return tensors (n, ...) of several simulations as one array (N, ...)."""
    return np.concatenate([part.cpu().numpy() for part in parts]).astype(np.float64)


def tool_of(sims: Sequence[Any]) -> tuple[Array, Array]:
    """Return the tools' places (N, 3) and quaternions (N, 4) wxyz."""
    poses = [sim.agent.tcp_pose for sim in sims]
    return _rows([pose.p for pose in poses]), _rows([pose.q for pose in poses])


def arm_numbers(sims: Sequence[Any]) -> Array:
    """Return what an arm knows of itself (N, 27), in tabletop's order: joints, speeds, tool, axes of the hand."""
    robots = [sim.agent.robot for sim in sims]
    place, turn = tool_of(sims)
    axes = Rotation.from_quat(turn, scalar_first=True).as_matrix()[:, :, :2].reshape(-1, 6)
    speeds = _rows([robot.get_qvel() for robot in robots])
    return np.concatenate([_rows([robot.get_qpos() for robot in robots]), speeds, place, axes], 1)


def moment_of(sims: Sequence[Any], replica: Replica) -> ManiskillMoment:
    """Return the worlds of these simulations as the replica's rules and its expert see them."""
    place, turn = tool_of(sims)
    poses = {name: [getattr(sim, own).pose for sim in sims] for name, own in replica.names.items()}
    sizes = {}
    if "box" in poses:
        halves = _rows([sim.peg_half_sizes for sim in sims])
        centre = _rows([sim.box_hole_offsets.p for sim in sims])[:, 1:]
        sizes = {"length": halves[:, 0], "radius": halves[:, 1], "centre": centre}
    things = [name for name in poses if name not in ("goal", "box")]
    held = {
        name: _rows([sim.agent.is_grasping(getattr(sim, replica.names[name])) for sim in sims]) > 0 for name in things
    }
    return ManiskillMoment(
        tool=place,
        turn=Rotation.from_quat(turn, scalar_first=True),
        speed=_rows([sim.agent.robot.get_qvel() for sim in sims])[:, :7],
        touch=np.zeros((len(place), 2)),
        at={name: _rows([pose.p for pose in own]) for name, own in poses.items()},
        rotation={
            name: Rotation.from_quat(_rows([pose.q for pose in own]), scalar_first=True) for name, own in poses.items()
        },
        sizes=sizes,
        held=held,
    )
