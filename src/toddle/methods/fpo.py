"""FPO: flow policies by PPO on a change of the flow-matching loss (McAllister et al. 2025, arXiv 2507.21053)."""

from __future__ import annotations

from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import config
from toddle.core.numbers import Size
from toddle.experience.collect import CollectConfig
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._chunks import SCRATCH, STARTED, ChunkSettings, Denoiser
from toddle.policies.fpo import FPOConfig, FPOPolicy

__all__ = ["METHOD", "FPOSettings"]


@config
class Flow(Denoiser):
    """The flow policy."""

    steps: Size = 10
    """K, Euler steps."""
    samples: Size = 8
    """Pairs (tau, eps) stored with each action."""


@config
class FPOSettings(ChunkSettings):
    """Flow policies by PPO on the flow-matching loss."""

    denoising: Flow = Flow()
    """The policy."""

    def build(self, start: Start) -> Run:
        """Build the policy and PPO."""
        chosen = self.denoising
        policy = FPOPolicy(FPOConfig(**self.shared(chosen, start), steps=chosen.steps, samples=chosen.samples))
        return self.run(start, policy)


_GAMMA = CollectConfig(length=16, discount=0.995)
METHOD = Method(
    name="fpo",
    what="flow policies by PPO, the ratio from the flow-matching loss",
    paper="McAllister et al. 2025, arXiv 2507.21053",
    policies="fpo",
    shared=True,
    presets=(
        Preset(
            name="started",
            source="FPO: 10 steps, 8 pairs, clip 0.05, gamma 0.995; learning rate as DPPO's",
            settings=FPOSettings(collect=_GAMMA, ppo=PPOConfig(**STARTED, clip_low=0.05, clip_high=0.05)),
            started=True,
        ),
        Preset(
            name="scratch",
            source="FPO: 10 steps, 8 pairs, clip 0.05, learning rate 3e-4, gamma 0.995",
            settings=FPOSettings(
                collect=_GAMMA, ppo=PPOConfig(**SCRATCH, clip_low=0.05, clip_high=0.05, learning_rate=3e-4)
            ),
        ),
    ),
)
