"""What a policy did in T decisions of B worlds, held in tensors that are allocated once and filled in place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from toddle.core.errors import problem
from toddle.core.types import Decision, Observation

__all__ = ["Minibatch", "Rollout"]


@dataclass(slots=True)
class Minibatch:
    """Decisions to score again: (T, b, ...) whole worlds in time order, or (1, M, ...) shuffled decisions."""

    observation: Observation
    chain: Tensor
    log_prob: Tensor  # (..., L)
    value: Tensor  # (...)
    advantage: Tensor  # (...)
    target: Tensor  # (...), returns-to-go for the critic


class Rollout:
    """T decisions of B worlds, for any policy.

    Attributes, all (T, B, ...): `observation` (a dict), `chain`, `log_prob` (T, B, L), `reward` (scaled as the
    learner wants it), `terminated`, `truncated` (bool), `discount` (gamma^steps of each decision), and, once they are
    computed, `value`, `next_value`, `advantage`, `target`.  `last_observation` (a dict of (B, ...)) follows the last
    decision.
    """

    def __init__(self, length: int, worlds: int, observation: Observation, decision: Decision) -> None:
        """Allocate for observations and decisions shaped like these, (B, ...)."""
        if length < 1:
            raise problem("length", "at least 1 decision", length)

        def rows(extra: int, like: Tensor) -> Tensor:
            return torch.zeros((length + extra, *like.shape), dtype=like.dtype, device=like.device)

        self.length, self.worlds = length, worlds
        # One row more than T: the last row is what follows, so that one pass values all of them.
        self._observation = {key: rows(1, value) for key, value in observation.items() if isinstance(value, Tensor)}
        self.chain, self.log_prob = rows(0, decision.chain), rows(0, decision.log_prob)
        number = torch.zeros(worlds, device=decision.log_prob.device)
        self.reward, self.discount = rows(0, number), rows(0, number)
        self.value, self.next_value = rows(0, number), rows(0, number)
        self.advantage, self.target = rows(0, number), rows(0, number)
        self.terminated, self.truncated = rows(0, number.bool()), rows(0, number.bool())

    @property
    def observation(self) -> Observation:
        """Observations (T, B, ...) at which the policy decided."""
        return {key: value[:-1] for key, value in self._observation.items()}  # type: ignore[return-value]

    @property
    def observation_and_last(self) -> Observation:
        """Observations (T + 1, B, ...); the last row follows the last decision."""
        return self._observation  # type: ignore[return-value]

    @property
    def bytes(self) -> int:
        """Memory of the tensors."""
        tensors = [*self._observation.values(), *(x for x in vars(self).values() if isinstance(x, Tensor))]
        return sum(x.numel() * x.element_size() for x in tensors)

    def observe(self, t: int, observation: Observation) -> None:
        """Write the observation (B, ...) before decision `t` (t = T: after the last one)."""
        for key, buffer in self._observation.items():
            buffer[t] = observation[key]  # type: ignore[literal-required]

    def decide(self, t: int, decision: Decision) -> None:
        """Write decision `t`."""
        self.chain[t] = decision.chain
        self.log_prob[t] = decision.log_prob

    def minibatches(self, count: int, sequential: bool, generator: torch.Generator) -> Iterator[Minibatch]:
        """Yield `count` minibatches that together hold every decision exactly once, in an order drawn from `generator`.

        Sequential policies get whole worlds in time order, so `count` may not exceed B; others get shuffled decisions.
        Raises InputError when there are fewer worlds (decisions) than minibatches.
        """
        total = self.worlds if sequential else self.length * self.worlds
        if not 1 <= count <= total:
            what = "worlds (a sequential policy needs whole worlds)" if sequential else "decisions"
            raise problem("minibatches", f"1 to {total}, the number of {what}", count)
        order = torch.randperm(total, generator=generator).to(self.chain.device)
        fields = (self.chain, self.log_prob, self.value, self.advantage, self.target)
        # One shuffled copy a pass; minibatches are slices of it.
        shuffled = {key: _take(value[:-1], order, sequential) for key, value in self._observation.items()}
        others = [_take(x, order, sequential) for x in fields]
        keys, parts = list(shuffled), [x.tensor_split(count, 1) for x in (*shuffled.values(), *others)]
        for slices in zip(*parts, strict=True):
            observation = dict(zip(keys, slices, strict=False))
            yield Minibatch(observation, *slices[len(keys) :])  # type: ignore[arg-type]


def _take(x: Tensor, order: Tensor, sequential: bool) -> Tensor:
    """Worlds of (T, B, ...) in `order`, or decisions as (1, T B, ...) in `order`."""
    if sequential:
        return x.index_select(1, order)
    return x.flatten(0, 1).index_select(0, order).unsqueeze(0)
