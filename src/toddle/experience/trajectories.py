"""Whole trajectories: joined out of rollouts of a fixed length, or played for what they pass through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from toddle.core.errors import problem
from toddle.core.protocols import Acting
from toddle.envs.base import Array, BatchedEnv
from toddle.experience.actor import Agent
from toddle.experience.rollout import Rollout

__all__ = ["Trajectories", "Trajectory", "states_of", "traces"]


class Trajectory(NamedTuple):
    """One episode of T control steps."""

    observation: Array
    """(T + 1, O), what it ended in included."""
    action: Array
    """(T, A), as they were executed."""
    reward: Array
    """(T,)."""
    success: bool
    """As the environment reports it at the last step."""
    terminated: bool


class Trajectories:
    """Joins what rollouts hold of an episode.

    They are of policies of states that decide one action at a time, from a collector that keeps every episode's end
    (`ends="all"`) and leaves rewards as they are.
    """

    def __init__(self, env: BatchedEnv) -> None:
        """Begin with no episode under way in the worlds of `env`."""
        self.name = env.name
        self.open: list[list[tuple[Array, ...]]] = [[] for _ in range(env.num_envs)]

    def take(self, rollout: Rollout) -> list[Trajectory]:
        """Return the episodes that ended in a rollout, in the order in which they did.

        Raises InputError where the environment does not report success.
        """
        if rollout.reached is None:
            raise problem("env", "one that reports success, with whole trajectories", self.name)
        assert rollout.executed is not None
        kept = (rollout.observation["proprio"], rollout.executed, rollout.reward)
        columns = [part.cpu().numpy() for part in kept]
        terminated, truncated = rollout.terminated.cpu().numpy(), rollout.truncated.cpu().numpy()
        finals = {} if rollout.finals is None else self._finals(rollout)
        begun, found = [0] * rollout.worlds, list[Trajectory]()
        for t, world in np.argwhere(terminated | truncated).tolist():
            pieces = [*self.open[world], self._piece(columns, world, begun[world], t + 1)]
            self.open[world], begun[world] = [], t + 1
            seen, action, reward = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
            whole, success = np.concatenate([seen, finals[t, world][None]]), bool(rollout.reached[t, world])
            found.append(Trajectory(whole, action, reward, success, bool(terminated[t, world])))
        for world, start in enumerate(begun):
            if start < rollout.length:
                self.open[world].append(self._piece(columns, world, start, rollout.length))
        return found

    @staticmethod
    def _finals(rollout: Rollout) -> dict[tuple[int, int], Array]:
        assert rollout.finals is not None
        seen = rollout.finals["proprio"].cpu().numpy()
        return {(t, world): row for (t, world), row in zip(rollout.final_at.tolist(), seen, strict=True)}

    @staticmethod
    def _piece(columns: list[Array], world: int, start: int, stop: int) -> tuple[Array, ...]:
        return tuple(column[start:stop, world].copy() for column in columns)

    def state_dict(self) -> dict[str, Any]:
        """Return the pieces of the episodes under way."""
        return {"open": [list(pieces) for pieces in self.open]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.open = [[tuple(np.asarray(part) for part in piece) for piece in pieces] for pieces in state["open"]]


def traces(policy: Acting, env: BatchedEnv, seeds: Sequence[int], *, deterministic: bool) -> list[Array]:
    """Play an episode in each world (`seeds`: one each); return the states (T, O) of each, the first one included."""
    agent = Agent(policy, env, deterministic=deterministic, seed=seeds[0])
    observation, _ = env.reset(seed=list(seeds))
    active = np.ones(env.num_envs, bool)
    found = [[state] for state in states_of(observation)]
    while active.any():
        observation, _, terminated, truncated, _ = env.step_chunk(
            agent.act(observation), active=active, reset_done=False
        )
        for world in np.flatnonzero(active):
            found[world].append(states_of(observation)[world])
        active &= ~(terminated | truncated)
    return [np.stack(states) for states in found]


def states_of(observation: Any) -> Array:
    """Return the states (N, O) in an environment's observation, whatever else is in it."""
    states: Array = observation["proprio"] if isinstance(observation, dict) else observation
    return states
