"""Imitation that is told how good each action was: RECAP by its advantage, ReinboT by its return.

| paper | here |
|---|---|
| RECAP (arXiv 2511.14759): a value function of the data, advantages, a threshold, an indicator | `Recap` |
| its dropout of the indicator, and guidance when acting | `ConditionedImitation`, `policies.conditioned` |
| ReinboT (arXiv 2505.07395): the return's high expectile, predicted beside the policy, which it asks for | `Reinbot` |

Deviations: 1. Policies of states, without a VLA.  2. RECAP's value is a mean, by squares, not a distribution over bins.
3. Its advantage is the (discounted) return less the value, with no look-ahead in between.  4. One threshold over all
data.  5. ReinboT's return is of the rewards that are given; its dense reward (sub-goals, smoothness) is not made here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toddle.algorithms.offline.learner import OfflineLearner
from toddle.core.seeding import rand
from toddle.core.types import Observation
from toddle.data.transitions import Transitions
from toddle.maths.value_targets import expectile_loss
from toddle.optim.schedules import cosine_factor
from toddle.policies.conditioned import ConditionedPolicy

__all__ = ["Recap", "Reinbot"]

CHUNK = 65_536
"""Transitions whose advantages are found at once."""


class ConditionedImitation(OfflineLearner):
    """What both share: the policy imitates every action under what is known of it, and now and then under nothing."""

    policy_kind = "conditioned"
    policy: ConditionedPolicy

    def imitate(self, batch: Transitions, value: Tensor, beside: Tensor | float = 0.0) -> dict[str, Tensor]:
        """Make the policy's step with `value` (B,) known of each action, down another loss too; return metrics."""
        known = (rand((len(batch),), self.noise, value.device) >= self.config.conditioned.dropout).to(value)
        seen = Observation(proprio=batch.observation, condition=torch.stack([known, known * value], -1))
        loss = -self.policy.score(seen, batch.action).log_prob[:, 0].mean()
        self.learn("policy", loss + beside)
        return {"policy_loss": loss}


class Recap(ConditionedImitation):
    """First a value function of the data, then imitation that knows which actions came to more than it says."""

    def make_networks(self) -> None:
        """The value function."""
        self.v = self.critics(1, actions=False)
        self.networks["v"] = self.v
        self.threshold: Tensor | None = None

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """The value function's first updates, then the policy's."""
        first = round(self.config.conditioned.value_share * self.total)
        if self.updates < first:
            value = self.v(batch.observation)[0]
            loss = self.learn("v", (value - batch.returns).square().mean())
            return {"value_loss": loss, "value": value.mean()}
        if self.threshold is None:
            self.threshold = self.find_threshold()
        self.optimisers["policy"].set_rates(cosine_factor(self.updates - first, self.total - first))
        positive = (self.advantage(batch) >= self.threshold).float()
        return self.imitate(batch, 2.0 * positive - 1.0) | {"positive": positive.mean()}

    @torch.no_grad()
    def advantage(self, batch: Transitions) -> Tensor:
        """Return by how much each action (B,) came to more than was to be expected."""
        return batch.returns - self.v(batch.observation)[0]

    def find_threshold(self) -> Tensor:
        """Return the advantage that the wanted share of all data has at least."""
        rows = torch.arange(len(self.data)).split(CHUNK)
        found = torch.cat([self.advantage(self.data.at(chunk)) for chunk in rows]).sort().values
        least = len(found) - max(1, round(self.config.conditioned.positive * len(found)))
        return found[least]

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore; the threshold follows from the value function, which does not change once there is one."""
        super().load_state_dict(state)
        self.threshold = None


class Reinbot(ConditionedImitation):
    """Imitation that knows what each action came to; beside it the return that is among the best of a state."""

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """Both at once, by one loss.  What is told is the return itself: told the predicted one, which is the same for
        good and bad actions of a state, the policy would learn that it says nothing of the action."""
        self.optimisers["policy"].set_rates(cosine_factor(self.updates, self.total))
        low, high = self.data.returns.min(), self.data.returns.max()
        share = (batch.returns - low) / (high - low).clamp(min=1e-6)
        best = self.policy.best_return(batch.observation)
        value_loss = expectile_loss(share - best, self.config.conditioned.expectile).mean()
        return {"value_loss": value_loss, "best": best.mean()} | self.imitate(batch, share, value_loss)
