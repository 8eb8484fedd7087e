"""A capsule's contacts with a plane in MuJoCo's own frame, where MuJoCo Warp 4.0.0 turns it.

The second axis of such a contact is the capsule's direction laid into the plane (mjc_PlaneCapsule).  `plane_capsule` of
MuJoCo Warp takes another where the capsule leans less than 30 degrees from the normal, and a friction pyramid about
other axes is another cone.  Needs warp (toddle[warp]), which reads the types in a kernel's signature when this module
is imported: no annotations from __future__ here.
"""

from typing import Any

import mujoco
import warp as wp

__all__ = ["align_capsules"]

PLANE, CAPSULE = int(mujoco.mjtGeom.mjGEOM_PLANE), int(mujoco.mjtGeom.mjGEOM_CAPSULE)


@wp.kernel(enable_backward=False)
def _align(
    geom_type: wp.array(dtype=int),  # type: ignore[valid-type]
    geom_xmat: wp.array2d(dtype=wp.mat33),  # type: ignore[valid-type]
    count: wp.array(dtype=int),  # type: ignore[valid-type]
    geoms: wp.array(dtype=wp.vec2i),  # type: ignore[valid-type]
    world: wp.array(dtype=int),  # type: ignore[valid-type]
    frame: wp.array(dtype=wp.mat33),  # type: ignore[valid-type]
) -> None:
    contact = wp.tid()
    if contact >= count[0]:
        return
    pair = geoms[contact]
    if pair[0] < 0 or pair[1] < 0:
        return
    if geom_type[pair[0]] != wp.static(PLANE) or geom_type[pair[1]] != wp.static(CAPSULE):
        return
    turn = geom_xmat[world[contact], pair[1]]
    axis = wp.vec3(turn[0, 2], turn[1, 2], turn[2, 2])
    old = frame[contact]
    normal = wp.vec3(old[0, 0], old[0, 1], old[0, 2])
    along = axis - wp.dot(axis, normal) * normal
    size = wp.length(along)
    if size < 1e-6:  # upright: no direction is its own
        return
    second = along / size
    third = wp.cross(normal, second)
    frame[contact] = wp.mat33(
        normal[0], normal[1], normal[2], second[0], second[1], second[2], third[0], third[1], third[2]
    )


def align_capsules(model: Any, data: Any) -> None:
    """Write the frames of what MuJoCo Warp has just found to touch; its callback between collisions and constraints."""
    contact = data.contact
    inputs = [model.geom_type, data.geom_xmat, data.nacon, contact.geom, contact.worldid, contact.frame]
    wp.launch(_align, dim=data.naconmax, inputs=inputs)
