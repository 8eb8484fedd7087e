"""The contract of `BatchedEnv` as a callable: run it over every environment, your own too.

`check_env(env)` drives the environment with random actions through at least one whole episode a world, so build it
with a short `max_episode_steps`.  It raises AssertionError naming the rule that is broken.
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np

from toddle.core.errors import InputError
from toddle.envs.base import Array, BatchedEnv, Obs

__all__ = ["check_env"]

STEPS = 4  # control steps of a short trajectory


def _parts(observation: Obs) -> dict[str, Array]:
    return observation if isinstance(observation, dict) else {"observation": observation}


def _same(first: Any, second: Any, worlds: Array | None = None) -> bool:
    """Bitwise equality of trees of arrays (in the given worlds)."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[key], second[key], worlds) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(_same(a, b, worlds) for a, b in zip(first, second))
    if isinstance(first, np.ndarray):
        rows = slice(None) if worlds is None else worlds
        return np.array_equal(first[rows], np.asarray(second)[rows], equal_nan=first.dtype.kind == "f")
    return bool(first == second)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return (
        value is None
        or isinstance(value, bool | int | float | str)
        or (isinstance(value, np.ndarray) and value.dtype != object)
    )


class _Checker:
    """One run over one environment; each method checks one rule."""

    def __init__(self, env: BatchedEnv, seed: int) -> None:
        self.env, self.seed, self.n = env, seed, env.num_envs
        self.rng = np.random.default_rng(seed)

    def actions(self, steps: int) -> Array:
        """Return (steps, N, A) float32 within the action space."""
        box = self.env.single_action_space
        shape = (steps, self.n, *box.shape)
        return self.rng.uniform(box.low, box.high, shape).astype(np.float32)

    def play(self, actions: Array, **options: Any) -> list[Any]:
        """Return (obs, reward, terminated, truncated, info) of each step."""
        return [self.env.step_chunk(action[:, None], **options) for action in actions]

    def attributes(self) -> None:
        env = self.env
        assert self.n >= 2, "check_env needs at least 2 worlds"
        for name, kind in (("name", str), ("body", str), ("dt", float), ("max_episode_steps", int)):
            assert isinstance(getattr(env, name, None), kind), f"attribute {name} must be a {kind.__name__}"
        assert env.dt > 0 and env.max_episode_steps > 0, "dt and max_episode_steps must be positive"
        box = env.single_action_space
        assert isinstance(box, gymnasium.spaces.Box) and len(box.shape) == 1, "single_action_space must be a flat Box"
        assert np.isfinite(box.low).all() and np.isfinite(box.high).all(), "actions must be bounded"
        assert env.action_space.shape == (self.n, *box.shape), "action_space is not the batch of single_action_space"
        assert env.instruction is None or len(env.instruction) == self.n, "instruction needs one sentence a world"
        spec = env.body_spec
        assert (spec.name, spec.action) == (env.body, box.shape[0]), "body_spec disagrees with body or action space"

    def observation(self, observation: Obs, when: str) -> None:
        """Check shapes, types and bounds against the spaces."""
        space = self.env.single_observation_space
        spaces = space.spaces if isinstance(space, gymnasium.spaces.Dict) else {"observation": space}
        parts = _parts(observation)
        assert set(parts) == set(spaces), f"{when}: keys {sorted(parts)}, the space has {sorted(spaces)}"
        for key, part in parts.items():
            expected = (self.n, *(spaces[key].shape or ()))
            assert isinstance(part, np.ndarray), f"{when}: {key} is a {type(part).__name__}, not an array"
            assert part.shape == expected, f"{when}: {key} has shape {part.shape}, the space says {expected}"
            assert part.dtype == spaces[key].dtype, f"{when}: {key} is {part.dtype}, the space says {spaces[key].dtype}"
            assert np.isfinite(part).all(), f"{when}: {key} is not finite"
            inside = all(spaces[key].contains(row) for row in part)
            assert inside, f"{when}: {key} leaves the space's bounds, range {part.min()} to {part.max()}"

    def seeding(self) -> None:
        runs, actions = [], self.actions(STEPS)
        for seed in (self.seed, self.seed, self.seed + 1000):
            first, _ = self.env.reset(seed=seed)
            self.observation(first, "reset")
            runs.append([first, *self.play(actions)])
        assert _same(runs[0], runs[1]), "the same seed gave another trajectory"
        assert not _same(runs[0], runs[2]), "another seed gave the same trajectory"
        self.env.reset(seed=[self.seed + 5, *[None] * (self.n - 1)])
        row = self.env.reset(seed=self.seed + 5)[0]
        assert _same(self.env.reset(seed=[self.seed + 5] * self.n)[0], row, np.arange(1)), "seeds of a list are ignored"

    def fresh_arrays(self) -> None:
        observation, _ = self.env.reset(seed=self.seed)
        kept, actions = copy.deepcopy(observation), self.actions(1)
        assert _same(self.env.current_observation(), observation), "current_observation differs from reset's"
        sent = actions.copy()
        self.play(actions)
        assert _same(observation, kept), "a step changed an observation that was returned before it"
        assert np.array_equal(sent, actions), "a step changed the caller's actions"

    def wrong_actions(self) -> None:
        try:
            self.env.step(np.zeros((self.n + 1, *self.env.single_action_space.shape)))
        except InputError:
            pass
        else:
            raise AssertionError("actions of a wrong shape must raise InputError")
        box = self.env.single_action_space
        if (box.low == -1).all() and (box.high == 1).all():
            saved, actions = self.saved(), self.actions(1)
            inside = self.play(np.sign(actions))
            self.env.load_state_dict(saved)
            assert _same(inside, self.play(np.sign(actions) * 3)), "actions beyond [-1, 1] are not clipped"

    def saved(self) -> dict[str, Any]:
        """Return the state, which must be plain and independent of the running environment."""
        state = self.env.state_dict()
        assert _is_plain(state), "state_dict must hold dicts, lists, arrays and JSON values only"
        return copy.deepcopy(state)

    def round_trip(self) -> None:
        self.env.reset(seed=self.seed)
        self.play(self.actions(STEPS))
        state = self.env.state_dict()
        saved, before = copy.deepcopy(state), copy.deepcopy(self.env.current_observation())
        actions = self.actions(2 * STEPS)
        expected = self.play(actions)
        assert _same(state, saved), "state_dict shares memory with the running environment"
        self.env.reset(seed=self.seed + 7)
        self.env.load_state_dict(saved)
        assert _same(self.env.current_observation(), before), "load_state_dict gives another observation"
        assert _same(self.play(actions), expected), "after load_state_dict the steps differ"

    def reset_mask(self) -> None:
        self.env.reset(seed=self.seed)
        self.play(self.actions(STEPS), reset_done=False)
        before, mask = self.env.current_observation(), np.arange(self.n) % 2 == 0
        after, _ = self.env.reset(options={"reset_mask": mask})
        assert _same(before, after, ~mask), "reset_mask: a world outside the mask changed"
        changed = [not _same(before, after, np.array([i])) for i in np.flatnonzero(mask)]
        assert all(changed), "reset_mask: a world of the mask did not begin anew"
        length = self.play(self.actions(1), active=mask)[0][4]["episode_length"]
        assert (length[mask] == 1).all() and (length[~mask] > 1).all(), "reset_mask: episode_length is wrong"

    def frozen_worlds(self) -> None:
        self.env.reset(seed=self.seed)
        self.play(self.actions(2))
        saved, before, actions = self.saved(), self.env.current_observation(), self.actions(STEPS)
        everyone = self.play(actions)
        self.env.load_state_dict(saved)
        active = np.arange(self.n) % 2 == 1
        for step, expected in zip(actions, everyone):
            observation, reward, terminated, truncated, info = self.play(step[None], active=active)[0]
            assert _same(observation, before, ~active), "a world outside `active` changed"
            idle = (reward, terminated, truncated, info["steps"])
            assert not any(value[~active].any() for value in idle), "a world outside `active` reports a step"
            assert _same(observation, expected[0], active), "a world depends on whether others are active"

    def chunks(self) -> None:
        self.env.reset(seed=self.seed)
        saved, actions = self.saved(), self.actions(STEPS)
        observation, reward, terminated, truncated, info = self.env.step_chunk(actions.swapaxes(0, 1), reset_done=False)
        self.env.load_state_dict(saved)
        running, total = np.ones(self.n, bool), np.zeros(self.n)
        for action in actions:
            single, paid, over, late, _ = self.play(action[None], active=running, reset_done=False)[0]
            total += paid
            running &= ~(over | late)
        assert _same(observation, single), "a chunk and its single steps lead to different observations"
        assert np.array_equal(reward, total), "a chunk's reward is not the sum of its steps'"
        assert np.array_equal(terminated | truncated, ~running), "a chunk ends otherwise than its steps"
        assert (info["steps"] >= 1).all() and (info["steps"] <= STEPS).all(), "info['steps'] is out of range"

    def push(self) -> None:
        self.env.reset(seed=self.seed)
        self.play(self.actions(1))
        saved, actions, mask = self.saved(), self.actions(1), np.arange(self.n) % 2 == 0
        calm = self.play(actions)[0][0]
        self.env.load_state_dict(saved)
        try:
            self.env.push(mask, np.random.default_rng(self.seed))
        except InputError:
            return
        pushed = self.play(actions)[0][0]
        assert _same(calm, pushed, ~mask), "a push moved a world outside its mask"
        assert not _same(calm, pushed, mask), "a push moved nothing"

    def episodes(self) -> None:
        """Drive until every world has ended at least once; check ends, counters and final observations."""
        env, total, length = self.env, np.zeros(self.n), np.zeros(self.n, int)
        before, _ = env.reset(seed=self.seed)
        unseen = np.ones(self.n, bool)
        for _ in range(env.max_episode_steps):
            observation, reward, terminated, truncated, info = env.step(self.actions(1)[0])
            total, length, ended = total + reward, length + 1, terminated | truncated
            self.observation(observation, "step")
            for name, value in (("terminated", terminated), ("truncated", truncated)):
                assert value.shape == (self.n,) and value.dtype == bool, f"{name} must be bool of shape ({self.n},)"
            assert reward.shape == (self.n,) and np.isfinite(reward).all(), "rewards must be finite, one a world"
            assert not (terminated & truncated).any(), "a world is both terminated and truncated"
            assert np.array_equal(info["_final_obs"], ended), "_final_obs is not terminated | truncated"
            assert np.array_equal(info["episode_length"], length), "episode_length is not the number of steps"
            assert np.allclose(info["episode_return"], total), "episode_return is not the sum of rewards"
            assert (length[~ended] < env.max_episode_steps).all(), "an episode outlasts max_episode_steps"
            if ended.any():
                final = info["final_obs"]
                self.observation(final, "final_obs")
                for world in np.flatnonzero(ended):
                    one = np.array([world])
                    assert not _same(final, observation, one), "final_obs is the next episode's first observation"
                    assert not _same(final, before, one), "final_obs is the observation before the last step"
            total[ended], length[ended] = 0, 0
            unseen &= ~ended
            before = observation
        assert not unseen.any(), "an episode did not end within max_episode_steps"

    def ended_worlds_stay(self) -> None:
        env = self.env
        env.reset(seed=self.seed)
        running = np.ones(self.n, bool)
        last: Obs = None
        while running.any():
            observation, _, terminated, truncated, _ = env.step_chunk(
                self.actions(1).swapaxes(0, 1), active=running, reset_done=False
            )
            if last is not None:
                assert _same(observation, last, ~running), "with reset_done=False an ended world moved"
            running &= ~(terminated | truncated)
            last = observation


def check_env(env: BatchedEnv, seed: int = 0) -> None:
    """Check an environment of at least 2 worlds and short episodes (about 8 steps or more) against the contract.

    Raises AssertionError naming the broken rule.  The environment is left in the middle of an episode.
    """
    checker = _Checker(env, seed)
    for rule in (
        checker.attributes,
        checker.fresh_arrays,
        checker.seeding,
        checker.round_trip,
        checker.wrong_actions,
        checker.reset_mask,
        checker.frozen_worlds,
        checker.chunks,
        checker.push,
        checker.episodes,
        checker.ended_worlds_stay,
    ):
        try:
            rule()
        except AssertionError as error:
            raise AssertionError(f"{env.name}: {error}") from None
