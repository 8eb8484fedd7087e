"""What a policy did in T decisions of B worlds, held in tensors that are allocated once and filled in place.

It keeps all that `Scorable.score` needs again: observations (pictures, or the features that `encode` made of them),
sentences as ids into a table (a world may change its sentence at a reset), which decisions are real, and whatever extra
columns a reward term or an auxiliary loss has written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map_only

from toddle.core.errors import problem
from toddle.core.memory import check_memory
from toddle.core.team import ALONE, Team
from toddle.core.types import Decision, Observation
from toddle.maths.objectives import links_where

__all__ = ["PPO_BYTES", "Minibatch", "Rollout", "check_rollout"]

LARGE = 2**24
"""Bytes from which a column is gathered for each minibatch; smaller ones are shuffled once a pass, which is faster."""


PPO_BYTES = 26
"""Bytes of a decision's reward, discount, values, advantage and target (float32) and of its two ends."""


def check_rollout(size: float, length: int, worlds: int, device: torch.device) -> None:
    """Raise InputError where a rollout of so many bytes does not fit into the memory that is free on `device`."""
    what = f"a rollout of {length:,} decisions in {worlds:,} worlds"
    check_memory(size, what, "take a smaller collect.length or fewer worlds", device=device)


@dataclass(slots=True)
class Minibatch:
    """Decisions to score again: (T, b, ...) whole worlds in time order, or (1, M, ...) shuffled decisions."""

    observation: Observation
    chain: Tensor
    log_prob: Tensor  # (..., L)
    value: Tensor  # (...)
    advantage: Tensor  # (...)
    target: Tensor  # (...), returns-to-go for the critic
    mask: Tensor | None = None  # (...) bool, True where the decision is real; None: all are
    made: Tensor | None = None  # (..., H) bool, the actions that were executed, where each has a value of its own
    weight: Tensor | None = None  # (...), how much each decision counts; None: all alike
    columns: dict[str, Tensor] = field(default_factory=dict)  # (..., ...), what others wrote into the rollout
    place: tuple[int, int, int] = (0, 1, 1)  # of all learners' real decisions of the update: before these, these, all

    @property
    def share(self) -> float:
        """Share of all learners' real decisions of the update; 0: the decision here only stands in."""
        return self.place[1] / max(self.place[2], 1)

    def split(self, count: int) -> list[Minibatch]:
        """Return at most `count` parts of its worlds or decisions, each with its share of what is real."""
        count = min(count, self.log_prob.shape[1])
        if count == 1:
            return [self]
        held = {each.name: getattr(self, each.name) for each in fields(self)}
        cut = [tree_map_only(Tensor, partial(_piece, count, index), held) for index in range(count)]
        parts = [replace(self, **each) for each in cut]
        real = [part.log_prob[..., 0].numel() if part.mask is None else int(part.mask.sum()) for part in parts]
        (before, own, every), here = self.place, sum(real)
        for index, part in enumerate(parts):
            part.place = (before * here + own * sum(real[:index]), own * real[index], every * here)
        return parts


class Rollout:
    """T decisions of B worlds, for any policy.

    Attributes, all (T, B, ...): `observation` (a dict), `chain`, `log_prob` (T, B, L), `reward` (scaled as the
    learner wants it), `terminated`, `truncated` (bool), `discount` (gamma^steps of each decision), `columns` (a dict of
    named tensors) and, once they are computed, `value`, `next_value`, `advantage`, `target`.
    `mask` (T, B) bool is True where a decision is real, None where all are; `group` (B,) int64 numbers the starts that
    worlds share, `episode_return`, `success` (B,) what became of their one episode, where whole episodes were gathered.
    `steps` (T, B) int64 is how many actions of each chunk were executed (not all where an episode ended within it),
    None where chunks have one action or nobody asks; `weight` (T, B) is how much each decision counts in the policy's
    loss, None where all count alike.  `real` (T, B, L) bool, None where every decision has all its links.
    `state` (T, B, O) is what a small actor over another policy saw, None where there is none.
    With `values` above 1 every action of a chunk has its own: then `value`, `advantage` and `target` are
    (T, B, values), `gained` their rewards and `made` (bool) whether they were executed (else both are None).
    `reward_scale` is what the environment's rewards were divided by.  Where the environment reports success,
    `columns["succeeded"]` (T, B) bool is True once an episode had succeeded before the decision.
    `executed` (T, B, H_exec * A) holds, on the CPU, the actions that were executed; `reached` (T, B) bool, where the
    environment reports success, whether it did in the course of the decision.
    `dropped` (B,) bool, on the CPU, is True where the episode that was under way before is lost (its process ended).
    `finals` holds the observations (N, ...) in which episodes were cut (`Collector`'s `ends`: or ended at all),
    `final_at` their (t, b) (N, 2).
    """

    def __init__(
        self, length: int, worlds: int, observation: Observation, decision: Decision, *, values: int = 1
    ) -> None:
        """Allocate for observations and decisions shaped like these, (B, ...)."""
        if length < 1:
            raise problem("length", "at least 1 decision", length)

        count = length * worlds
        kept = [(value, length + 1) for value in observation.values() if isinstance(value, Tensor)]
        kept += [(decision.chain, length), (decision.log_prob, length)]
        held = sum(value.numel() * value.element_size() * rows for value, rows in kept) + PPO_BYTES * count
        check_rollout(held, length, worlds, decision.log_prob.device)

        def rows(extra: int, like: Tensor) -> Tensor:
            return torch.zeros((length + extra, *like.shape), dtype=like.dtype, device=like.device)

        self.length, self.worlds = length, worlds
        # One row more than T: the last row is what follows, so that one pass values all of them.
        self._observation = {key: rows(1, value) for key, value in observation.items() if isinstance(value, Tensor)}
        self.sentences: list[str] = []
        self._numbers: dict[str, int] = {}  # of the sentences
        if "instruction" in observation:
            device = decision.log_prob.device
            self._observation["task"] = torch.zeros((length + 1, worlds), dtype=torch.int64, device=device)
        self.chain, self.log_prob = rows(0, decision.chain), rows(0, decision.log_prob)
        self.real = None if decision.real is None else rows(0, decision.real)
        self.state = None if decision.state is None else rows(0, decision.state)
        number = torch.zeros(worlds, device=decision.log_prob.device)
        self.reward, self.discount = rows(0, number), rows(0, number)
        each = number if values == 1 else number.new_zeros(worlds, values)
        self.value, self.next_value = rows(0, each), rows(0, number)
        self.advantage, self.target = rows(0, each), rows(0, each)
        self.gained = None if values == 1 else rows(0, each)
        self.made = None if values == 1 else rows(0, each.bool())
        self.terminated, self.truncated = rows(0, number.bool()), rows(0, number.bool())
        self.columns: dict[str, Tensor] = {}
        self.reward_scale = 1.0
        self.steps: Tensor | None = None
        self.weight: Tensor | None = None
        self.mask: Tensor | None = None
        self.group: Tensor | None = None
        self.episode_return: Tensor | None = None
        self.success: Tensor | None = None
        self.executed: Tensor | None = None
        self.reached: Tensor | None = None
        self.dropped = torch.zeros(worlds, dtype=torch.bool)
        self.finals: Observation | None = None
        self.final_at = torch.zeros((0, 2), dtype=torch.int64, device=number.device)

    @property
    def observation(self) -> Observation:
        """Observations (T, B, ...) at which the policy decided."""
        return self._with_sentences({key: value[:-1] for key, value in self._observation.items()})

    @property
    def observation_and_last(self) -> Observation:
        """Observations (T + 1, B, ...); the last row follows the last decision."""
        return self._with_sentences(dict(self._observation))

    def _with_sentences(self, found: dict[str, Tensor]) -> Observation:
        if "task" in found:
            return Observation(**found, instruction=self.sentences)  # type: ignore[typeddict-item]
        return Observation(**found)  # type: ignore[typeddict-item]

    @property
    def bytes(self) -> int:
        """Memory of the tensors."""
        held = [*self._observation.values(), *self.columns.values(), *(x for x in vars(self).values())]
        return sum(x.numel() * x.element_size() for x in held if isinstance(x, Tensor))

    @property
    def valued(self) -> Tensor | None:
        """Where `value` and its kind are real: (T, B), or (T, B, values); None: everywhere."""
        return links_where(self.made, self.mask)

    @property
    def decisions(self) -> int:
        """Real decisions."""
        return self.length * self.worlds if self.mask is None else int(self.mask.sum())

    def part(self, chosen: Tensor, *, whole: bool) -> Minibatch:
        """Return whole worlds `chosen` (b,) as a minibatch (T, b, ...), or decisions t B + b (M,) as (1, M, ...)."""
        return self._minibatch({name: _take(value, chosen, whole) for name, value in self.held(whole).items()})

    def held(self, sequential: bool) -> dict[str, Tensor]:
        """Return everything a minibatch carries, (T, B, ...), by kind and name."""
        seen = {key: value[:-1] for key, value in self._observation.items()}
        if self.steps is not None:
            seen["executed"] = self.steps
        held = {f"o/{key}": value for key, value in seen.items()}
        held |= {f"c/{key}": value for key, value in self.columns.items()}
        held |= {name: getattr(self, name) for name in ("chain", "log_prob", "value", "advantage", "target")}
        if sequential and self.mask is not None:
            held["mask"] = self.mask
        for name in ("weight", "made"):
            if (value := getattr(self, name)) is not None:
                held[name] = value
        return held

    def observe(self, t: int, observation: Observation) -> None:
        """Write the observation (B, ...) before decision `t` (t = T: after the last one)."""
        for key, buffer in self._observation.items():
            if key == "task":
                ids = [self._number(sentence) for sentence in observation["instruction"]]
                buffer[t] = torch.tensor(ids, device=buffer.device)
            else:
                buffer[t] = observation[key]  # type: ignore[literal-required]

    def _number(self, sentence: str) -> int:
        """Return the id of a sentence, which enters the table the first time it is met."""
        if sentence not in self._numbers:
            self._numbers[sentence] = len(self.sentences)
            self.sentences.append(sentence)
        return self._numbers[sentence]

    def decide(self, t: int, decision: Decision) -> None:
        """Write decision `t`."""
        self.chain[t] = decision.chain
        self.log_prob[t] = decision.log_prob
        if self.real is not None and decision.real is not None:
            self.real[t] = decision.real
        if self.state is not None and decision.state is not None:
            self.state[t] = decision.state

    def gain(self, t: int, rewards: NDArray[np.float64], steps: NDArray[np.int64]) -> None:
        """Write the rewards (B, H) of the actions of decision `t`, of which `steps` (B,) were made, where wanted."""
        if self.gained is not None and self.made is not None:
            self.gained[t] = torch.from_numpy(rewards)
            self.made[t] = torch.from_numpy(np.arange(rewards.shape[1]) < steps[:, None])

    def first_value(self, values: Tensor) -> Tensor:
        """Return the value of what was seen, of a critic's (..., H) that says one for each action from there on."""
        return values if self.made is None else values[..., 0]

    def execute(self, t: int, actions: NDArray[np.float32]) -> None:
        """Write the actions (B, H_exec * A) that were executed in decision `t`."""
        if self.executed is None:
            self.executed = torch.zeros(self.length, *actions.shape)
        self.executed[t] = torch.from_numpy(actions)

    def keep_finals(self, finals: list[tuple[int, NDArray[np.int64], Observation]]) -> None:
        """Write the observations in which episodes were cut, each (decision, worlds (n,), rows (n, ...)), with their
        sentences in one table."""
        self.finals = None
        if not finals:
            return
        seen = [observation for _, _, observation in finals]
        keys = [key for key, value in seen[0].items() if isinstance(value, Tensor)]
        joined: Any = {key: torch.cat([each[key] for each in seen]) for key in keys}  # type: ignore[literal-required]
        if "instruction" in seen[0]:
            joined["instruction"] = [sentence for each in seen for sentence in each["instruction"]]
        self.finals = joined
        at = np.concatenate([np.stack([np.full(len(cut), t), cut], 1) for t, cut, _ in finals])
        self.final_at = torch.from_numpy(at).to(self.reward.device)

    def minibatches(
        self, count: int, sequential: bool, generator: torch.Generator, team: Team = ALONE
    ) -> Iterator[Minibatch]:
        """Yield `count` minibatches that together hold every real decision exactly once, in an order drawn from
        `generator`.

        Sequential policies get whole worlds in time order (with `mask`), so `count` may not exceed B; others get
        shuffled decisions, the real ones alone.
        Of several learners each draws the same order of all their decisions and yields its own of each minibatch.
        Raises InputError when there are fewer worlds (decisions) than minibatches.
        """
        first, worlds = team.place(self.worlds)
        mask = None if self.mask is None else team.gather(self.mask, 1)
        real = None if sequential or mask is None else mask.flatten().nonzero()[:, 0]
        total = worlds if sequential else self.length * worlds if real is None else len(real)
        if not 1 <= count <= total:
            what = "worlds (a sequential policy needs whole worlds)" if sequential else "decisions"
            raise problem("minibatches", f"1 to {total}, the number of {what}", count)
        order = torch.randperm(total, generator=generator).to(self.chain.device)
        if real is not None:
            order = real[order]
        drawn = [*order.tensor_split(count)]
        places, weight = [(0, 1, 1)] * count, mask.sum(0) if sequential and mask is not None else None
        if worlds > self.worlds:
            drawn, places = map(list, zip(*(self._own(part, first, worlds, sequential, weight) for part in drawn)))
            order = torch.cat(drawn)
        held, sizes = self.held(sequential), [len(part) for part in drawn]
        small = {key: value for key, value in held.items() if value.numel() * value.element_size() < LARGE}
        parts = {key: _take(value, order, sequential).split(sizes, 1) for key, value in small.items()}
        for index, chosen in enumerate(drawn):
            yield self._minibatch(
                {
                    key: parts[key][index] if key in parts else _take(value, chosen, sequential)
                    for key, value in held.items()
                },
                places[index],
            )

    def _own(
        self, chosen: Tensor, first: int, worlds: int, sequential: bool, weight: Tensor | None
    ) -> tuple[Tensor, tuple[int, int, int]]:
        """Return which of `chosen` (of all learners' worlds or decisions) are of this rollout, by their number in it,
        and their place; where there is none, one that stands in for it.  `weight`: real decisions of a world."""
        world = chosen if sequential else chosen % worlds
        own = (world >= first) & (world < first + self.worlds)
        real = torch.ones_like(chosen) if weight is None or not weight[chosen].any() else weight[chosen]
        before, here, every = torch.stack([real[world < first].sum(), real[own].sum(), real.sum()]).tolist()
        mine = chosen[own]
        if not len(mine):
            return chosen.new_zeros(1), (before, 0, every)
        rows = mine - first if sequential else mine // worlds * self.worlds + mine % worlds - first
        return rows, (before, here, every)

    def _minibatch(self, taken: dict[str, Tensor], place: tuple[int, int, int] = (0, 1, 1)) -> Minibatch:
        named = {"o": dict[str, Tensor](), "c": dict[str, Tensor](), "": dict[str, Tensor]()}
        for key, value in taken.items():
            kind, _, name = key.rpartition("/")
            named[kind][name] = value
        seen = self._with_sentences(named["o"])
        return Minibatch(observation=seen, columns=named["c"], place=place, **named[""])


def _piece(count: int, index: int, x: Tensor) -> Tensor:
    return x.tensor_split(count, 1)[index]


def _take(x: Tensor, order: Tensor, sequential: bool) -> Tensor:
    """Worlds of (T, B, ...) in `order`, or decisions as (1, T B, ...) in `order`."""
    if sequential:
        return x.index_select(1, order)
    return x.flatten(0, 1).index_select(0, order).unsqueeze(0)
