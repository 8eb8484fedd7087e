"""Tasks with a peg: LiftPegUpright-v1, PokeCube-v1 and PegInsertionSide-v1 of ManiSkill 3.0.1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from toddle.envs.base import Array
from toddle.envs.tabletop.common import (
    CUBE,
    WIDE,
    along_x,
    distance,
    grasp_stages,
    lift_stage,
    reach,
    square,
    third_angle,
    to_goal,
    turned,
)
from toddle.envs.tabletop.experts import OPEN, SHUT, Stage, carry, down, follow
from toddle.envs.tabletop.scene import BLUE, PEG, RED, Thing
from toddle.envs.tabletop.task import Moment, Start, Streams, Task, near, placed

__all__ = ["PEGS"]

GENTLY = -0.05
"""Gripper's action that presses the peg of 5 cm with some 12 N a finger."""
SLOWLY = 0.08
"""Metres ahead of which a hanging peg is pulled up."""
ORANGE, WHITE = (0.93, 0.45, 0.34, 1.0), (0.93, 0.96, 0.98, 1.0)
_CUBE = Thing(name="cube", half_size=(CUBE,) * 3, colours=(RED,))


# ---- lift-peg-upright ------------------------------------------------------------------------------------------------
def _begin_lift(streams: Streams) -> Start:
    x, y = square(streams)
    on_side = Rotation.from_euler("x", np.full((len(x), 1), math.pi / 2))
    return Start(at={"peg": placed(x, y, PEG[1])}, rotation={"peg": on_side})


def _upright(moment: Moment) -> Array:
    tilted = np.abs(np.abs(third_angle(moment.rotation["peg"])) - math.pi / 2)
    return (tilted < 0.08) & (np.abs(moment.at["peg"][:, 2] - PEG[0]) < 0.005)


def _pay_lift(moment: Moment) -> Array:
    axis = along_x(moment.rotation["peg"], 1.0)
    height = near(np.abs(moment.at["peg"][:, 2] - PEG[0]))
    at_it = np.where(moment.holds("peg", PEG), 1.0, near(reach(moment, "peg")))
    return np.abs(axis[:, 2]) + height + at_it / 5


def _simple_lift(moment: Moment) -> Array:
    return near(np.abs(moment.at["peg"][:, 2] - PEG[0]), 20.0)


def _expert_lift(moment: Moment, memory: dict[str, Any]) -> Array:
    """Held gently near its end and lifted, the peg swings down between the fingers until it hangs; then set down."""

    def raise_(now: Moment) -> tuple[Array, Rotation, float]:
        at = now.tool.copy()
        at[:, 2] = np.minimum(0.27, at[:, 2] + SLOWLY)
        return at, down(np.zeros(len(at))), GENTLY

    def lower(now: Moment) -> tuple[Array, Rotation, float]:
        at = now.tool.copy()
        at[:, 2] += 0.5 * (PEG[0] - 0.001 - now.at["peg"][:, 2])
        return at, down(np.zeros(len(at))), GENTLY

    def release(now: Moment) -> tuple[Array, Rotation, float]:
        return now.tool, now.turn, OPEN

    stages = [*grasp_stages("peg", 0.08, along=0.095, period=math.pi), (raise_, 0.03, WIDE), (lower, 0.003, WIDE)]
    held = moment.holds("peg", PEG) | (memory["phase"] > 4)
    return follow([*stages, (release, 0.0, 0.0)], moment, memory, grasp=3, held=held)


# ---- poke-cube -------------------------------------------------------------------------------------------------------
def _begin_poke(streams: Streams) -> Start:
    x, y = square(streams)
    _, cube_y = square(streams)
    turn = turned(math.pi / 3 * streams.uniform() - math.pi / 6)
    cube = placed(x + PEG[0] + 0.1, cube_y, CUBE)
    goal = cube + np.array([0.1, 0.0, 0.0])
    goal[:, 2] = 1e-3
    return Start(at={"peg": placed(x, y, PEG[1]), "cube": cube, "goal": goal}, rotation={"cube": turn})


def _poked(moment: Moment) -> Array:
    return (distance(moment, "cube", "goal", 2) < 0.05) & moment.still


def _pay_poke(moment: Moment) -> Array:
    far = reach(moment, "peg")
    # ManiSkill measures the head's distance as if the peg were not turned (`peg_head_pos`), and so does this
    head = moment.at["peg"] + np.array([PEG[0], 0.0, 0.0])
    angle = np.abs(third_angle(moment.rotation["peg"]) - third_angle(moment.rotation["cube"]))
    gap = np.linalg.norm((head - moment.at["cube"])[:, :2], axis=1)
    held = moment.holds("peg", PEG) & (far < 0.01)
    fits = held & (angle < 0.05) & (gap <= CUBE + 0.005)
    reward = np.where(held, 4.0 + near(gap) + near(angle), 2.0 * near(far))
    reward = np.where(fits, 7.0 + near(distance(moment, "cube", "goal")), reward)
    return reward + (distance(moment, "cube", "goal", 2) < 0.05) * moment.calm


def _expert_poke(moment: Moment, memory: dict[str, Any]) -> Array:
    level = Rotation.identity(len(moment.tool))

    def before(gap: float) -> Stage:
        def stage(now: Moment) -> tuple[Array, Rotation, float]:
            at = now.at["cube"] - np.array([PEG[0] + CUBE + gap, 0.0, 0.0])
            at[:, 2] = PEG[1] + 0.002
            return *carry(now, "peg", at, level), SHUT

        return stage

    def poke(now: Moment) -> tuple[Array, Rotation, float]:
        at = now.at["goal"] - np.array([PEG[0] + CUBE, 0.0, 0.0])
        at[:, 2] = PEG[1] + 0.002
        return *carry(now, "peg", at, level), SHUT

    stages = [*grasp_stages("peg", 0.08, period=math.pi), (before(0.03), 0.012, 0.05), (poke, 0.0, 0.0)]
    return follow(stages, moment, memory, grasp=3, held=moment.holds("peg", PEG))


# ---- peg-insertion-side ----------------------------------------------------------------------------------------------
def _begin_insert(streams: Streams) -> Start:
    length, radius = 0.085 + 0.04 * streams.uniform(), 0.015 + 0.01 * streams.uniform()
    centre = 0.5 * (length - radius)[:, None] * (2.0 * streams.uniform(2) - 1.0)
    x, y = 0.2 * streams.uniform() - 0.1, 0.3 * streams.uniform() - 0.3
    turn = turned(math.pi / 2 + math.pi / 3 * (2.0 * streams.uniform() - 1.0))
    box_x, box_y = 0.1 * streams.uniform() - 0.05, 0.2 + 0.2 * streams.uniform()
    box_turn = turned(math.pi / 2 + math.pi / 8 * (2.0 * streams.uniform() - 1.0))
    return Start(
        at={"peg": placed(x, y, radius), "box": placed(box_x, box_y, length)},
        rotation={"peg": turn, "box": box_turn},
        sizes={"length": length, "radius": radius, "centre": centre},
    )


def _hole(moment: Moment) -> tuple[Array, Rotation]:
    """Place (N, 3) and rotation of the middle of the hole; it goes along x."""
    centre = np.concatenate([np.zeros((len(moment.tool), 1)), moment.sizes["centre"]], 1)
    return moment.at["box"] + moment.rotation["box"].apply(centre), moment.rotation["box"]


def _peg_head(moment: Moment) -> Array:
    return moment.at["peg"] + along_x(moment.rotation["peg"], moment.sizes["length"])


def _in_hole(moment: Moment, point: Array) -> Array:
    at, rotation = _hole(moment)
    return np.asarray(rotation.apply(point - at, inverse=True))


def _inserted(moment: Moment) -> Array:
    head, hole = _in_hole(moment, _peg_head(moment)), (moment.sizes["radius"] + 0.003)[:, None]
    return (head[:, 0] >= -0.015) & (np.abs(head[:, 1:]) <= hole).all(1)


def _peg_size(moment: Moment) -> Array:
    length, radius = moment.sizes["length"], moment.sizes["radius"]
    return np.stack([length, radius, radius], 1)


def _pay_insert(moment: Moment) -> Array:
    grasp = moment.at["peg"] + along_x(moment.rotation["peg"], -0.06)
    held = moment.holds("peg", _peg_size(moment))
    head = _in_hole(moment, _peg_head(moment))
    head_off = np.linalg.norm(head[:, 1:], axis=1)
    peg_off = np.linalg.norm(_in_hole(moment, moment.at["peg"])[:, 1:], axis=1)
    before = near(0.1 * (head_off + peg_off) + 0.9 * np.maximum(head_off, peg_off))
    lined_up = (head_off < 0.01) & (peg_off < 0.01)
    inside = near(np.linalg.norm(head, axis=1))
    reach = near(np.linalg.norm(grasp - moment.tool, axis=1), 4.0)
    return reach + held * (1.0 + 3.0 * before + 5.0 * lined_up * inside)


def _simple_insert(moment: Moment) -> Array:
    return near(np.linalg.norm(_in_hole(moment, _peg_head(moment)), axis=1))


def _expert_insert(moment: Moment, memory: dict[str, Any]) -> Array:
    def line_up(depth: float, lengths: float) -> Stage:
        """The peg's middle `depth` metres and so many of its half lengths from the middle of the hole."""

        def stage(now: Moment) -> tuple[Array, Rotation, float]:
            at, rotation = _hole(now)
            return *carry(now, "peg", at + along_x(rotation, depth + lengths * now.sizes["length"]), rotation), SHUT

        return stage

    stages = [*grasp_stages("peg", 0.08, along=-0.04, period=math.pi), (lift_stage(0.13), 0.03, WIDE)]
    stages += [(line_up(-0.03, -2.0), 0.004, 0.02), (line_up(0.0, -1.0), 0.0, 0.0)]
    return follow(stages, moment, memory, grasp=3, held=moment.holds("peg", _peg_size(moment)))


# ---- the table -------------------------------------------------------------------------------------------------------
PEGS = (
    Task(
        name="lift-peg-upright",
        sentences=("stand the peg upright", "lift the peg and set it upright on the table"),
        things=(Thing(name="peg", half_size=PEG, colours=(BLUE, (0.69, 0.055, 0.055, 1.0))),),
        best=3.0,
        begin=_begin_lift,
        solved=_upright,
        dense=_pay_lift,
        simplified=_simple_lift,
        expert=_expert_lift,
        seen=("peg",),
    ),
    Task(
        name="poke-cube",
        sentences=("poke the red cube to the target with the blue peg", "push the red cube with the peg's end"),
        things=(Thing(name="peg", half_size=PEG, colours=(BLUE,)), _CUBE),
        marks=(("goal", "disc", (0.05, 5e-4), (0.9, 0.25, 0.2, 1.0)),),
        best=10.0,
        begin=_begin_poke,
        solved=_poked,
        dense=_pay_poke,
        simplified=to_goal,
        expert=_expert_poke,
        seen=("goal", "peg", "cube"),
    ),
    Task(
        name="peg-insertion-side",
        sentences=("insert the peg into the hole", "put the orange end of the peg into the hole of the box"),
        things=(
            Thing(
                name="peg",
                half_size=(0.105, 0.02, 0.02),
                colours=(ORANGE, WHITE),
            ),
        ),
        holder=("box", 0.105, 0.023),
        limit=100,
        best=10.0,
        begin=_begin_insert,
        solved=_inserted,
        dense=_pay_insert,
        simplified=_simple_insert,
        expert=_expert_insert,
        seen=("box", "peg"),
    ),
)
