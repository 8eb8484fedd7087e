"""A scripted expert for LIBERO tasks of the form "pick up A and place it in B" (the suite libero_object).

LIBERO comes without experts. This one reads object poses from the simulator and has no memory: what it does follows
from where hand, object and fingers are, so a disturbed arm is brought back.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from toddle.core.errors import problem
from toddle.envs.base import Array

__all__ = ["pick_and_place"]

HOVER, CARRY, RELEASE = 0.12, 0.25, 0.17  # metres above the object; above the basket while carrying; while letting go
PALM = 0.03  # metres: the hand's palm is that far above what the fingers hold
OPENING = 0.075  # metres between the open fingers
ROUND = 1.2  # an object whose sides differ by no more than this factor is as wide either way
STEP, TURN = 0.05, 0.5  # metres and radians of one action of 1


def _extent(model: mujoco.MjModel, data: mujoco.MjData, body: int) -> Array:
    """Return the size in metres (3,) of the box along the world's axes around a body's geoms."""
    corners = []
    for geom in range(model.ngeom):
        if model.body_rootid[model.geom_bodyid[geom]] == model.body_rootid[body]:
            centre, half = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
            signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
            corners.append((centre + signs * half) @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom])
    points = np.concatenate(corners)
    size: Array = points.max(axis=0) - points.min(axis=0)
    return size


def _turn(fingers: Array, size: Array, other: bool) -> float:
    """Return the angle (rad) about the vertical that makes the fingers close along the object's short side.

    other: along its other side, where that fits between the fingers too, or is hardly longer.
    """
    wanted = np.array([1.0, 0.0]) if size[1] > OPENING > size[0] else np.array([0.0, 1.0])
    if other and (max(size[:2]) < OPENING or max(size[:2]) < ROUND * min(size[:2])):
        wanted = wanted[::-1]
    if fingers @ wanted < 0:
        wanted = -wanted
    return float(np.arctan2(fingers[0] * wanted[1] - fingers[1] * wanted[0], fingers @ wanted))


def pick_and_place(env: Any, name: str, other: bool = False) -> Array:
    """Return the action (7,) of the expert for one robosuite environment as it is now.

    other: take the object the other way, turned by a quarter, where its size allows it.
    Raises InputError for tasks that are not of this form (`name` is the environment's, for the message).
    """
    if not name.startswith("libero/libero_object/"):
        raise problem("expert", "a task of libero_object", name, "there is a scripted expert for no other suite")
    model, data, robot = env.sim.model._model, env.sim.data._data, env.robots[0]
    thing_body, place_body = (env.obj_body_id[each] for each in env.obj_of_interest[:2])
    hand, thing, place = data.site_xpos[robot.eef_site_id], data.xpos[thing_body], data.xpos[place_body]
    left, right = data.qpos[robot._ref_gripper_joint_pos_indexes]
    width, resting = left - right, np.abs(data.qvel[robot._ref_gripper_joint_vel_indexes]).max() < 0.02
    size = _extent(model, data, thing_body)
    above = max(0.0, size[2] / 2.0 - PALM)  # a tall thing is held near its top
    grasp = np.array([thing[0], thing[1], max(thing[2] + above, 0.012)])
    away, beside = hand - grasp, float(np.linalg.norm((hand - grasp)[:2]))
    turn = _turn(data.site_xmat[robot.eef_site_id].reshape(3, 3)[:2, 0], size, other)
    closing, near = 0.012 < width < OPENING - 0.001, float(np.linalg.norm(away)) < 0.06
    grip, target = -1.0, grasp
    if near and closing and resting:
        turn, grip = 0.0, 1.0
        if np.linalg.norm((hand - place)[:2]) > 0.02:
            height = place[2] + CARRY
            target = np.array([*(place if hand[2] > height - 0.05 else hand)[:2], height + 0.02])
        else:
            target = place + np.array([0.0, 0.0, RELEASE - 0.02])
            grip = -1.0 if hand[2] < place[2] + RELEASE else 1.0
    elif np.linalg.norm((thing - place)[:2]) < 0.06:
        target = hand + np.array([0.0, 0.0, 0.1])
    elif (beside < 0.012 and abs(away[2]) < 0.008) or (near and closing):
        target, grip, turn = hand, 1.0, 0.0
    elif (beside > 0.015 and not (beside < 0.03 and away[2] < 0.06)) or abs(turn) > 0.15:
        target = grasp + np.array([0.0, 0.0, HOVER])
    action = np.zeros(7, np.float32)
    action[:3] = np.clip(1.5 * (target - hand) / STEP, -1.0, 1.0)
    action[5], action[6] = np.clip(turn / TURN, -1.0, 1.0), grip
    return action
