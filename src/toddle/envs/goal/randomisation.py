"""Domain randomisation of goal tracking: what a world's robot differs in from the description, episode by episode.

A usual set (compare HT, arXiv 2303.03381): link masses, servo gains, friction, a delay of one control step,
observation noise.
Needs a pool with one model a world.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from toddle.core.config import config
from toddle.core.numbers import NonNegative, Positive, Share
from toddle.envs.base import Array
from toddle.envs.pools import Pool
from toddle.envs.streams import WorldStreams

__all__ = ["Randomisation", "RandomisationConfig"]


@config
class RandomisationConfig:
    """Ranges of the factors; each is drawn uniformly at the start of an episode."""

    mass: tuple[Positive, Positive] = (0.9, 1.1)
    """Factor of the masses and inertias of all links."""
    gains: tuple[Positive, Positive] = (0.75, 1.25)
    """Factor of the servos' kp and kd."""
    friction: tuple[Positive, Positive] = (0.5, 1.25)
    """Factor of the sliding friction of all geoms."""
    delay: Share = 0.5
    """Probability that an episode's actions come one control step late."""
    noise: NonNegative = 0.01
    """Standard deviation of the noise on proprioception (dimensionless)."""


class Randomisation:
    """Draws and applies the factors of N worlds."""

    def __init__(self, settings: RandomisationConfig | None, pool: Pool, proprio: int) -> None:
        """proprio: numbers of proprioception, which get noise."""
        self.settings, self.pool = settings, pool
        self.factors = np.ones((pool.num_worlds, 3))  # mass, gains, friction
        self.delayed = np.zeros(pool.num_worlds, bool)
        noisy = settings is not None and settings.noise > 0.0
        self.noise = np.zeros((pool.num_worlds, proprio), dtype=np.float32) if noisy else None  # present noise
        self._scratch = mujoco.MjData(pool.model) if settings is not None else None

    def draw(self, worlds: Array, streams: WorldStreams) -> None:
        """Draw new factors for the worlds (indices) and write them into their models."""
        if self.settings is None or not len(worlds):
            return
        s = self.settings
        uniform = streams.uniform(worlds, 4)
        low, high = np.array([s.mass, s.gains, s.friction]).T
        self.factors[worlds] = low + (high - low) * uniform[:, :3]
        self.delayed[worlds] = uniform[:, 3] < s.delay
        for world in worlds:
            self._apply(int(world))

    def _apply(self, world: int) -> None:
        base, model = self.pool.model, self.pool.models[world]
        mass, gains, friction = self.factors[world]
        model.body_mass[:] = base.body_mass * mass
        model.body_inertia[:] = base.body_inertia * mass
        model.geom_friction[:, 0] = base.geom_friction[:, 0] * friction
        model.actuator_gainprm[:, 0] = base.actuator_gainprm[:, 0] * gains
        model.actuator_biasprm[:, 1:3] = base.actuator_biasprm[:, 1:3] * gains
        mujoco.mj_setConst(model, self._scratch)  # inertias seen by the constraint solver follow the masses

    def refresh(self, worlds: Array, streams: WorldStreams) -> None:
        """Draw new noise on the proprioception of the worlds (indices)."""
        if self.noise is not None and self.settings is not None:
            self.noise[worlds] = self.settings.noise * streams.normal(worlds, self.noise.shape[1])

    def state_dict(self) -> dict[str, Any]:
        """Return the factors."""
        noise = {} if self.noise is None else {"noise": self.noise.copy()}
        return {"factors": self.factors.copy(), "delayed": self.delayed.copy()} | noise

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the factors and the models they make."""
        self.factors[:], self.delayed[:] = np.asarray(state["factors"]), np.asarray(state["delayed"])
        if self.noise is not None:
            self.noise[:] = np.asarray(state["noise"])
        if self.settings is not None:
            for world in range(self.pool.num_worlds):
                self._apply(world)
