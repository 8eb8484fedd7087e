"""RLOO: each episode against the mean of the others of its group (Ahmadian et al. 2024, arXiv 2402.14740)."""

from __future__ import annotations

from toddle.algorithms.estimators import GroupAdvantages
from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import config
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._groups import GroupSettings

__all__ = ["METHOD", "RLOOSettings"]


@config
class RLOOSettings(GroupSettings):
    """REINFORCE with a leave-one-out baseline; with more than one epoch, LOOP's clipped form."""

    def build(self, start: Start) -> Run:
        """Build PPO with leave-one-out advantages."""
        return self.run(start, GroupAdvantages(leave_one_out=True))


METHOD = Method(
    name="rloo",
    what="REINFORCE with the other episodes of the start as baseline",
    paper="Ahmadian et al. 2024, arXiv 2402.14740; clipped: LOOP, Chen et al. 2025, arXiv 2502.01600",
    policies="gaussian, causal, tokens",
    shared=True,
    presets=(
        Preset(
            name="any",
            source="ours: as grpo here, advantages standardised over a minibatch",
            settings=RLOOSettings(
                ppo=PPOConfig(epochs=4, minibatches=4, learning_rate=1e-3, clip_high=0.28, schedule="constant")
            ),
        ),
    ),
)
