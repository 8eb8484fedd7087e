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

OWN = {"action": 2**41, "pictures": 2**42, "proprio": 2**43}
"""Added to a world's seed, so that noise draws from streams of its own and nothing else changes by it."""


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
    """The noise of N worlds.  It follows from a world's seed, the episode since that seed and the control step alone,
    so it is the same in every batch, for chunks of every length, and however often the world is looked at."""

    def __init__(self, config: NoiseConfig, num_envs: int, low: Array, high: Array, seed: int) -> None:
        """low, high: (A,) the range of actions."""
        self.config, self.low, self.high = config, low, high
        self._streams = {name: WorldStreams(num_envs, seed + own) for name, own in OWN.items()}
        self.episode = np.zeros(num_envs, np.int64)

    def begin(self, worlds: Array, seeds: list[int | None] | None) -> None:
        """Begin an episode in the worlds (N,) bool, the first one of a seed where that is given."""
        self.episode[worlds] += 1
        for world in np.flatnonzero(worlds):
            if seeds is not None and (seed := seeds[world]) is not None:
                for name, own in OWN.items():
                    self._streams[name].reseed(int(world), seed + own)
                self.episode[world] = 0

    def _normal(self, name: str, worlds: Array, step: Array, shape: tuple[int, ...]) -> Array:
        """Return standard normal numbers (len(worlds), *shape) of control steps `step` (N,) of the worlds (indices)."""
        streams = self._streams[name]
        streams.counters[:] = ((self.episode << 16) + step).astype(np.uint64) << np.uint64(28)
        return streams.normal(worlds, *shape)

    def on_actions(self, actions: Array, worlds: Array, step: Array) -> Array:
        """Return chunks (N, H, A) as they are executed in the worlds (N,) bool, from their control steps (N,) on."""
        if not self.config.action:
            return actions
        found, own = actions.copy(), np.flatnonzero(worlds)
        size = self.config.action * (self.high - self.low) / 2
        for ahead in range(actions.shape[1]):
            drawn = size * self._normal("action", own, step + ahead, actions.shape[2:])
            found[own, ahead] = np.clip(actions[own, ahead] + drawn, self.low, self.high)
        return found

    def on_observations(self, observed: Obs, pictured: Array, step: Array) -> Obs:
        """Return observations (N, ...) at control steps (N,) as they are seen; pictures of the worlds `pictured` (N,)
        bool alone are new."""
        if not isinstance(observed, dict):
            return self._proprio(observed, step)
        found: dict[str, Any] = dict(observed)
        if "proprio" in found:
            found["proprio"] = self._proprio(found["proprio"], step)
        if self.config.pictures and "images" in found and pictured.any():
            images, own = found["images"].copy(), np.flatnonzero(pictured)
            drawn = 255.0 * self.config.pictures * self._normal("pictures", own, step, images.shape[1:])
            images[own] = np.clip(np.rint(images[own] + drawn), 0, 255)
            found["images"] = images
        return found

    def _proprio(self, values: Array, step: Array) -> Array:
        if not self.config.proprio:
            return values
        drawn = self._normal("proprio", np.arange(len(values)), step, values.shape[1:])
        return (values + self.config.proprio * drawn).astype(values.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Return the seeds, and which episode of them each world plays."""
        seeds = {name: streams.seeds.view(np.int64).copy() for name, streams in self._streams.items()}
        return {"seeds": seeds, "episode": self.episode.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        for name, streams in self._streams.items():
            streams.seeds[:] = np.asarray(state["seeds"][name], np.int64).view(np.uint64)
        self.episode[:] = np.asarray(state["episode"])
