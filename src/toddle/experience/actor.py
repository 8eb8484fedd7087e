"""THE acting loop: what stands between a batched environment and any policy, written once.

    actor.begin()                       every world is at the start of an episode
    seen = actor.observe(raw)           an environment's observations as the policy sees them
    decision = actor.decide(seen)       the policy decides, with what it remembers
    chunk = actor.executable(decision)  what the environment executes
    actor.note(ended)                   which worlds begin a new episode now

`Agent` holds an actor and its policy together, for scripts.

The collector, whole episodes, evaluation and recording all go through it: memory, first flags, the action executed
before, device, bodies, padded action dimensions, pictures and sentences are handled here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from toddle.core.device import CPU, device_of, to_device
from toddle.core.errors import problem
from toddle.core.protocols import Acting, Memory
from toddle.core.seeding import torch_generator
from toddle.core.types import BodySpec, Decision, Observation
from toddle.envs.base import Array, BatchedEnv

__all__ = ["Actor", "Agent", "body_in"]


class Embodied(Protocol):
    """What has a bank for each of its bodies: a policy, an action expert's settings."""

    @property
    def bodies(self) -> Sequence[BodySpec]:
        """The bodies, in the order of their ids."""


def body_in(policy: Embodied, env: BatchedEnv) -> int:
    """Return the id of the environment's body in the policy's banks.  Raises InputError where it has none."""
    names, spec = [body.name for body in policy.bodies], env.body_spec
    sizes = f"{spec.proprio} numbers of proprioception, {spec.action} of action"
    if env.body not in names:
        raise problem("policy", f"a bank for the body '{env.body}' of {env.name} ({sizes})", ", ".join(names))
    body = policy.bodies[names.index(env.body)]
    if (body.proprio, body.action) != (spec.proprio, spec.action):
        got = f"{body.proprio} of proprioception, {body.action} of action"
        raise problem("policy", f"the sizes of the body '{env.body}' in {env.name} ({sizes})", got)
    return names.index(env.body)


class Actor:
    """A policy at work in the worlds of an environment."""

    def __init__(self, env: BatchedEnv, *, body: int = 0) -> None:
        """`body` is the id of the environment's body in the policy's banks.  Call `begin` before anything else."""
        self.env, self.body = env, body
        self.memory: Memory = None
        self.first: NDArray[np.bool_] = np.ones(env.num_envs, bool)
        self.previous: Array = np.zeros((env.num_envs, 0), np.float32)
        self.device = CPU
        space = env.single_action_space
        self._bounds = (space.low, space.high)  # [-1, 1] unless the environment was made otherwise

    def begin(self, policy: Acting) -> None:
        """Stand at the start of an episode in every world, remembering nothing."""
        self.previous = np.zeros((self.env.num_envs, policy.horizon * self.env.body_spec.action), np.float32)
        self.restart(policy)

    def restart(self, policy: Acting, *, first: bool = True) -> None:
        """Forget, but not what was executed last; with `first` every world is said to begin an episode."""
        self.memory, self.device = policy.initial_memory(self.env.num_envs), device_of(policy)
        if first:
            self.first = np.ones(self.env.num_envs, bool)

    def observe(self, raw: Any) -> Observation:
        """Return the policy's observation (B, ...) of an environment's."""
        return self.as_observation(raw, self.first, self.previous, self.env.instruction)

    def as_observation(
        self, raw: Any, first: NDArray[Any], previous: NDArray[Any], instruction: list[str] | None = None
    ) -> Observation:
        """Return the Observation (N, ...) of rows: an array (N, O) is proprioception, a dict has its keys.

        `first` (N,) marks the first observation of an episode; `previous` (N, H_exec * A), the chunk executed before,
        is set to 0 there.
        """
        values = raw if isinstance(raw, dict) else {"proprio": raw}
        tensors: dict[str, Any] = {}
        for key, value in values.items():
            tensor = torch.from_numpy(np.asarray(value))
            tensors[key] = tensor.float() if tensor.dtype == torch.float64 else tensor
        marks = np.array(first, dtype=bool)
        tensors["first"] = torch.from_numpy(marks)
        tensors["body"] = torch.full((len(marks),), self.body, dtype=torch.int64)
        before = np.array(previous, dtype=np.float32)
        if marks.any():
            before[marks] = 0.0
        tensors["previous_action"] = torch.from_numpy(before)
        if instruction is not None:
            tensors["instruction"] = list(instruction)
        return tensors if self.device == CPU else to_device(tensors, self.device)  # type: ignore[return-value]

    def decide(
        self, policy: Acting, seen: Observation, generator: torch.Generator | None, *, deterministic: bool = False
    ) -> Decision:
        """Let the policy decide for what it sees, and keep what it remembers."""
        decision, self.memory = policy.act(seen, self.memory, generator=generator, deterministic=deterministic)
        return decision

    def executable(self, decision: Decision) -> Array:
        """Return the chunk (B, H, A) that the environment executes: within its bounds, and without the padding of
        policies whose other bodies are wider; it is the next observation's `previous_action`."""
        low, high = self._bounds
        action = decision.action.cpu().numpy()[..., : self.env.body_spec.action]
        chunk: Array = np.minimum(np.maximum(action, low), high)
        self.previous = chunk.reshape(len(chunk), -1)
        return chunk

    def note(self, ended: NDArray[Any]) -> None:
        """Take in which worlds (B,) ended: they begin a new episode."""
        self.first = ended

    def state_dict(self) -> dict[str, Any]:
        """Return what the next observation depends on (a collector clears the memory at each rollout)."""
        return {"first": self.first.copy(), "previous": self.previous.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.first = np.asarray(state["first"], bool).copy()
        self.previous = np.asarray(state["previous"], np.float32).copy()


class Agent:
    """A policy that acts in the worlds of an environment: observations in, chunks of actions out.

    agent = Agent(policy, env)
    observation, _ = env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step_chunk(agent.act(observation))
    agent.ended(terminated | truncated)
    """

    def __init__(self, policy: Acting, env: BatchedEnv, *, deterministic: bool = True, seed: int = 0) -> None:
        """Put the policy into evaluation mode; every world is at the start of an episode.

        deterministic: the policy's most likely action in place of a draw; seed: of whatever it draws.
        Raises InputError where the policy has no bank for the environment's body.
        """
        self.policy, self.env, self.deterministic = policy.train(False), env, deterministic
        self._actor = Actor(env, body=body_in(policy, env))
        self._generator = torch_generator(seed, "agent")
        self.begin()

    def begin(self) -> None:
        """Hear that every world has been reset: what was remembered is forgotten."""
        self._actor.begin(self.policy)

    @torch.no_grad()
    def act(self, observation: Any) -> Array:
        """Return the chunk (B, H, A) to execute at the environment's observation: `env.step_chunk` takes it."""
        seen = self._actor.observe(observation)
        decision = self._actor.decide(self.policy, seen, self._generator, deterministic=self.deterministic)
        self._actor.note(np.zeros(self.env.num_envs, bool))
        return self._actor.executable(decision)

    def ended(self, worlds: NDArray[Any]) -> None:
        """Hear in which worlds (B,) bool an episode has ended: the next observation is the first of another."""
        self._actor.note(worlds)
