"""A value function of the data first, then a policy that is taught by how much more each action came to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from toddle.algorithms.offline.learner import OfflineLearner
from toddle.data.transitions import Transitions
from toddle.models.distributional_value import DistributionalValue
from toddle.models.q_ensemble import QEnsemble
from toddle.optim.schedules import cosine_factor

__all__ = ["ValueFirst"]


class ValueFirst(OfflineLearner):
    """The first share of the updates is the value function's, to the returns that were reached: by squares, or with
    `value_bins` as a distribution."""

    def make_networks(self) -> None:
        """The value function."""
        self.v: QEnsemble | DistributionalValue
        self.distribution = None if self.config.value_bins is None else self.distributed(self.config.value_bins)
        self.v = self.critics(1, actions=False) if self.distribution is None else self.distribution
        self.networks["v"] = self.v
        self.first = round(self.config.value_share * self.total)

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """The value function's updates, then the policy's; the policy's rate falls to 0 by a half cosine."""
        if self.updates < self.first:
            value = self.v(batch.observation)[0]
            if self.distribution is None:
                loss = (value - batch.returns).square().mean()
            else:
                loss = self.distribution.loss(batch.observation, batch.returns)
            return {"value_loss": self.learn("v", loss), "value": value.mean()}
        self.optimisers["policy"].set_rates(cosine_factor(self.updates - self.first, self.total - self.first))
        return self.teach(batch, self.advantage(batch))

    def distributed(self, bins: int) -> DistributionalValue:
        """Return a value function over bins between the least and the greatest return, normalised as the data are."""
        low, high = float(self.data.returns.min()), float(self.data.returns.max())
        own: dict[str, Any] = {"low": low, "high": high, "bins": bins, "seed": self.seed}
        made = DistributionalValue(self.data.observation.shape[1], self.config.hidden, **own)
        made.scale.update(self.data.observation)
        return made

    def teach(self, batch: Transitions, advantage: Tensor) -> dict[str, Tensor]:
        """Make the policy's step; return metrics."""
        raise NotImplementedError

    @torch.no_grad()
    def advantage(self, batch: Transitions) -> Tensor:
        """Return by how much each action (B,) came to more than was to be expected."""
        return batch.returns - self.v(batch.observation)[0]
