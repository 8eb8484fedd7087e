"""RecoveringPolicy: an actor of SAC's beside a critic of risk, and a second actor that acts where that is too high.

Recovery RL (Thananjeyan et al. 2021, arXiv 2010.15920): the task's actor proposes, and where the discounted probability
that what it proposes ends in a violation is above `threshold`, what the recovery's actor says is executed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from toddle.core.config import config
from toddle.core.numbers import Share, Size
from toddle.core.seeding import torch_generator
from toddle.core.types import Decision, Observation
from toddle.models.q_ensemble import QEnsemble
from toddle.models.squashed_actor import SquashedActor
from toddle.policies.squashed_gaussian import SquashedGaussianConfig, SquashedGaussianPolicy

__all__ = ["RecoveringConfig", "RecoveringPolicy"]


@config
class RecoveringConfig(SquashedGaussianConfig):
    """A policy that recovers."""

    threshold: Share = 0.35
    """Risk above which the recovery acts; 1: it never does."""
    risk_hidden: tuple[Size, ...] = (256, 256)
    """Widths of the hidden layers of the critics of risk and of the recovery's actor."""


class RecoveringPolicy(SquashedGaussianPolicy):
    """As its base, whose chain and density are those of the action proposed; a decision's action is what is executed.

    Until `armed`, a buffer, is set the critics know nothing and nothing is replaced.
    """

    kind: ClassVar[str] = "recovering"
    armed: Tensor

    def __init__(self, config: RecoveringConfig) -> None:
        """Build actors and critics; the weights follow from `config.seed`."""
        super().__init__(config)
        self.threshold = config.threshold
        generator = torch_generator(config.seed, "recovery")
        self.recovery = SquashedActor(*self.state_sizes, hidden=config.risk_hidden, log_std=0.0, generator=generator)
        first = int(torch.randint(2**62, (), generator=generator))
        self.risk = QEnsemble(*self.state_sizes, hidden=config.risk_hidden, count=2, seed=first)
        self.register_buffer("armed", torch.zeros((), dtype=torch.bool))

    @classmethod
    def from_config(cls, config: SquashedGaussianConfig) -> RecoveringPolicy:
        """Build a policy, as `policies.store` does."""
        assert isinstance(config, RecoveringConfig)
        return cls(config)

    def riskiness(self, state: Tensor, action: Tensor, critics: QEnsemble | None = None) -> Tensor:
        """Return the risk (B,) of actions (B, H A) in states (B, O): the larger of two critics', in [0, 1]."""
        found: Tensor = (critics or self.risk)(state, action).sigmoid().amax(0)
        return found

    def recover(self, state: Tensor) -> Tensor:
        """Return what the recovery does (B, H A) in states (B, O)."""
        found: Tensor = self.recovery(state)[0].tanh()
        return found

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, None]:
        """Propose, and recover where that is too risky."""
        proposed, _ = super().act(observation, generator=generator, deterministic=deterministic)
        if not self.armed:
            return proposed, None
        state = self.state(observation)
        risky = self.riskiness(state, proposed.action.flatten(1)) > self.threshold
        recovered = self.recover(state).view_as(proposed.action)
        return replace(proposed, action=torch.where(risky[:, None, None], recovered, proposed.action)), None

    def update_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) into the running statistics."""
        self.update_scales(self.state(observation))

    def update_scales(self, states: Tensor) -> None:
        """Take states (..., O) into the running statistics of actors and critics."""
        for part in (self.actor.scale, self.recovery.scale, self.risk.scale):
            part.update(states)
