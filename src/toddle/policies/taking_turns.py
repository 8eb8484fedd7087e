"""Two policies of one body that take turns in the worlds: in each, one of them acts."""

from __future__ import annotations

import torch
from torch import Tensor

from toddle.policies.squashed_gaussian import SquashedGaussianPolicy

__all__ = ["TakingTurns"]


class TakingTurns(SquashedGaussianPolicy):
    """Acts as `forward_` or, in the worlds `returning` (B,) bool, as `back`; it holds their weights, not copies."""

    def __init__(self, forward_: SquashedGaussianPolicy, back: SquashedGaussianPolicy, worlds: int) -> None:
        """Begin with `forward_` in all worlds."""
        super().__init__(forward_.config)
        self.actor, self.back = forward_.actor, back.actor
        self.returning = torch.zeros(worlds, dtype=torch.bool)

    def _drawn(self, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return what each world's policy draws."""
        whose = self.returning.to(state.device)
        (ours, log_ours), (theirs, log_theirs) = (actor.draw(state, noise) for actor in (self.actor, self.back))
        return torch.where(whose[:, None], theirs, ours), torch.where(whose, log_theirs, log_ours)
