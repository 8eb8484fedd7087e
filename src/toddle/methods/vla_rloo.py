"""Leave-one-out on a VLA: an episode against the mean of the others of its start (RIPT-VLA, arXiv 2505.17016)."""

from __future__ import annotations

from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import config
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._vla import GROUP_PPO, VLAGroupSettings

__all__ = ["METHOD", "VLARLOOSettings"]


@config
class VLARLOOSettings(VLAGroupSettings):
    """Leave-one-out policy optimisation of a VLA."""

    def build(self, start: Start) -> Run:
        """Build PPO with leave-one-out advantages."""
        return self.against_groups(start, leave_one_out=True)


METHOD = Method(
    name="vla-rloo",
    what="PPO on a VLA without a critic: an episode against the mean of the others of its start",
    paper="RIPT-VLA, arXiv 2505.17016; RLOO, arXiv 2402.14740",
    policies="flow_vla, pi0",
    deviations=("flows are scored by Flow-SDE, not by a Laplace head; several epochs",),
    presets=(
        Preset(
            name="any",
            source="RIPT-VLA: leave-one-out, uniform groups dropped; ours: group 8, clip (averaged densities), rates",
            settings=VLARLOOSettings(ppo=PPOConfig(**GROUP_PPO, clip_low=0.05, clip_high=0.05)),
        ),
    ),
)
