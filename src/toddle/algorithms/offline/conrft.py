"""ConRFT: a consistency policy beside calibrated critics (Chen et al. 2025, arXiv 2502.05450).

| paper | here |
|---|---|
| Cal-QL's critics; uniform actions, the policy's, and its next ones, the data's own joining the sum | `ConRFT.update` |
| eta times minus Q of the policy's action, beta times the consistency loss | `ConRFTConfig` |

Deviations: 1. Policies of states.  2. The floor of returns holds the policy's samples alone, as in Cal-QL; the released
code holds uniform ones too.  (The released offline script sets eta to 0, so its first stage is imitation beside a
critic that is trained; here it is the paper's 0.1.)  The online stage (`methods.conrft`) is the same update without the
push.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toddle.algorithms.offline.cql import calibrated, values_of
from toddle.algorithms.offline.learner import TwinLearner, seen
from toddle.core.seeding import rand, randn
from toddle.data.transitions import Transitions
from toddle.maths.value_targets import one_step_target, plain_gap
from toddle.policies.consistency import ConsistencyPolicy

__all__ = ["ConRFT"]


class ConRFT(TwinLearner):
    """The policy climbs the critics' mean and stays a model of the data."""

    policy_kind = "consistency"
    policy: ConsistencyPolicy

    def several(self, observation: Tensor, count: int) -> Tensor:
        """Return `count` actions (B, n, A) of the policy at states (B, O)."""
        repeated = observation.repeat_interleave(count, 0)
        noise = randn((len(repeated), self.data.action.shape[1]), self.noise, observation.device)
        return self.policy.drawn(repeated, noise).unflatten(0, (-1, count))

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """The critics, then the policy."""
        own = self.config.conrft
        with torch.no_grad():
            following = values_of(self.slow, batch.following, self.several(batch.following, 1)).amin(0)[:, 0]
            others = self._others(batch) if own.push else []
        target = one_step_target(batch.reward, batch.terminal, self.discount, following)
        value = values_of(self.q, batch.observation, torch.cat([batch.action[:, None], *others], 1))
        q, loss, found = value[..., 0], value.new_zeros(()), dict[str, Tensor]()
        if own.push:
            loss, found = self._push(batch, q, value[..., 1:])
        errors = (q - target).square().mean(-1).sum()
        critic_loss = self.learn("q", errors + own.push * loss)
        self.follow("slow", "q")
        climb = self.q(batch.observation, self.several(batch.observation, 1)[:, 0]).mean()
        near = self.policy.imitation_loss(seen(batch.observation), batch.action[:, None], self.noise).mean()
        policy_loss = self.learn("policy", own.imitation * near - own.climb * climb)
        found |= {"q_loss": errors, "critic_loss": critic_loss}
        return found | {"value": q.amin(0).mean(), "policy_loss": policy_loss, "distance": near}

    def _others(self, batch: Transitions) -> list[Tensor]:
        """Return actions (B, n, A): uniform ones, the policy's there, and the policy's at the next state."""
        count = self.config.conservative.samples
        shape = (len(batch), count, batch.action.shape[1])
        uniform = 2.0 * rand(shape, self.noise, batch.action.device) - 1.0
        return [uniform, *(self.several(state, count) for state in (batch.observation, batch.following))]

    def _push(self, batch: Transitions, q: Tensor, sampled: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the push on sampled actions' values (E, B, 3 n) against the data's (E, B), and metrics."""
        count = self.config.conservative.samples
        push = plain_gap(q, calibrated(sampled, batch.returns, count)).mean(1)
        bounded = (sampled[..., count:] < batch.returns[:, None]).float().mean()
        return push.sum(), {"gap": push.mean(), "bound_rate": bounded}
