"""Imitation that is told how good each action was: RECAP by its advantage, ReinboT by its return.

| paper | here |
|---|---|
| RECAP (arXiv 2511.14759): a value function of the data, advantages, a threshold, an indicator | `Recap` |
| its dropout of the indicator, and guidance when acting | `told_loss`, `policies.conditioned` |
| ReinboT (arXiv 2505.07395): the return's high expectile, predicted beside the policy, which it asks for | `Reinbot` |

Deviations: 1. Policies of states, without a VLA.  2. RECAP's value is a mean, by squares, unless `value_bins` is set.
3. Its advantage is the (discounted) return less the value, with no look-ahead in between.  4. One threshold over all
data.  5. ReinboT's return is of the rewards that are given; its dense reward (sub-goals, smoothness) is not made here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from toddle.algorithms.offline.learner import OfflineLearner
from toddle.algorithms.offline.value_first import ValueFirst
from toddle.core.seeding import rand
from toddle.core.types import Observation
from toddle.data.transitions import Transitions
from toddle.maths.value_targets import expectile_loss
from toddle.optim.schedules import cosine_factor
from toddle.policies.conditioned import ConditionedPolicy

__all__ = ["Recap", "Reinbot"]

CHUNK = 65_536
"""Transitions whose advantages are found at once."""


class Recap(ValueFirst):
    """Imitation that knows which actions came to more than was to be expected."""

    policy_kind = "conditioned"
    policy: ConditionedPolicy
    threshold: Tensor | None = None

    def teach(self, batch: Transitions, advantage: Tensor) -> dict[str, Tensor]:
        """Imitate every action, told whether its advantage is among the best."""
        if self.threshold is None:
            self.threshold = self.find_threshold()
        positive = (advantage >= self.threshold).float()
        loss = self.learn("policy", told_loss(self, self.policy, batch, 2.0 * positive - 1.0))
        return {"policy_loss": loss, "positive": positive.mean()}

    def find_threshold(self) -> Tensor:
        """Return the advantage that the wanted share of all data has at least."""
        rows = torch.arange(len(self.data)).split(CHUNK)
        found = torch.cat([self.advantage(self.data.at(chunk)) for chunk in rows]).sort().values
        return found[-max(1, round(self.config.conditioned.positive * len(found)))]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; the threshold follows from the value function, which does not change once there is one."""
        super().load_state_dict(state)
        self.threshold = None


class Reinbot(OfflineLearner):
    """Imitation that knows what each action came to; beside it the return that is among the best of a state."""

    policy_kind = "conditioned"
    policy: ConditionedPolicy

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """Both at once, by one loss.  What is told is the return itself: told the predicted one, which is the same for
        good and bad actions of a state, the policy would learn that it says nothing of the action."""
        self.optimisers["policy"].set_rates(cosine_factor(self.updates, self.total))
        low, high = self.data.returns.min(), self.data.returns.max()
        share = (batch.returns - low) / (high - low).clamp(min=1e-6)
        best = self.policy.best_return(batch.observation)
        value_loss = expectile_loss(share - best, self.config.conditioned.expectile).mean()
        policy_loss = told_loss(self, self.policy, batch, share)
        self.learn("policy", policy_loss + value_loss)
        return {"policy_loss": policy_loss, "value_loss": value_loss, "best": best.mean()}


def told_loss(learner: OfflineLearner, policy: ConditionedPolicy, batch: Transitions, value: Tensor) -> Tensor:
    """Return the loss () of imitating actions of which `value` (B,) is known, but for some of which nothing is."""
    known = (rand((len(batch),), learner.noise, value.device) >= learner.config.conditioned.dropout).to(value)
    condition = torch.stack([known, known * value], -1)
    seen = Observation(proprio=batch.observation, condition=condition)
    return -policy.score(seen, batch.action).log_prob[:, 0].mean()
