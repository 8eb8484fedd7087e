"""A limit on costs: reward-constrained policy optimisation (Tessler et al. 2019, arXiv 1805.11074).

    reward' = reward - lambda * cost,    lambda <- max(0, lambda + rate * (mean episode cost - limit))

The multiplier rises while episodes cost more than the limit and falls when they cost less: dual ascent on a slower time
scale than the policy's.
"""

from __future__ import annotations

from typing import Any

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
        self.cost = 0.0  # mean of an episode, of the last rollout

    def reward(self, rollout: Rollout) -> Tensor:
        """Return minus the weighted costs (T, B), and move the multiplier.

        The cost of an episode is taken as the rollout's costs over the episodes that ended in it.
        """
        if "cost" not in rollout.columns:
            raise problem("cost", "an environment that reports `cost`", "none")
        cost = rollout.columns["cost"]
        ended = int((rollout.terminated | rollout.truncated).sum())
        episodes = max(ended, 1) if rollout.mask is None else rollout.worlds
        self.cost = float(cost.sum()) / episodes
        penalty = -self.multiplier * cost
        self.multiplier = max(0.0, self.multiplier + self.rate * (self.cost - self.limit))
        return penalty

    def metrics(self) -> dict[str, float]:
        """Return the cost of an episode and the multiplier."""
        return {"cost/episode": self.cost, "cost/multiplier": self.multiplier}

    def state_dict(self) -> dict[str, Any]:
        """Return the multiplier."""
        return {"multiplier": self.multiplier}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.multiplier = float(state["multiplier"])
