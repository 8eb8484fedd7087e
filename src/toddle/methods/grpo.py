"""GRPO: each episode against its group, clip-higher, no critic (Shao et al. 2024, arXiv 2402.03300)."""

from __future__ import annotations

from toddle.algorithms.estimators import GroupAdvantages
from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import config
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._groups import GroupSettings

__all__ = ["METHOD", "GRPOSettings"]


@config
class GRPOSettings(GroupSettings):
    """Group-relative policy optimisation."""

    scale: bool = True
    """Divide an episode's advantage by the deviation of its group; False as Dr. GRPO (arXiv 2503.20783)."""

    def build(self, start: Start) -> Run:
        """Build PPO with advantages from groups."""
        return self.run(start, GroupAdvantages(scale=self.scale))


METHOD = Method(
    name="grpo",
    what="PPO without a critic: each episode against others of the same start",
    paper="Shao et al. 2024, arXiv 2402.03300; clip-higher and dropped groups: DAPO, arXiv 2503.14476",
    policies="gaussian, causal, tokens",
    deviations=(
        "no KL to a reference policy: there is no pretrained one to stay near",
        "groups of one kind are dropped and not drawn again; the share is a metric",
    ),
    shared=True,
    presets=(
        Preset(
            name="any",
            source="clip 0.2 / 0.28 of DAPO; ours: epochs, rate",
            settings=GRPOSettings(
                ppo=PPOConfig(
                    epochs=4,
                    minibatches=4,
                    learning_rate=1e-3,
                    clip_low=0.2,
                    clip_high=0.28,
                    normalise_advantages=False,
                    schedule="constant",
                )
            ),
        ),
    ),
)
