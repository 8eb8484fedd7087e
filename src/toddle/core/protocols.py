"""The seams.  Two methods make a policy; a learner is a step and a state; nothing else is assumed."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from toddle.core.types import Decision, Observation, Score

__all__ = ["Critic", "Learner", "Memory", "Normalising", "Policy"]

Memory = Any
"""What a policy remembers between decisions (a KV cache), or None.  Opaque to everybody but the policy."""


@runtime_checkable
class Policy(Protocol):
    """Draws decisions and scores them again.

    `sequential` says how `score` may be fed: a sequential policy (causal transformer) needs whole segments in time
    order, starting where its memory was last cleared; any other policy may be given shuffled decisions as T = 1.
    """

    sequential: bool
    horizon: int  # H, actions in one decision that are executed

    def initial_memory(self, batch: int) -> Memory:
        """Return an empty memory for `batch` worlds (None for a memoryless policy)."""

    def act(
        self,
        observation: Observation,
        memory: Memory = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, Memory]:
        """Decide for (B, ...) observations.  Where `observation["first"]`, what the memory held is forgotten."""

    def score(self, observation: Observation, chain: Tensor) -> Score:
        """Score chains (T, B, ...) drawn at observations (T, B, ...), with gradients."""


@runtime_checkable
class Critic(Protocol):
    """Values of observations; never sees the chain."""

    def value(self, observation: Observation) -> Tensor:
        """Return (T, B) values for (T, B, ...) observations (any leading dimensions)."""


@runtime_checkable
class Normalising(Protocol):
    """A policy or critic with running statistics of its inputs.  They change between iterations only."""

    def update_normaliser(self, observation: Observation) -> None:
        """Take the observations (T, B, ...) of one body into the running statistics."""


class Learner(Protocol):
    """What `runs.loop` drives.  Everything that must survive a kill is in the state."""

    def step(self) -> dict[str, float]:
        """Do one iteration and return its metrics, named group/name."""

    def state_dict(self) -> dict[str, Any]:
        """Return a tree of dicts, lists, tensors, numpy arrays and plain JSON values (no pickle)."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned: the next `step` is bitwise what it would have been."""
