"""Which meshes a camera does not see, so that a software renderer need not compute their vertices.

MuJoCo sends every geom to OpenGL.  Small pictures cost what their vertices cost, not their pixels: a close view of
Meta-World's table shows less than half of the arm's triangles, and leaving out the others changes no pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from toddle.envs.base import Array

__all__ = ["large_meshes", "unseen"]

LARGE_MESH = 100
"""Faces from which on it pays to ask whether a mesh is seen."""


def large_meshes(model: mujoco.MjModel) -> Array:
    """Return the geoms (N,) of a model that are meshes of at least LARGE_MESH faces."""
    meshes = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_MESH)
    return meshes[model.mesh_facenum[model.geom_dataid[meshes]] >= LARGE_MESH]


def unseen(model: mujoco.MjModel, data: mujoco.MjData, geoms: Array, eyes: Sequence[Any], aspect: float) -> Array:
    """Return those of the geoms (N,) whose boxes lie outside what a scene's two eyes, averaged, see.

    aspect: width of the picture over its height.  Nothing is said to be unseen where the picture has no perspective.
    """
    eye = eyes[0]
    if eye.orthographic or not len(geoms):
        return geoms[:0]
    forward, up = np.array(eye.forward), np.array(eye.up)
    right, top, bottom = (
        np.cross(forward, up),
        eye.frustum_top / eye.frustum_near,
        eye.frustum_bottom / eye.frustum_near,
    )
    half = (eye.frustum_width / eye.frustum_near) or 0.5 * (top - bottom) * aspect
    centre = 0.5 * (eyes[0].frustum_center + eyes[1].frustum_center) / eye.frustum_near
    walls = [right - (centre - half) * forward, (centre + half) * forward - right, up - bottom * forward]
    normals = np.array([forward, *walls, top * forward - up])  # of the planes about what is seen, inwards
    turn = data.geom_xmat[geoms].reshape(-1, 3, 3)
    middle, size = model.geom_aabb[geoms, :3], model.geom_aabb[geoms, 3:]
    place = data.geom_xpos[geoms] + np.einsum("nij,nj->ni", turn, middle) - 0.5 * (np.array(eyes[0].pos) + eyes[1].pos)
    reach = np.einsum("pnj,nj->np", np.abs(np.einsum("pi,nij->pnj", normals, turn)), 1.01 * size)
    return geoms[(place @ normals.T + reach < 0).any(1)]
