"""The pictures in observations, drawn only where something has moved and somebody looks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gymnasium import spaces

from toddle.envs.base import Array

__all__ = ["Pictures"]


class Pictures:
    """The last picture of each of N worlds by each camera, and which worlds have moved since it was drawn."""

    def __init__(
        self, num_envs: int, cameras: tuple[str, ...], size: int, draw: Callable[[int, str, int, int], Array]
    ) -> None:
        """size: side in pixels; draw(world, camera, width, height) returns (H, W, 3) uint8."""
        self.cameras, self.size, self._draw = cameras, size, draw
        self._last = np.zeros((num_envs, len(cameras), 3, size, size), np.uint8)
        self._moved = np.ones(num_envs, bool)

    @property
    def space(self) -> spaces.Box:
        """The space of one world's `images`."""
        return spaces.Box(0, 255, self._last.shape[1:], np.uint8)

    def move(self, worlds: Array | slice = slice(None)) -> None:
        """Take in that the worlds (a mask or indices; all by default) are not as they were drawn."""
        self._moved[worlds] = True

    def images(self, looked_at: Array) -> Array:
        """Return (N, cameras, 3, H, W) uint8, up to date in the worlds of the mask `looked_at` (N,)."""
        for world in np.flatnonzero(self._moved & looked_at):
            for index, camera in enumerate(self.cameras):
                self._last[world, index] = self._draw(int(world), camera, self.size, self.size).transpose(2, 0, 1)
        self._moved &= ~looked_at
        return self._last.copy()
