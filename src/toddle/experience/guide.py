"""Between a teacher and a collector: when the teacher is asked, and what becomes of its answers.

`Hints` writes them down for a loss, and the teacher never acts.  `Takeover` lets it act in the learner's place (JSRL,
behaviour mixing), and what it did is not learned from.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Count, NonNegative
from toddle.core.seeding import numpy_generator
from toddle.envs.base import Array, BatchedEnv
from toddle.experience.rollout import Rollout
from toddle.experience.teacher import Teacher, increments, parts_of

__all__ = ["HINT", "VALID", "Guide", "Hints", "Person", "PersonConfig", "Takeover"]

HINT, VALID = "hint", "hint_valid"
"""Columns of a rollout: what the teacher asks of a decision (T, B, A), and where it asks anything (T, B) bool."""


class Guide:
    """Base: it counts and times what the teacher is asked.  `active` False: it does nothing and nobody is asked."""

    active = True

    def __init__(self, teacher: Teacher, env: BatchedEnv, length: int) -> None:
        """`length`: decisions of each world in a rollout."""
        self.teacher, self.env, self.length = teacher, env, length
        self.calls, self.seconds = 0, 0.0

    def begin(self) -> None:
        """Get ready for a rollout."""
        self.calls, self.seconds = 0, 0.0

    def step(self, t: int, raw: Any, first: Array, chunk: Array) -> Array:
        """Return what is executed in decision `t`: the learner's chunk (B, 1, A), or the teacher's in its place.

        raw: the environment's observations; first (B,) bool: which worlds begin an episode.
        """
        raise NotImplementedError

    def end(self, rollout: Rollout) -> dict[str, float]:
        """Write into a rollout what is to be known of it, and return metrics."""
        steps = self.length * self.env.num_envs
        facts = {"jumpstart/calls": float(self.calls), "jumpstart/asked": self.calls / steps}
        return facts | ({"time/teacher_milliseconds": 1000.0 * self.seconds / self.calls} if self.calls else {})

    def _watch(self, raw: Any, first: Array) -> None:
        began = time.perf_counter()
        self.teacher.watch(raw, first)
        self.seconds += time.perf_counter() - began

    def _ask(self, raw: Any, worlds: Array) -> Array:
        began = time.perf_counter()
        answer = self.teacher.ask(raw, worlds)
        self.seconds += time.perf_counter() - began
        self.calls += len(worlds)
        return answer

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next rollout depends on."""
        return {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.teacher.load_state_dict(state["teacher"])


class Hints(Guide):
    """Asks at drawn moments; each answer is a target for the `hold` control steps from there, within the episode.

    A rollout is cut into windows of `hold` steps, and `wanted` of those of all worlds are drawn without repetition: no
    window reaches beyond the rollout, and the worlds that ask at the same moment ask together.
    """

    def __init__(self, teacher: Teacher, env: BatchedEnv, length: int, *, hold: int, seed: int) -> None:
        """Raises InputError where a rollout is shorter than an answer holds."""
        super().__init__(teacher, env, length)
        if hold > length:
            raise problem("collect.length", f"at least {hold}, the steps that an answer holds", length)
        self.hold, self.parts = hold, parts_of(env)
        self.wanted = 0
        self._draws = numpy_generator(seed, "teacher calls")
        shape = (length, env.num_envs)
        self._due = np.zeros(shape, bool)
        self._target: Array = np.zeros((*shape, env.body_spec.action), np.float32)
        self._valid = np.zeros(shape, bool)
        self._held: Array = np.zeros((env.num_envs, env.body_spec.action), np.float32)
        self._left = np.zeros(env.num_envs, np.int64)

    def calls_for(self, share: float) -> int:
        """Return how many answers make targets of a share of a rollout's decisions."""
        return int(share * self.length * self.env.num_envs / self.hold + 1e-9)

    def begin(self) -> None:
        """Draw when to ask whom."""
        super().begin()
        self._left[:] = 0
        if not self.active:
            return
        windows, worlds = self.length // self.hold, self.env.num_envs
        start = int(self._draws.integers(self.length % self.hold + 1))
        chosen = self._draws.permutation(windows * worlds)[: self.wanted]
        self._due[:] = False
        self._due[start + chosen // worlds * self.hold, chosen % worlds] = True

    def step(self, t: int, raw: Any, first: Array, chunk: Array) -> Array:
        """Ask for the worlds whose turn it is; the learner acts."""
        if not self.active:
            return chunk
        self._watch(raw, first)
        self._left[first] = 0
        if len(worlds := np.flatnonzero(self._due[t])):
            self._held[worlds] = increments(self._ask(raw, worlds), self.hold, self.parts)
            self._left[worlds] = self.hold
        self._target[t], self._valid[t] = self._held, self._left > 0
        self._left -= self._left > 0
        return chunk

    def end(self, rollout: Rollout) -> dict[str, float]:
        """Write the targets as columns, or none where nobody was asked."""
        rollout.columns.pop(HINT, None)
        rollout.columns.pop(VALID, None)
        if not self.active:
            return super().end(rollout)
        device = rollout.reward.device
        rollout.columns[HINT] = torch.from_numpy(self._target.copy()).to(device)
        rollout.columns[VALID] = torch.from_numpy(self._valid.copy()).to(device)
        return super().end(rollout) | {"jumpstart/hinted": float(self._valid.mean())}

    def state_dict(self) -> dict[str, Any]:
        """Return where the draws stand (windows end with a rollout)."""
        return super().state_dict() | {"draws": self._draws.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self._draws.bit_generator.state = state["draws"]


class Takeover(Guide):
    """The teacher acts in the first `steps` control steps of an episode, and later with probability `share`."""

    def __init__(self, teacher: Teacher, env: BatchedEnv, length: int, *, seed: int) -> None:
        super().__init__(teacher, env, length)
        self.steps, self.share = 0, 0.0
        self.parts = parts_of(env)
        self._draws = numpy_generator(seed, "teacher acts")
        self._since = np.zeros(env.num_envs, np.int64)  # control steps since an episode's start
        self._acted = np.zeros((length, env.num_envs), bool)

    def step(self, t: int, raw: Any, first: Array, chunk: Array) -> Array:
        """Return the teacher's first action where it acts, the learner's elsewhere."""
        if not self.active:
            return chunk
        self._watch(raw, first)
        self._since[first] = 0
        acts = (self._since < self.steps) | (self._draws.random(self.env.num_envs) < self.share)
        self._acted[t] = acts
        self._since += 1
        if not acts.any():
            return chunk
        worlds = np.flatnonzero(acts)
        mixed, space = chunk.copy(), self.env.single_action_space
        mixed[worlds, 0] = np.clip(increments(self._ask(raw, worlds), 1, self.parts), space.low, space.high)
        return mixed

    def end(self, rollout: Rollout) -> dict[str, float]:
        """Take what the teacher did out of what is learned from."""
        rollout.mask = None
        if self.active and self._acted.any():
            rollout.mask = torch.from_numpy(~self._acted).to(rollout.reward.device)
        return super().end(rollout)

    def state_dict(self) -> dict[str, Any]:
        """Return how long episodes have gone on, and where the draws stand."""
        return super().state_dict() | {"since": self._since.copy(), "draws": self._draws.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self._since = np.array(state["since"], np.int64)
        self._draws.bit_generator.state = state["draws"]


@config
class PersonConfig:
    """When a scripted person takes over from a policy."""

    tolerance: NonNegative = 0.5
    """Mean distance of a number of the policy's first action from what the person would do, beyond which it is off."""
    patience: Count = 2
    """Decisions in a row that are off before the person takes over."""
    hold: Count = 3
    """Decisions that the person then makes, before handing back."""


class Person(Guide):
    """The environment's scripted expert looks on, and takes over for a while where the policy goes wrong.

    Whoever decides, decides a whole chunk: the person holds an action for so long.  `acted` (B,) bool: where the last
    decision was the person's; with `whole` all are.
    """

    def __init__(self, teacher: Teacher, env: BatchedEnv, settings: PersonConfig) -> None:
        super().__init__(teacher, env, 1)
        self.settings, self.whole = settings, False
        self.acted = np.zeros(env.num_envs, bool)
        self._off, self._left = (np.zeros(env.num_envs, np.int64) for _ in range(2))

    def step(self, t: int, raw: Any, first: Array, chunk: Array) -> Array:
        """Return the person's chunk where the person acts, the policy's elsewhere."""
        self._watch(raw, first)
        space, worlds = self.env.single_action_space, np.arange(self.env.num_envs)
        wanted = np.clip(self._ask(raw, worlds)[:, :1], space.low, space.high)
        off = np.abs(chunk[:, :1] - wanted).mean((1, 2)) > self.settings.tolerance
        self._off = np.where(off, np.where(first, 1, self._off + 1), 0)
        self._left[first] = 0
        self._left[(self._left == 0) & (self._off >= self.settings.patience)] = self.settings.hold
        self.acted = (self._left > 0) | self.whole
        self._off[self.acted] = 0
        self._left -= self._left > 0
        return np.where(self.acted[:, None, None], wanted, chunk).astype(chunk.dtype)

    def end(self, rollout: Rollout) -> dict[str, float]:
        """Return the share of decisions that were the person's."""
        return {"steer/interventions": float(self.acted.mean())}

    def state_dict(self) -> dict[str, Any]:
        """Return who is about to act where."""
        return super().state_dict() | {"off": self._off.copy(), "left": self._left.copy(), "acted": self.acted.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self._off, self._left = (np.array(state[name], np.int64) for name in ("off", "left"))
        self.acted = np.array(state["acted"], bool)
