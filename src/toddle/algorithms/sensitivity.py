"""A penalty on how much a policy's decisions change with what it sees: RobustVLA (arXiv 2511.01331).

    E |grad_s log pi(a|s)|^2 = tr F(s) = E_v 2 KL(pi(s) || pi(s + h v)) / h^2,   v ~ N(0, I), h small

s is what the frozen backbone says, h a share of its root mean square.  The paper takes the gradient itself, which needs
second derivatives; a step aside needs a forward pass more and, with the divergence of distributions, no draw of a.
Deviation: the penalty is in units of what it was at the start, and what is beyond the 95th per cent there has no
gradient.  A policy can lower it by a larger spread: watch the entropy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from toddle.algorithms.parts import Auxiliary
from toddle.core.errors import problem
from toddle.core.protocols import Scorable
from toddle.core.seeding import randn, torch_generator
from toddle.core.types import Score
from toddle.experience.rollout import Minibatch, Rollout
from toddle.maths.objectives import mean_where

__all__ = ["Sensitivity"]

LIMIT = 0.95


class Sensitivity(Auxiliary):
    """`weight` times the mean over decisions of tr F, which is 1 at the start."""

    def __init__(self, *, weight: float, step: float, seed: int) -> None:
        """step: h, as a share of the root mean square of the features."""
        self.policy: Scorable | None = None
        self.weight, self.step = weight, step
        self.noise = torch_generator(seed, "sensitivity")
        self.unit, self.most = 0.0, 0.0

    def begin(self, rollouts: Sequence[Rollout], policy: Scorable) -> dict[str, float]:
        """Check that features are kept.  Raises InputError where they are not."""
        if any("context" not in rollout.observation for rollout in rollouts):
            remedy = "a frozen backbone, and collect.keep features"
            raise problem("sensitivity", "rollouts that keep features", "pictures", remedy)
        self.policy = policy
        return {}

    def loss(self, part: Minibatch, score: Score) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the penalty, and `robust/sensitivity`."""
        assert self.policy is not None
        seen: Any = dict(part.observation)
        context = seen["context"].float()
        size = self.step * context.square().mean().sqrt()
        seen["context"] = context + size * randn(context.shape, self.noise, context.device)
        aside = self.policy.score(seen, part.chain)
        if score.distribution is None or aside.distribution is None:
            raise problem("sampler.noise", "one whose distributions are known, with this method", "fpo")
        divergence = score.distribution.kl(aside.distribution)
        if score.real is not None:
            divergence = torch.where(score.real, divergence, 0.0)
        each = divergence.sum(-1) * 2.0 / self.step**2
        if not self.unit:
            found = each.detach() if part.mask is None else each.detach()[part.mask]
            self.unit, self.most = float(found.mean()), float(found.float().quantile(LIMIT))
        trace = mean_where(each.clamp(max=self.most), part.mask) / max(self.unit, 1e-12)
        return self.weight * trace, {"robust/sensitivity": trace.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Return the unit, the limit, and where the noise stands."""
        return {"noise": self.noise.get_state(), "unit": self.unit, "most": self.most}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.noise.set_state(state["noise"])
        self.unit, self.most = float(state["unit"]), float(state["most"])
