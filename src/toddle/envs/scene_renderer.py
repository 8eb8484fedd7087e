"""Pictures of MuJoCo worlds without a screen, fast enough on a CPU for learning.

MuJoCo's defaults cost ten times as much on a software renderer as `core.rendering.FAST`, which is what is drawn unless
told otherwise.  One `SceneRenderer` serves every world that shares a model's meshes and materials (worlds may differ in
body and site positions).  Each of them holds one OpenGL context; `Renderers` keeps those of an environment.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from toddle.core.errors import InputError, nearest, problem
from toddle.core.rendering import FAST, RenderSettings, RenderVariation
from toddle.core.seeding import numpy_generator
from toddle.envs.base import Array
from toddle.envs.clutter import Area, add_objects, draw_objects, stood
from toddle.envs.out_of_view import large_meshes, unseen

__all__ = ["FreeCamera", "Look", "Renderers", "SceneRenderer"]


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


@dataclass(frozen=True, kw_only=True)
class Look:
    """How an episode is drawn: full settings, and what is done to the lights of the scene."""

    settings: RenderSettings = FAST
    turn: Array | None = None
    """Rotation (3, 3) of the lights about the centre of the scene."""
    brightness: float = 1.0
    """Factor of their diffuse strength."""
    paint: Array | None = None
    """Colour (3,) that what stands still is mixed with."""
    painted: float = 0.0
    """Share of it."""
    pattern: float | None = None
    """Where among the model's patterns, in [0, 1), the one is that what stands still wears."""
    view: Array | None = None
    """Rotation (3, 3) of the camera about what it looks at."""
    objects: Array | None = None
    """Objects beside the task (`clutter.draw_objects`)."""

    @classmethod
    def draw(cls, settings: RenderSettings, variation: RenderVariation, generator: np.random.Generator) -> Look:
        """Draw one; the generator is asked for as many numbers whatever the variation."""
        axis, share, brightness = generator.normal(size=3), generator.uniform(), generator.uniform(-1.0, 1.0)
        flips = generator.uniform(size=3) < (variation.shadows, variation.reflections, variation.multisampling)
        turn = _turned(axis, variation.light_angle * share)
        paint, (worn, pattern, far), about = (
            generator.uniform(size=3),
            generator.uniform(size=3),
            generator.normal(size=3),
        )
        drawn = RenderSettings(
            shadows=bool(settings.shadows) != flips[0],
            reflections=bool(settings.reflections) != flips[1],
            multisampling=(0 if settings.multisampling else 4) if flips[2] else settings.multisampling,
        )
        return cls(
            settings=drawn.over(settings),
            turn=turn,
            brightness=1.0 + variation.light_brightness * brightness,
            paint=paint if variation.background else None,
            painted=variation.background,
            pattern=pattern if worn < variation.texture else None,
            view=_turned(about, variation.camera * far),
            objects=draw_objects(generator, variation.distractors),
        )


def _turned(axis: Array, degrees: float) -> Array | None:
    """Return the rotation (3, 3) about an axis, None for one by nothing."""
    if not degrees:
        return None
    quaternion, turn = np.zeros(4), np.zeros(9)
    mujoco.mju_axisAngle2Quat(quaternion, axis / np.linalg.norm(axis), np.radians(degrees))
    mujoco.mju_quat2Mat(turn, quaternion)
    return turn.reshape(3, 3)


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
        settings: RenderSettings = FAST,
        free_cameras: dict[str, FreeCamera] | None = None,
        rotated: tuple[str, ...] = (),
        hidden_groups: tuple[int, ...] = (),
    ) -> None:
        """`rotated` names the cameras that the model mounts upside down; their pictures are turned by 180 degrees.

        `hidden_groups` are groups of geoms that are not drawn (collision shapes, say).  A `look` given to `render`
        may differ from `settings` in reflections and lights; shadows need a shadow map, which is allocated here.
        """
        if width < 8 or height < 8:
            raise problem("image size", "at least 8 pixels", f"{width}x{height}")
        settings = settings.over(FAST)
        model.vis.quality.offsamples = settings.multisampling
        model.vis.quality.shadowsize = settings.shadow_map if settings.shadows else 0
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        self.width, self.height, self._look = width, height, Look(settings=settings)
        self._rotated = frozenset(rotated)
        self._cameras = {name: camera.to_mujoco() for name, camera in (free_cameras or {}).items()}
        for index in range(model.ncam):
            camera = mujoco.MjvCamera()
            camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, index
            self._cameras.setdefault(model.camera(index).name or f"camera{index}", camera)
        self._patterns = [
            index
            for index in range(model.nmat)
            if (texture := model.mat_texid[index, mujoco.mjtTextureRole.mjTEXROLE_RGB]) >= 0
            and model.tex_type[texture] == mujoco.mjtTexture.mjTEXTURE_2D
        ]
        self._large = large_meshes(model)
        self._option = mujoco.MjvOption()
        for group in hidden_groups:
            self._option.geomgroup[group] = 0
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
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

    def aim(self, name: str, lookat: Array, *, azimuth: float | None = None) -> None:
        """Point the free camera `name` at (x, y, z) in metres; azimuth: degrees, None: as it was."""
        self._cameras[name].lookat[:] = lookat
        if azimuth is not None:
            self._cameras[name].azimuth = azimuth

    def render(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        camera: str,
        look: Look | None = None,
        objects: Sequence[Any] = (),
    ) -> Array:
        """Return (height, width, 3) uint8, upright; `model` is the world's own (its positions count).

        objects: those of `clutter.stood`, drawn beside the model's.
        """
        self.check_camera(camera)
        look = look or self._look
        self._context.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, data, self._option, None, self._cameras[camera], everything, self._scene)
        self._light(look, model.stat.center)
        self._paint(look)
        add_objects(self._scene, objects)
        if look.view is not None:
            free = self._cameras[camera].type == mujoco.mjtCamera.mjCAMERA_FREE
            self._turn_camera(look.view, self._cameras[camera].lookat if free else model.stat.center)
        if not (look.settings.shadows or look.settings.reflections):  # which show what the camera does not
            self._leave_out(unseen(model, data, self._large, self._scene.camera, self.width / self.height))
        mujoco.mjr_render(self._rect, self._scene, self._resources)
        mujoco.mjr_readPixels(self._buffer, None, self._rect, self._resources)
        # OpenGL counts rows from below: a turned camera's picture then only needs its columns reversed
        return (self._buffer[:, ::-1] if camera in self._rotated else self._buffer[::-1]).copy()

    def _light(self, look: Look, centre: Array) -> None:
        """Set flags and lights of the scene, which MuJoCo has just made anew: nothing of the model is changed."""
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = look.settings.shadows
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = look.settings.reflections
        if look.turn is None and look.brightness == 1.0:
            return
        for light in self._scene.lights[: self._scene.nlight]:
            light.diffuse[:] = look.brightness * light.diffuse
            if look.turn is not None and not light.headlight:
                light.pos[:] = centre + look.turn @ (light.pos - centre)
                light.dir[:] = look.turn @ light.dir

    def _paint(self, look: Look) -> None:
        """Give what stands still another colour or a pattern, in the scene alone."""
        if look.paint is None and look.pattern is None:
            return
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.category != mujoco.mjtCatBit.mjCAT_STATIC:
                continue
            if look.paint is not None:
                geom.rgba[:3] = (1.0 - look.painted) * geom.rgba[:3] + look.painted * look.paint
            if look.pattern is not None and self._patterns:
                geom.matid = self._patterns[int(look.pattern * len(self._patterns))]

    def _leave_out(self, geoms: Array) -> None:
        """Draw nothing for these geoms of the model: a software renderer computes every vertex, seen or not."""
        gone, of_model = set(geoms.tolist()), mujoco.mjtObj.mjOBJ_GEOM.value
        for geom in self._scene.geoms[: self._scene.ngeom] if gone else ():
            if geom.objid in gone and geom.objtype == of_model:
                geom.type = mujoco.mjtGeom.mjGEOM_NONE.value

    def _turn_camera(self, turn: Array, centre: Array) -> None:
        """Turn the scene's camera about a point."""
        for eye in self._scene.camera:
            eye.pos[:] = centre + turn @ (eye.pos - centre)
            eye.forward[:] = turn @ eye.forward
            eye.up[:] = turn @ eye.up


class Renderers:
    """The renderers of an environment's worlds, one a size and quality, and how each world's episode looks."""

    def __init__(
        self,
        model: Callable[[], mujoco.MjModel],
        settings: RenderSettings | None = None,
        variation: RenderVariation | None = None,
        *,
        beside: tuple[Area, ...] = (),
        **view: Any,
    ) -> None:
        """`model` gives the model whose meshes and materials all worlds share; `view` goes to `SceneRenderer`.

        beside: where objects that are no part of the task may stand.  Nothing is opened before a picture is asked for.
        """
        self.settings = (settings or RenderSettings()).over(FAST)
        self.variation = variation if variation != RenderVariation() else None
        self._model, self._view = model, view
        self._open: dict[tuple[int, ...], SceneRenderer] = {}
        self._looks: dict[int, Look] = {}
        self._beside, self._objects = beside, dict[int, list[Any]]()  # of the present episodes, once they were drawn

    def begin_episode(self, world: int, seed: int, episode: int) -> None:
        """Draw how this world's episode looks: it follows from seed and number of the episode alone."""
        if self.variation is not None:
            self._looks[world] = Look.draw(self.settings, self.variation, numpy_generator(seed, "look", episode))
            self._objects.pop(world, None)

    def look(self, world: int) -> Look:
        """Return how the present episode of a world is drawn."""
        return self._looks.get(world) or Look(settings=self.settings)

    def get(self, width: int, height: int, settings: RenderSettings | None = None) -> SceneRenderer:
        """Return the renderer of a size, opening it where it is new."""
        asked = settings or self.settings
        key = (width, height, int(asked.multisampling or 0), int(asked.shadow_map or 0) if asked.shadows else 0)
        if key not in self._open:
            self._open[key] = SceneRenderer(self._model(), width, height, settings=asked, **self._view)
        return self._open[key]

    def render(
        self, world: int, model: mujoco.MjModel, data: mujoco.MjData, camera: str, width: int, height: int
    ) -> Array:
        """Return (height, width, 3) uint8 of a world as its episode looks."""
        look = self.look(world)
        if look.objects is not None and world not in self._objects:
            self._objects[world] = stood(look.objects, self._beside, model, data)
        shown = self._objects.get(world, ())
        return self.get(width, height, look.settings).render(model, data, camera, look, shown)

    def close(self) -> None:
        """Free the graphics contexts."""
        for renderer in self._open.values():
            renderer.close()
        self._open.clear()
