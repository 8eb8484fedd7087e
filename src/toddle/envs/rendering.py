"""Pictures of a pool's worlds through one `mujoco.Renderer` a size, with the settings that make software GL fast.

MuJoCo's defaults (multisampling, shadows, reflections) cost ten times the picture itself without a graphics card.
"""

from __future__ import annotations

import mujoco
import numpy as np

from toddle.core.errors import nearest, problem
from toddle.envs.base import Array
from toddle.envs.mujoco_pool import MujocoPool

__all__ = ["WorldRenderer", "prepare_model"]


def prepare_model(model: mujoco.MjModel, width: int, height: int) -> None:
    """Make a model's offscreen picture cheap and large enough; only visual settings change, before GL starts."""
    model.vis.quality.offsamples, model.vis.quality.shadowsize = 0, 0
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
    model.vis.global_.offheight = max(model.vis.global_.offheight, height)


class WorldRenderer:
    """Renders worlds of a pool; the GL context is made at the first picture."""

    def __init__(self, pool: MujocoPool) -> None:
        self._pool = pool
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}

    def _camera(self, camera: str | None) -> str | int:
        model = self._pool.model
        names = [model.camera(i).name for i in range(model.ncam)]
        if camera is None:
            return "track" if "track" in names else (0 if names else -1)
        if camera not in names:
            raise problem("camera", "a camera of the model", camera, nearest(camera, names))
        return camera

    def render(self, worlds: list[int], width: int, height: int, camera: str | None = None) -> Array:
        """Return (len(worlds), height, width, 3) uint8.  Raises InputError for an unknown camera."""
        chosen = self._camera(camera)
        if (width, height) not in self._renderers:
            prepare_model(self._pool.model, width, height)
            renderer = mujoco.Renderer(self._pool.model, height, width)
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                renderer.scene.flags[flag] = 0
            self._renderers[width, height] = renderer
        renderer = self._renderers[width, height]
        pictures = np.empty((len(worlds), height, width, 3), np.uint8)
        for picture, world in zip(pictures, worlds):
            renderer.update_scene(self._pool.datas[world], chosen)
            picture[:] = renderer.render()
        return pictures

    def close(self) -> None:
        """Free the graphics contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}
