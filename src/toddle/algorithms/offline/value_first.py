"""A value function of the data first, then a policy that is taught by how much more each action came to."""

from __future__ import annotations

import torch
from torch import Tensor

from toddle.algorithms.offline.learner import OfflineLearner
from toddle.data.transitions import Transitions
from toddle.optim.schedules import cosine_factor

__all__ = ["ValueFirst"]


class ValueFirst(OfflineLearner):
    """The first share of the updates is the value function's, by squares, to the returns that were reached."""

    def make_networks(self) -> None:
        """The value function."""
        self.v = self.critics(1, actions=False)
        self.networks["v"] = self.v
        self.first = round(self.config.value_share * self.total)

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """The value function's updates, then the policy's; the policy's rate falls to 0 by a half cosine."""
        if self.updates < self.first:
            value = self.v(batch.observation)[0]
            return {"value_loss": self.learn("v", (value - batch.returns).square().mean()), "value": value.mean()}
        self.optimisers["policy"].set_rates(cosine_factor(self.updates - self.first, self.total - self.first))
        return self.teach(batch, self.advantage(batch))

    def teach(self, batch: Transitions, advantage: Tensor) -> dict[str, Tensor]:
        """Make the policy's step; return metrics."""
        raise NotImplementedError

    @torch.no_grad()
    def advantage(self, batch: Transitions) -> Tensor:
        """Return by how much each action (B,) came to more than was to be expected."""
        return batch.returns - self.v(batch.observation)[0]
