"""A limit on costs: reward-constrained policy optimisation (Tessler et al. 2019, arXiv 1805.11074).

    reward' = reward - lambda * cost,    lambda <- max(0, lambda + rate * (mean episode cost - limit))

The multiplier rises while episodes cost more than the limit and falls when they cost less: dual ascent on a slower time
scale than the policy's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from toddle.algorithms.parts import RewardTerm
from toddle.core.errors import problem
from toddle.experience.rollout import Rollout

__all__ = ["CostLimit"]


class CostLimit(RewardTerm):
    """The penalty for what the environment reports as `cost`, with a multiplier that learns."""

    def __init__(self, limit: float, *, rate: float, start: float = 0.0) -> None:
        """limit: wanted cost of an episode; rate: of the multiplier, a step a rollout; start: its first value."""
        self.limit, self.rate, self.multiplier = limit, rate, start
        self.cost = 0.0  # mean of the episodes that ended last
        self._places: dict[int, int] = {}
        self._sums: dict[int, Tensor] = {}  # (B,) what the episodes under way of a source's worlds have cost

    def reward(self, rollout: Rollout) -> Tensor:
        """Return minus the weighted costs (T, B), and move the multiplier by the whole cost of the episodes that ended.

        Where none ended it stays: the rollout's own costs would say how long it is, and how many worlds there are.
        """
        if "cost" not in rollout.columns:
            raise problem("cost", "an environment that reports `cost`", "none")
        cost = rollout.columns["cost"]
        penalty = -self.multiplier * cost
        ended = self._ended(rollout, cost.cpu())
        if len(ended):
            self.cost = float(ended.mean())
            self.multiplier = max(0.0, self.multiplier + self.rate * (self.cost - self.limit))
        return penalty

    def _ended(self, rollout: Rollout, cost: Tensor) -> Tensor:
        """Return the whole costs (E,) of the episodes that ended in a rollout, and add up those under way."""
        if rollout.mask is not None:  # of whole episodes, one a world
            return cost.sum(0)
        source = self._places.setdefault(id(rollout), len(self._places))
        sums, found = self._sums.get(source, torch.zeros_like(cost[0])), []
        for paid, over in zip(cost, (rollout.terminated | rollout.truncated).cpu(), strict=True):
            sums = sums + paid
            found.append(sums[over])
            sums = torch.where(over, 0.0, sums)
        self._sums[source] = sums
        return torch.cat(found)

    def metrics(self) -> dict[str, float]:
        """Return the cost of an episode and the multiplier."""
        return {"cost/episode": self.cost, "cost/multiplier": self.multiplier}

    def state_dict(self) -> dict[str, Any]:
        """Return the multiplier, and what episodes under way have cost."""
        sums = {str(source): held.clone() for source, held in self._sums.items()}
        return {"multiplier": self.multiplier, "cost": self.cost, "sums": sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.multiplier, self.cost = float(state["multiplier"]), float(state["cost"])
        self._sums, self._places = {int(source): held.clone() for source, held in state["sums"].items()}, {}
