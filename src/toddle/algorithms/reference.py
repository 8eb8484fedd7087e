"""The policy is held near a reference: a KL term in the loss against a copy of it that does not learn.

GRPO (Shao et al. 2024, arXiv 2402.03300, equation 3) and Flow-GRPO (arXiv 2505.05470) hold it near what it was at the
start.  Where the links' distributions are known (Gaussians of a flow's steps, tokens, the Laplace head) the divergence
is exact, at the states and the parts of the chain that were met; else (FPO) it is estimated from the draws.
Deviation: the reference may be taken anew every so many iterations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from toddle.algorithms.parts import Auxiliary
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import NonNegative, Whole
from toddle.core.protocols import Scorable
from toddle.core.types import Score
from toddle.experience.rollout import Minibatch, Rollout
from toddle.maths.objectives import kl_k3, links_where, mean_where

__all__ = ["ReferenceKL", "ReferenceSettings"]


@config
class ReferenceSettings:
    """A penalty on going away from what the policy was at the start."""

    weight: NonNegative = 0.0
    """Weight of the KL divergence from the policy to its reference, in nats a link; 0: there is none."""
    refresh: Whole = 0
    """Iterations after which the reference becomes the policy as it is then; 0: it stays what it was at the start."""

    def __post_init__(self) -> None:
        if self.refresh and not self.weight:
            raise problem("reference.refresh", "0 where reference.weight is 0", self.refresh)


class ReferenceKL(Auxiliary):
    """`weight` times the mean over links and decisions of KL(policy || reference)."""

    def __init__(self, reference: Scorable, policy: Scorable, settings: ReferenceSettings) -> None:
        """reference: a copy of the policy that shares nothing that learns; what it shares is stored once, elsewhere."""
        shared = {value.data_ptr() for value in policy.state_dict().values()}
        self._own = [name for name, value in reference.state_dict().items() if value.data_ptr() not in shared]
        self.reference, self.settings, self.iteration = reference, settings, 0

    def _take(self, state: dict[str, Tensor]) -> None:
        held = self.reference.state_dict()
        self.reference.load_state_dict(held | {name: state[name] for name in self._own})

    def begin(self, rollouts: Sequence[Rollout], policy: Scorable) -> dict[str, float]:
        """Take the reference anew where it is time."""
        if self.settings.refresh and self.iteration and self.iteration % self.settings.refresh == 0:
            self._take(policy.state_dict())
        self.iteration += 1
        return {}

    def loss(self, part: Minibatch, score: Score) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the penalty, and `reference/kl`."""
        with torch.no_grad():
            held = self.reference.score(part.observation, part.chain)
        real = links_where(score.real, part.mask)
        if score.distribution is None or held.distribution is None:
            kl = kl_k3(held.log_prob - score.log_prob, real)
        else:
            kl = mean_where(score.distribution.kl(held.distribution), real)
        return self.settings.weight * kl, {"reference/kl": kl.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Return the reference and how many iterations it has seen."""
        held = self.reference.state_dict()
        return {"reference": {name: held[name] for name in self._own}, "iteration": self.iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self._take(state["reference"])
        self.iteration = int(state["iteration"])
