"""Dots: a point that must go to the dot whose colour the sentence names: pictures, sentences, an expert, no physics.

The smallest task for a vision-language-action model: where the dots are is in the picture alone, which of them is meant
is in the sentence alone.  It runs thousands of times faster than a robot's scene, so that a chain of record, SFT and RL
can be tried in a minute.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from toddle.core.errors import problem
from toddle.core.seeding import numpy_generator
from toddle.core.types import Named
from toddle.envs.base import Array, BatchedEnv, Obs

__all__ = ["COLOURS", "DotsEnv"]

COLOURS = {"red": (220, 50, 40), "green": (60, 180, 70), "blue": (50, 90, 220)}
GROUND, POINT = (45, 45, 50), (245, 245, 245)
STEP, REACHED, APART, DOT = 0.1, 0.15, 0.55, 0.12
"""Longest way of a control step, distance that counts as reached, least distance at the start, radius of a dot; the
field is the square [-1, 1] x [-1, 1]."""


class DotsEnv(BatchedEnv):
    """N points in the plane, and dots: with member "reach" of three colours, of which the sentence names one; with
    member "one" a single red dot.

    Observations: `proprio` (N, 2) float32, where the point is; with a camera (its name is "top") also `images`
    (N, 1, 3, H, W) uint8.  Action (N, 2): the way to go, 1 = 0.1.  Infos: `success` (N,) bool, the dot was reached.
    Rewards: 1 on reaching it; with `reward` "dense" minus the distance to it.
    """

    body, dt = "dot", 0.1

    def __init__(
        self,
        member: str,
        num_envs: int,
        *,
        seed: int = 0,
        cameras: tuple[str, ...] = (),
        image_size: int = 96,
        max_episode_steps: int = 40,
        terminate_on_success: bool = True,
        reward: Literal["success", "dense"] = "success",
    ) -> None:
        """Build N worlds.  Raises InputError for an unknown camera or reward."""
        if any(camera != "top" for camera in cameras):
            raise problem("cameras", "top", " ".join(cameras))
        if reward not in ("success", "dense"):
            raise problem("reward", "success or dense", reward)
        self.name, self.num_envs, self.max_episode_steps = f"dots/{member}", num_envs, max_episode_steps
        self._colours = list(COLOURS)[: 1 if member == "one" else None]
        self.cameras, self.image_size = tuple(cameras), image_size
        self.terminate_on_success, self.reward = terminate_on_success, reward
        self.instruction: list[str] = [""] * num_envs
        parts: dict[str, spaces.Space[Any]] = {"proprio": spaces.Box(-1.0, 1.0, (2,), np.float32)}
        if self.cameras:
            parts["images"] = spaces.Box(0, 255, (len(self.cameras), 3, image_size, image_size), np.uint8)
        self.single_observation_space = spaces.Dict(parts)
        self.single_action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._point, self._dots = np.zeros((num_envs, 2)), np.zeros((num_envs, len(self._colours), 2))
        self._goal, self._success = np.zeros(num_envs, dtype=np.int64), np.zeros(num_envs, bool)
        self._seed, self._episode = seed + np.arange(num_envs), np.full(num_envs, -1, dtype=np.int64)
        centres = (np.arange(image_size) + 0.5) / image_size * 2.4 - 1.2  # a margin, so that no dot is cut
        self._x, self._y = centres[None, :], -centres[:, None]
        self.named = {"tool": Named((0, 1))}
        self._allocate()
        self._reset_worlds(np.ones(num_envs, bool), None)

    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        for world in np.flatnonzero(mask):
            if seeds is not None and seeds[world] is not None:
                self._seed[world], self._episode[world] = seeds[world], -1
            self._episode[world] += 1
            draw = numpy_generator(int(self._seed[world]), self.name, int(self._episode[world]))
            places = [draw.uniform(-1.0, 1.0, 2)]
            while len(places) <= len(self._colours):
                new = draw.uniform(-1.0, 1.0, 2)
                if min(np.linalg.norm(new - old) for old in places) > APART:
                    places.append(new)
            self._point[world], self._dots[world] = places[0], places[1:]
            self._goal[world] = draw.integers(len(self._colours))
            self.instruction[world] = f"reach the {self._colours[self._goal[world]]} dot"
        self._success[mask] = False

    def _way(self) -> Array:
        way: Array = self._dots[np.arange(self.num_envs), self._goal] - self._point
        return way

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        moved = np.clip(self._point + STEP * np.clip(action, -1.0, 1.0), -1.0, 1.0)
        self._point = np.where(active[:, None], moved, self._point)
        distance = np.linalg.norm(self._way(), axis=1)
        reached = distance < REACHED
        self._success |= reached & active
        gained = -distance if self.reward == "dense" else reached.astype(np.float64)
        terminated = self._success & active if self.terminate_on_success else np.zeros(self.num_envs, bool)
        return gained, terminated, (self._length + 1 >= self.max_episode_steps) & ~terminated

    def _infos(self) -> dict[str, Array]:
        now = np.linalg.norm(self._way(), axis=1) < REACHED
        return {"success": self._success.copy(), "success_now": now}

    def _observe(self) -> Obs:
        observation = {"proprio": self._point.astype(np.float32)}
        if self.cameras and self.rendering:
            pictures: Array = np.zeros((self.num_envs, 3, self.image_size, self.image_size), np.uint8)
            for world in np.flatnonzero(self.pictured):
                pictures[world] = self._picture(int(world))
            shape = (self.num_envs, len(self.cameras), *pictures.shape[1:])
            observation["images"] = np.broadcast_to(pictures[:, None], shape).copy()
        return observation

    def _picture(self, world: int) -> Array:
        """Return (3, H, W) uint8."""
        picture = np.empty((3, self.image_size, self.image_size), np.uint8)
        picture[:] = np.reshape(GROUND, (3, 1, 1))
        for (x, y), colour, radius in (
            *(
                (place, colour, DOT)
                for place, colour in zip(self._dots[world], (COLOURS[name] for name in self._colours), strict=True)
            ),
            (self._point[world], POINT, DOT / 2),
        ):
            inside = (self._x - x) ** 2 + (self._y - y) ** 2 < radius**2
            picture[:, inside] = np.reshape(colour, (3, 1))
        return picture

    def render_worlds(self, worlds: list[int], width: int = 256, height: int = 256, camera: str | None = None) -> Array:
        """Return (len(worlds), height, width, 3) uint8 pictures."""
        rows = np.arange(height) * self.image_size // height
        columns = np.arange(width) * self.image_size // width
        return np.stack([self._picture(world)[:, rows][:, :, columns].transpose(1, 2, 0) for world in worlds])

    def expert_action(self) -> Array:
        """Return (N, 2) float32: straight to the dot that is meant."""
        way = self._way() / STEP
        longest = np.maximum(np.abs(way).max(axis=1, keepdims=True), 1.0)
        return (way / longest).astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        """Return counters, places and seeds."""
        names = ("point", "dots", "goal", "success", "seed", "episode")
        return super().state_dict() | {name: getattr(self, f"_{name}").copy() for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        for name in ("point", "dots", "goal", "success", "seed", "episode"):
            getattr(self, f"_{name}")[...] = np.asarray(state[name])
        self.instruction = [f"reach the {self._colours[goal]} dot" for goal in self._goal]
