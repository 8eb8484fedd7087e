"""SARSA: what the policy that made the data comes to, learned from its own episodes (Rummery and Niranjan 1994; as a
critic of stored data: Brandfonbrener et al. 2021, arXiv 2106.08909, "one-step" RL).

| source | here |
|---|---|
| evaluation of the policy that made the data, by its own next actions (2106.08909, section 4.1) | `SARSA.update` |
| the best of several draws of that policy is executed (its "easy BCQ", section 4.2) | `--steer vgps` |

Deviations: 1. The target's value is V of the state after, and V is the mean over the data's actions (the same limit as
with the next action's Q, with less noise).  2. An action can be a chunk of H, executed whole, as in `co_rft`.  3. The
policy imitates the data: it is the one whose values these are.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from toddle.algorithms.offline.learner import TwinLearner
from toddle.data.transitions import Transitions
from toddle.maths.value_targets import one_step_target
from toddle.optim.schedules import cosine_factor

__all__ = ["SARSA"]


class SARSA(TwinLearner):
    """Q and V of the policy that made the data; nothing is improved, and no action is valued that it does not take.

    All rates fall to 0 by a half cosine, so that the values end settled.
    """

    chunked = True

    def make_networks(self) -> None:
        """V and its slow copy beside the critics."""
        super().make_networks()
        self.v = self.critics(1, actions=False)
        self.slow_v = copy.deepcopy(self.v).requires_grad_(False)
        self.networks |= {"v": self.v, "slow_v": self.slow_v}

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """Q and V to what was paid and the slow V of the state after, the policy to the data's actions."""
        for optimiser in self.optimisers.values():
            optimiser.set_rates(cosine_factor(self.updates, self.total))
        with torch.no_grad():
            following = self.slow_v(batch.following)[0]
        target = one_step_target(batch.reward, batch.terminal, self.discount, following)
        value = self.q(batch.observation, batch.action)
        q_loss = self.learn("q", (value - target).square().mean(-1).sum())
        value_loss = self.learn("v", (self.v(batch.observation)[0] - target).square().mean())
        self.follow("slow", "q")
        self.follow("slow_v", "v")
        policy_loss = self.learn("policy", -self.score(batch.observation, batch.action).log_prob[:, 0].mean())
        losses = {"q_loss": q_loss, "value_loss": value_loss, "policy_loss": policy_loss}
        return losses | {"value": value.detach().amin(0).mean()}
