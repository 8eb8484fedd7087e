"""GRPO on a VLA: each episode against others of the same start (SimpleVLA-RL, Li et al. 2025, arXiv 2509.09674)."""

from __future__ import annotations

from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import config
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._vla import FLOWS, GROUP_PPO, TOKENS, VLAGroupSettings
from toddle.policies.flow_explorer import SamplerConfig

__all__ = ["METHOD", "VLAGRPOSettings"]


@config
class VLAGRPOSettings(VLAGroupSettings):
    """Group-relative policy optimisation of a VLA."""

    scale: bool = True
    """Divide an episode's advantage by the deviation of its group; False as Dr. GRPO (arXiv 2503.20783)."""

    def build(self, start: Start) -> Run:
        """Build PPO with advantages from groups."""
        return self.against_groups(start, scale=self.scale)


METHOD = Method(
    name="vla-grpo",
    what="PPO on a VLA without a critic: each episode against others of the same start",
    paper="SimpleVLA-RL, arXiv 2509.09674; GRPO, arXiv 2402.03300; clip-higher and dropped groups: arXiv 2503.14476",
    policies=", ".join((*FLOWS, *TOKENS)),
    deviations=("groups of one kind are dropped and not drawn again; the share is a metric",),
    shared=True,
    presets=(
        Preset(
            name="flow",
            kinds=FLOWS,
            source="SimpleVLA-RL: group 8, success alone, no KL; ours: clip (densities are averaged) and rates",
            settings=VLAGRPOSettings(ppo=PPOConfig(**GROUP_PPO, clip_low=0.05, clip_high=0.07)),
        ),
        Preset(
            name="tokens",
            kinds=TOKENS,
            source="SimpleVLA-RL: group 8, a ratio a token, trajectories alike, clip 0.2 / 0.28, temperature 1.6, "
            "no KL; ours: rates",
            settings=VLAGRPOSettings(
                sampler=SamplerConfig(temperature=1.6, ratio_per="token"),
                ppo=PPOConfig(**GROUP_PPO, ratio="per_link", aggregate="trajectory", clip_low=0.2, clip_high=0.28),
            ),
        ),
    ),
)
