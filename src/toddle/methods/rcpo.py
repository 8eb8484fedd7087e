"""RCPO: PPO under a limit on costs, by a learned multiplier (Tessler et al. 2019, arXiv 1805.11074)."""

from __future__ import annotations

import dataclasses

from toddle.algorithms.lagrangian import CostLimit
from toddle.core.config import config
from toddle.core.numbers import NonNegative
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods.ppo import PPOSettings

__all__ = ["METHOD", "RCPOSettings"]


@config
class RCPOSettings(PPOSettings):
    """PPO with a limit on the cost of an episode."""

    limit: NonNegative = 1.0
    """Wanted cost of an episode, as the environment's `cost` counts it."""
    multiplier_rate: NonNegative = 0.05
    """Rate of the multiplier, a step a rollout."""

    def build(self, start: Start) -> Run:
        """Build PPO on rewards less weighted costs."""
        limit = CostLimit(self.limit, rate=self.multiplier_rate)
        return super().build(dataclasses.replace(start, parts={"rewards": [*start.parts.get("rewards", ()), limit]}))


METHOD = Method(
    name="rcpo",
    what="PPO under a limit on costs, by a learned multiplier",
    paper="Tessler et al. 2019, arXiv 1805.11074",
    policies="gaussian, causal, tokens",
    deviations=("one critic, of the penalised reward",),
    presets=(Preset(name="any", source="ours: the multiplier's rate; else as ppo for tasks", settings=RCPOSettings()),),
)
