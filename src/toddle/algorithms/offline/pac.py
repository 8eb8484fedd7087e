"""PAC: an actor-critic whose critic attends to context tokens (Springenberg et al. 2024, arXiv 2402.05546).

| paper | here |
|---|---|
| Perceiver-IO, the action as the decoder's query | `models.perceiver_critic` |
| a distribution of Q, its target of an action of the slow policy | `PAC.update`, `maths.categorical.project` |
| (1 - alpha) imitation of the slow policy's samples by softmax(Q / eta), alpha imitation of the data | `PAC.teach` |

Deviations: 1. States, a token for each number, without pictures and sentences.  2. The policy is `policies.tokens` with
a network of its own, where the paper's shares the critic's latents.  3. eta is a share of the range of returns.
4. alpha, eta and the number of samples are chosen here, not the paper's.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from toddle.algorithms.offline.learner import OfflineLearner, seen
from toddle.data.transitions import Transitions
from toddle.maths.action_tokens import to_tokens
from toddle.maths.categorical import expectation, project
from toddle.models.perceiver_critic import PerceiverCritic
from toddle.policies.tokens import TokenPolicy

__all__ = ["PAC"]


class PAC(OfflineLearner):
    """Improvement by samples of the slow policy, weighed among those of one state, and imitation of the data."""

    policy_kind = "tokens"
    policy: TokenPolicy

    def make_networks(self) -> None:
        """The critic, and slow copies of critic and policy."""
        own, data = self.config.pac, self.data
        self.low, self.high = float(data.returns.min()), float(data.returns.max())
        made: dict[str, Any] = {"width": own.width, "latents": own.latents, "bins": own.bins, "seed": self.seed}
        sizes = data.observation.shape[1], data.action.shape[1]
        self.critic = PerceiverCritic(*sizes, low=self.low, high=self.high, **made)
        self.critic.scale.update(data.observation)
        self.slow: PerceiverCritic = copy.deepcopy(self.critic).requires_grad_(False)
        self.slow_policy: TokenPolicy = copy.deepcopy(self.policy).requires_grad_(False)
        self.networks |= {"critic": self.critic, "slow": self.slow, "slow_policy": self.slow_policy}

    def samples(self, observation: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return actions (B, K, A) of the slow policy at states (B, O), and their tokens (B, K, A)."""
        decision, _ = self.slow_policy.act(seen(observation.repeat_interleave(count, 0)), generator=self.noise)
        return decision.action[:, 0].unflatten(0, (-1, count)), decision.chain.unflatten(0, (-1, count))

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """The critic to the distribution of r + gamma Q of the slow policy's next action, then the policy."""
        with torch.no_grad():
            action, _ = self.samples(batch.following, 1)
            following = self.slow(batch.following, action)[:, 0].exp()
            onward = self.discount * (1.0 - batch.terminal)
            target = project(following, batch.reward, onward, self.critic.atoms)
        said = self.critic(batch.observation, batch.action[:, None])[:, 0]
        q_loss = self.learn("critic", -(target * said).sum(-1).mean())
        value = expectation(said.detach().exp(), self.critic.atoms).mean()
        found = {"q_loss": q_loss, "value": value} | self.teach(batch)
        for slow, fast in (("slow", "critic"), ("slow_policy", "policy")):
            self.follow(slow, fast)
        return found

    def teach(self, batch: Transitions) -> dict[str, Tensor]:
        """Make the policy's step; return metrics."""
        own = self.config.pac
        with torch.no_grad():
            action, tokens = self.samples(batch.observation, own.samples)
            value = expectation(self.slow(batch.observation, action).exp(), self.slow.atoms)
            weight = torch.softmax(value / (own.temperature * (self.high - self.low)), -1)  # (B, K)
        repeated = batch.observation.repeat_interleave(own.samples, 0)
        log_prob = self.policy.score(seen(repeated), tokens.flatten(0, 1)).log_prob.sum(-1).view_as(weight)
        theirs = to_tokens(batch.action, self.policy.config.bins).float()
        near = -self.policy.score(seen(batch.observation), theirs).log_prob.sum(-1).mean()
        better = -(weight * log_prob).sum(-1).mean()
        loss = self.learn("policy", (1.0 - own.imitation) * better + own.imitation * near)
        used = (1.0 / weight.square().sum(-1)).mean() / own.samples
        return {"policy_loss": loss, "distance": near, "weights_used": used}
