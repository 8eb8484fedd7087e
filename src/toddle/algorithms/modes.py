"""The modes DDiffPG has found: grouping of trajectories, and the critic and embedding each group keeps over time."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toddle.data.trajectory_buffer import FAILED, TrajectoryBuffer
from toddle.maths.trajectories import cluster_paths
from toddle.models.mode_critic import ModeCritic
from toddle.optim.adam_state import adam_state, load_adam_state

__all__ = ["Mode", "assign_modes", "inherit"]


@dataclass
class Mode:
    """A group of trajectories with a critic of its own.  `members` are arrival numbers, which outlive slots."""

    embedding: Tensor  # (E,)
    critic: ModeCritic
    optimiser: torch.optim.Adam
    members: set[int] = field(default_factory=set)

    def state_dict(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "embedding": self.embedding.clone(),
            "critic": dict(self.critic.state_dict()),
            "optimiser": adam_state(self.optimiser),
            "members": sorted(self.members),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.embedding = state["embedding"].to(self.embedding.device, copy=True)
        self.critic.load_state_dict(state["critic"])
        load_adam_state(self.optimiser, state["optimiser"])
        self.members = set(state["members"])


def assign_modes(buffer: TrajectoryBuffer, generator: np.random.Generator, *, share: float, probes: int = 3) -> int:
    """Group the successful trajectories, give each failed one to the nearest group, keep groups balanced.

    Writes `buffer.mode`; returns the number of groups.  No group may hold more than half its share of the memory
    (capacity / (2 groups)): failures and then its oldest trajectories are dropped beyond that, so one mode cannot
    crowd others out.
    """
    filled = buffer.filled()
    winners, losers = filled[buffer.success[filled]], filled[~buffer.success[filled]]
    buffer.mode[filled] = FAILED
    if not len(winners):
        return 0
    labels = cluster_paths(buffer.distance(winners, winners), share=share)
    buffer.mode[winners] = labels
    groups = int(labels.max()) + 1
    nearest = np.empty((len(losers), groups))
    for group in range(groups):
        own = winners[labels == group]
        sample = generator.choice(own, min(probes, len(own)), replace=False)
        nearest[:, group] = buffer.distance(losers, sample).mean(1)
    buffer.mode[losers] = nearest.argmin(1)
    limit = max(1, buffer.capacity // (2 * groups))
    for group in range(groups):
        own = np.flatnonzero(buffer.mode == group)
        order = np.lexsort((buffer.born[own], buffer.success[own]))  # failures first, then the oldest
        surplus = own[order][: max(0, len(own) - limit)]
        buffer.drop(surplus)
    return groups


def inherit(
    former: list[Mode], groups: list[set[int]], explorer: Mode, embeddings: NDArray[np.float32], rate: float
) -> list[Mode]:
    """Give every new group the critic of the former one it shares most members with.

    The group with the larger overlap keeps the critic itself and the embedding; others get a copy and a new embedding;
    a group that shares nothing starts from the exploration critic.
    """
    shape = (len(groups), len(former))
    overlap = np.array([[len(group & mode.members) for mode in former] for group in groups]).reshape(shape)
    out: dict[int, Mode] = {}
    taken: set[int] = set()
    for index in np.argsort(-overlap.max(1, initial=0), kind="stable"):
        best = int(overlap[index].argmax()) if len(former) and overlap[index].max() > 0 else -1
        if best >= 0 and best not in taken:
            taken.add(best)
            mode = former[best]
            mode.members = groups[index]
        else:
            critic = copy.deepcopy(former[best].critic if best >= 0 else explorer.critic)
            optimiser = torch.optim.Adam(critic.twins.parameters(), lr=rate)
            embedding = torch.from_numpy(embeddings[index]).to(explorer.embedding.device)
            mode = Mode(embedding, critic, optimiser, groups[index])
        out[int(index)] = mode
    return [out[index] for index in range(len(groups))]
