"""SRPO on a VLA: GRPO whose failures are paid by their distance to the batch's successes (arXiv 2511.15605)."""

from __future__ import annotations

import dataclasses
from typing import Literal

from toddle.algorithms.estimators import GroupAdvantages
from toddle.algorithms.ppo import PPOConfig
from toddle.algorithms.success_reference import SuccessReference
from toddle.core.config import config
from toddle.core.numbers import Positive, Size
from toddle.experience.episodes import EpisodesConfig
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._vla import FLOWS, GROUP_PPO, TOKENS, VLAGroupSettings
from toddle.policies.flow_explorer import SamplerConfig

__all__ = ["METHOD", "SRPOSettings"]


@config
class SRPOSettings(VLAGroupSettings):
    """Self-referential policy optimisation of a VLA."""

    phases: Size = 16
    """Pictures of an episode, at equal phases of it, that its embedding is the mean of."""
    weight: Positive = 1.0
    """What the paper pays a failure (at most 0.6, where success is 1) is multiplied by this."""
    control: Literal["none", "shuffled"] = "none"
    """shuffled: each failure is paid for another one, which must bring nothing over `grpo`."""
    drop: Literal["success", "return"] = "success"
    """Groups that teach nothing: those that all succeeded or all failed, as the paper's code has it, or those whose
    episodes all came to the same reward, so that failures learn from each other too."""

    def build(self, start: Start) -> Run:
        """Build PPO with advantages from groups and the reward of failures."""
        self.compared()
        term = SuccessReference(phases=self.phases, weight=self.weight, control=self.control, seed=start.seed)
        parts = dict(start.parts) | {"rewards": [*start.parts.get("rewards", ()), term]}
        estimator = GroupAdvantages(uneven_in="success" if self.drop == "success" else "episode_return")
        return self.run(dataclasses.replace(start, parts=parts), estimator)


METHOD = Method(
    name="vla-srpo",
    what="GRPO on a VLA whose failures are paid by their distance to the successes of the same rollout",
    paper="SRPO, arXiv 2511.15605",
    policies=", ".join((*FLOWS, *TOKENS)),
    deviations=(
        "episodes are embedded by the VLA's own frozen backbone, at equal phases, in place of a video model",
        "the nearest success stands in for centres of clusters: maths/success_reference.py says why",
    ),
    presets=(
        Preset(
            name="flow",
            kinds=FLOWS,
            source="SRPO: 0.6 sigmoid(10 (0.5 - z)), group 8, no KL; ours: clip (densities are averaged) and rates",
            settings=SRPOSettings(
                episodes=EpisodesConfig(success_return=True), ppo=PPOConfig(**GROUP_PPO, clip_low=0.05, clip_high=0.07)
            ),
        ),
        Preset(
            name="tokens",
            kinds=TOKENS,
            source="SRPO: 0.6 sigmoid(10 (0.5 - z)), group 8, clip 0.2 / 0.28, temperature 1.6, no KL; ours: rates",
            settings=SRPOSettings(
                sampler=SamplerConfig(temperature=1.6, ratio_per="token"),
                episodes=EpisodesConfig(success_return=True),
                ppo=PPOConfig(**GROUP_PPO, ratio="per_link", aggregate="trajectory", clip_low=0.2, clip_high=0.28),
            ),
        ),
    ),
)
