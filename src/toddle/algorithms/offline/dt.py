"""Decision Transformer: imitation of whole histories, told what each action came to (Chen et al. 2021, 2106.01345).

The loss is the squared distance to the data's actions at every step of a window, as in the authors' code; beside it the
policy learns which return to ask for (`policies.decision_transformer` has the deviations).
"""

from __future__ import annotations

import torch
from torch import Tensor

from toddle.algorithms.offline.learner import OfflineLearner
from toddle.core.errors import problem
from toddle.data.transitions import Transitions
from toddle.maths.value_targets import expectile_loss
from toddle.optim.schedules import cosine_factor
from toddle.policies.decision_transformer import DecisionTransformer, Window

__all__ = ["DT", "history"]


class DT(OfflineLearner):
    """Imitation of windows."""

    policy_kind = "decision_transformer"
    remembers = True
    policy: DecisionTransformer

    def make_networks(self) -> None:
        """None; find which returns there are.  Raises InputError for data whose episodes are not known."""
        if self.data.age is None:
            raise problem("data", "transitions whose episodes are known", "single ones")
        self.low, self.high = self.data.returns.min(), self.data.returns.max()

    def draw(self) -> Transitions:
        """Return windows of transitions: (B, K) of each."""
        last = torch.randint(len(self.data), (self.config.batch,), generator=self.batches)
        return self.data.at(history(last, self.policy.config.window))

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """Imitate the actions of windows, and move the return that is asked for to the expectile of those reached."""
        assert batch.age is not None
        self.optimisers["policy"].set_rates(cosine_factor(self.updates, self.total))
        back = torch.arange(batch.age.shape[1] - 1, -1, -1, device=batch.age.device)
        real = batch.age[:, -1:] >= back  # (B, K)
        share = (batch.returns - self.low) / (self.high - self.low).clamp(min=1e-6)
        mean = self.policy.mean(Window(share, batch.observation, batch.action, real))
        policy_loss = (mean - batch.action).square().mean(-1)[real].mean()
        best = self.policy.best_return(batch.observation[:, -1])
        value_loss = expectile_loss(share[:, -1] - best, self.config.conditioned.expectile).mean()
        self.learn("policy", policy_loss + value_loss)
        return {"policy_loss": policy_loss, "value_loss": value_loss, "best": best.mean()}


def history(last: Tensor, window: int) -> Tensor:
    """Return the rows (B, K) up to rows `last` (B,), not below 0."""
    return (last[:, None] + torch.arange(1 - window, 1, device=last.device)).clamp(min=0)
