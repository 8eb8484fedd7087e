"""Gutter: a hand in the plane pushes a puck to a spot, between two gutters out of which nothing can push it.

The smallest task in which a reset is worth something: nobody brings the puck back but a policy that has learned to, and
out of a gutter not even that.  Hand and puck are points with a least distance, without inertia, so it takes
microseconds and every state is known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from toddle.core.seeding import numpy_generator
from toddle.core.types import Named
from toddle.envs.base import Array, BatchedEnv, Obs

__all__ = ["GutterEnv"]

STEP, TOUCH, REACHED = 0.1, 0.2, 0.15
"""Longest way of the hand in a control step, its least distance from the puck, distance of the spot that counts."""
SPOT, WALL, EDGE = np.array([0.5, 0.0]), 0.75, 0.45
"""Where the puck belongs, how far in x it can be, how far in y it lies on the table; beyond that is a gutter."""


class GutterEnv(BatchedEnv):
    """N tables.  `gutter/push` has gutters on both sides; in `gutter/flat` there are walls in their place.

    Observations: `proprio` (N, 6) float32, the hand's place, the puck's and the way from the one to the other.  Action
    (N, 2): the way to go, 1 = 0.1.  Rewards: 1 while the puck is at the spot.  Infos: `success` (N,) bool, it was
    there; `success_now`; `stuck`, the puck is in a gutter, which no action changes.
    """

    body, dt = "hand", 0.1

    def __init__(
        self,
        member: str,
        num_envs: int,
        *,
        seed: int = 0,
        max_episode_steps: int = 60,
        terminate_on_success: bool = False,
    ) -> None:
        """Build N worlds, of "push" or "flat"."""
        self.name, self.num_envs, self.max_episode_steps = f"gutter/{member}", num_envs, max_episode_steps
        self.gutters, self.terminate_on_success = member == "push", terminate_on_success
        self.single_observation_space = spaces.Dict({"proprio": spaces.Box(-2.0, 2.0, (6,), np.float32)})
        self.single_action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.named = {"tool": Named((0, 1)), "object": Named((2, 3))}
        self._hand, self._puck = np.zeros((num_envs, 2)), np.zeros((num_envs, 2))
        self._success = np.zeros(num_envs, bool)
        self._seed, self._episode = seed + np.arange(num_envs), np.full(num_envs, -1, dtype=np.int64)
        self._allocate()
        self._reset_worlds(np.ones(num_envs, bool), None)

    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        for world in np.flatnonzero(mask):
            if seeds is not None and seeds[world] is not None:
                self._seed[world], self._episode[world] = seeds[world], -1
            self._episode[world] += 1
            draw = numpy_generator(int(self._seed[world]), "gutter", int(self._episode[world]))
            self._hand[world] = draw.uniform([-0.9, -0.3], [-0.7, 0.3])
            self._puck[world] = draw.uniform([-0.4, -0.3], [-0.2, 0.3])
        self._success[mask] = False

    def stuck(self) -> Array:
        """Return (N,) bool: the puck is in a gutter."""
        found: Array = self.gutters & (np.abs(self._puck[:, 1]) > EDGE)
        return found

    def _there(self) -> Array:
        found: Array = np.linalg.norm(self._puck - SPOT, axis=1) < REACHED
        return found

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        hand = np.clip(self._hand + STEP * np.clip(action, -1.0, 1.0), -1.0, 1.0)
        way = self._puck - hand
        far = np.linalg.norm(way, axis=1, keepdims=True)
        away = np.where(far > 1e-9, way / np.maximum(far, 1e-9), [1.0, 0.0])
        pushed = np.where(far < TOUCH, hand + TOUCH * away, self._puck)
        pushed = np.clip(pushed, -WALL, WALL) if self.gutters else np.clip(pushed, [-WALL, -EDGE], [WALL, EDGE])
        pushed = np.where(self.stuck()[:, None], self._puck, pushed)
        self._hand = np.where(active[:, None], hand, self._hand)
        self._puck = np.where(active[:, None], pushed, self._puck)
        there = self._there()
        self._success |= there & active
        ended = self._success & active if self.terminate_on_success else np.zeros(self.num_envs, bool)
        return there.astype(np.float64), ended, (self._length + 1 >= self.max_episode_steps) & ~ended

    def _infos(self) -> dict[str, Array]:
        return {"success": self._success.copy(), "success_now": self._there(), "stuck": self.stuck()}

    def _observe(self) -> Obs:
        return {"proprio": np.concatenate([self._hand, self._puck, self._puck - self._hand], 1).astype(np.float32)}

    def render_worlds(self, worlds: list[int], width: int = 256, height: int = 256, camera: str | None = None) -> Array:
        """Return (len(worlds), height, width, 3) uint8 pictures: the table from above, x to the right."""
        x, y = np.linspace(-1.1, 1.1, width)[None, :], np.linspace(1.1, -1.1, height)[:, None]
        plain = np.full((height, width, 3), (205, 190, 160), np.uint8)
        plain[np.broadcast_to(np.abs(y) > EDGE, plain.shape[:2])] = (70, 60, 55) if self.gutters else (150, 140, 120)
        plain[(x - SPOT[0]) ** 2 + (y - SPOT[1]) ** 2 < REACHED**2] = (90, 170, 90)
        pictures = np.stack([plain] * len(worlds))
        for picture, world in zip(pictures, worlds, strict=True):
            for at, radius, colour in ((self._puck, TOUCH - 0.05, (60, 90, 210)), (self._hand, 0.05, (250, 250, 250))):
                picture[(x - at[world, 0]) ** 2 + (y - at[world, 1]) ** 2 < radius**2] = colour
        return pictures

    def expert_action(self) -> Array:
        """Return (N, 2) float32: round the puck to behind it as seen from the spot, then push."""
        ahead = SPOT - self._puck
        ahead = ahead / np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-9)
        offset = self._hand - self._puck
        along = (offset * ahead).sum(1, keepdims=True)
        side = offset - along * ahead
        off = np.linalg.norm(side, axis=1, keepdims=True)
        beside = np.where(off > 1e-6, side / np.maximum(off, 1e-6), ahead[:, ::-1] * [1.0, -1.0])
        around = self._puck + 0.3 * beside - 0.2 * ahead
        behind = self._puck - 0.25 * ahead
        aim = np.where(along > -0.1, around, np.where(off > 0.03, behind, self._hand + STEP * ahead - side))
        way = (aim - self._hand) / STEP
        longest = np.maximum(np.abs(way).max(axis=1, keepdims=True), 1.0)
        return (way / longest).astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        """Return counters, places and seeds."""
        names = ("hand", "puck", "success", "seed", "episode")
        return super().state_dict() | {name: getattr(self, f"_{name}").copy() for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        for name in ("hand", "puck", "success", "seed", "episode"):
            getattr(self, f"_{name}")[...] = np.asarray(state[name])
