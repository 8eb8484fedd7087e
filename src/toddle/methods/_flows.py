"""What the methods of flow policies share: the policy of a noisy flow, and its presets."""

from __future__ import annotations

from typing import Any, Literal

from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import config
from toddle.experience.collect import CollectConfig
from toddle.methods._base import Preset, Run, Start
from toddle.methods._chunks import SCRATCH, STARTED, ChunkSettings, Denoiser
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.links import FlowConfig

__all__ = ["AVERAGED", "TUNED", "FlowSettings", "presets"]

AVERAGED: dict[str, Any] = {"ratio": "mean", "clip_low": 0.1, "clip_high": 0.1}
TUNED: dict[str, Any] = {"ratio": "mean", "clip_low": 0.05, "clip_high": 0.05, "learning_rate": 2e-4}


@config
class FlowSettings(ChunkSettings):
    """Flow policies by PPO; a method says where the noise comes from."""

    reduce: Literal["mean", "sum"] = "mean"
    """How a link's log-density is formed from its dimensions: averaged, or summed with larger ratios."""

    def flow_run(self, start: Start, denoiser: Denoiser, process: FlowConfig) -> Run:
        """Build the policy of this process, and PPO."""
        policy = DenoisingPolicy(DenoisingConfig(**self.shared(denoiser, start), process=process, reduce=self.reduce))
        return self.run(start, policy)


def presets(
    kind: Any, fresh: Denoiser, started: Denoiser, sources: tuple[str, str], **tuned: Any
) -> tuple[Preset, ...]:
    """Return a flow method's presets: for a policy that has learned, for goal tracking, from scratch.

    sources: of the first, and of the other two; tuned: fields of PPO for a policy that has learned.
    """
    scratch = PPOConfig(**SCRATCH | AVERAGED)
    return (
        Preset(
            name="started",
            source=sources[0],
            settings=kind(
                denoising=started,
                collect=CollectConfig(length=16, discount=0.99),
                ppo=PPOConfig(**STARTED | TUNED | tuned),
            ),
            started=True,
        ),
        Preset(
            name="goals",
            source=f"{sources[1]}; goal tracking's gamma",
            settings=kind(denoising=fresh, ppo=scratch, collect=CollectConfig(length=16, discount=0.95)),
            families=("goal",),
        ),
        Preset(name="scratch", source=sources[1], settings=kind(denoising=fresh, ppo=scratch)),
    )
