"""What a tabletop task is: its things, where they begin, when it is solved, what it pays, how its expert moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from scipy.spatial.transform import Rotation

from toddle.core.errors import problem
from toddle.envs.base import Array
from toddle.envs.streams import WorldStreams
from toddle.envs.tabletop.scene import Colour, Thing

__all__ = ["Draws", "Moment", "Start", "Streams", "Task", "check_options", "near", "placed"]


class Streams(Protocol):
    """Random numbers of the worlds that begin an episode."""

    def uniform(self, *shape: int) -> Array:
        """Return (W, *shape) numbers in [0, 1)."""


class Draws:
    """The random numbers of the worlds that begin an episode."""

    def __init__(self, streams: WorldStreams, worlds: Array) -> None:
        self.streams, self.worlds = streams, worlds

    def uniform(self, *shape: int) -> Array:
        """Return (W, *shape) numbers in [0, 1)."""
        return self.streams.uniform(self.worlds, *shape)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """All worlds at one moment.  Metres, radians, newtons."""

    tool: Array  # (N, 3), the point between the finger tips
    turn: Rotation  # (N,), of the hand
    speed: Array  # (N, 7), rad/s of the arm's joints
    touch: Array  # (N, 2), what the pads of the left and the right finger press on things
    at: dict[str, Array]  # name of a thing or a mark -> (N, 3)
    rotation: dict[str, Rotation]  # name of a thing or a mark -> (N,)
    sizes: dict[str, Array] = field(default_factory=dict)  # what varies between worlds, (N, ...)

    def holds(self, thing: str, half_size: tuple[float, float, float] | Array) -> Array:
        """Whether both fingers press with at least 0.5 N, and the thing is between them, (N,) bool."""
        inside = self.rotation[thing].apply(self.tool - self.at[thing], inverse=True)
        between = (np.abs(inside) <= np.asarray(half_size) + 0.004).all(-1)
        return np.asarray((self.touch >= 0.5).all(-1) & between)

    @property
    def still(self) -> Array:
        """Whether no joint of the arm moves faster than 0.2 rad/s, (N,) bool."""
        return np.asarray(np.abs(self.speed).max(-1) <= 0.2)

    @property
    def calm(self) -> Array:
        """1 - tanh of five times the norm of the arm's joint speeds, (N,)."""
        return np.asarray(near(np.linalg.norm(self.speed, axis=-1)))


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where W worlds begin: positions (W, 3) and rotations (W,) by name, and what varies between worlds."""

    at: dict[str, Array]
    rotation: dict[str, Rotation] = field(default_factory=dict)
    sizes: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One of the tasks."""

    name: str
    sentences: tuple[str, ...]
    things: tuple[Thing, ...]
    marks: tuple[tuple[str, str, tuple[float, ...], Colour], ...] = ()
    holder: tuple[str, float, float] | None = None
    limit: int = 50
    """Control steps of an episode."""
    best: float
    """What success pays in ManiSkill's dense reward, by which it is divided here."""
    begin: Callable[[Streams], Start]
    solved: Callable[[Moment], Array]
    """Moment -> (N,) bool."""
    dense: Callable[[Moment], Array]
    """Moment -> (N,), before success pays `best`: ManiSkill's stages."""
    simplified: Callable[[Moment], Array]
    """Moment -> (N,) in [0, 1]: how far the last thing is from where it belongs, and nothing on the way there."""
    expert: Callable[[Moment, dict[str, Any]], Array]
    """Moment, what it remembers -> actions (N, 7)."""
    seen: tuple[str, ...] = ()
    """Things and marks whose differences a policy of states is told."""


def near(distance: Array, scale: float = 5.0) -> Array:
    """ManiSkill's distance reward 1 - tanh(scale * distance): 1 at 0, 0 far away."""
    return np.asarray(1.0 - np.tanh(scale * distance))


def placed(x: Array, y: Array, z: Array | float) -> Array:
    """Return positions (W, 3)."""
    return np.stack(np.broadcast_arrays(x, y, z), -1)


def check_options(
    observation: str, reward: str, num_envs: int, horizon_scale: int, max_episode_steps: int | None
) -> None:
    """Raise InputError for a word or a number that no tabletop environment takes."""
    for label, word, words in (
        ("observation", observation, ("auto", "arm", "state")),
        ("reward", reward, ("dense", "simplified", "sparse", "success")),
    ):
        if word not in words:
            raise problem(label, " or ".join(map(repr, words)), word)
    for label, value in (("num_envs", num_envs), ("horizon_scale", horizon_scale)):
        if value < 1:
            raise problem(label, "at least 1", value)
    if max_episode_steps is not None and horizon_scale != 1:
        raise problem("horizon_scale", "1 where max_episode_steps is given", horizon_scale)
