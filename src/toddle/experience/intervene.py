"""A policy acts and a person takes over where it goes wrong: who acts when, and what is noted of it.

HG-DAgger (Kelly et al. 2019, arXiv 1810.02890): the person decides when to take over and when to give back; what the
person did, and nothing that the policy did, is learned from (`data.windows`).
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Count, NonNegative, Share
from toddle.core.protocols import Acting
from toddle.data.layout import Feature
from toddle.data.windows import INTERVENTION
from toddle.envs.base import Array, BatchedEnv
from toddle.experience.demonstrations import PolicyActor

__all__ = ["Mark", "Operator", "ScriptedConfig", "ScriptedPerson", "Team", "hand_of"]

Mark = Literal["", "success", "failure", "reset"]
"""How a person ended an episode; "": it ended by itself."""


class Operator(Protocol):
    """A person, or who stands in for one."""

    def begin(self, env: BatchedEnv, seeds: list[int]) -> None:
        """Look at episodes that begin."""

    def holds(self, deciding: bool) -> Array:
        """Return in which worlds (N,) bool the person holds on to the controls, before a control step.

        deciding: the policy makes a decision now, unless all are held.
        """

    def step(self, env: BatchedEnv, proposed: Array) -> tuple[Array, Array]:
        """Return in which worlds (N,) bool the person acts in this control step, and how (N, A).

        proposed (N, A): what the policy would do; without meaning where the controls are held.
        """

    def marks(self) -> list[Mark]:
        """Return, after a control step, which episodes the person ends here."""


class Team(PolicyActor):
    """A policy and a person: a Demonstrator that is its own Witness (`experience.demonstrations`).

    Where the person gives back, the policy decides at once; it is told what was executed before, not what it wanted.
    What a policy remembers beyond that is of its own decisions alone.
    """

    features: ClassVar[dict[str, Feature]] = {INTERVENTION: Feature(size=1, dtype="bool")}

    def __init__(self, policy: Acting, person: Operator, *, deterministic: bool = True, body: int = 0) -> None:
        super().__init__(policy, deterministic=deterministic, body=body)
        self.person = person

    def begin(self, env: BatchedEnv, seeds: list[int]) -> None:
        """Begin episodes: the policy acts."""
        super().begin(env, seeds)
        self.person.begin(env, seeds)
        self.acted = np.zeros(env.num_envs, bool)
        self.marked: list[Mark] = [""] * env.num_envs
        self.thought: list[float] = []  # seconds of each decision, for all worlds
        self._done: deque[Array] = deque(maxlen=self.policy.horizon)
        self._steps = 0  # since the last decision off the beat

    def act(self, env: BatchedEnv) -> tuple[Array, Array]:
        """Return what is done, twice: by the person where it acts, by the policy elsewhere."""
        deciding = self._steps % self.policy.horizon == 0  # so that an episode depends on its own seed alone
        held = self.person.holds(deciding)
        if not held.all() and (deciding or (self.acted & ~held).any()):
            if len(self._done) == self.policy.horizon:
                self._actor.previous = np.stack(self._done, 1).reshape(env.num_envs, -1)
            began = time.perf_counter()
            self._decide(env)
            self.thought.append(time.perf_counter() - began)
            self._steps = 0
        if self._next < self._chunk.shape[1]:
            proposed = self._chunk[:, self._next]
        else:  # all worlds are held
            proposed = np.zeros((env.num_envs, *env.single_action_space.shape), np.float32)
        self.acted, wanted = self.person.step(env, proposed)
        done = np.where(self.acted[:, None], wanted, proposed).astype(np.float32)
        self._done.append(done)
        self._next += 1
        self._steps += 1
        return done, done

    def note(self, info: dict[str, Any]) -> tuple[dict[str, Array], Array]:
        """Return whose step it was, and which episodes the person ends."""
        marks = self.person.marks()
        self.marked = [new or old for new, old in zip(marks, self.marked, strict=True)]
        return {INTERVENTION: self.acted.copy()}, np.array([bool(mark) for mark in marks])


@config
class ScriptedConfig:
    """When a scripted person takes over, and for how long."""

    tolerance: NonNegative = 0.5
    """Mean distance of a number of the policy's action from what the person would do, beyond which it is off."""
    patience: Count = 8
    """Control steps in a row that are off before the person takes over."""
    hold: Count = 24
    """Control steps that the person then makes at least, before giving back at the policy's next decision."""
    late: Share = 0.5
    """Share of an episode's limit after which the person takes over for good: it is slow, or stuck."""


class ScriptedPerson:
    """The environment's scripted expert looks on, takes over where the policy goes on being wrong, and gives back."""

    def __init__(self, settings: ScriptedConfig) -> None:
        self.settings = settings

    def begin(self, env: BatchedEnv, seeds: list[int]) -> None:
        """Look on.  Raises InputError where the environment has no expert."""
        env.expert_action()
        self._off, self._left = (np.zeros(env.num_envs, np.int64) for _ in range(2))
        self._held = np.zeros(env.num_envs, bool)
        self._steps = 0

    def holds(self, deciding: bool) -> Array:
        """Give back where the policy decides anyway, and enough was done."""
        if deciding:
            self._held &= self._left > 0
        return self._held.copy()

    def step(self, env: BatchedEnv, proposed: Array) -> tuple[Array, Array]:
        """Act where the controls are held, or the policy has been off for too long."""
        space = env.single_action_space
        wanted = np.clip(env.expert_action(), space.low, space.high)
        off = np.abs(proposed - wanted).mean(1) > self.settings.tolerance
        self._off = np.where(off & ~self._held, self._off + 1, 0)
        begun = self._off >= self.settings.patience
        self._left[begun], self._off[begun] = self.settings.hold, 0
        if self._steps >= self.settings.late * env.max_episode_steps:
            self._left[:] = 2  # one step, and it is held at the next
        self._held |= self._left > 0
        self._left -= self._left > 0
        self._steps += 1
        return self._held.copy(), wanted

    def marks(self) -> list[Mark]:
        """The environment says when an episode ends."""
        return [""] * len(self._held)


def hand_of(env: BatchedEnv) -> tuple[slice, slice | None]:
    """Return where an action has the hand's motion and its rotation; its last number is the gripper.

    Raises InputError where a hand is not what actions move.
    """
    if env.action_parts is None:
        raise problem("env", "an environment whose actions move a hand and a gripper", env.name, "or --human scripted")
    return env.action_parts.position, env.action_parts.rotation
