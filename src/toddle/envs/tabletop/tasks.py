"""The six tasks of VLAJS (S4): starts, success rules and dense rewards of ManiSkill 3.0.1, experts of our own.

    pick-cube           PickCube-v1             lift-peg-upright     LiftPegUpright-v1
    push-cube           PushCube-v1             poke-cube            PokeCube-v1
    peg-insertion-side  PegInsertionSide-v1     pick-place-cube      ours: the package has no such task
    push-cube-2         ours: push-cube with other colours, sizes and side, which no teacher has seen

Where a picture must tell what is wanted, the goal is drawn (ManiSkill hides the sphere of PickCube from its cameras).
"""

from __future__ import annotations

from toddle.envs.tabletop.cubes import CUBES
from toddle.envs.tabletop.pegs import PEGS

__all__ = ["TASKS"]

TASKS = {task.name: task for task in (*CUBES, *PEGS)}
"""The tasks by name."""
