"""Leave-one-out on a VLA: an episode against the mean of the others of its start (RIPT-VLA, arXiv 2505.17016)."""

from __future__ import annotations

from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import config
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._vla import FLOWS, GROUP_PPO, TOKENS, VLAGroupSettings
from toddle.policies.flow_explorer import SamplerConfig

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
    policies=", ".join((*FLOWS, *TOKENS)),
    deviations=("flows are scored by Flow-SDE, not by a Laplace head; several epochs",),
    shared=True,
    presets=(
        Preset(
            name="flow",
            kinds=FLOWS,
            source="RIPT-VLA: leave-one-out, uniform groups dropped; ours: group 8, clip (averaged densities), rates",
            settings=VLARLOOSettings(ppo=PPOConfig(**GROUP_PPO, clip_low=0.05, clip_high=0.05)),
        ),
        Preset(
            name="tokens",
            kinds=TOKENS,
            source="RIPT-VLA: a ratio for each action, clip 0.1; ours: the spread as it is taught, rates",
            settings=VLARLOOSettings(
                sampler=SamplerConfig(ratio_per="action"),
                ppo=PPOConfig(**GROUP_PPO, ratio="per_link", clip_low=0.1, clip_high=0.1),
            ),
        ),
    ),
)
