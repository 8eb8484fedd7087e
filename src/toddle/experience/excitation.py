"""Motions from which a world's unknown masses and frictions can be told: chosen in simulation, then made (ASID).

A motion is a start (a seed) and actions, played open loop.  What it says of the parameters is its Fisher information,
from the same few rows that `experience.identification` compares.  Candidates are the scripted expert's motions under
noise; those chosen are disturbed again, a few rounds long.

Memmel et al. 2024 (arXiv 2404.12308) train a policy for it by RL and pay the trace of the information, which one
direction alone can have; here motions are searched, for the log of the determinant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from toddle.core.seeding import numpy_generator
from toddle.envs.base import Array, BatchedEnv
from toddle.experience.demonstrations import CORRELATION, Demonstration, Demonstrator, ExpertActor, demonstrate
from toddle.experience.identification import Recorded, Replays
from toddle.experience.replay import ReplayActor
from toddle.maths.exploration import choose_experiments

__all__ = ["Motion", "Search", "make_motions"]


class Motion(NamedTuple):
    """A motion, and what it would say of P parameters' logarithms at each of G guesses of them."""

    seed: int
    action: Array
    """(T, A)."""
    information: Array
    """(G, P, P)."""


class _Planned(ReplayActor):
    """Makes one motion in each world."""

    def __init__(self, actions: Sequence[Array]) -> None:
        super().__init__({})
        self.planned = list(actions)

    def begin(self, env: BatchedEnv, seeds: list[int]) -> None:
        self._step, self._own = 0, self.planned


class Search:
    """The search for motions that say most, in one environment."""

    def __init__(
        self,
        env: BatchedEnv,
        replays: Callable[[list[Recorded]], Replays],
        guesses: Array,
        prior: Array,
        *,
        steps: int,
        noise: float,
        deviation: float,
    ) -> None:
        """env: worlds of the description's own physics, a candidate each.  replays: what identification would compare.

        guesses: (G, P) factors.  prior: (P, P).  steps: control steps of a motion.  noise: deviation of the disturbance
        of actions.  deviation: of a sensor's white noise on every number that is seen.
        """
        self.env, self.replays, self.guesses, self.prior = env, replays, guesses, prior
        self.steps, self.noise, self.deviation = steps, noise, deviation

    def first(self, seed: int) -> list[Motion]:
        """Return a motion for each world, the expert's under noise, from starts that count up from `seed`."""
        seeds = list(range(seed, seed + self.env.num_envs))
        return self._known(ExpertActor(self.noise, executed=True), seeds)

    def chosen(self, motions: Sequence[Motion], count: int) -> list[Motion]:
        """Return the `count` motions that together say most."""
        found = choose_experiments([one.information for one in motions], self.prior, count)
        return [motions[index] for index in found]

    def varied(self, motions: Sequence[Motion], seed: int) -> list[Motion]:
        """Return a motion for each world: one of these, disturbed again."""
        parents = [motions[world % len(motions)] for world in range(self.env.num_envs)]
        draw, space, planned = numpy_generator(seed, "motions"), self.env.single_action_space, []
        for parent in parents:
            drift = np.zeros_like(parent.action, dtype=float)
            for step in range(1, len(drift)):
                fresh = draw.normal(size=drift.shape[1])
                drift[step] = CORRELATION * drift[step - 1] + np.sqrt(1.0 - CORRELATION**2) * self.noise * fresh
            planned.append(np.clip(parent.action + drift, space.low, space.high).astype(np.float32))
        return self._known(_Planned(planned), [parent.seed for parent in parents])

    def _known(self, actor: Demonstrator, seeds: list[int]) -> list[Motion]:
        """Play and return motions with what they say; those in which nothing matters say nothing."""
        played = [_to(self.steps, one) for one in demonstrate(self.env, actor, seeds, after_success=0)]
        episodes = [Recorded(one.seed, one.columns["action"], one.columns["observation.state"]) for one in played]
        replays = self.replays(episodes)
        try:
            said = [replays.information(guess, self.deviation) for guess in self.guesses]
        finally:
            replays.env.close()
        return [Motion(one.seed, one.action, np.stack([at[row] for at in said])) for row, one in enumerate(episodes)]


def make_motions(env: BatchedEnv, motions: Sequence[Motion], *, image_stride: int, steps: int) -> list[Demonstration]:
    """Make the motions, one a world, and return what was seen, `steps` control steps at most."""
    found = demonstrate(
        env,
        _Planned([one.action for one in motions]),
        [one.seed for one in motions],
        image_stride=image_stride,
        after_success=0,
    )
    return [_to(steps, one, image_stride) for one in found]


def _to(steps: int, episode: Demonstration, stride: int = 1) -> Demonstration:
    """Return the first control steps of an episode."""
    columns = {name: values[:steps] for name, values in episode.columns.items()}
    images = {name: values[: -(-steps // stride)] for name, values in episode.images.items()}
    return replace(episode, columns=columns, images=images)
