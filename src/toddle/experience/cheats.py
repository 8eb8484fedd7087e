"""Policies that would cheat a reward: they come near success and do not succeed.

oscillate   the expert for three fifths of its way, then back and forth
linger      the expert until ten steps before it succeeds, then nothing
look        the hand goes to the goal, without the object (Meta-World's and the tabletop's tools and goals)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from toddle.envs.base import Array, BatchedEnv

__all__ = ["CHEATS", "play_cheats"]

CHEATS = ("expert", "oscillate", "linger", "look")
PERIOD, GAIN, EARLY = 5, 10.0, 10
Played = list[tuple[Array, bool]]
"""Of each world the states (L, O) before its steps, and whether it succeeded."""


def play_cheats(env: BatchedEnv, seed: int) -> dict[str, Played]:
    """Play an episode in every world by the expert, and by each cheat from the same starts.

    The environment must end episodes at success.  Raises InputError where it has no expert.
    """
    seeds = [seed + world for world in range(env.num_envs)]
    found = {"expert": _play(env, seeds, lambda t: env.expert_action())}
    lengths = np.array([len(states) for states, _ in found["expert"]])
    last: Array = np.zeros((env.num_envs, *env.single_action_space.shape), np.float32)

    def until(steps: Array, then: Callable[[int, Array], Array]) -> Callable[[int], Array]:
        def act(t: int) -> Array:
            goes = (t < steps)[:, None]
            last[:] = np.where(goes, env.expert_action(), last)
            return np.where(goes, last, then(t, last))

        return act

    def turn(t: int, action: Array) -> Array:
        turned = action if t // PERIOD % 2 else -action
        return np.concatenate([turned[:, :-1], action[:, -1:]], 1)

    def rest(t: int, action: Array) -> Array:
        return np.concatenate([0.0 * action[:, :-1], action[:, -1:]], 1)

    found["oscillate"] = _play(env, seeds, until((0.6 * lengths).astype(int), turn))
    found["linger"] = _play(env, seeds, until(lengths - EARLY, rest))
    if {"tool", "goal"} <= set(env.named) and env.single_action_space.shape[0] >= 4:
        found["look"] = _play(env, seeds, lambda t: _towards_goal(env))
    return found


def _towards_goal(env: BatchedEnv) -> Array:
    state = _state(env.current_observation())
    tool, goal = (
        state[:, list(where.at)] * where.scale + np.array(where.offset or (0.0,) * 3)
        for where in (env.named["tool"], env.named["goal"])
    )
    action: Array = np.zeros((env.num_envs, *env.single_action_space.shape), np.float32)
    action[:, :3], action[:, -1] = np.clip(GAIN * (goal - tool), -1.0, 1.0), -1.0
    return action


def _state(seen: Any) -> Array:
    found: Array = seen["proprio"] if isinstance(seen, dict) else seen
    return found


def _play(env: BatchedEnv, seeds: list[int], act: Callable[[int], Array]) -> Played:
    seen, _ = env.reset(seed=list(seeds))
    running, won = np.ones(env.num_envs, bool), np.zeros(env.num_envs, bool)
    states: list[list[Array]] = [[] for _ in seeds]
    for t in range(env.max_episode_steps):
        for world in np.flatnonzero(running):
            states[world].append(_state(seen)[world].astype(np.float32))
        seen, _, terminated, truncated, info = env.step_chunk(
            np.asarray(act(t), np.float32)[:, None], active=running, reset_done=False
        )
        won |= running & np.asarray(info["success"], bool)
        running &= ~(terminated | truncated)
        if not running.any():
            break
    return [(np.stack(own), bool(success)) for own, success in zip(states, won, strict=True)]
