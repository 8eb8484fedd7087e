"""One random stream a world, drawn for many worlds at once: splitmix64 of (seed of the world, counter).

Worlds do not disturb each other's streams, so a world with a given seed meets the same random numbers whatever the
batch it stands in; the state is two arrays of integers.  splitmix64: Steele, Lea, Flood 2014, "Fast splittable
pseudorandom number generators".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from toddle.core.seeding import seed_sequence
from toddle.envs.base import Array

__all__ = ["WorldStreams", "splitmix64"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def splitmix64(state: Array) -> Array:
    """Mix uint64 states into uint64 outputs (the finalizer of the generator; add the golden gamma a step yourself)."""
    z = np.asarray(state, dtype=np.uint64).copy()
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


class WorldStreams:
    """N independent streams of uniform numbers."""

    def __init__(self, num_worlds: int, seed: int) -> None:
        self.seeds = np.zeros(num_worlds, dtype=np.uint64)
        self.counters = np.zeros(num_worlds, dtype=np.uint64)
        for world in range(num_worlds):
            self.reseed(world, seed + world)

    def reseed(self, world: int, seed: int) -> None:
        """Begin the stream of `world` anew from `seed`."""
        self.seeds[world] = seed_sequence(seed, "world").generate_state(1, np.uint64)[0]
        self.counters[world] = 0

    def uniform(self, worlds: Array, *shape: int) -> Array:
        """Return (len(worlds), *shape) numbers in [0, 1), advancing the streams of these worlds (indices)."""
        size = int(np.prod(shape))
        steps = self.counters[worlds][:, None] + np.arange(1, size + 1, dtype=np.uint64)
        bits = splitmix64(self.seeds[worlds][:, None] + steps * _GOLDEN)
        self.counters[worlds] += np.uint64(size)
        return np.asarray((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(len(worlds), *shape)

    def normal(self, worlds: Array, *shape: int) -> Array:
        """Return (len(worlds), *shape) standard normal numbers (Box and Muller)."""
        pair = self.uniform(worlds, 2, *shape)
        return np.asarray(np.sqrt(-2.0 * np.log1p(-pair[:, 0])) * np.cos(2.0 * np.pi * pair[:, 1]))

    def state_dict(self) -> dict[str, Any]:
        """Return seeds and counters as int64 bit patterns."""
        return {"seeds": self.seeds.view(np.int64).copy(), "counters": self.counters.view(np.int64).copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.seeds[:] = np.asarray(state["seeds"], dtype=np.int64).view(np.uint64)
        self.counters[:] = np.asarray(state["counters"], dtype=np.int64).view(np.uint64)
