"""Pushes: sudden changes of velocity, now and then or on demand."""

from __future__ import annotations

from typing import Any

import numpy as np

from toddle.envs.base import Array
from toddle.envs.goal.parts import BodyReader
from toddle.envs.pools import Pool
from toddle.envs.streams import WorldStreams

__all__ = ["Pushes"]

SIZE = 0.16
"""Size of a push in sqrt(g L): 0.5 m/s at L = 1 m (SONIC's pushes, scaled to the body)."""


class Pushes:
    """Schedules and applies the pushes of N worlds."""

    def __init__(self, reader: BodyReader, pool: Pool, interval: tuple[int, int] | None) -> None:
        """interval: least and most control steps between two pushes; None for no pushes of their own."""
        self.reader, self.pool, self.interval = reader, pool, interval
        self.strength = 1.0  # of the pushes of their own
        self.left = np.zeros(pool.num_worlds, dtype=np.int64)  # control steps until the next

    def schedule(self, worlds: Array, streams: WorldStreams) -> None:
        """Draw the time of the next push of the worlds (indices)."""
        if self.interval is not None and len(worlds):
            low, high = self.interval
            self.left[worlds] = low + (streams.uniform(worlds, 1)[:, 0] * (high - low + 1)).astype(np.int64)

    def tick(self, active: Array, streams: WorldStreams) -> None:
        """A control step begins in the worlds of `active` (N,): push those whose time has come."""
        if self.interval is None:
            return
        self.left -= active
        due = np.flatnonzero(active & (self.left <= 0))
        if len(due):
            self.kick(due, streams.uniform(due, self.reader.model.nv), self.strength)
            self.schedule(due, streams)

    def kick(self, worlds: Array, uniform: Array, strength: float = 1.0) -> None:
        """Change velocities at once: the root's of a floating base, the joints' of an arm; uniform (n, nv)."""
        mask = np.zeros(self.pool.num_worlds, bool)
        mask[worlds] = True
        reader, kick = self.reader, np.zeros((len(worlds), self.reader.model.nv))
        signed = strength * SIZE * (2.0 * uniform - 1.0)
        if reader.floating:
            kick[:, :3] = signed[:, :3] * reader.body.speed * (1.0, 1.0, 0.4)
            kick[:, 3:6] = signed[:, 3:6] / reader.body.time
        else:
            kick[:, reader.qvel] = signed[:, reader.qvel] / reader.velocity_scale
        self.pool.write("qvel", mask, self.pool.state["qvel"][worlds] + kick)

    def state_dict(self) -> dict[str, Any]:
        """Return the times left."""
        return {"left": self.left.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.left[:] = np.asarray(state["left"])
