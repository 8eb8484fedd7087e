"""Plays recorded episodes once more, from their seeds and actions: for pictures of those alone that are to be kept."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toddle.core.errors import InputError, problem
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.envs.base import Array, BatchedEnv
from toddle.experience.demonstrations import Demonstration, demonstrate

__all__ = ["ReplayActor", "read_recorded", "replayed"]


class ReplayActor:
    """Does what was recorded: `actions` are (T, A) by seed."""

    def __init__(self, actions: dict[int, Array]) -> None:
        self.actions = actions
        self._step = 0
        self._own: list[Array] = []

    def begin(self, env: BatchedEnv, seeds: list[int]) -> None:
        """Begin episodes."""
        self._step, self._own = 0, [self.actions[seed] for seed in seeds]

    def act(self, env: BatchedEnv) -> tuple[Array, Array]:
        """Return the actions, twice; an episode that should have ended does its last one again."""
        done = np.stack([own[min(self._step, len(own) - 1)] for own in self._own])
        self._step += 1
        return done, done

    def check(self, demonstration: Demonstration) -> None:
        """Raise InputError where an episode did not go as it was recorded."""
        wanted = len(self.actions[demonstration.seed])
        if not demonstration.success or demonstration.length != wanted:
            how = "succeeded" if demonstration.success else "did not succeed"
            raise InputError(
                f"replay: seed {demonstration.seed}: {how} after {demonstration.length} steps, recorded were {wanted} "
                "with success at the last; the episode was recorded in another environment, or version of it"
            )


@dataclass(frozen=True, kw_only=True)
class _Found:
    seed: int
    actions: Array


def _successes(dataset: LeRobotDataset, member: str) -> list[_Found]:
    """Return the episodes of an environment that end with success, up to it."""
    reached, actions = dataset.column("next.success").astype(bool), dataset.vector("action")
    found = []
    for episode in dataset.episodes:
        rows = slice(episode.start, episode.stop)
        if str(episode.facts.get("env", "")).partition("/")[2] == member and reached[rows].any():
            stop = episode.start + int(np.argmax(reached[rows])) + 1
            found.append(_Found(seed=int(episode.facts["seed"]), actions=actions[episode.start : stop]))
    return found


def read_recorded(folders: Sequence[Path], env: str) -> ReplayActor:
    """Read the successes of an environment's member (push-v3 of whichever family) in datasets of `toddle record`.

    Raises InputError where there are none, or two of one seed.
    """
    member = env.partition("/")[2]
    found = [one for folder in folders for one in _successes(LeRobotDataset(folder), member)]
    if not found:
        raise problem("replay", f"successes of {member}", f"none in {' '.join(map(str, folders))}")
    actions = {one.seed: one.actions for one in found}
    if len(actions) < len(found):
        raise problem("replay", f"episodes of {member} of different seeds", "two of one seed")
    return ReplayActor(actions)


def replayed(
    env: BatchedEnv, recorded: ReplayActor, *, most: int, done: Collection[int], image_stride: int
) -> Iterator[Demonstration]:
    """Yield the first `most` recorded episodes in the order of their seeds, but for those whose seeds are `done`.

    Raises InputError where an episode does not go as it was recorded.
    """
    seeds = [seed for seed in sorted(recorded.actions)[:most] if seed not in done]
    for first in range(0, len(seeds), env.num_envs):
        wave = seeds[first : first + env.num_envs]
        filled = [*wave, *[wave[-1]] * (env.num_envs - len(wave))]  # every world plays
        for one in demonstrate(env, recorded, filled, image_stride=image_stride, after_success=0)[: len(wave)]:
            recorded.check(one)
            yield one
