"""What rewards are divided by: the running spread of their discounted sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from toddle.core.team import team
from toddle.experience.rollout import Rollout
from toddle.maths.advantages import discounted_returns

__all__ = ["RewardScale"]


class RewardScale:
    """Running standard deviation of discounted sums of rewards (Engstrom et al. 2020, arXiv 2005.12729, section 3)."""

    def __init__(self, worlds: int) -> None:
        """Start with no rewards seen."""
        self.sums = torch.zeros(worlds)
        self.count, self.mean, self.square = 0.0, 0.0, 0.0  # number, mean, sum of squared deviations

    def update(self, reward: Tensor, ended: Tensor, discount: Tensor) -> float:
        """Take rewards (T, B) in and return the present standard deviation (1 while it is unknown)."""
        sums, self.sums = discounted_returns(reward, ended, self.sums.to(reward.device), discount)
        values = team().gather(sums, 1).double()  # of all learners' worlds
        number, mean = float(values.numel()), float(values.mean())
        total, delta = self.count + number, mean - self.mean
        self.square += float(((values - mean) ** 2).sum()) + delta**2 * self.count * number / total
        self.mean += delta * number / total
        self.count = total
        deviation = float(np.sqrt(self.square / self.count))
        return deviation if deviation > 1e-8 else 1.0

    def scale(self, rollout: Rollout, limit: float) -> None:
        """Divide a rollout's rewards by the deviation with them taken in, and hold them to plus or minus `limit`."""
        ended = rollout.terminated | rollout.truncated
        rollout.reward_scale = self.update(rollout.reward, ended, rollout.discount)
        for reward in (rollout.reward, rollout.gained):
            if reward is not None:
                reward.div_(rollout.reward_scale).clamp_(-limit, limit)

    def state_dict(self) -> dict[str, Any]:
        """Return the running numbers."""
        return {"sums": self.sums.clone(), "count": self.count, "mean": self.mean, "square": self.square}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.sums.copy_(state["sums"])
        self.count, self.mean, self.square = float(state["count"]), float(state["mean"]), float(state["square"])
