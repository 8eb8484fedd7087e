"""TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from toddle.algorithms.offline.learner import TwinLearner, seen
from toddle.core.errors import problem
from toddle.core.protocols import Scorable
from toddle.core.seeding import randn
from toddle.core.types import Score
from toddle.data.transitions import Transitions
from toddle.maths.value_targets import one_step_target

__all__ = ["TD3BC", "mean_of"]


class TD3BC(TwinLearner):
    """TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860): the policy's mean climbs Q and stays near the data."""

    def make_networks(self) -> None:
        """A slow copy of the policy too."""
        super().make_networks()
        self.slow_policy: Scorable = copy.deepcopy(self.policy).requires_grad_(False)
        self.networks["slow_policy"] = self.slow_policy

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """Q to one step of the slow policy's disturbed action; every second time the policy and the slow copies."""
        c = self.config
        with torch.no_grad():
            noise = c.target_noise * randn(batch.action.shape, self.noise, batch.action.device)
            noise = noise.clamp(-c.noise_limit, c.noise_limit)
            after = mean_of(self.slow_policy.score(seen(batch.following), batch.action))
            following = self.slow(batch.following, (after + noise).clamp(-1.0, 1.0)).amin(0)
        found = self.critic_step(batch, one_step_target(batch.reward, batch.terminal, self.discount, following))
        if (self.updates + 1) % c.policy_every == 0:
            mean = mean_of(self.score(batch.observation, batch.action))
            value = self.q(batch.observation, mean)[0]
            near = (mean - batch.action).square().mean()
            policy_loss = near - c.alpha / value.detach().abs().mean() * value.mean()
            found |= {"policy_loss": self.learn("policy", policy_loss), "distance": near}
            for slow, fast in (("slow", "q"), ("slow_policy", "policy")):
                self.follow(slow, fast)
        return found

    def critic_step(self, batch: Transitions, target: Tensor) -> dict[str, Tensor]:
        """Move the critics to the target (B,)."""
        q = self.q(batch.observation, batch.action)
        q_loss = self.learn("q", (q - target).square().mean(-1).sum())
        return {"q_loss": q_loss, "value": q.amin(0).mean()}


def mean_of(score: Score) -> Tensor:
    """Return the mean action (B, A), of a chunk (B, H A).  Raises InputError for a policy that has none."""
    if score.mean is None:
        raise problem("policy", "one whose actions have a mean with method td3-bc or co-rft", "one without")
    return score.mean.flatten(1)
