"""Picking, placing and pushing a cube: PickCube-v1 and PushCube-v1 of ManiSkill 3.0.1, and two of ours."""

from __future__ import annotations

import math
from dataclasses import replace
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
from toddle.envs.tabletop.scene import BLUE, GREEN, RED, Thing
from toddle.envs.tabletop.task import Moment, Start, Streams, Task, near, placed

__all__ = ["CUBES"]

_CUBE = Thing(name="cube", half_size=(CUBE,) * 3, colours=(RED,))
_BLUE_CUBE = Thing(name="cube", half_size=(CUBE,) * 3, colours=(BLUE,))
_DISC = ("goal", "disc", (0.1, 5e-4), (0.9, 0.25, 0.2, 1.0))
AHEAD, ASIDE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)


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
def _begin_push(way: tuple[float, float, float]) -> Any:
    def begin(streams: Streams) -> Start:
        x, y = square(streams)
        goal = placed(x, y, 1e-3) + 0.2 * np.array(way)
        return Start(at={"cube": placed(x, y, CUBE), "goal": goal})

    return begin


def _pushed(moment: Moment) -> Array:
    return (distance(moment, "cube", "goal", 2) < 0.1) & (moment.at["cube"][:, 2] < CUBE + 0.005)


def _pay_push(way: tuple[float, float, float]) -> Any:
    def pay(moment: Moment) -> Array:
        behind = moment.at["cube"] - (CUBE + 0.005) * np.array(way)
        far = np.linalg.norm(behind - moment.tool, axis=1)
        place = near(distance(moment, "cube", "goal", 2))
        level = near(np.abs(moment.at["cube"][:, 2] - CUBE))
        return near(far) + (far < 0.01) * place * (1.0 + level)

    return pay


def _expert_push(way: tuple[float, float, float]) -> Any:
    def expert(moment: Moment, memory: dict[str, Any]) -> Array:
        facing = down(np.zeros(len(moment.tool)))
        ahead = np.array(way)

        def behind(height: float) -> Stage:
            return lambda now: (
                now.at["cube"] - 0.07 * ahead + np.array([0.0, 0.0, height]),
                facing,
                SHUT,
            )

        def through(now: Moment) -> tuple[Array, Rotation, float]:
            aim = now.at["goal"] - 0.03 * ahead
            return placed(aim[:, 0], aim[:, 1], 0.02), facing, SHUT

        return follow([(behind(0.1), 0.03, WIDE), (behind(0.0), 0.02, WIDE), (through, 0.0, 0.0)], moment, memory)

    return expert


# ---- the table -------------------------------------------------------------------------------------------------------
PUSH = Task(
    name="push-cube",
    sentences=("push the blue cube to the red target", "push the blue cube forward onto the red disc"),
    things=(_BLUE_CUBE,),
    marks=(_DISC,),
    best=4.0,
    begin=_begin_push(AHEAD),
    solved=_pushed,
    dense=_pay_push(AHEAD),
    simplified=to_goal,
    expert=_expert_push(AHEAD),
    seen=("goal", "cube"),
)
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
    PUSH,
    replace(
        PUSH,
        name="push-cube-2",
        sentences=("push the yellow cube to the purple target", "push the yellow cube aside onto the purple disc"),
        things=(Thing(name="cube", half_size=(CUBE,) * 3, colours=((0.95, 0.8, 0.1, 1.0),)),),
        marks=(("goal", "disc", (0.1, 5e-4), (0.5, 0.2, 0.7, 1.0)),),
        begin=_begin_push(ASIDE),
        dense=_pay_push(ASIDE),
        expert=_expert_push(ASIDE),
    ),
)
