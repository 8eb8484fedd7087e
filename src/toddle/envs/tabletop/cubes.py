"""Picking, placing and pushing a cube: PickCube-v1 and PushCube-v1 of ManiSkill 3.0.1, and two of ours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from toddle.envs.base import Array
from toddle.envs.tabletop.common import (
    CUBE,
    WIDE,
    distance,
    grasp_stages,
    holds_cube,
    lift_stage,
    reach,
    square,
    to_goal,
    turned,
)
from toddle.envs.tabletop.experts import OPEN, SHUT, Stage, carry, down, follow
from toddle.envs.tabletop.scene import BLUE, GREEN, RED, Colour, Thing
from toddle.envs.tabletop.task import Moment, Start, Streams, Task, near, placed

__all__ = ["CUBES"]

_CUBE = Thing(name="cube", half_size=(CUBE,) * 3, colours=(RED,), hard=True)


# ---- pick-cube, pick-place-cube --------------------------------------------------------------------------------------
def _begin_pick(streams: Streams) -> Start:
    x, y = square(streams)
    turn = turned(2.0 * math.pi * streams.uniform())
    goal_x, goal_y = square(streams)
    height = 0.3 * streams.uniform() + CUBE
    return Start(
        at={"cube": placed(x, y, CUBE), "goal": placed(goal_x, goal_y, height)},
        rotation={"cube": turn},
    )


def _picked(moment: Moment) -> Array:
    return (distance(moment, "cube", "goal") <= 0.025) & moment.still


def _pay_pick(moment: Moment) -> Array:
    held = holds_cube(moment)
    away = distance(moment, "cube", "goal")
    return near(reach(moment, "cube")) + held * (1.0 + near(away)) + (away <= 0.025) * moment.calm


def _expert_pick(moment: Moment, memory: dict[str, Any]) -> Array:
    def to_goal(now: Moment) -> tuple[Array, Rotation, float]:
        return *carry(now, "cube", now.at["goal"], now.rotation["cube"]), SHUT

    stages = [*grasp_stages("cube", 0.08), (to_goal, 0.0, 0.0)]
    return follow(stages, moment, memory, grasp=3, held=holds_cube(moment))


def _begin_place(streams: Streams) -> Start:
    start = _begin_pick(streams)
    cube, goal = start.at["cube"], start.at["goal"]
    side = np.where(goal[:, 1] >= cube[:, 1], 1.0, -1.0)  # at least 8 cm away, so that something is to be done
    y = np.where(np.abs(goal[:, 1] - cube[:, 1]) < 0.08, cube[:, 1] + 0.08 * side, goal[:, 1])
    return Start(at={"cube": cube, "goal": placed(goal[:, 0], y, 1e-3)}, rotation=start.rotation)


def _on_goal(moment: Moment) -> Array:
    return (distance(moment, "cube", "goal", 2) <= 0.025) & (moment.at["cube"][:, 2] < CUBE + 0.005)


def _put(moment: Moment) -> Array:
    return _on_goal(moment) & ~holds_cube(moment) & moment.still


def _pay_place(moment: Moment) -> Array:
    held, there = holds_cube(moment), _on_goal(moment)
    aim = moment.at["goal"] + np.array([0.0, 0.0, CUBE])
    away = np.linalg.norm(moment.at["cube"] - aim, axis=1)
    stages = near(reach(moment, "cube")) + held * (1.0 + near(away))
    return np.where(there, 3.0 + 0.5 * (1.0 - held) + 0.5 * moment.calm, stages)


def _expert_place(moment: Moment, memory: dict[str, Any]) -> Array:
    def over(height: float) -> Stage:
        def stage(now: Moment) -> tuple[Array, Rotation, float]:
            at = now.at["goal"] + np.array([0.0, 0.0, height])
            return *carry(now, "cube", at, now.rotation["cube"]), SHUT

        return stage

    def away(now: Moment) -> tuple[Array, Rotation, float]:
        return now.at["cube"] + np.array([0.0, 0.0, 0.1]), now.turn, OPEN

    def release(now: Moment) -> tuple[Array, Rotation, float]:
        return now.tool, now.turn, OPEN

    lift = (lift_stage(0.11), 0.02, WIDE)
    stages = [*grasp_stages("cube", 0.08), lift, (over(0.08), 0.015, WIDE), (over(CUBE + 0.002), 0.01, WIDE)]
    held = holds_cube(moment) | (memory["phase"] > 5)
    return follow([*stages, (release, WIDE, WIDE), (away, 0.0, 0.0)], moment, memory, grasp=3, held=held)


# ---- push-cube -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class _Push:
    """Push a cube by 20 cm onto a disc."""

    way: tuple[float, float, float]
    half: float
    """Half size of the cube, metres."""
    radius: float
    """Of the disc, metres."""

    def begin(self, streams: Streams) -> Start:
        x, y = square(streams)
        goal = placed(x, y, 1e-3) + 0.2 * np.array(self.way)
        return Start(at={"cube": placed(x, y, self.half), "goal": goal})

    def solved(self, moment: Moment) -> Array:
        low = moment.at["cube"][:, 2] < self.half + 0.005
        return (distance(moment, "cube", "goal", 2) < self.radius) & low

    def dense(self, moment: Moment) -> Array:
        behind = moment.at["cube"] - (self.half + 0.005) * np.array(self.way)
        far = np.linalg.norm(behind - moment.tool, axis=1)
        place = near(distance(moment, "cube", "goal", 2))
        level = near(np.abs(moment.at["cube"][:, 2] - self.half))
        return near(far) + (far < 0.01) * place * (1.0 + level)

    def expert(self, moment: Moment, memory: dict[str, Any]) -> Array:
        facing = down(np.zeros(len(moment.tool)))
        ahead = np.array(self.way)

        def behind(height: float) -> Stage:
            return lambda now: (
                now.at["cube"] - (0.05 + self.half) * ahead + np.array([0.0, 0.0, height]),
                facing,
                SHUT,
            )

        def through(now: Moment) -> tuple[Array, Rotation, float]:
            aim = now.at["goal"] - (0.01 + self.half) * ahead
            return placed(aim[:, 0], aim[:, 1], self.half), facing, SHUT

        return follow([(behind(0.1), 0.03, WIDE), (behind(0.0), 0.02, WIDE), (through, 0.0, 0.0)], moment, memory)

    def task(self, name: str, sentences: tuple[str, ...], cube: Colour, disc: Colour) -> Task:
        return Task(
            name=name,
            sentences=sentences,
            things=(Thing(name="cube", half_size=(self.half,) * 3, colours=(cube,)),),
            marks=(("goal", "disc", (self.radius, 5e-4), disc),),
            best=4.0,
            begin=self.begin,
            solved=self.solved,
            dense=self.dense,
            simplified=to_goal,
            expert=self.expert,
            seen=("goal", "cube"),
        )


# ---- the table -------------------------------------------------------------------------------------------------------
CUBES = (
    Task(
        name="pick-cube",
        sentences=("move the red cube to the green ball", "pick up the red cube and hold it at the green ball"),
        things=(_CUBE,),
        marks=(("goal", "sphere", (0.025,), GREEN),),
        best=5.0,
        begin=_begin_pick,
        solved=_picked,
        dense=_pay_pick,
        simplified=to_goal,
        expert=_expert_pick,
        seen=("goal", "cube"),
    ),
    Task(
        name="pick-place-cube",
        sentences=("put the red cube on the green spot", "place the red cube on the green disc and let it go"),
        things=(_CUBE,),
        marks=(("goal", "disc", (0.035, 5e-4), GREEN),),
        limit=100,
        best=5.0,
        begin=_begin_place,
        solved=_put,
        dense=_pay_place,
        simplified=to_goal,
        expert=_expert_place,
        seen=("goal", "cube"),
    ),
    _Push(way=(1.0, 0.0, 0.0), half=CUBE, radius=0.1).task(
        "push-cube",
        ("push the blue cube to the red target", "push the blue cube forward onto the red disc"),
        BLUE,
        (0.9, 0.25, 0.2, 1.0),
    ),
    _Push(way=(0.0, 1.0, 0.0), half=0.025, radius=0.08).task(
        "push-cube-2",
        ("push the yellow cube to the purple target", "push the yellow cube aside onto the purple disc"),
        (0.95, 0.8, 0.1, 1.0),
        (0.5, 0.2, 0.7, 1.0),
    ),
)
