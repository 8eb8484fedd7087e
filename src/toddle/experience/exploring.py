"""Episodes of a policy that explores: every start tried several times, and what of it is worth keeping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from toddle.core.protocols import Acting
from toddle.envs.base import Array, BatchedEnv
from toddle.experience.demonstrations import Demonstration, PolicyActor, demonstrate

__all__ = ["Explored", "explore"]


class Explores(Acting, Protocol):
    """A policy that says which of its decisions should not be imitated (`policies.exploring`)."""

    @property
    def astray(self) -> Tensor | None:
        """(B,) bool, of the last decision; None: none."""


class Explored(NamedTuple):
    """One try at a start."""

    attempt: int
    astray: int
    """Control steps of it that are not to be imitated."""
    demonstration: Demonstration
    """The whole episode, or what follows the last of these steps."""


class _ExploringActor(PolicyActor):
    """Notes at every control step in which worlds the policy has been led astray."""

    policy: Explores

    def begin(self, env: BatchedEnv, seeds: list[int]) -> None:
        super().begin(env, seeds)
        self.astray: list[Array] = []

    def act(self, env: BatchedEnv) -> tuple[Array, Array]:
        actions = super().act(env)
        noted = self.policy.astray
        self.astray.append(np.zeros(env.num_envs, bool) if noted is None else noted.cpu().numpy())
        return actions


def explore(
    env: BatchedEnv,
    policy: Explores,
    starts: Sequence[int],
    tries: int,
    *,
    body: int = 0,
    deterministic: bool = True,
    image_stride: int = 1,
    after_success: int = 8,
) -> list[list[Explored]]:
    """Play `tries` episodes from each of the starts (seeds), all at once, and return them start by start.

    env: of as many worlds.  Steps up to the last one that is not to be imitated are cut off (an episode that ends with
    it is left whole, and failed).
    """
    actor = _ExploringActor(policy, deterministic=deterministic, body=body)
    seeds = [seed for seed in starts for _ in range(tries)]
    found = demonstrate(env, actor, seeds, image_stride=image_stride, after_success=after_success)
    noted = np.stack(actor.astray)
    played = [_cut(one, noted[: one.length, world], image_stride) for world, one in enumerate(found)]
    return [
        [Explored(attempt, *played[first + attempt]) for attempt in range(tries)]
        for first in range(0, len(seeds), tries)
    ]


def _cut(episode: Demonstration, astray: Array, stride: int) -> tuple[int, Demonstration]:
    """Return how many rows were astray, and the episode from the first row with a picture of its own after them."""
    if not astray.any():
        return 0, episode
    first = int(np.flatnonzero(astray)[-1]) + 1
    first = -(-first // stride) * stride if episode.images else first
    if first >= episode.length or episode.columns["next.success"][:first].any():
        return int(astray.sum()), replace(episode, success=False)
    columns = {name: values[first:] for name, values in episode.columns.items()}
    images = {name: values[first // stride :] for name, values in episode.images.items()}
    return int(astray.sum()), replace(episode, columns=columns, images=images)
