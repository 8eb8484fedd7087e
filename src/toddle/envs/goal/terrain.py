"""Rough ground under a body that walks: a height field in the place of the floor's plane.

Bodies begin on a flat patch about the origin, as on a plane, and walk out onto ground that becomes rougher with the
distance: who walks farther meets more of it.  Lengths are in the body's own unit L, so that one number serves all.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import mujoco
import numpy as np

from toddle.core.errors import problem
from toddle.core.seeding import numpy_generator
from toddle.envs.base import Array
from toddle.envs.bodies import Body

__all__ = ["Terrain"]

CELL, BUMP = 0.2, 0.6
"""Side of a cell, distance between two bumps, in L."""
FLAT, FULL = 2.0, 8.0
"""Distances from the origin, in L, up to which the ground is flat, and from which it is as rough as it gets."""
REACH = 30.0
"""Half the side of the field, in sqrt(L / 1 m) metres: beyond what is walked in 20 s."""


class Terrain:
    """Heights of the ground, metres above the patch where bodies begin."""

    def __init__(self, body: Body, roughness: float, *, held_out: bool = False) -> None:
        """roughness: height of the highest bumps, in L; held_out: other ground than training's.

        Raises InputError for a body whose floor cannot be changed.
        """
        if body.on is None:
            raise problem("terrain", "0 with a body that is built on a flat floor alone (Body.on)", roughness)
        self.body, self.build, length = body, body.on, body.length
        self.half = REACH * float(np.sqrt(length))
        cells = int(2.0 * self.half / (CELL * length))
        self.side = np.linspace(-self.half, self.half, cells + 1)
        bumps = int(2.0 * self.half / (BUMP * length)) + 2
        drawn = numpy_generator(int(held_out), "terrain").random((bumps, bumps))
        spread = _between(np.linspace(0.0, bumps - 1.0, cells + 1), bumps)
        away = np.hypot(*np.meshgrid(self.side, self.side)) / length
        raised = (spread @ drawn @ spread.T) * np.clip((away - FLAT) / (FULL - FLAT), 0.0, 1.0)
        self.heights = roughness * length * raised / raised.max()  # rows along y, columns along x

    def height(self, place: Array) -> Array:
        """Return the height of the ground (N,) below places (N, 2)."""
        at = np.clip((place + self.half) / (2.0 * self.half), 0.0, 1.0) * (len(self.side) - 1)
        low = np.minimum(at.astype(np.int64), len(self.side) - 2)
        (x, y), (column, row) = (at - low).T, low.T
        h = self.heights
        south = h[row, column] * (1.0 - x) + h[row, column + 1] * x
        north = h[row + 1, column] * (1.0 - x) + h[row + 1, column + 1] * x
        found: Array = south * (1.0 - y) + north * y
        return found

    @property
    def standing(self) -> Body:
        """The body on this ground."""
        return replace(self.body, build=functools.partial(self.build, self._lay))

    def _lay(self, spec: mujoco.MjSpec) -> None:
        """Put the field where a model's floor is."""
        floors = [geom for geom in spec.worldbody.geoms if geom.type == mujoco.mjtGeom.mjGEOM_PLANE]
        if len(floors) != 1:
            raise problem(f"body {self.body.name}: floor", "one plane, with terrain", len(floors))
        top, count = float(self.heights.max()), len(self.side)
        size = [self.half, self.half, top, 0.1 + top]
        spec.add_hfield(name="terrain", nrow=count, ncol=count, size=size, userdata=(self.heights / top).flatten())
        floors[0].type, floors[0].hfieldname = mujoco.mjtGeom.mjGEOM_HFIELD, "terrain"


def _between(at: Array, count: int) -> Array:
    """Return weights (N, count) with which `count` values at 0, 1, ... are read at places (N,) between them."""
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(count)))
