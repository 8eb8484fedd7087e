"""IQL: implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169)."""

from __future__ import annotations

import torch
from torch import Tensor

from toddle.algorithms.offline.learner import TwinLearner, effective_share
from toddle.data.transitions import Transitions
from toddle.maths.value_targets import advantage_weight, expectile_loss, one_step_target
from toddle.optim.schedules import cosine_factor

__all__ = ["IQL"]


class IQL(TwinLearner):
    """Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169): no action that is not in the data is ever valued.

    The policy's rate falls to 0 by a half cosine, as in the authors' code.
    """

    def make_networks(self) -> None:
        """V beside the critics."""
        super().make_networks()
        self.v = self.critics(1, actions=False)
        self.networks["v"] = self.v

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """V to an expectile of Q, Q to one step of V, the policy to the actions that are better than V."""
        c = self.config
        with torch.no_grad():
            following = self.v(batch.following)[0]  # of V before this update
            value = self.slow(batch.observation, batch.action).amin(0)
        advantage = value - self.v(batch.observation)[0]
        value_loss = self.learn("v", expectile_loss(advantage, c.expectile).mean())
        target = one_step_target(batch.reward, batch.terminal, c.discount, following)
        q_loss = self.learn("q", (self.q(batch.observation, batch.action) - target).square().mean())
        self.follow("slow", "q")
        self.optimisers["policy"].set_rates(cosine_factor(self.updates, self.total))
        weight = advantage_weight(advantage.detach(), c.temperature, c.weight_limit)
        log_prob = self.score(batch.observation, batch.action).log_prob[:, 0]
        policy_loss = self.learn("policy", -(weight * log_prob).mean())
        losses = {"value_loss": value_loss, "q_loss": q_loss, "policy_loss": policy_loss}
        return losses | {"value": value.mean(), "advantage": advantage.mean(), "weights_used": effective_share(weight)}
