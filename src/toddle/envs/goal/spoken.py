"""Walking as a sentence says: one command an episode, told by a sentence, with pictures from the body's own camera.

`spoken/<body>` is `walk/<body>` as a vision-language-action model meets it.  The goal's tokens are there too, so that
the RL policy that walks by tokens can demonstrate here as it is; a VLA is shown the sentence and the pictures instead.
"""

from __future__ import annotations

from typing import Any, Literal

import mujoco
import numpy as np
from gymnasium import spaces

from toddle.core.errors import problem
from toddle.core.rendering import RenderSettings
from toddle.envs.base import Array, Obs
from toddle.envs.bodies import Body
from toddle.envs.goal.walking import WalkingEnv
from toddle.envs.pictures import Pictures
from toddle.envs.scene_renderer import FreeCamera, Renderers
from toddle.maths.walking import KINDS, SENTENCES

__all__ = ["SpokenWalkingEnv"]

CAMERAS = ("head", "follow")
"""A level camera at the front of the body that looks ahead and down; the one that videos show."""
SECONDS = 6.0
"""Of an episode, which is one command: its velocity counts by the mean over the second half."""
DOWN = -25.0
"""Degrees by which the head's camera looks down."""


class SpokenWalkingEnv(WalkingEnv):
    """N worlds of one legged body.

    Observations: those of `walk/<body>`, and with cameras `images` (N, cameras, 3, H, W) uint8.  The command of an
    episode follows from its seed (they take turns), so that as many episodes as there are sentences have each once.
    Infos: those of `walk/<body>`; `success` (N,) bool, the command was followed.
    """

    family = "spoken"

    def __init__(
        self,
        body: str | Body,
        num_envs: int,
        *,
        control: Literal["own", "shuffled"] = "own",
        cameras: tuple[str, ...] = (),
        image_size: int = 96,
        episode_seconds: float = SECONDS,
        pushes: tuple[float, float] | None = None,
        **options: Any,
    ) -> None:
        """Build the worlds.

        Args: control: "shuffled" tells each world another world's sentence (and token); cameras: of CAMERAS;
            image_size: side of the pictures in pixels; episode_seconds: of the one command; the rest is
            `WalkingEnv`'s.  Raises InputError on wrong ones.
        """
        if control == "none":
            raise problem("control", "own or shuffled: a VLA is always told something", control)
        for camera in cameras:
            if camera not in CAMERAS:
                raise problem("cameras", " or ".join(CAMERAS), camera)
        self.cameras = tuple(cameras)
        self._asked = np.arange(num_envs) - 1  # of the episode before the first
        self._pictures = Pictures(num_envs, self.cameras, image_size, lambda *asked: self._picture(*asked))
        self._velocities = np.array(list(SENTENCES.values()))
        super().__init__(
            body,
            num_envs,
            control=control,
            duration=(episode_seconds, episode_seconds),
            episode_seconds=episode_seconds + 1.0,
            goals_per_episode=1,
            recovery_fraction=0.0,
            pushes=pushes,
            **options,
        )

    # ---- what is asked -------------------------------------------------------------------------------------------
    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        self._asked[mask] += 1
        for world in np.flatnonzero(mask):
            if seeds is not None and (seed := seeds[world]) is not None:
                self._asked[world] = seed
        self._asked %= len(SENTENCES)
        self._pictures.move(mask)
        super()._reset_worlds(mask, seeds)
        self._say()

    def _say(self) -> None:
        told = self._asked if self.tokens.others is None else self._asked[self.tokens.others]
        sentences = list(SENTENCES)
        self.instruction = [sentences[index] for index in told]

    def _kinds(self, worlds: Array, uniform: Array) -> Array:
        moving = self._velocities[self._asked[worlds]].any(axis=1)
        return np.where(moving, KINDS.index("velocity"), KINDS.index("stand"))

    def _commands(self, worlds: Array, kind: Array, uniform: Array) -> Array:
        return self._velocities[self._asked[worlds]]

    # ---- what is seen --------------------------------------------------------------------------------------------
    def _spaces(self) -> None:
        self.rendering = False  # sizes need no pictures
        super()._spaces()
        self.rendering = True
        if self.cameras:
            assert isinstance(self.single_observation_space, spaces.Dict)
            parts = {**self.single_observation_space.spaces, "images": self._pictures.space}
            self.single_observation_space = spaces.Dict(parts)
            self._allocate()

    def _cameras(self, render: RenderSettings | None) -> Renderers:
        body = self.description
        views = {
            "follow": FreeCamera(lookat=body.centre, distance=4.0 * body.length, azimuth=140.0, elevation=-25.0),
            "head": FreeCamera(lookat=body.centre, distance=body.length, azimuth=0.0, elevation=DOWN),
        }
        return Renderers(lambda: self.pool.model, render, free_cameras=views)

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        self._pictures.move(active)
        return super()._step_worlds(action, active)

    def _observe(self) -> Obs:
        seen = super()._observe()
        if self.cameras and self.rendering:
            seen["images"] = self._pictures.images(self.pictured)
        return seen

    def render_worlds(self, worlds: list[int], width: int = 256, height: int = 256, camera: str | None = None) -> Array:
        """Return (len(worlds), height, width, 3) uint8 pictures of a camera; by default the one that follows."""
        if camera == "head":
            return np.stack([self._picture(world, camera, width, height) for world in worlds])
        return super().render_worlds(worlds, width, height, None if camera == "follow" else camera)

    def _picture(self, world: int, camera: str, width: int, height: int) -> Array:
        if camera != "head":
            return self.render_worlds([world], width, height, camera)[0]
        renderer, length = self._renderers.get(width, height), self.description.length
        model, data = self.physics(world)
        mujoco.mj_kinematics(model, data)
        w, x, y, z = data.qpos[3:7]
        yaw = np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
        ahead, down = np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.radians(DOWN)
        eye = data.qpos[:3] + length * (0.3 * ahead + np.array([0.0, 0.0, 0.4]))
        sight = np.cos(down) * ahead + np.array([0.0, 0.0, np.sin(down)])
        renderer.aim("head", eye + length * sight, azimuth=float(np.degrees(yaw)))
        return renderer.render(model, data, "head")

    # ---- state ---------------------------------------------------------------------------------------------------
    _saved = (*WalkingEnv._saved, "_asked")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._pictures.move()
        self._say()
