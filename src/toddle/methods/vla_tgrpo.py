"""TGRPO on a VLA: episodes of a start compared at every step and as wholes (Chen et al. 2025, arXiv 2506.08440)."""

from __future__ import annotations

from toddle.algorithms.estimators import StepAndTrajectoryAdvantages
from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import config
from toddle.core.numbers import NonNegative
from toddle.experience.episodes import EpisodesConfig
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._vla import FLOWS, GROUP_PPO, TOKENS, VLAGroupSettings

__all__ = ["METHOD", "VLATGRPOSettings"]


@config
class VLATGRPOSettings(VLAGroupSettings):
    """Trajectory-wise group-relative policy optimisation."""

    step_weight: NonNegative = 0.5
    """alpha_1: weight of the comparison of rewards at the same step."""
    trajectory_weight: NonNegative = 0.5
    """alpha_2: weight of the comparison of whole episodes."""

    def build(self, start: Start) -> Run:
        """Build PPO with advantages of steps and episodes."""
        self.compared()
        return self.run(start, StepAndTrajectoryAdvantages(step=self.step_weight, trajectory=self.trajectory_weight))


METHOD = Method(
    name="vla-tgrpo",
    what="GRPO on a VLA with advantages of steps and of whole episodes; a group stops at its first success",
    paper="TGRPO, arXiv 2506.08440",
    policies=", ".join((*FLOWS, *TOKENS)),
    deviations=(
        "the reward is the environment's own (--reward dense takes Meta-World's), not one written by a language model",
        "both weights 0.5: the paper gives none",
    ),
    shared=True,
    presets=(
        Preset(
            name="any",
            source="TGRPO: groups stop together; ours: weights, clip (densities are averaged), rates",
            settings=VLATGRPOSettings(
                episodes=EpisodesConfig(stop_together=True),
                ppo=PPOConfig(**GROUP_PPO, clip_low=0.05, clip_high=0.05),
            ),
        ),
    ),
)
