"""Two policies of one body that take turns in the worlds: in each, one of them acts."""

from __future__ import annotations

import torch

from toddle.core.seeding import randn
from toddle.core.types import Decision, Observation
from toddle.policies.squashed_gaussian import SquashedGaussianPolicy

__all__ = ["TakingTurns"]


class TakingTurns(SquashedGaussianPolicy):
    """Acts as `forward_` or, in the worlds `returning` (B,) bool, as `back`; it holds their weights, not copies."""

    def __init__(self, forward_: SquashedGaussianPolicy, back: SquashedGaussianPolicy, worlds: int) -> None:
        """Begin with `forward_` in all worlds."""
        super().__init__(forward_.config)
        self.actor, self.back = forward_.actor, back.actor
        self.returning = torch.zeros(worlds, dtype=torch.bool)

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, None]:
        """Decide for (B, ...) observations of all worlds."""
        state = self.state(observation)
        shape = (len(state), self.state_sizes[1])
        noise = torch.zeros(shape, device=state.device) if deterministic else randn(shape, generator, state.device)
        whose = self.returning.to(state.device)
        (ours, log_ours), (theirs, log_theirs) = (actor.draw(state, noise) for actor in (self.actor, self.back))
        u, log_prob = torch.where(whose[:, None], theirs, ours), torch.where(whose, log_theirs, log_ours)
        return Decision(u.tanh().view(len(u), self.horizon, -1), u, log_prob.unsqueeze(-1)), None
