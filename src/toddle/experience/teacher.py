"""Who is asked for a direction: a stored policy of any kind, or an environment's scripted expert with a set error.

A teacher is shown worlds as they are at the moment it is asked, and no history.  One that sees has pictures drawn of
the worlds that ask, and of no other; one of states reads what the learner reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import NonNegative, Positive, Share
from toddle.core.protocols import Acting
from toddle.core.seeding import numpy_generator, torch_generator
from toddle.core.types import ActionParts
from toddle.envs.base import Array, BatchedEnv
from toddle.experience.actor import Actor, body_in
from toddle.maths.jump_start import shortest

__all__ = [
    "ExpertTeacher",
    "Flaw",
    "FlawedTeacher",
    "PolicyTeacher",
    "Teacher",
    "chosen",
    "increments",
    "parts_of",
    "solved",
]

CHOICE = 192
"""Episodes by which an error is chosen: of 64, one that was to leave 40 % left 60 % on others."""


class Teacher(Protocol):
    """Says where to move."""

    def watch(self, raw: Any, first: Array) -> None:
        """Hear, before each control step, what all worlds show and which of them (B,) bool began an episode."""

    def ask(self, raw: Any, worlds: Array) -> Array:
        """Return chunks (M, H, A) of actions in the environment's units for the worlds (M,), beginning now."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next answer depends on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""


def parts_of(env: BatchedEnv) -> ActionParts:
    """Return where motions stand in an action.  Raises InputError where the environment does not say."""
    if env.action_parts is None:
        raise problem("env", "an environment whose actions are motions of a tool (tabletop/...)", env.name)
    return env.action_parts


def increments(chunk: Array, steps: int, parts: ActionParts) -> Array:
    """Return what a teacher's chunks (M, H, A) ask of each control step, (M, A): the temporal discretisation.

    The motions of the first min(H, steps) actions are put together to one, translations by addition and rotations by
    composition; it is divided evenly, the translation linearly, the rotation along its shortest arc (SLERP).  Whatever
    else is in an action (the gripper) is as the first action has it.
    """
    from scipy.spatial.transform import Rotation  # takes long to import

    used = min(chunk.shape[1], steps)
    found: Array = chunk[:, 0].astype(np.float64)
    found[:, parts.position] = chunk[:, :used, parts.position].mean(1)
    if parts.rotation is not None:
        whole = Rotation.identity(len(chunk))
        for index in range(used):
            whole = Rotation.from_rotvec(parts.turn * chunk[:, index, parts.rotation]) * whole
        found[:, parts.rotation] = shortest(whole.as_rotvec()) / (used * parts.turn)
    return found.astype(np.float32)


class ExpertTeacher:
    """The environment's scripted expert.  It looks on all the time, so that it knows what it was about to do."""

    def __init__(self, env: BatchedEnv) -> None:
        self.env = env
        self._wanted = env.expert_action()

    def watch(self, raw: Any, first: Array) -> None:
        """Go on in every world."""
        self._wanted = self.env.expert_action()

    def ask(self, raw: Any, worlds: Array) -> Array:
        """Return one action a world, (M, 1, A)."""
        return self._wanted[worlds][:, None]

    def state_dict(self) -> dict[str, Any]:
        """What it remembers is the environment's."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


class PolicyTeacher:
    """A stored policy of any kind; every answer is the one at an episode's first observation."""

    def __init__(self, policy: Acting, env: BatchedEnv, *, seed: int = 0) -> None:
        """Raises InputError where it has no bank for the body, or the environment shows it nothing."""
        self.policy, self.env = policy, env
        self._actor = Actor(env, body=self._body())
        self._actor.begin(policy)
        self._generator = torch_generator(seed, "teacher")

    def _body(self) -> int:
        if not self.policy.cameras:
            return body_in(self.policy, self.env)
        spec = self.env.seeing_spec
        if spec is None:
            raise problem("teacher", f"a policy of states in {self.env.name}", f"a {self.policy.kind}, which sees")
        if spec not in self.policy.bodies:
            known = ", ".join(f"{body.name} ({body.proprio})" for body in self.policy.bodies)
            raise problem("teacher", f"a policy with a bank for {spec.name} ({spec.proprio} numbers)", known)
        return self.policy.bodies.index(spec)

    def watch(self, raw: Any, first: Array) -> None:
        """Nothing: it decides by what it is shown when it is asked."""

    @torch.no_grad()
    def ask(self, raw: Any, worlds: Array) -> Array:
        """Return the chunks it would execute, (M, H_exec, A)."""
        policy, actor, env = self.policy, self._actor, self.env
        if policy.cameras:
            rows = env.glimpse(worlds)
        else:
            rows = {key: value[worlds] for key, value in raw.items()} if isinstance(raw, dict) else raw[worlds]
        said = None if env.instruction is None else [env.instruction[world] for world in worlds]
        before = np.zeros((len(worlds), policy.horizon * env.body_spec.action), np.float32)
        seen = policy.encode(actor.as_observation(rows, np.ones(len(worlds), bool), before, said))
        memory = policy.initial_memory(len(worlds))
        decision, _ = policy.act(seen, memory, generator=self._generator, deterministic=True)
        return np.asarray(decision.action.cpu().numpy()[..., : env.body_spec.action])

    def state_dict(self) -> dict[str, Any]:
        """Return where its noise stands."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self._generator.set_state(state["generator"])


@config
class Flaw:
    """What is wrong with a teacher's answers: a stand-in for one that is worse."""

    error: NonNegative = 0.0
    """Standard deviation of a displacement of its motions, drawn anew each episode (0.3: as if things lay 2 cm off)."""
    scale: Positive = 1.0
    """Its motions are so many times as long."""
    success: Share | None = None
    """Choose the error so that the teacher solves about this share of 192 episodes by itself, or less without one."""

    def __post_init__(self) -> None:
        if self.success is not None and self.error:
            raise problem("error", "0 with a success, by which it is chosen", self.error)


class FlawedTeacher:
    """A teacher whose motions have an error that lasts an episode, and another length."""

    def __init__(self, teacher: Teacher, flaw: Flaw, env: BatchedEnv, *, seed: int = 0) -> None:
        self.teacher, self.flaw, self.parts = teacher, flaw, parts_of(env)
        self._draws = numpy_generator(seed, "teacher error")
        self._error = self._draw(env.num_envs)

    def _draw(self, count: int) -> Array:
        return self._draws.normal(size=(count, 3)).astype(np.float32)

    def watch(self, raw: Any, first: Array) -> None:
        """Err anew where an episode began."""
        self.teacher.watch(raw, first)
        if first.any():
            self._error[first] = self._draw(int(first.sum()))

    def ask(self, raw: Any, worlds: Array) -> Array:
        """Return the teacher's chunks, displaced and scaled."""
        chunk = np.array(self.teacher.ask(raw, worlds), np.float32)
        chunk[..., self.parts.position] += self.flaw.error * self._error[worlds][:, None]
        for part in self.parts.motions:
            chunk[..., part] *= self.flaw.scale
        return chunk

    def state_dict(self) -> dict[str, Any]:
        """Return the errors of the episodes under way, and where the draws stand."""
        state = {"error": self._error.copy(), "draws": self._draws.bit_generator.state}
        return state | {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self._error = np.array(state["error"], np.float32)
        self._draws.bit_generator.state = state["draws"]
        self.teacher.load_state_dict(state["teacher"])


def solved(teacher: Teacher, env: BatchedEnv, episodes: int, *, seed: int = 0) -> int:
    """Return how many of `episodes` the teacher solves by itself, acting at its own rate (each chunk to its end)."""
    count = 0
    for begin in range(0, episodes, env.num_envs):
        raw, _ = env.reset(seed=seed + begin)
        everyone = np.arange(env.num_envs)
        active, success = everyone < episodes - begin, np.zeros(env.num_envs, bool)
        first = np.ones(env.num_envs, bool)
        while active.any():
            teacher.watch(raw, first)
            chunk = np.clip(teacher.ask(raw, everyone), env.single_action_space.low, env.single_action_space.high)
            raw, _, terminated, truncated, info = env.step_chunk(chunk, active=active, reset_done=False)
            if "success" not in info:
                raise problem("env", "an environment that reports success", env.name)
            success |= active & np.asarray(info["success"], bool)
            active &= ~(terminated | truncated)
            first = np.zeros_like(first)
        count += int(success.sum())
    return count


def chosen(flaw: Flaw, teacher: Callable[[BatchedEnv], Teacher], env: BatchedEnv, *, tries: int = 8) -> Flaw:
    """Return the flaw whose error makes a teacher solve `flaw.success` of CHOICE episodes, by bisection of 0 to 2.

    Of the errors tried it is the one that comes nearest: success can fall by ten points from one to the next.
    `env` ends episodes at success.  A teacher that is no better without an error gets none.
    """
    assert flaw.success is not None
    low, high, wanted = 0.0, 2.0, round(CHOICE * flaw.success)

    def count(error: float) -> int:
        made = dataclasses.replace(flaw, error=error, success=None)
        return solved(FlawedTeacher(teacher(env), made, env), env, CHOICE)

    counts = {0.0: count(0.0)}
    for _ in range(tries if counts[0.0] > wanted else 0):
        middle = round((low + high) / 2, 3)
        counts[middle] = count(middle)
        low, high = (middle, high) if counts[middle] >= wanted else (low, middle)
    return dataclasses.replace(flaw, error=min(counts, key=lambda error: abs(counts[error] - wanted)), success=None)
