"""AWAC: advantage-weighted actor-critic (Nair et al. 2020, arXiv 2006.09359)."""

from __future__ import annotations

import torch
from torch import Tensor

from toddle.algorithms.offline.learner import TwinLearner, effective_share
from toddle.data.transitions import Transitions
from toddle.maths.value_targets import advantage_weight, one_step_target

__all__ = ["AWAC"]


class AWAC(TwinLearner):
    """Advantage-weighted actor-critic (Nair et al. 2020, arXiv 2006.09359): Q of the policy, which imitates by it."""

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """Q to one step of the policy's own action, the policy to the actions that are better than one of its own."""
        c = self.config
        with torch.no_grad():
            following = self.slow(batch.following, self.drawn(batch.following)).amin(0)
        target = one_step_target(batch.reward, batch.terminal, c.discount, following)
        q_loss = self.learn("q", (self.q(batch.observation, batch.action) - target).square().mean(-1).sum())
        with torch.no_grad():
            own = self.q(batch.observation, self.drawn(batch.observation)).amin(0)
            value = self.q(batch.observation, batch.action).amin(0)
        weight = advantage_weight(value - own, c.temperature, c.weight_limit)
        log_prob = self.score(batch.observation, batch.action).log_prob[:, 0]
        policy_loss = self.learn("policy", -(weight * log_prob).mean())
        self.follow("slow", "q")
        losses = {"q_loss": q_loss, "policy_loss": policy_loss}
        return losses | {
            "value": value.mean(),
            "advantage": (value - own).mean(),
            "weights_used": effective_share(weight),
        }
