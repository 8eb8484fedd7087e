"""Objects beside a task that are drawn and nothing else: no policy can touch them, and none should look at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from toddle.envs.base import Array

__all__ = ["MOST", "Area", "add_objects", "draw_objects", "stood"]

MOST = 8
"""Objects of an episode, at most."""
APART = 0.07
"""Metres between the middles of two of them, at least."""
BOX, SPHERE, CYLINDER, CAPSULE = (
    int(kind)
    for kind in (
        mujoco.mjtGeom.mjGEOM_BOX,
        mujoco.mjtGeom.mjGEOM_SPHERE,
        mujoco.mjtGeom.mjGEOM_CYLINDER,
        mujoco.mjtGeom.mjGEOM_CAPSULE,
    )
)
SHAPES = (BOX, SPHERE, CYLINDER, CAPSULE)
Area = tuple[float, float, float, float]
"""Least x and y, then greatest x and y, metres."""


def draw_objects(generator: np.random.Generator, most: float) -> Array | None:
    """Draw 0 to `most` objects (n, 10), numbers in [0, 1) that say of each where it stands and what it is; None: none.

    The generator is asked for as many numbers whatever `most`.
    """
    count, objects = generator.uniform(), generator.uniform(size=(MOST, 10))
    shown: Array = objects[: int(count * (min(most, MOST) + 1))]
    return shown if len(shown) else None


def stood(objects: Array, areas: tuple[Area, ...], model: mujoco.MjModel, data: mujoco.MjData) -> list[Any]:
    """Return the objects as (shape, size (3,), place (3,), turn (9,), colour (4,)), each on what stands still below it.

    Where nothing is below, or another one is near, there is none.
    """
    found: list[Any] = []
    for where, x, y, kind, width, height, turn, *colour in objects:
        area = areas[int(where * len(areas))]
        at = np.array([area[0] + x * (area[2] - area[0]), area[1] + y * (area[3] - area[1])])
        level = _level(model, data, at)
        if level is None or any(np.linalg.norm(at - other[2][:2]) < APART for other in found):
            continue
        size = np.array([0.015 + 0.015 * width, 0.015 + 0.015 * width, 0.015 + 0.03 * height])
        shape = SHAPES[int(kind * len(SHAPES))]
        up = {SPHERE: size[0], CAPSULE: size[0] + size[2]}.get(shape, size[2])
        c, s = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
        facing = np.array([c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0])
        found.append((shape, size, np.array([*at, level + up]), facing, np.array([*colour, 1.0])))
    return found


def _level(model: mujoco.MjModel, data: mujoco.MjData, at: Array) -> float | None:
    """Return the height of the highest thing at a place (2,) that stands still; None where there is none."""
    start, hit = np.array([*at, 3.0]), np.zeros(1, np.int32)
    while True:
        far = mujoco.mj_ray(model, data, start, np.array([0.0, 0.0, -1.0]), None, 1, -1, hit)
        if hit[0] < 0:
            return None
        if model.body_weldid[model.geom_bodyid[hit[0]]] == 0 and model.body_mocapid[model.geom_bodyid[hit[0]]] < 0:
            return float(start[2] - far)
        start[2] -= far + 1e-4


def add_objects(scene: mujoco.MjvScene, objects: Sequence[Any]) -> None:
    """Add objects to a scene that has just been made of a model."""
    for shape, size, place, turn, colour in objects:
        if scene.ngeom < scene.maxgeom:
            geom = scene.geoms[scene.ngeom]
            mujoco.mjv_initGeom(geom, shape, size, place, turn, colour.astype(np.float32))
            scene.ngeom += 1
