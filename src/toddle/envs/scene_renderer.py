"""Pictures of MuJoCo worlds without a screen, fast enough on a CPU for learning.

MuJoCo's defaults cost ten times as much on a software renderer as what is set here: no multisampling, no shadow map,
no shadows, no reflections.  One `SceneRenderer` serves every world that shares a model's meshes and materials (worlds
may differ in body and site positions).  Each of them holds one OpenGL context.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from toddle.core.errors import InputError, nearest, problem
from toddle.envs.base import Array

__all__ = ["FreeCamera", "SceneRenderer"]


@dataclass(frozen=True, kw_only=True)
class FreeCamera:
    """A camera that looks at a point: metres and degrees, as MuJoCo's free camera."""

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float

    def to_mujoco(self) -> mujoco.MjvCamera:
        """Return MuJoCo's structure for it."""
        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        camera.lookat[:] = self.lookat
        camera.distance, camera.azimuth, camera.elevation = self.distance, self.azimuth, self.elevation
        return camera


def _open_context(width: int, height: int) -> Any:
    """Return an OpenGL context: EGL on Linux unless MUJOCO_GL names another, else MuJoCo's choice for the system."""
    # llvmpipe would start a thread per core for pictures of a few thousand pixels, slower and unfair to the others
    os.environ.setdefault("LP_NUM_THREADS", "1")
    wanted = os.environ.get("MUJOCO_GL", "").lower().strip()
    try:
        if sys.platform.startswith("linux") and wanted in ("", "egl"):
            from mujoco import egl

            return egl.GLContext(width, height)
        from mujoco import gl_context

        return gl_context.GLContext(width, height)
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"rendering: no OpenGL context ({text}); install the system packages libegl1 and libgl1-mesa-dri, "
            "or run without cameras"
        ) from None


_OPEN: weakref.WeakSet[SceneRenderer] = weakref.WeakSet()


def _close_all() -> None:
    for renderer in list(_OPEN):
        renderer.close()


def _free(context: Any, resources: Any) -> None:
    context.make_current()
    resources.free()
    context.free()


class SceneRenderer:
    """Renders worlds of one model at one size; `cameras` are the model's names or `FreeCamera`s by name.

    Raises InputError when a camera is unknown or no OpenGL context can be had.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        width: int,
        height: int,
        *,
        free_cameras: dict[str, FreeCamera] | None = None,
        rotated: tuple[str, ...] = (),
        hidden_groups: tuple[int, ...] = (),
    ) -> None:
        """`rotated` names the cameras that the model mounts upside down; their pictures are turned by 180 degrees.

        `hidden_groups` are groups of geoms that are not drawn (collision shapes, say).
        """
        if width < 8 or height < 8:
            raise problem("image size", "at least 8 pixels", f"{width}x{height}")
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        self.width, self.height = width, height
        self._rotated = frozenset(rotated)
        self._cameras = {name: camera.to_mujoco() for name, camera in (free_cameras or {}).items()}
        for index in range(model.ncam):
            camera = mujoco.MjvCamera()
            camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, index
            self._cameras.setdefault(model.camera(index).name or f"camera{index}", camera)
        self._option = mujoco.MjvOption()
        for group in hidden_groups:
            self._option.geomgroup[group] = 0
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = 0
        self._context = _open_context(width, height)
        self._context.make_current()
        self._resources = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._resources)
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._buffer = np.empty((height, width, 3), np.uint8)
        self.close = weakref.finalize(self, _free, self._context, self._resources)
        # at exit contexts must be freed before mujoco shuts EGL down, so after its own exit handler is registered
        self.close.atexit = False
        if not _OPEN:
            atexit.unregister(_close_all)
            atexit.register(_close_all)
        _OPEN.add(self)

    @property
    def cameras(self) -> list[str]:
        """Names that `render` takes."""
        return sorted(self._cameras)

    def check_camera(self, name: str) -> None:
        """Raise InputError unless `name` is a camera of this model."""
        if name not in self._cameras:
            raise problem("camera", "a camera of the model", name, nearest(name, self._cameras))

    def aim(self, name: str, lookat: Array) -> None:
        """Point the free camera `name` at (x, y, z) in metres."""
        self._cameras[name].lookat[:] = lookat

    def render(self, model: mujoco.MjModel, data: mujoco.MjData, camera: str) -> Array:
        """Return (height, width, 3) uint8, upright; `model` is the world's own (its positions count)."""
        self.check_camera(camera)
        self._context.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, data, self._option, None, self._cameras[camera], everything, self._scene)
        mujoco.mjr_render(self._rect, self._scene, self._resources)
        mujoco.mjr_readPixels(self._buffer, None, self._rect, self._resources)
        # OpenGL counts rows from below: a turned camera's picture then only needs its columns reversed
        return (self._buffer[:, ::-1] if camera in self._rotated else self._buffer[::-1]).copy()
