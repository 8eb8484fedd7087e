"""Recorded episodes played again under other physics: how far each set of factors is from what was measured.

The actions are played open loop from each episode's own start, and what is seen is compared with what was recorded, a
step at a time: with the right masses and frictions they agree but for the noise of the sensors.  Some steps after
something is touched small differences have grown into large ones, and the sum of squares has many valleys; so each
episode is compared for a few steps only, from the first at which the factors matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toddle.core.errors import problem
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.envs.base import Array, BatchedEnv
from toddle.envs.domain import FACTORS

__all__ = ["Recorded", "Replays", "recorded_episodes"]

HARDLY = 1e-3
"""Numbers that move by less than this share of what the most moving one does are weighed as if they moved so far."""
STEP = 1e-3
"""Step of the finite differences of `information`, in logarithms: at a hundredth touches come sooner or later and the
differences to both sides have nothing in common, at a thousandth they agree."""
MATTERS = 1e-3
"""By so much of its spread a number must differ for a factor to matter."""


@dataclass(frozen=True)
class Recorded:
    """One episode: its seed, the actions (T, A) and the states (T, O) before each."""

    seed: int
    action: Array
    state: Array


def recorded_episodes(dataset: LeRobotDataset, env: str, *, most: int, steps: int) -> list[Recorded]:
    """Return the first `most` episodes of an environment, at most their first `steps` control steps.

    Raises InputError where there are none, or where they have no seed.
    """
    states, actions = dataset.vector("observation.state"), dataset.vector("action")
    found: list[Recorded] = []
    for episode in dataset.episodes:
        if str(episode.facts.get("env", "")) == env and "seed" in episode.facts and len(found) < most:
            rows = slice(episode.start, min(episode.stop, episode.start + steps))
            found.append(Recorded(int(episode.facts["seed"]), actions[rows], states[rows]))
    if not found:
        raise problem("dataset", f"episodes of {env} with the seeds of their starts", "none", "of `toddle record`")
    return found


class Replays:
    """Residuals of recorded episodes under factors of an environment's physics."""

    def __init__(self, env: BatchedEnv, episodes: list[Recorded], parameters: tuple[str, ...]) -> None:
        """env: worlds, a multiple of the episodes, whose `domain` factors are set here.  parameters: of FACTORS.

        Raises InputError where what was recorded is not what the environment shows.
        """
        self.env, self.episodes = env, episodes
        self.columns = [FACTORS.index(name) for name in parameters]
        self.length = max(len(one.action) for one in episodes)
        shape = (len(episodes), self.length)
        self.measured = np.full((*shape, episodes[0].state.shape[1]), np.nan)
        self._actions = np.zeros((*shape, episodes[0].action.shape[1]), np.float32)
        for row, one in enumerate(episodes):
            self.measured[row, : len(one.state)], self._actions[row, : len(one.action)] = one.state, one.action
        moved = np.nanstd(self.measured, axis=(0, 1))
        spread = np.maximum(moved, HARDLY * moved.max())
        self._least = 1e-4 * spread
        self.weight = np.where(moved > 0, 1.0 / spread, 0.0)  # what never moves says nothing
        shown = env.body_spec
        for name, wanted, given in (("states", shown.proprio, self.measured), ("actions", shown.action, self._actions)):
            if given.shape[-1] != wanted:
                raise problem("dataset", f"{name} of {wanted} numbers, as {env.name} has", given.shape[-1])
        self._check_starts()

    def look_at(self, window: int, low: float, high: float) -> None:
        """Compare each episode for `window` control steps alone, from the first at which factors of `low` or `high`
        make a difference.  Raises InputError where they make none anywhere."""
        count = len(self.columns)
        corners = np.exp(np.eye(count) * np.log(low)), np.exp(np.eye(count) * np.log(high))
        played = self._played(np.concatenate([np.ones((1, count)), *corners])) * self.weight
        matters = np.abs(played[1:] - played[:1]).max((0, 3)) > MATTERS  # (E, T)
        if not matters.any():
            raise problem("dataset", f"episodes in which {low:g} and {high:g} times make a difference", "none")
        first = np.where(matters.any(1), matters.argmax(1), self.length)[:, None]
        times = np.arange(self.length)
        self.measured[(times < first) | (times >= first + window)] = np.nan

    def _check_starts(self) -> None:
        """Raise InputError where an episode does not begin as it was recorded."""
        first = self._played(np.ones((1, len(self.columns))), steps=0)[0]
        off = np.abs(first[:, 0] - self.measured[:, 0]).max(1)
        if off.max() > 0.05:
            worst = self.episodes[int(off.argmax())].seed
            raise problem("dataset", f"episodes that begin as {self.env.name} does from their seeds", f"seed {worst}")

    @property
    def compared(self) -> int:
        """Control steps that are compared, of all episodes."""
        return int((~np.isnan(self.measured).all(-1)).sum())

    def weigh(self, factors: Array) -> None:
        """Weigh each number by how far it is off under these factors (P,), in place of how far it moves."""
        off = self._played(factors[None])[0] - self.measured
        known = np.maximum(np.sqrt(np.nanmean(off**2, axis=(0, 1))), self._least)
        self.weight = np.where(self.weight > 0, 1.0 / known, 0.0)

    def __call__(self, factors: Array) -> Array:
        """Return residuals (K, n) under factors (K, P)."""
        off = (self._played(factors) - self.measured) * self.weight
        return np.asarray(off[:, ~np.isnan(self.measured) & (self.weight > 0)])

    def information(self, factors: Array, deviation: float) -> Array:
        """Return the Fisher information (E, P, P) of each episode about the logarithms of the factors (P,).

        It is that of the rows that are compared, were each number measured with white noise of `deviation`.  Of the
        slopes to both sides the smaller is taken (0 where their signs differ): where a touch comes a step sooner under
        one of them there is a jump, from which nothing can be told.
        """
        count = len(factors)
        steps = STEP * np.eye(count)
        moved = self._played(factors * np.exp(np.concatenate([steps, -steps, np.zeros((1, count))])))
        ahead, behind = moved[:count] - moved[-1], moved[-1] - moved[count:-1]
        least = np.minimum(np.abs(ahead), np.abs(behind)) * (np.sign(ahead) + np.sign(behind)) / 2.0
        slopes = least / (STEP * deviation)
        known = np.where(~np.isnan(self.measured) & (self.weight > 0), slopes, 0.0)
        return np.asarray(np.einsum("petn,qetn->epq", known, known))

    def _played(self, factors: Array, steps: int | None = None) -> Array:
        """Return what is seen (K, E, T, O) under each of K sets of factors."""
        many, at_once = len(self.episodes), self.env.num_envs // len(self.episodes)
        found = [
            self._together(factors[first : first + at_once], steps)[: len(factors[first : first + at_once])]
            for first in range(0, len(factors), at_once)
        ]
        return np.concatenate(found).reshape(len(factors), many, -1, self.measured.shape[-1])

    def _together(self, factors: Array, steps: int | None) -> Array:
        env, many = self.env, len(self.episodes)
        sets = env.num_envs // many
        fixed = np.ones((env.num_envs, len(FACTORS)))
        padded = np.concatenate([factors, np.repeat(factors[-1:], sets - len(factors), 0)])
        fixed[:, self.columns] = np.repeat(padded, many, 0)
        env.domain.fixed = fixed
        wanted = np.arange(env.num_envs) < many * len(factors)  # the others stand still
        seeds: list[int | None] = [one.seed for _ in range(sets) for one in self.episodes]
        seen, _ = env.reset(seed=seeds, options={"reset_mask": wanted})
        rows = [_numbers(seen)]
        actions = np.tile(self._actions, (sets, 1, 1))
        for t in range(self.length - 1 if steps is None else steps):
            seen, *_ = env.step_chunk(actions[:, t : t + 1], active=wanted, reset_done=False)
            rows.append(_numbers(seen))
        return np.stack(rows, 1).reshape(sets, many, len(rows), -1)


def _numbers(seen: object) -> Array:
    return np.asarray(seen["proprio"] if isinstance(seen, dict) else seen, dtype=np.float64)
