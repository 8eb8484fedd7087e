"""What learners from a replay share: decisions are gathered round by round, and each pays for updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from toddle.core.errors import NaNError
from toddle.core.seeding import torch_generator
from toddle.core.types import Observation
from toddle.data.replay import Decisions, Replay
from toddle.experience.collect import Collector
from toddle.experience.rollout import Rollout

__all__ = ["ONLINE", "Pace", "ReplayLearner", "decisions_of"]

ONLINE = "online"
"""The store of what the policy itself did."""


class Pace(Protocol):
    """How much is learned from what is gathered."""

    @property
    def ratio(self) -> float:
        """Updates for each decision of a world."""

    @property
    def rounds(self) -> int:
        """Decisions of each world between two lines of metrics."""

    @property
    def learn_after(self) -> int:
        """Decisions that are kept before the first update."""


class ReplayLearner:
    """A round is a decision in every world and the updates it pays for; `step` makes `rounds` of them."""

    group: ClassVar[str]
    """The first part of its metrics' names."""

    def __init__(self, collector: Collector, replay: Replay, pace: Pace, *, batch: int, seed: int) -> None:
        """Learn with what `collector` gathers, which goes to the store ONLINE of `replay`."""
        self.collector, self.replay, self.pace, self.batch = collector, replay, pace, batch
        self.batches = torch_generator(seed, "replay batches")
        self.updates, self.due = 0, 0.0
        self.learn_after, self.rounds = pace.learn_after, pace.rounds

    @property
    def total_steps(self) -> int:
        """Control steps so far."""
        return self.collector.total_steps

    @property
    def bytes(self) -> int:
        """Memory of what is kept."""
        return self.collector.bytes + self.replay.bytes

    def _gather(self) -> dict[str, float]:
        """Make a decision in every world, and keep what is complete; return the collector's metrics."""
        raise NotImplementedError

    def learn(self, batches: Decisions) -> dict[str, list[Tensor]]:
        """Make an update for each of (U, B) decisions; return metrics without dimensions, one an update."""
        raise NotImplementedError

    def learn_at_once(self) -> float:
        """Learn from the first round on, in steps of about two updates; return how many of them make one of a run."""
        few = math.ceil(2.0 / (self.pace.ratio * self.collector.decisions))
        self.learn_after, self.rounds = 0, min(few, self.pace.rounds)
        return self.pace.rounds / self.rounds

    def step(self) -> dict[str, float]:
        """Make `rounds` rounds.  Raises NaNError where a loss is not finite."""
        gathered, found = list[dict[str, float]](), dict[str, list[Tensor]]()
        for _ in range(self.rounds):
            gathered.append(self._gather())
            if len(self.replay.stores[ONLINE]) < max(1, self.learn_after):
                continue
            self.due += self.pace.ratio * self.collector.decisions
            count = int(self.due)
            self.due -= count
            if count:
                for name, values in self.learn(self.replay.draw(count, self.batch, self.batches)).items():
                    found.setdefault(name, []).extend(values)
        metrics = {f"{self.group}/{name}": float(torch.stack(values).mean()) for name, values in found.items()}
        if bad := [name for name, value in metrics.items() if not math.isfinite(value)]:
            raise NaNError(f"after {self.updates} updates: {bad[0]} is not finite")
        kept = {f"{self.group}/{name}_decisions": float(len(store)) for name, store in self.replay.stores.items()}
        return _joined(gathered) | metrics | kept | {f"{self.group}/updates": float(self.updates)}

    def state_dict(self) -> dict[str, Any]:
        """Return what every such learner's next step depends on, but for its generators."""
        counts = {"updates": self.updates, "due": self.due}
        return {"collector": self.collector.state_dict(), "replay": self.replay.state_dict()} | counts

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.collector.load_state_dict(state["collector"])
        self.replay.load_state_dict(state["replay"])
        self.updates, self.due = int(state["updates"]), float(state["due"])


@torch.no_grad()
def decisions_of(states_of: Callable[[Observation], Tensor], rollout: Rollout, action: Tensor) -> Decisions:
    """Return the decisions (T B) of a rollout on the CPU, with the states (..., O) that `states_of` makes of
    observations, and the actions (T, B, A)."""
    states = states_of(rollout.observation_and_last)
    following = states[1:].clone()
    if rollout.finals is not None:
        following[rollout.final_at[:, 0], rollout.final_at[:, 1]] = states_of(rollout.finals)
    discount = rollout.discount * ~rollout.terminated
    parts = (states[:-1], action, following, rollout.reward, discount)
    return Decisions(*(part.flatten(0, 1).cpu() for part in parts))


def _joined(several: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the metrics of several rollouts as those of one: means over the episodes that ended, or over rollouts."""
    names = dict.fromkeys(name for metrics in several for name in metrics)
    found = {}
    for name in names:
        having = [metrics for metrics in several if name in metrics]
        values = [metrics[name] for metrics in having]
        if name == "episode/ended":
            found[name] = sum(values)
        elif name.startswith("episode/"):
            ended = [metrics["episode/ended"] for metrics in having]
            found[name] = sum(v * n for v, n in zip(values, ended, strict=True)) / sum(ended)
        else:
            found[name] = values[-1] if name == "rollout/total_steps" else sum(values) / len(values)
    return found
