"""A scripted person who says what is off before taking over: talk, and then tweak (Dual-Actor, arXiv 2509.13774)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from toddle.core.config import config
from toddle.core.numbers import NonNegative, Whole
from toddle.envs.base import Array, BatchedEnv
from toddle.experience.guide import Person, PersonConfig
from toddle.experience.teacher import Teacher
from toddle.maths.corrections import corrections

__all__ = ["TalkConfig", "Talking"]


@config
class TalkConfig(PersonConfig):
    """When a scripted person speaks, and when it takes over."""

    talk: Whole = 2
    """Decisions for which it says what is off before it takes over; 0: it takes over at once."""
    least: NonNegative = 0.1
    """Least difference of a motion that it speaks of."""


class Talking(Person):
    """Where the policy is off the person speaks; where that was in vain it takes over, as `Person` does.

    `refine` turns what is said (B,) into what is added to chunks (B, H, A); None: nobody listens, and words are in vain
    at once.  After a decision `own` holds the policy's chunks (B, H, A), `wanted` what the person would have done,
    `said` what it would have said of each, and `talked` (B,) where it spoke and was heard.
    """

    settings: TalkConfig

    def __init__(self, teacher: Teacher, env: BatchedEnv, settings: TalkConfig) -> None:
        super().__init__(teacher, env, settings)
        self.refine: Callable[[Array], Array] | None = None
        self.motions = slice(None) if env.action_parts is None else env.action_parts.position
        self.talked, self._vain = np.zeros((2, env.num_envs), bool)
        self._talk, self.said = np.zeros((2, env.num_envs), np.int64)
        self.own: Array = np.zeros(0)
        self.wanted: Array = np.zeros(0)

    def step(self, t: int, raw: Any, first: Array, chunk: Array) -> Array:
        """Return the person's chunk where the person acts, the policy's elsewhere, refined where it was told."""
        self._watch(raw, first)
        rule, space, worlds = self.settings, self.env.single_action_space, np.arange(self.env.num_envs)
        wanted = np.clip(self._ask(raw, worlds)[:, :1], space.low, space.high)
        self.own, self.wanted = chunk, np.broadcast_to(wanted, chunk.shape)
        off = np.abs(chunk[:, :1] - wanted).mean((1, 2)) > rule.tolerance
        self._off = np.where(off, np.where(first, 1, self._off + 1), 0)
        self._left[first] = self._talk[first] = 0
        self._vain &= off & ~first
        due = (self._left == 0) & (self._talk == 0) & (self._off >= rule.patience)
        speaks = due & ~self._vain & (rule.talk > 0 and self.refine is not None)
        self._talk[speaks], self._left[due & ~speaks] = rule.talk, rule.hold
        self.acted = (self._left > 0) | self.whole
        self.said = corrections(wanted[:, 0, self.motions], chunk[:, 0, self.motions], rule.least)
        speaking = (self._talk > 0) & ~self.acted
        self.talked = speaking & (self.said > 0)
        self._vain = np.where(self.acted, False, self._vain | speaking)
        self._off[self.acted | speaking] = 0
        self._left -= self._left > 0
        self._talk -= self._talk > 0
        done = np.where(self.acted[:, None, None], self.wanted, chunk)
        if self.talked.any():
            assert self.refine is not None
            refined = np.clip(chunk + self.refine(self.said), space.low, space.high)
            done = np.where(self.talked[:, None, None], refined, done)
        return done.astype(chunk.dtype)

    def end(self, rollout: Any) -> dict[str, float]:
        """Return the shares of decisions that were the person's, and that words refined."""
        return super().end(rollout) | {"steer/talks": float(self.talked.mean())}

    def state_dict(self) -> dict[str, Any]:
        """Return who is about to act and to speak where."""
        held = {"talk": self._talk.copy(), "vain": self._vain.copy(), "talked": self.talked.copy()}
        return super().state_dict() | held

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self._talk = np.array(state["talk"], np.int64)
        self._vain, self.talked = (np.array(state[name], bool) for name in ("vain", "talked"))
