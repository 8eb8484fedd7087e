"""ARFM: flow matching in which what came to more weighs more (arXiv 2509.04063).

| paper | here |
|---|---|
| the energy-weighted flow-matching loss | `ARFM.teach` |
| its scale alpha, found anew for each batch, so that the loss's variance stays in bounds | `energy_weights` |

Deviations: 1. alpha is the one at which the weights' effective sample size is a set share of the batch, not that of the
paper's closed form of bias and variance.  2. The energy is the return less a value function of the data.  3. Policies
of states (`policies.denoising`, a flow over single actions), without a VLA.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from toddle.algorithms.offline.learner import effective_share, seen
from toddle.algorithms.offline.value_first import ValueFirst
from toddle.core.protocols import Imitating, Scorable
from toddle.data.transitions import Transitions
from toddle.maths.energy_weights import energy_weights

__all__ = ["ARFM"]


class _Policy(Scorable, Imitating, Protocol):
    """A policy with a loss for each demonstrated action."""


class ARFM(ValueFirst):
    """Weighted imitation by a flow."""

    policy_kind = "denoising"
    policy: _Policy

    def teach(self, batch: Transitions, advantage: Tensor) -> dict[str, Tensor]:
        """Imitate every action, the better ones more."""
        weight = torch.from_numpy(energy_weights(advantage.double().numpy(), self.config.weights_share)).to(advantage)
        losses = self.policy.imitation_loss(seen(batch.observation), batch.action[:, None], self.noise)
        loss = self.learn("policy", (weight * losses).mean())
        return {"policy_loss": loss, "advantage": advantage.mean(), "weights_used": effective_share(weight)}
