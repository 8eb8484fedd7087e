"""Noise between a policy and any environment: on its actions, on its pictures, on its proprioception.

RobustVLA (arXiv 2511.01331) trains under such noise and evaluates under it; off, nothing is drawn and nothing changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from toddle.core.config import config
from toddle.core.numbers import NonNegative
from toddle.envs.base import Array, Obs
from toddle.envs.streams import WorldStreams

__all__ = ["Noise", "NoiseConfig"]

OWN = 2**41
"""Added to a world's seed, so that noise draws from a stream of its own and nothing else changes by it."""


@config
class NoiseConfig:
    """Gaussian noise on what is done and seen, drawn anew each time; at 0 there is none."""

    action: NonNegative = 0.0
    """Standard deviation on each number of an action, as a share of half its range; the sum is held to the range."""
    pictures: NonNegative = 0.0
    """Standard deviation on each number of a picture, as a share of the brightest."""
    proprio: NonNegative = 0.0
    """Standard deviation on each number of proprioception, in its own units."""

    @property
    def any(self) -> bool:
        """Whether there is some."""
        return bool(self.action or self.pictures or self.proprio)


class Noise:
    """The noise of N worlds: what a world meets follows from its seed, whatever the batch it stands in."""

    def __init__(self, config: NoiseConfig, num_envs: int, low: Array, high: Array, seed: int) -> None:
        """low, high: (A,) the range of actions."""
        self.config, self.low, self.high = config, low, high
        self._streams = WorldStreams(num_envs, seed + OWN)

    def begin(self, worlds: Array, seeds: list[int | None] | None) -> None:
        """Begin the streams of the worlds (N,) bool anew where their seeds are given."""
        for world in np.flatnonzero(worlds):
            if seeds is not None and (seed := seeds[world]) is not None:
                self._streams.reseed(int(world), seed + OWN)

    def on_actions(self, actions: Array, worlds: Array) -> Array:
        """Return chunks (N, H, A) as they are executed in the worlds (N,) bool."""
        if not self.config.action:
            return actions
        found, own = actions.copy(), np.flatnonzero(worlds)
        drawn = self._streams.normal(own, *actions.shape[1:]).astype(actions.dtype)
        found[own] = np.clip(
            actions[own] + self.config.action * (self.high - self.low) / 2 * drawn, self.low, self.high
        )
        return found

    def on_observations(self, observed: Obs, pictured: Array) -> Obs:
        """Return observations (N, ...) as they are seen; pictures of the worlds `pictured` (N,) bool alone are new."""
        if not isinstance(observed, dict):
            return self._proprio(observed)
        found: dict[str, Any] = dict(observed)
        if "proprio" in found:
            found["proprio"] = self._proprio(found["proprio"])
        if self.config.pictures and "images" in found and pictured.any():
            images, own = found["images"].copy(), np.flatnonzero(pictured)
            drawn = self._streams.normal(own, *images.shape[1:])
            images[own] = np.clip(np.rint(images[own] + 255.0 * self.config.pictures * drawn), 0, 255)
            found["images"] = images
        return found

    def _proprio(self, values: Array) -> Array:
        if not self.config.proprio:
            return values
        drawn = self._streams.normal(np.arange(len(values)), *values.shape[1:])
        return (values + self.config.proprio * drawn).astype(values.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Return where the streams stand."""
        return self._streams.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self._streams.load_state_dict(state)
