"""The six tasks of VLAJS (S4): starts, success rules and dense rewards of ManiSkill 3.0.1, experts of our own.

    pick-cube           PickCube-v1             lift-peg-upright     LiftPegUpright-v1
    push-cube           PushCube-v1             poke-cube            PokeCube-v1
    peg-insertion-side  PegInsertionSide-v1     pick-place-cube      ours: the package has no such task
    push-cube-2         ours: push-cube with another cube, another goal and another side, which no teacher has seen

Where a picture must tell what is wanted, the goal is drawn (ManiSkill hides the sphere of PickCube from its cameras).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from toddle.envs.base import Array
from toddle.envs.tabletop.experts import OPEN, SHUT, Stage, carry, down, follow, nearest_yaw
from toddle.envs.tabletop.scene import BLUE, GREEN, PEG, RED, Thing
from toddle.envs.tabletop.task import Moment, Start, Streams, Task, near, placed

__all__ = ["TASKS"]

GENTLY = -0.1
"""Gripper's action that presses the peg of 5 cm with some 12 N a finger."""
SLOWLY = 0.08
"""Metres ahead of which a hanging peg is pulled up."""
CUBE = 0.02
"""Half size of a cube, metres."""
WIDE = math.inf


def _turned(angle: Array) -> Rotation:
    return Rotation.from_euler("z", angle[:, None])


def _along(rotation: Rotation, metres: Array | float) -> Array:
    """Return vectors (N, 3) of so many metres in the direction of the turned x axis."""
    return rotation.apply(np.array([1.0, 0.0, 0.0])) * np.reshape(metres, (-1, 1))


def _yaw(rotation: Rotation) -> Array:
    """Return the angle (N,) about z of the turned x axis."""
    x = _along(rotation, 1.0)
    return np.asarray(np.arctan2(x[:, 1], x[:, 0]))


def _third(rotation: Rotation) -> Array:
    """Return the third of the Euler angles x, y', z'' (N,), as ManiSkill's rules take it."""
    matrix = rotation.as_matrix()
    return np.asarray(np.arctan2(-matrix[:, 0, 1], matrix[:, 0, 0]))


def _square(streams: Streams, half: float = 0.1) -> tuple[Array, Array]:
    drawn = half * (2.0 * streams.uniform(2) - 1.0)
    return drawn[:, 0], drawn[:, 1]


def _distance(moment: Moment, a: str, b: str, axes: int = 3) -> Array:
    return np.asarray(np.linalg.norm((moment.at[a] - moment.at[b])[:, :axes], axis=1))


def _reach(moment: Moment, thing: str) -> Array:
    return np.asarray(np.linalg.norm(moment.at[thing] - moment.tool, axis=1))


def _grip(moment: Moment, thing: str = "cube", half: tuple[float, float, float] = (CUBE,) * 3) -> Array:
    return moment.holds(thing, half)


def _grasp(thing: str, height: float, *, along: float = 0.0, period: float = math.pi / 2) -> list[Any]:
    """Stages that take a thing from above: over it, down to it, close.  along: metres from its centre, on x."""

    def yaw(moment: Moment) -> Array:
        return nearest_yaw(_yaw(moment.rotation[thing]), period)

    def point(moment: Moment) -> Array:
        return moment.at[thing] + _along(moment.rotation[thing], along)

    def stage(up: float, grip: float) -> Stage:
        return lambda moment: (point(moment) + np.array([0.0, 0.0, up]), down(yaw(moment)), grip)

    return [(stage(height, OPEN), 0.02, 0.1), (stage(0.0, OPEN), 0.012, 0.1), (stage(0.0, SHUT), WIDE, WIDE)]


def _place(mark: str, up: float, grip: float) -> Stage:
    return lambda moment: (moment.at[mark] + np.array([0.0, 0.0, up]), moment.turn, grip)


# ---- pick-cube, pick-place-cube --------------------------------------------------------------------------------------
def _begin_pick(streams: Streams) -> Start:
    x, y = _square(streams)
    turn = _turned(2.0 * math.pi * streams.uniform())
    goal_x, goal_y = _square(streams)
    height = 0.3 * streams.uniform() + CUBE
    return Start(
        at={"cube": placed(x, y, CUBE), "goal": placed(goal_x, goal_y, height)},
        rotation={"cube": turn},
    )


def _picked(moment: Moment) -> Array:
    return (_distance(moment, "cube", "goal") <= 0.025) & moment.still


def _pay_pick(moment: Moment) -> Array:
    held = _grip(moment)
    away = _distance(moment, "cube", "goal")
    return near(_reach(moment, "cube")) + held * (1.0 + near(away)) + (away <= 0.025) * moment.calm


def _expert_pick(moment: Moment, memory: dict[str, Any]) -> Array:
    def to_goal(now: Moment) -> tuple[Array, Rotation, float]:
        return *carry(now, "cube", now.at["goal"], now.rotation["cube"]), SHUT

    stages = [*_grasp("cube", 0.08), (to_goal, 0.0, 0.0)]
    return follow(stages, moment, memory, grasp=3, held=_grip(moment))


def _begin_place(streams: Streams) -> Start:
    start = _begin_pick(streams)
    cube, goal = start.at["cube"], start.at["goal"]
    side = np.where(goal[:, 1] >= cube[:, 1], 1.0, -1.0)  # at least 8 cm away, so that something is to be done
    y = np.where(np.abs(goal[:, 1] - cube[:, 1]) < 0.08, cube[:, 1] + 0.08 * side, goal[:, 1])
    return Start(at={"cube": cube, "goal": placed(goal[:, 0], y, 1e-3)}, rotation=start.rotation)


def _on_goal(moment: Moment) -> Array:
    return (_distance(moment, "cube", "goal", 2) <= 0.025) & (moment.at["cube"][:, 2] < CUBE + 0.005)


def _put(moment: Moment) -> Array:
    return _on_goal(moment) & ~_grip(moment) & moment.still


def _pay_place(moment: Moment) -> Array:
    held, there = _grip(moment), _on_goal(moment)
    aim = moment.at["goal"] + np.array([0.0, 0.0, CUBE])
    away = np.linalg.norm(moment.at["cube"] - aim, axis=1)
    stages = near(_reach(moment, "cube")) + held * (1.0 + near(away))
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

    lift = (_lift("cube", 0.08), 0.02, WIDE)
    stages = [*_grasp("cube", 0.08), lift, (over(0.08), 0.015, WIDE), (over(CUBE + 0.002), 0.01, WIDE)]
    held = _grip(moment) | (memory["phase"] > 5)
    return follow([*stages, (release, WIDE, WIDE), (away, 0.0, 0.0)], moment, memory, grasp=3, held=held)


def _lift(thing: str, height: float) -> Stage:
    def stage(now: Moment) -> tuple[Array, Rotation, float]:
        at = now.tool.copy()
        at[:, 2] = height + 0.03
        return at, now.turn, SHUT

    return stage


# ---- push-cube -------------------------------------------------------------------------------------------------------
def _begin_push(streams: Streams) -> Start:
    x, y = _square(streams)
    return Start(at={"cube": placed(x, y, CUBE), "goal": placed(x + 0.2, y, 1e-3)})


def _begin_push_2(streams: Streams) -> Start:
    x, y = _square(streams)
    return Start(at={"cube": placed(x, y, CUBE), "goal": placed(x, y + 0.2, 1e-3)})


def _pushed(moment: Moment) -> Array:
    return (_distance(moment, "cube", "goal", 2) < 0.1) & (moment.at["cube"][:, 2] < CUBE + 0.005)


def _pay_push(way: tuple[float, float, float]) -> Any:
    def pay(moment: Moment) -> Array:
        behind = moment.at["cube"] - (CUBE + 0.005) * np.array(way)
        far = np.linalg.norm(behind - moment.tool, axis=1)
        place = near(_distance(moment, "cube", "goal", 2))
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


# ---- lift-peg-upright ------------------------------------------------------------------------------------------------
def _begin_lift(streams: Streams) -> Start:
    x, y = _square(streams)
    on_side = Rotation.from_euler("x", np.full((len(x), 1), math.pi / 2))
    return Start(at={"peg": placed(x, y, PEG[1])}, rotation={"peg": on_side})


def _upright(moment: Moment) -> Array:
    tilted = np.abs(np.abs(_third(moment.rotation["peg"])) - math.pi / 2)
    return (tilted < 0.08) & (np.abs(moment.at["peg"][:, 2] - PEG[0]) < 0.005)


def _pay_lift(moment: Moment) -> Array:
    axis = _along(moment.rotation["peg"], 1.0)
    height = near(np.abs(moment.at["peg"][:, 2] - PEG[0]))
    reach = np.where(moment.holds("peg", PEG), 1.0, near(_reach(moment, "peg")))
    return np.abs(axis[:, 2]) + height + reach / 5


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

    stages = [*_grasp("peg", 0.08, along=0.095, period=math.pi), (raise_, 0.03, WIDE), (lower, 0.003, WIDE)]
    held = moment.holds("peg", PEG) | (memory["phase"] > 4)
    return follow([*stages, (release, 0.0, 0.0)], moment, memory, grasp=3, held=held)


# ---- poke-cube -------------------------------------------------------------------------------------------------------
def _begin_poke(streams: Streams) -> Start:
    x, y = _square(streams)
    _, cube_y = _square(streams)
    turn = _turned(math.pi / 3 * streams.uniform() - math.pi / 6)
    cube = placed(x + PEG[0] + 0.1, cube_y, CUBE)
    goal = cube + np.array([0.1, 0.0, 0.0])
    goal[:, 2] = 1e-3
    return Start(at={"peg": placed(x, y, PEG[1]), "cube": cube, "goal": goal}, rotation={"cube": turn})


def _poked(moment: Moment) -> Array:
    return (_distance(moment, "cube", "goal", 2) < 0.05) & moment.still


def _pay_poke(moment: Moment) -> Array:
    far = _reach(moment, "peg")
    # ManiSkill measures the head's distance as if the peg were not turned (`peg_head_pos`), and so does this
    head = moment.at["peg"] + np.array([PEG[0], 0.0, 0.0])
    angle = np.abs(_third(moment.rotation["peg"]) - _third(moment.rotation["cube"]))
    gap = np.linalg.norm((head - moment.at["cube"])[:, :2], axis=1)
    held = moment.holds("peg", PEG) & (far < 0.01)
    fits = held & (angle < 0.05) & (gap <= CUBE + 0.005)
    reward = np.where(held, 4.0 + near(gap) + near(angle), 2.0 * near(far))
    reward = np.where(fits, 7.0 + near(_distance(moment, "cube", "goal")), reward)
    return reward + (_distance(moment, "cube", "goal", 2) < 0.05) * moment.calm


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

    stages = [*_grasp("peg", 0.08, period=math.pi), (before(0.03), 0.012, 0.05), (poke, 0.0, 0.0)]
    return follow(stages, moment, memory, grasp=3, held=moment.holds("peg", PEG))


# ---- peg-insertion-side ----------------------------------------------------------------------------------------------
def _begin_insert(streams: Streams) -> Start:
    length, radius = 0.085 + 0.04 * streams.uniform(), 0.015 + 0.01 * streams.uniform()
    centre = 0.5 * (length - radius)[:, None] * (2.0 * streams.uniform(2) - 1.0)
    x, y = 0.2 * streams.uniform() - 0.1, 0.3 * streams.uniform() - 0.3
    turn = _turned(math.pi / 2 + math.pi / 3 * (2.0 * streams.uniform() - 1.0))
    box_x, box_y = 0.1 * streams.uniform() - 0.05, 0.2 + 0.2 * streams.uniform()
    box_turn = _turned(math.pi / 2 + math.pi / 8 * (2.0 * streams.uniform() - 1.0))
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
    return moment.at["peg"] + _along(moment.rotation["peg"], moment.sizes["length"])


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
    grasp = moment.at["peg"] + _along(moment.rotation["peg"], -0.06)
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
            return *carry(now, "peg", at + _along(rotation, depth + lengths * now.sizes["length"]), rotation), SHUT

        return stage

    stages = [*_grasp("peg", 0.08, along=-0.04, period=math.pi), (_lift("peg", 0.1), 0.03, WIDE)]
    stages += [(line_up(-0.03, -2.0), 0.004, 0.02), (line_up(0.0, -1.0), 0.0, 0.0)]
    return follow(stages, moment, memory, grasp=3, held=moment.holds("peg", _peg_size(moment)))


# ---- the table -------------------------------------------------------------------------------------------------------
_CUBE = Thing(name="cube", half_size=(CUBE,) * 3, colours=(RED,))
_BLUE_CUBE = Thing(name="cube", half_size=(CUBE,) * 3, colours=(BLUE,))
_DISC = ("goal", "disc", (0.1, 5e-4), (0.9, 0.25, 0.2, 1.0))
ORANGE, WHITE = (0.93, 0.45, 0.34, 1.0), (0.93, 0.96, 0.98, 1.0)
AHEAD, ASIDE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)


def _to_goal(moment: Moment) -> Array:
    return near(_distance(moment, "cube", "goal"))


TASKS = {
    task.name: task
    for task in (
        Task(
            name="pick-cube",
            sentences=("move the red cube to the green ball", "pick up the red cube and hold it at the green ball"),
            things=(_CUBE,),
            marks=(("goal", "sphere", (0.025,), GREEN),),
            best=5.0,
            begin=_begin_pick,
            solved=_picked,
            dense=_pay_pick,
            simplified=_to_goal,
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
            simplified=_to_goal,
            expert=_expert_place,
            seen=("goal", "cube"),
        ),
        Task(
            name="push-cube",
            sentences=("push the blue cube to the red target", "push the blue cube forward onto the red disc"),
            things=(_BLUE_CUBE,),
            marks=(_DISC,),
            best=4.0,
            begin=_begin_push,
            solved=_pushed,
            dense=_pay_push(AHEAD),
            simplified=_to_goal,
            expert=_expert_push(AHEAD),
            seen=("goal", "cube"),
        ),
        Task(
            name="push-cube-2",
            sentences=("push the yellow cube to the purple target", "push the yellow cube aside onto the purple disc"),
            things=(Thing(name="cube", half_size=(CUBE,) * 3, colours=((0.95, 0.8, 0.1, 1.0),)),),
            marks=(("goal", "disc", (0.1, 5e-4), (0.5, 0.2, 0.7, 1.0)),),
            best=4.0,
            begin=_begin_push_2,
            solved=_pushed,
            dense=_pay_push(ASIDE),
            simplified=_to_goal,
            expert=_expert_push(ASIDE),
            seen=("goal", "cube"),
        ),
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
            simplified=_to_goal,
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
}
"""The tasks by name."""
