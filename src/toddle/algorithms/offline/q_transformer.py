"""Q-Transformer: the policy's logits are values, number by number of the action (Chebotar et al. 2023, 2309.10150).

| paper | here |
|---|---|
| Q of each number's bin, given those before it; a maximum from number to number | `maths.token_values.token_targets` |
| the Monte-Carlo return as a lower bound of every target | the same, one for each transition |
| values of bins that are not in the data go to the least reward | `maths.token_values.spare_push` |

Q is a sigmoid between the least and the greatest return of the data, which are 0 and 1 where success alone pays.
Deviations: 1. `policies.tokens`, an MLP over states whose tokens are summed, without a transformer and pictures.
2. The slow copy moves at every update.  3. No n-step returns.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from toddle.algorithms.offline.learner import OfflineLearner, seen
from toddle.data.transitions import Transitions
from toddle.maths.action_tokens import to_tokens
from toddle.maths.token_values import spare_push, token_targets
from toddle.maths.value_targets import one_step_target
from toddle.policies.tokens import TokenPolicy

__all__ = ["QTransformer"]


class QTransformer(OfflineLearner):
    """Values of tokens; the policy says the best token of each number in turn."""

    policy_kind = "tokens"
    policy: TokenPolicy

    def make_networks(self) -> None:
        """A slow copy of the policy, and the bounds of its values."""
        self.slow: TokenPolicy = copy.deepcopy(self.policy).requires_grad_(False)
        self.networks["slow"] = self.slow
        self.low = self.data.returns.min()
        self.span = (self.data.returns.max() - self.low).clamp(min=1e-6)

    def values(self, policy: TokenPolicy, observation: Tensor, tokens: Tensor) -> Tensor:
        """Return the values (B, L, bins), as shares of the range, at each place after the tokens (B, L) before it."""
        return policy.logits(seen(observation), tokens).sigmoid()

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """Values of the said tokens to their targets, those of the others down."""
        tokens = to_tokens(batch.action, self.policy.config.bins)
        with torch.no_grad():
            following = self.values(self.slow, batch.following, tokens)[:, 0].amax(-1)  # the first place sees no token
            paid = one_step_target(batch.reward, batch.terminal, self.discount, self.low + self.span * following)
            after, reached = ((value - self.low) / self.span for value in (paid, batch.returns))
            target = token_targets(self.values(self.slow, batch.observation, tokens), after, reached).clamp(0.0, 1.0)
        value = self.values(self.policy, batch.observation, tokens)
        said = value.gather(-1, tokens[..., None])[..., 0]
        errors, push = (said - target).square().mean(), spare_push(value, tokens).mean()
        loss = self.learn("policy", 0.5 * errors + 0.5 * self.config.spare_weight * push)
        self.follow("slow", "policy")
        last = (self.low + self.span * said[:, -1]).mean()
        return {"q_loss": errors, "gap": push, "critic_loss": loss, "value": last}
