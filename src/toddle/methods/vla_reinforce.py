"""REINFORCE on a VLA: one update on each batch of episodes, the others' mean as baseline (Williams 1992)."""

from __future__ import annotations

from toddle.algorithms.estimators import BatchAdvantages
from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import config
from toddle.experience.episodes import EpisodesConfig
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._vla import FLOWS, GROUP_PPO, TOKENS, VLAGroupSettings

__all__ = ["METHOD", "VLAReinforceSettings"]


@config
class VLAReinforceSettings(VLAGroupSettings):
    """The policy gradient on a VLA."""

    def build(self, start: Start) -> Run:
        """Build PPO with episodes against all others."""
        return self.run(start, BatchAdvantages())


METHOD = Method(
    name="vla-reinforce",
    what="the policy gradient on a VLA: one update a batch, each episode against the mean of all others",
    paper='Williams 1992, "Simple statistical gradient-following algorithms", Machine Learning 8',
    policies=", ".join((*FLOWS, *TOKENS)),
    deviations=("Adam makes the step",),
    shared=True,
    presets=(
        Preset(
            name="any",
            source="one epoch, one update, so that no ratio leaves 1; ours: the rate",
            settings=VLAReinforceSettings(
                episodes=EpisodesConfig(group=1),
                ppo=PPOConfig(**GROUP_PPO | {"epochs": 1, "minibatches": 1, "learning_rate": 3e-4}),
            ),
        ),
    ),
)
